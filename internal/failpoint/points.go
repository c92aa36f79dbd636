package failpoint

// Points lists every point there is, in the order of an execution's life, then the worker's.
var Points = []string{
	"before-wake", "before-claim", "after-claim", "before-submit", "before-run", "after-run", "before-commit", "after-commit",
	"before-release", "after-release", "before-retry", "after-retry",
	"after-register", "before-heartbeat", "after-heartbeat",
	"reap-fenced", "reap-moved", "reap-before-unregister", "before-unregister",
}
