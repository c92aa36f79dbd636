package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/history"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// TestStorm does everything to a fleet at once, by a schedule that its seed replays.
func TestStorm(t *testing.T) {
	t.Parallel()
	duration := 100 * time.Second
	if text := os.Getenv("BOBBIN_SOAK"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err, "BOBBIN_SOAK")
	}
	weather(t, false, duration)
}

// The same, for a while, with each worker under a supervisor, which is killed now and then itself.
func TestSupervisedStorm(t *testing.T) {
	t.Parallel()
	weather(t, true, 40*time.Second)
}

// seedOf returns the seed that was asked for, or a new one, and says which.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BOBBIN_CHAOS_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "BOBBIN_CHAOS_SEED")
	}
	t.Logf("seed %d; BOBBIN_CHAOS_SEED=%d replays the schedule", seed, seed)
	return seed
}

// weather has a storm rage for a while, and judges what it left. What a tenth of it left is what nothing may grow beyond.
func weather(t *testing.T, supervised bool, duration time.Duration) {
	t.Helper()
	seed := seedOf(t)
	s := newStorm(t, seed, supervised)
	s.publishPython()
	s.rage(duration / 10)
	s.measure(0)
	s.rage(duration - duration/10)
	s.measure(1)
	s.lean()
	report := s.check(nil)
	s.faults["Redis seen not to answer"] = s.stalls
	line := fmt.Sprintf("%s; slowest recovery %s; faults injected: %v; submitted: %v; grown: %v",
		report, report.LongestRecovery.Round(time.Millisecond), s.faults, s.mixed, s.seen.Growth)
	t.Log(line)
	fmt.Printf("chaos: seed %d, %s: %s\n", seed, duration, line)
	require.False(t, report.Failed(), report)
	require.Greater(t, report.Executions, 100)
}

// storm is an arena with a direct fleet, one worker behind a bad network, and a schedule of faults.
type storm struct {
	*arena
	random *rand.Rand
	proxy  *redistest.Proxy
	faults map[string]int

	load    *rand.Rand // of its own, so that the faults' schedule does not depend on its pace
	mixed   map[string]int
	orders  *queue.Queue        // an operator's way to Redis
	cancels map[string]struct{} // executions that are still to be cancelled
	twice   []pushed            // to be pushed again, some time after
	metrics string              // where the spared worker serves its metrics
}

func newStorm(t *testing.T, seed uint64, supervised bool) *storm {
	t.Helper()
	a := newArena(t, redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways)))
	s := &storm{
		arena: a, random: rand.New(rand.NewPCG(seed, 0)), proxy: redistest.NewProxy(t, a.server.Addr), faults: map[string]int{},
		load: rand.New(rand.NewPCG(1, 1)), mixed: map[string]int{}, cancels: map[string]struct{}{},
	}
	var err error
	s.orders, err = queue.Open(queue.Options{URL: a.server.URL()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.orders.Close() })
	a.supervised = supervised
	for verb, sha := range queue.Scripts() {
		s.proxy.Label(sha, verb)
	}
	for range 3 {
		a.add(a.server.URL())
	}
	a.add(s.proxy.URL())
	if !supervised {
		s.spare()
	}
	return s
}

// rage injects faults under load for a while, then lets everything recover.
func (s *storm) rage(duration time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var loading sync.WaitGroup
	loading.Go(func() {
		for ctx.Err() == nil {
			if s.backlog() < 300 {
				s.submitMixture()
			}
			s.cancelSome()
			pause(ctx, 20*time.Millisecond)
		}
	})
	for ctx.Err() == nil {
		s.fault(ctx)
		pause(ctx, time.Duration(s.random.IntN(600))*time.Millisecond)
	}
	loading.Wait()
	s.heal()
	s.cancelRest()
	s.settle()
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
		{"kill -9", func(context.Context) { s.signal(s.victim(), syscall.SIGKILL) }},
		{"kill -9", func(context.Context) { s.signal(s.victim(), syscall.SIGKILL) }},
		{"stop and go on", s.stopAndGoOn},
		{"SIGTERM", func(context.Context) { s.signal(s.victim(), syscall.SIGTERM) }},
		{"recycle all", s.recycle},
		{"redis killed", s.redisKilled},
		{"redis paused", s.redisPaused},
		{"script flush", func(context.Context) { s.tell("SCRIPT", "FLUSH") }},
		{"out of memory", s.outOfMemory},
		{"partition", s.partition},
		{"lost replies", s.lostReplies},
		{"lossy link", s.lossyLink},
		{"slow link", s.slowLink},
		{"cut", func(context.Context) { s.proxy.Cut() }},
	}
	one := all[s.random.IntN(len(all))]
	s.faults[one.name]++
	one.do(ctx)
}

func (s *storm) any() *slot { return s.slots[s.random.IntN(len(s.slots))] }

// victim is one that may be killed or sent away.
func (s *storm) victim() *slot {
	for {
		if one := s.any(); !one.spared {
			return one
		}
	}
}

func (s *storm) tell(args ...any) { _, _ = s.server.Exec(args...) }

func (s *storm) stopAndGoOn(ctx context.Context) {
	victim, d := s.any(), time.Duration(s.random.IntN(2500))*time.Millisecond
	over := s.befall(victim.pids()...)
	s.signal(victim, syscall.SIGSTOP)
	pause(ctx, d)
	s.signal(victim, syscall.SIGCONT)
	over()
}

// recycleAll is what bobbin recycle does for each worker but one: the command as its intent, should it be registered, and the doorbell.
const recycleAll = `
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 1, '+inf')) do
  if ARGV[1] == '' or not string.find(worker, ARGV[1], 1, true) then
    redis.call('HSET', KEYS[2], worker, 'recycle')
    redis.call('PUBLISH', KEYS[3], 'recycle ' .. worker)
  end
end`

func (s *storm) recycle(context.Context) {
	spared := ""
	for _, one := range s.slots {
		for _, pid := range one.pids() {
			if one.spared {
				spared = fmt.Sprintf("-%d-", pid)
			}
		}
	}
	s.tell("EVAL", recycleAll, 3, s.keys.Workers, s.keys.Intents, s.keys.Control, spared)
}

// redisKilled: everybody is cut off; whoever loses patience runs things again. What an earlier crash tore is forgotten by then: a second
// crash before that is what docs/guarantees.md leaves out.
func (s *storm) redisKilled(ctx context.Context) {
	require.Eventually(s.t, s.server.Rewritten, patience, 10*time.Millisecond, "no worker has had the append-only file written anew")
	defer s.befall(0)()
	s.server.Kill()
	pause(ctx, time.Duration(s.random.IntN(1500))*time.Millisecond)
	s.server.Start()
}

func (s *storm) redisPaused(ctx context.Context) {
	defer s.befall(0)()
	s.server.Pause()
	pause(ctx, time.Duration(s.random.IntN(2500))*time.Millisecond)
	s.server.Resume()
}

func (s *storm) outOfMemory(ctx context.Context) {
	defer s.befall(0)()
	s.tell("CONFIG", "SET", "maxmemory", "1mb")
	pause(ctx, time.Duration(s.random.IntN(1500))*time.Millisecond)
	s.tell("CONFIG", "SET", "maxmemory", "0")
}

// behindProxy are the processes of the workers behind the proxy.
func (s *storm) behindProxy() []int {
	var pids []int
	for _, one := range s.slots {
		if one.url == s.proxy.URL() {
			pids = append(pids, one.pids()...)
		}
	}
	return pids
}

// befallLink notes that something begins to befall the way through the proxy, and so whoever takes it: also a worker that takes the
// place of another meanwhile, which the end of it finds there.
func (s *storm) befallLink() (over func()) {
	from, before := time.Now(), s.behindProxy()
	ended := s.befall(before...)
	return func() {
		ended()
		for _, pid := range s.behindProxy() {
			if !slices.Contains(before, pid) {
				s.note(history.Fault{PID: pid, From: from, Until: time.Now()})
			}
		}
	}
}

func (s *storm) partition(ctx context.Context) {
	defer s.befallLink()()
	s.proxy.BlackHole(true)
	pause(ctx, time.Duration(s.random.IntN(3000))*time.Millisecond)
	s.proxy.BlackHole(false)
	s.proxy.Cut()
}

// lostReplies is no excuse for anything: whatever was done is done, and found to be when it is repeated.
func (s *storm) lostReplies(context.Context) {
	for _, verb := range []string{
		"claim", "adopt", "commit", "commit_one", "release", "retry", "drop", "heartbeat", "register", "fence", "reap", "unregister",
		"BLMOVE", "XRANGE",
	} {
		s.proxy.DropReply(verb, 1)
	}
}

func (s *storm) lossyLink(ctx context.Context) {
	defer s.befallLink()()
	s.proxy.RandomLoss(s.random.Uint64(), 0.05)
	pause(ctx, 2*time.Second)
	s.proxy.RandomLoss(0, 0)
}

func (s *storm) slowLink(ctx context.Context) {
	defer s.befallLink()()
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
