// Package chaos runs the real binary as separate processes on a real Redis, does to them what the world does, and lets the
// history checker say whether anything was lost or doubled. The seed of every schedule is printed; BOBBIN_CHAOS_SEED replays
// it, and BOBBIN_SOAK=30m (make soak DURATION=30m) runs one for that long.
package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/history"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bobbin-chaos-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "bobbin")
	build := exec.Command("go", "build", "-tags", "failpoints", "-o", binary, "github.com/bobbin-run/bobbin/cmd/bobbin")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos: the binary does not build:", err)
		os.Exit(1)
	}
	code := redistest.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const (
	lease    = time.Second
	patience = 60 * time.Second
	// loadedMachine is how much longer everything may take where twenty arenas share two cores.
	loadedMachine = 10 * time.Second
	// afterwards is how long after a fault its victim may find out that its lease is lost: two heartbeats that are refused or time
	// out, on a loaded machine.
	afterwards = lease + 2*time.Second
	// seenLate is how long a process may have been dead when that is seen.
	seenLate = time.Second
)

// arena is a Redis, workers on it that are started again whenever they end, and an orchestrator.
type arena struct {
	t       *testing.T
	server  *redistest.Server
	raw     *redis.Client
	keys    queue.Keys
	history string // file that handlers write
	log     *syncBuffer

	mu         sync.Mutex
	seen       *history.History
	killed     map[int]bool // processes whose end was noted when they were killed
	retries    map[string]int
	entries    map[string][]redis.XMessage // what stands in results, by ID
	stopping   bool
	slots      []*slot
	wg         sync.WaitGroup
	watch      sync.WaitGroup
	n          int // submitted so far
	kills      int
	stalls     int  // times that Redis was seen not to answer
	supervised bool // workers run under bobbin supervise
	python     bool // whether Python workflows can be submitted
}

type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// tail returns the end of what was written.
func (b *syncBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	return text[max(0, len(text)-n):]
}

// slot is a place for one worker. Its process changes.
type slot struct {
	url        string // its way to Redis
	mu         sync.Mutex
	cmd        *exec.Cmd
	env        []string // for the next process only
	died       int      // processes that ended by a signal
	over       bool     // start no other
	supervised bool     // the process is a supervisor
	spared     bool     // it is never killed nor sent away: what grows is seen in it
}

func newArena(t *testing.T, server *redistest.Server) *arena {
	t.Helper()
	a := &arena{
		t: t, server: server, raw: server.Client(), keys: queue.NewKeys("bobbin", "default"), seen: history.New(), log: &syncBuffer{},
		killed: map[int]bool{}, retries: map[string]int{}, entries: map[string][]redis.XMessage{},
		history: filepath.Join(t.TempDir(), "history"),
	}
	a.seen.Slack, a.seen.Steady, a.seen.Bound = afterwards, lease, lease+2*time.Second+loadedMachine
	watching, stop := context.WithCancel(context.Background())
	a.watch.Go(func() { a.watchRedis(watching) })
	t.Cleanup(func() {
		stop()
		a.watch.Wait()
		a.end()
		if t.Failed() {
			fmt.Fprintf(os.Stderr, "the workers' last words:\n%s\n", a.log.tail(6000))
		}
	})
	return a
}

// add starts a worker whose way to Redis is url, and keeps one running there. env is for its first process.
func (a *arena) add(url string, env ...string) *slot {
	s := &slot{url: url, env: env, supervised: a.supervised}
	a.mu.Lock()
	a.slots = append(a.slots, s)
	a.mu.Unlock()
	a.wg.Go(func() { a.keep(s) })
	return s
}

// keep runs one worker after another in a slot.
func (a *arena) keep(s *slot) {
	for {
		role := "worker"
		if s.supervised {
			role = "supervise"
		}
		cmd := exec.Command(binary, role)
		cmd.Env = append([]string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
			"BOBBIN_REDIS_URL=" + s.url, "BOBBIN_LEASE=" + lease.String(), "BOBBIN_CONCURRENCY=8", "BOBBIN_CANCEL_GRACE=2s",
			"BOBBIN_SHUTDOWN_TIMEOUT=2s", "BOBBIN_MAX_RECOVERIES=1000", "BOBBIN_CHAOS_HISTORY=" + a.history,
			"BOBBIN_NICE=0", // the tests beside this one leave little of two processors
		}, s.env...)
		cmd.Stderr = a.log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		a.mu.Lock()
		if a.stopping {
			a.mu.Unlock()
			return
		}
		err := cmd.Start()
		a.mu.Unlock()
		if err != nil {
			fmt.Fprintln(a.log, "chaos: worker does not start:", err)
			return
		}
		s.mu.Lock()
		s.cmd, s.env = cmd, nil
		s.mu.Unlock()
		a.mu.Lock()
		late := a.stopping // end came between the start and here, and signalled the process before
		a.mu.Unlock()
		if late {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		_ = cmd.Wait()
		s.mu.Lock()
		over := s.over
		if cmd.ProcessState.ExitCode() == -1 { // killed, also by a failpoint
			s.died++
			a.mourn(cmd.Process.Pid)
		}
		s.mu.Unlock()
		if over {
			return
		}
	}
}

// befall notes that something begins to befall processes, or everybody (0). over notes that it has ended.
func (a *arena) befall(pids ...int) (over func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := len(a.seen.Faults)
	for _, pid := range pids {
		a.seen.Faults = append(a.seen.Faults, history.Fault{PID: pid, From: time.Now(), Until: time.Now().Add(24 * time.Hour)})
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for i := range pids {
			a.seen.Faults[first+i].Until = time.Now()
		}
	}
}

// note enters a fault that is over.
func (a *arena) note(f history.Fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.Faults = append(a.seen.Faults, f)
}

// kill notes that a process is about to be killed.
func (a *arena) kill(pid int) {
	a.befall(pid)()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.killed[pid] = true
}

// mourn notes that a process was seen to be dead. One that nobody killed, but a failpoint, died a moment ago.
func (a *arena) mourn(pid int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.seen.Deaths[pid] = now
	if !a.killed[pid] {
		a.seen.Faults = append(a.seen.Faults, history.Fault{PID: pid, From: now.Add(-seenLate), Until: now})
	}
	delete(a.killed, pid)
}

// watchRedis looks, as anybody may, whether Redis takes a write. While it does not for a third of the lease, killed, stopped, full,
// waiting for the disk or left without a processor by the others, a heartbeat may be missed: to everybody that is an outage.
func (a *arena) watchRedis(ctx context.Context) {
	eye := a.server.Client()
	for last := time.Now(); ctx.Err() == nil; pause(ctx, lease/20) {
		if eye.Set(ctx, "chaos:eye", 0, 0).Err() != nil {
			continue
		}
		now := time.Now()
		if now.Sub(last) > lease/3 {
			a.mu.Lock()
			a.seen.Faults = append(a.seen.Faults, history.Fault{From: last, Until: now})
			a.stalls++
			a.mu.Unlock()
		}
		last = now
	}
}

// lean checks that no worker has grown: file descriptors, threads and memory of each are within what an idle one needs and a
// little more.
func (a *arena) lean() {
	a.t.Helper()
	for _, s := range a.slots {
		s.mu.Lock()
		pid := s.cmd.Process.Pid
		s.mu.Unlock()
		descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue // it has just been replaced
		}
		require.Less(a.t, len(descriptors), 64, "file descriptors of %d", pid)
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		require.NoError(a.t, err)
		require.Less(a.t, len(threads), 64, "threads of %d", pid)
		var pages, resident int
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		require.NoError(a.t, err)
		_, err = fmt.Sscan(string(statm), &pages, &resident)
		require.NoError(a.t, err)
		require.Less(a.t, resident*os.Getpagesize(), 128<<20, "memory of %d", pid)
	}
}

// signal sends a signal to the worker of a slot and notes that it is killed, or told to leave. Of a stop its caller knows when it
// is over.
func (a *arena) signal(s *slot, sig syscall.Signal) {
	s.mu.Lock()
	cmd := s.cmd
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if s.supervised {
		a.signalSupervised(cmd.Process.Pid, sig)
		return
	}
	a.strike(cmd.Process.Pid, sig)
	_ = cmd.Process.Signal(sig)
}

// strike notes what a signal that is about to be sent does.
func (a *arena) strike(pid int, sig syscall.Signal) {
	switch sig {
	case syscall.SIGKILL:
		a.kill(pid)
	case syscall.SIGTERM:
		a.befall(pid)()
	}
}

// signalSupervised signals the workers of a supervisor, or, every other kill, the supervisor itself. It starts none meanwhile.
func (a *arena) signalSupervised(supervisor int, sig syscall.Signal) {
	_ = syscall.Kill(supervisor, syscall.SIGSTOP)
	a.mu.Lock()
	a.kills++
	whole := a.kills%2 == 0 && sig == syscall.SIGKILL
	a.mu.Unlock()
	for _, worker := range childrenOf(supervisor) {
		a.strike(worker, sig)
		if !whole {
			_ = syscall.Kill(worker, sig)
		}
		if sig == syscall.SIGKILL { // with its supervisor, if not before
			a.mourn(worker)
		}
	}
	if whole {
		_ = syscall.Kill(supervisor, sig)
	}
	_ = syscall.Kill(supervisor, syscall.SIGCONT)
}

// pids are the processes of a slot that run executions.
func (s *slot) pids() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	if s.supervised {
		return childrenOf(s.cmd.Process.Pid)
	}
	return []int{s.cmd.Process.Pid}
}

func sleeps(ms int) func(int) string {
	return func(int) string { return fmt.Sprintf(`{"workflow":"chaos","params":{"sleep_ms":%d}}`, ms) }
}

// settle waits until everything that waits, is claimed or scheduled has ended, and what was asked to be cancelled is forgotten.
func (a *arena) settle() {
	a.t.Helper()
	ctx := context.Background()
	require.Eventually(a.t, func() bool {
		pipe := a.raw.Pipeline()
		left := []*redis.IntCmd{
			pipe.LLen(ctx, a.keys.Pending), pipe.LLen(ctx, a.keys.Handoff), pipe.HLen(ctx, a.keys.Claims), pipe.ZCard(ctx, a.keys.Scheduled),
			pipe.HLen(ctx, a.keys.Cancels),
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return false
		}
		for _, n := range left {
			if n.Val() > 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond, "executions are left without an end")
}

// end sends the workers away and waits for them.
func (a *arena) end() {
	a.mu.Lock()
	a.stopping = true
	slots := a.slots
	a.mu.Unlock()
	for _, s := range slots {
		s.mu.Lock()
		if s.cmd != nil {
			_ = s.cmd.Process.Signal(syscall.SIGCONT)
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
		}
		s.mu.Unlock()
	}
	a.wg.Wait()
}

// check ends the workers and has the history checked.
func (a *arena) check(retries func(string) int) *history.Report {
	a.t.Helper()
	a.settle()
	a.end()
	ctx := context.Background()
	require.Eventually(a.t, func() bool { return a.raw.ZCard(ctx, a.keys.Workers).Val() == 0 || a.buried() }, patience, 50*time.Millisecond)
	entries, err := a.raw.XRange(ctx, a.keys.Results, "-", "+").Result()
	require.NoError(a.t, err)
	for _, e := range entries {
		id := fmt.Sprint(e.Values["execution_id"])
		a.seen.Results[id], a.entries[id] = append(a.seen.Results[id], fmt.Sprint(e.Values["status"])), append(a.entries[id], e)
	}
	file, err := os.Open(a.history)
	if err == nil {
		require.NoError(a.t, a.seen.ReadRuns(file))
		_ = file.Close()
	}
	a.leftovers(ctx)
	slices.SortFunc(a.seen.Faults, func(x, y history.Fault) int { return x.From.Compare(y.From) })
	if retries == nil {
		retries = func(id string) int { return a.retries[id] }
	}
	report := a.seen.Check(retries)
	for _, breach := range slices.Concat(report.Doubled, report.Unexpected, report.Excess) {
		a.t.Log(a.circumstances(breach))
	}
	return report
}

// leftovers counts what is left behind where nothing may be.
func (a *arena) leftovers(ctx context.Context) {
	a.t.Helper()
	k, left := a.keys, a.seen.Left
	for _, hash := range []string{k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Intents} {
		left[hash] = a.raw.HLen(ctx, hash).Val()
	}
	for _, list := range []string{k.Pending, k.Handoff} {
		left[list] = a.raw.LLen(ctx, list).Val()
	}
	for _, set := range []string{k.Workers, k.Scheduled} {
		left[set] = a.raw.ZCard(ctx, set).Val()
	}
	registrations, err := a.raw.Keys(ctx, k.Worker("*")).Result() // of workers that are gone: they may be there until they expire
	require.NoError(a.t, err)
	for _, key := range registrations {
		if a.raw.PTTL(ctx, key).Val() == -1 {
			left[key] = 1
		}
	}
	for id := range a.seen.Replies {
		a.seen.Replies[id] = a.raw.LLen(ctx, k.Reply(id)).Val()
	}
}

// buried has the registrations of processes that were killed reaped: nobody is left to do it when the last worker leaves, so
// one more comes and goes.
func (a *arena) buried() bool {
	cmd := exec.Command(binary, "worker")
	cmd.Env = []string{"BOBBIN_REDIS_URL=" + a.server.URL(), "BOBBIN_LEASE=" + lease.String(), "BOBBIN_NICE=0"}
	cmd.Stderr = a.log
	if err := cmd.Start(); err != nil {
		return false
	}
	timer := time.AfterFunc(4*lease, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	_ = cmd.Wait()
	return a.raw.ZCard(context.Background(), a.keys.Workers).Val() == 0
}
