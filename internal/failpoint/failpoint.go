//go:build !failpoints

// Package failpoint names the moments in an execution's life at which a process may be killed by the chaos tests. In a normal
// build a point is an empty function that the compiler removes; with -tags failpoints the process kills itself, as kill -9
// would, when it passes the point that BOBBIN_CHAOS_FAILPOINT names ("after-claim:3" is the third time).
package failpoint

// Hit marks a point. It does nothing in this build.
func Hit(string) {}
