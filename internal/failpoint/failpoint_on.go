//go:build failpoints

// Package failpoint, in this build, kills the process at the point that BOBBIN_CHAOS_FAILPOINT names.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	point, nth = parse(os.Getenv("BOBBIN_CHAOS_FAILPOINT"))
	hits       atomic.Int64
)

func parse(text string) (string, int64) {
	name, count, found := strings.Cut(text, ":")
	if !found {
		return name, 1
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		panic("BOBBIN_CHAOS_FAILPOINT: expected name:number, got " + text)
	}
	return name, n
}

// Hit kills the process, with no chance to tidy up, when this is the point and the time.
func Hit(name string) {
	if name == point && hits.Add(1) == nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}
