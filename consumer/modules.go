package consumer

import (
	"context"
	"errors"

	"github.com/bobbin-run/bobbin/queue"
)

// Modules is where runners for scripts read the source of workflows. *queue.Queue is one.
type Modules interface {
	// Snapshot returns every module, path → source, as of one version at least as new as the given one.
	Snapshot(ctx context.Context, version string) (current string, sources map[string]string, err error)
}

// modules are the queue's, for runners: while Redis does not answer, an execution waits for them, as all else does, instead of
// failing for what is no fault of its own. Its timeout runs on, and what ends it meanwhile (a lost lease, a shutdown) has it run
// again elsewhere.
type modules struct{ w *Worker }

// Snapshot returns every module. The error says that the context ended, or that what is there are no modules.
func (m modules) Snapshot(ctx context.Context, version string) (current string, sources map[string]string, err error) {
	for failures := 0; ; failures++ {
		current, sources, err = m.w.queue.Snapshot(ctx, version)
		if err == nil || (errors.Is(err, queue.ErrRefused) && !queue.IsPassing(err)) {
			return current, sources, err
		}
		if failures == 0 && ctx.Err() == nil {
			m.w.log.Warn("modules cannot be read; the execution waits for them", "error", err)
		}
		if !backoff(ctx, failures) {
			return "", nil, err
		}
	}
}
