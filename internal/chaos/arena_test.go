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
	stopping   bool
	slots      []*slot
	wg         sync.WaitGroup
	n          int // submitted so far
	kills      int
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
}

func newArena(t *testing.T, server *redistest.Server) *arena {
	t.Helper()
	a := &arena{
		t: t, server: server, raw: server.Client(), keys: queue.NewKeys("bobbin", "default"), seen: history.New(), log: &syncBuffer{},
		history: filepath.Join(t.TempDir(), "history"),
	}
	t.Cleanup(func() {
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
			a.hit(cmd.Process.Pid)
			a.mourn(cmd.Process.Pid)
		}
		s.mu.Unlock()
		if over {
			return
		}
	}
}

func (a *arena) hit(pid int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.Hit[pid]++
}

func (a *arena) mourn(pid int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.Deaths[pid] = time.Now()
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

// signal sends a signal to the worker of a slot and notes that it was hit.
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
	a.hit(cmd.Process.Pid)
	_ = cmd.Process.Signal(sig)
}

// signalSupervised signals the workers of a supervisor, or, every other kill, the supervisor itself. It starts none meanwhile.
func (a *arena) signalSupervised(supervisor int, sig syscall.Signal) {
	_ = syscall.Kill(supervisor, syscall.SIGSTOP)
	a.mu.Lock()
	a.kills++
	whole := a.kills%2 == 0 && sig == syscall.SIGKILL
	a.mu.Unlock()
	for _, worker := range childrenOf(supervisor) {
		a.hit(worker)
		if !whole {
			_ = syscall.Kill(worker, sig)
		}
	}
	if whole {
		_ = syscall.Kill(supervisor, sig)
	}
	_ = syscall.Kill(supervisor, syscall.SIGCONT)
}

// outage notes that everybody was cut off from Redis for longer than a lease, or may have been.
func (a *arena) outage() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen.Outages++
}

// submit submits n executions as any orchestrator would, and notes for each whether Redis acknowledged it.
func (a *arena) submit(n int, document func(i int) string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range n {
		a.mu.Lock()
		a.n++
		id := fmt.Sprintf("e%d", a.n)
		a.mu.Unlock()
		_, err := a.raw.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, a.keys.Executions, id, document(a.n))
			p.LPush(ctx, a.keys.Pending, id)
			return nil
		})
		a.mu.Lock()
		if err == nil {
			a.seen.Accepted[id] = true
		} else {
			a.seen.Maybe[id] = true
		}
		a.mu.Unlock()
	}
}

func sleeps(ms int) func(int) string {
	return func(int) string { return fmt.Sprintf(`{"workflow":"chaos","params":{"sleep_ms":%d}}`, ms) }
}

// settle waits until everything that waits, is claimed or scheduled has ended.
func (a *arena) settle() {
	a.t.Helper()
	ctx := context.Background()
	require.Eventually(a.t, func() bool {
		pipe := a.raw.Pipeline()
		left := []*redis.IntCmd{
			pipe.LLen(ctx, a.keys.Pending), pipe.LLen(ctx, a.keys.Handoff), pipe.HLen(ctx, a.keys.Claims), pipe.ZCard(ctx, a.keys.Scheduled),
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
		a.seen.Results[id] = append(a.seen.Results[id], fmt.Sprint(e.Values["status"]))
	}
	file, err := os.Open(a.history)
	if err == nil {
		require.NoError(a.t, a.seen.ReadRuns(file))
		_ = file.Close()
	}
	k := a.keys
	for _, hash := range []string{k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels} {
		a.seen.Left[hash] = a.raw.HLen(ctx, hash).Val()
	}
	for _, list := range []string{k.Pending, k.Handoff} {
		a.seen.Left[list] = a.raw.LLen(ctx, list).Val()
	}
	a.seen.Left[k.Workers] = a.raw.ZCard(ctx, k.Workers).Val()
	return a.seen.Check(retries)
}

// buried has the registrations of processes that were killed reaped: nobody is left to do it when the last worker leaves, so
// one more comes and goes.
func (a *arena) buried() bool {
	cmd := exec.Command(binary, "worker")
	cmd.Env = []string{"BOBBIN_REDIS_URL=" + a.server.URL(), "BOBBIN_LEASE=" + lease.String()}
	cmd.Stderr = a.log
	if err := cmd.Start(); err != nil {
		return false
	}
	timer := time.AfterFunc(4*lease, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	_ = cmd.Wait()
	return a.raw.ZCard(context.Background(), a.keys.Workers).Val() == 0
}
