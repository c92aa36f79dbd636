package chaos

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/internal/redistest"
)

// A worker is killed, as by kill -9, at each named point of an execution's life, while it works and while it leaves. Others,
// and the one that is started in its place, finish everything exactly once.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(failpoint.Points), 10)
	for _, point := range failpoint.Points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			a := newArena(t, redistest.Real(t))
			doomed := a.provoke(point)
			require.Eventually(t, func() bool { return doomed.deaths() == 1 }, patience, 5*time.Millisecond, "the point is never passed")
			report := a.check(func(string) int { return 1 })
			require.False(t, report.Failed(), report)
			require.Equal(t, 20, report.Executions)
		})
	}
}

func (s *slot) deaths() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.died
}

// provoke starts a worker that will die at a point, and brings it there.
func (a *arena) provoke(point string) (doomed *slot) {
	at := func(nth int) string { return fmt.Sprintf("BOBBIN_CHAOS_FAILPOINT=%s:%d", point, nth) }
	switch point {
	case "before-release", "after-release", "before-unregister": // passed on the way out
		doomed = a.add(a.server.URL(), at(1))
		a.submit(20, sleeps(1000))
		a.awaitClaims()
		a.signal(doomed, syscall.SIGTERM)
	case "reap-fenced", "reap-moved", "reap-before-unregister": // passed when another died
		victim := a.add(a.server.URL())
		victim.over = true
		a.submit(20, sleeps(300))
		a.awaitClaims()
		a.signal(victim, syscall.SIGKILL)
		require.Eventually(a.t, func() bool { return victim.deaths() == 1 }, patience, 5*time.Millisecond)
		doomed = a.add(a.server.URL(), at(1))
	case "before-wake": // passed when it is idle
		doomed = a.add(a.server.URL(), at(1))
		a.submit(20, sleeps(20))
	case "after-register":
		doomed = a.add(a.server.URL(), at(1))
		a.submit(20, sleeps(20))
	default:
		doomed = a.add(a.server.URL(), at(2))
		a.submit(20, func(i int) string {
			return fmt.Sprintf(`{"workflow":"chaos","params":{"sleep_ms":%d,"fail":%d},"retry":{"max_attempts":2,"initial_backoff_seconds":0.01}}`, 20*(i%4), i%2)
		})
	}
	return doomed
}

func (a *arena) awaitClaims() {
	require.Eventually(a.t, func() bool { return a.raw.HLen(context.Background(), a.keys.Claims).Val() > 0 }, patience, time.Millisecond)
}
