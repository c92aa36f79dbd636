package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// loadedMachine is how much longer everything may take where twenty arenas share two cores.
const loadedMachine = 15 * time.Second

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
			a.seen.Bound = lease + 2*time.Second + loadedMachine
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

// TestStorm does everything to a fleet at once, by a schedule that its seed replays.
func TestStorm(t *testing.T) {
	t.Parallel()
	duration := 100 * time.Second
	if text := os.Getenv("BOBBIN_SOAK"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err, "BOBBIN_SOAK")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BOBBIN_CHAOS_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "BOBBIN_CHAOS_SEED")
	}
	t.Logf("seed %d; BOBBIN_CHAOS_SEED=%d replays the schedule", seed, seed)
	weather(t, newStorm(t, seed, false), seed, duration)
}

// The same, for a while, with each worker under a supervisor, which is killed now and then itself.
func TestSupervisedStorm(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	weather(t, newStorm(t, seed, true), seed, 40*time.Second)
}

// weather has a storm rage for a while, and judges what it left.
func weather(t *testing.T, s *storm, seed uint64, duration time.Duration) {
	t.Helper()
	s.publishPython()
	s.rage(duration)
	s.settle()
	s.lean()
	report := s.check(nil)
	t.Logf("%s; faults: %v", report, s.faults)
	fmt.Printf("chaos: seed %d, %s: %s; faults injected: %v\n", seed, duration, report, s.faults)
	require.False(t, report.Failed(), report)
	require.Greater(t, report.Executions, 100)
}

// storm is an arena with a direct fleet, one worker behind a bad network, and a schedule of faults.
type storm struct {
	*arena
	random *rand.Rand
	proxy  *redistest.Proxy
	faults map[string]int
}

func newStorm(t *testing.T, seed uint64, supervised bool) *storm {
	t.Helper()
	a := newArena(t, redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways)))
	s := &storm{arena: a, random: rand.New(rand.NewPCG(seed, 0)), proxy: redistest.NewProxy(t, a.server.Addr), faults: map[string]int{}}
	a.supervised = supervised
	for verb, sha := range queue.Scripts() {
		s.proxy.Label(sha, verb)
	}
	for range 3 {
		a.add(a.server.URL())
	}
	a.add(s.proxy.URL())
	return s
}

// rage injects faults under load for a while, then lets everything recover.
func (s *storm) rage(duration time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var loading sync.WaitGroup
	loading.Go(func() {
		load := rand.New(rand.NewPCG(1, 1)) // of its own, so that the faults' schedule does not depend on its pace
		for ctx.Err() == nil {
			if s.backlog() < 300 {
				if s.submit(20, sleeps(load.IntN(60))); load.IntN(5) == 0 {
					s.submit(4, s.inPython(load.IntN(60)))
				}
			}
			pause(ctx, 20*time.Millisecond)
		}
	})
	for ctx.Err() == nil {
		s.fault(ctx)
		pause(ctx, time.Duration(s.random.IntN(600))*time.Millisecond)
	}
	loading.Wait()
	s.heal()
}

func (s *storm) backlog() int64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n, err := s.raw.LLen(ctx, s.keys.Pending).Result()
	if err != nil {
		return 1000
	}
	return n
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// fault injects one.
func (s *storm) fault(ctx context.Context) {
	all := []struct {
		name string
		do   func(ctx context.Context)
	}{
		{"kill -9", func(context.Context) { s.signal(s.any(), syscall.SIGKILL) }},
		{"kill -9", func(context.Context) { s.signal(s.any(), syscall.SIGKILL) }},
		{"stop and go on", s.stopAndGoOn},
		{"SIGTERM", func(context.Context) { s.signal(s.any(), syscall.SIGTERM) }},
		{"recycle all", s.recycle},
		{"redis killed", s.redisKilled},
		{"redis paused", s.redisPaused},
		{"script flush", func(context.Context) { s.tell("SCRIPT", "FLUSH") }},
		{"out of memory", s.outOfMemory},
		{"partition", s.partition},
		{"lost replies", s.lostReplies},
		{"lossy link", s.lossyLink},
		{"slow link", s.slowLink},
		{"cut", func(context.Context) { s.hitProxied(); s.proxy.Cut() }},
	}
	one := all[s.random.IntN(len(all))]
	s.faults[one.name]++
	one.do(ctx)
}

func (s *storm) any() *slot { return s.slots[s.random.IntN(len(s.slots))] }

func (s *storm) tell(args ...any) { _, _ = s.server.Exec(args...) }

func (s *storm) stopAndGoOn(ctx context.Context) {
	victim, d := s.any(), time.Duration(s.random.IntN(2500))*time.Millisecond
	s.signal(victim, syscall.SIGSTOP)
	pause(ctx, d)
	s.signal(victim, syscall.SIGCONT)
}

func (s *storm) recycle(context.Context) { s.tell("PUBLISH", s.keys.Control, "recycle") }

// redisKilled: everybody is cut off; whoever loses patience runs things again.
func (s *storm) redisKilled(ctx context.Context) {
	s.outage()
	s.server.Kill()
	pause(ctx, time.Duration(s.random.IntN(1500))*time.Millisecond)
	s.server.Start()
}

func (s *storm) redisPaused(ctx context.Context) {
	s.outage()
	s.server.Pause()
	pause(ctx, time.Duration(s.random.IntN(2500))*time.Millisecond)
	s.server.Resume()
}

func (s *storm) outOfMemory(ctx context.Context) {
	s.outage()
	s.tell("CONFIG", "SET", "maxmemory", "1mb")
	pause(ctx, time.Duration(s.random.IntN(1500))*time.Millisecond)
	s.tell("CONFIG", "SET", "maxmemory", "0")
}

// hitProxied notes a fault of the one worker behind the proxy.
func (s *storm) hitProxied() {
	proxied := s.slots[len(s.slots)-1]
	proxied.mu.Lock()
	defer proxied.mu.Unlock()
	if proxied.cmd == nil {
		return
	}
	s.hit(proxied.cmd.Process.Pid)
	if proxied.supervised {
		for _, worker := range childrenOf(proxied.cmd.Process.Pid) {
			s.hit(worker)
		}
	}
}

func (s *storm) partition(ctx context.Context) {
	s.hitProxied()
	s.proxy.BlackHole(true)
	pause(ctx, time.Duration(s.random.IntN(3000))*time.Millisecond)
	s.proxy.BlackHole(false)
	s.proxy.Cut()
}

func (s *storm) lostReplies(context.Context) {
	s.hitProxied()
	for _, verb := range []string{"claim", "commit", "release", "heartbeat", "register", "BLMOVE"} {
		s.proxy.DropReply(verb, 1)
	}
}

func (s *storm) lossyLink(ctx context.Context) {
	s.hitProxied()
	s.proxy.RandomLoss(s.random.Uint64(), 0.05)
	pause(ctx, 2*time.Second)
	s.proxy.RandomLoss(0, 0)
}

func (s *storm) slowLink(ctx context.Context) {
	s.hitProxied()
	s.proxy.Delay(100 * time.Millisecond)
	pause(ctx, time.Second)
	s.proxy.Delay(0)
}

// heal undoes what may still be on.
func (s *storm) heal() {
	s.proxy.BlackHole(false)
	s.proxy.RandomLoss(0, 0)
	s.proxy.Delay(0)
	s.proxy.Cut()
	s.tell("CONFIG", "SET", "maxmemory", "0")
}
