package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// Recycled under constant load: something is claimed all the time, every execution runs once and to its end, on the old worker
// or on the new one, and there is one ACTIVE worker before and after.
func TestRecycleUnderLoadLeavesNoGap(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := setup(t, server)
	s.ok("modules", "push", workflows(t, testModules))
	supervisor := s.start("supervise")
	supervisor.says("worker started")
	lines := strings.Repeat(`{"seconds":0.2}`+"\n", 160) // eight seconds for four slots
	s.do(lines, "submit", "sleep.star", "--input", "-")
	for n := 1; n <= 3; n++ {
		require.Eventually(t, func() bool {
			return server.Client().XLen(t.Context(), queue.NewKeys(server.Prefix, "default").Results).Val() >= int64(30*n)
		}, patience, pollEvery)
		s.ok("recycle", "--all")
	}
	all := []map[string]any{}
	require.Eventually(t, func() bool {
		all = results(t, s.ok("results", "--json"))
		return len(all) == 160
	}, patience, pollEvery)
	claimed, workers := []float64{}, map[any]bool{}
	for _, r := range all {
		require.Equal(t, "succeeded", r["status"])
		require.EqualValues(t, 1, r["attempt"], "not run twice")
		require.GreaterOrEqual(t, r["duration_us"], 200_000.0, "not cut short")
		claimed, workers[r["worker"]] = append(claimed, r["claimed_at_ms"].(float64)), true
	}
	require.Len(t, workers, 4, "one, and three replacements")
	slices.Sort(claimed)
	for i := range claimed[1:] {
		require.Less(t, claimed[i+1]-claimed[i], 1000.0, "milliseconds in which nothing was claimed")
	}
	require.Equal(t, 1, strings.Count(s.ok("status"), "ACTIVE"))
	supervisor.signal(syscall.SIGTERM)
	require.Zero(t, supervisor.exits())
	require.Contains(t, s.ok("status"), "no workers are registered")
}

// A supervisor's end is its worker's: killed, drained, told to leave. A worker that is killed comes back.
func TestSuperviseThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		drained := s.start("supervise")
		drained.says("worker started")
		require.NoError(t, syscall.Kill(workerOf(t, drained.cmd.Process.Pid), syscall.SIGKILL))
		drained.says("crashed")
		require.Eventually(t, func() bool { return strings.Count(drained.log.String(), "worker started") == 2 }, patience, pollEvery)
		s.ok("drain", "--all")
		require.Zero(t, drained.exits(), "nothing is started after a drain")

		killed := s.start("supervise")
		killed.says("worker started")
		worker := workerOf(t, killed.cmd.Process.Pid)
		killed.signal(syscall.SIGKILL)
		require.Eventually(t, func() bool { return syscall.Kill(worker, 0) != nil }, patience, pollEvery, "it dies with its supervisor")

		worn := s.with("BOBBIN_MAX_EXECUTIONS=3").start("supervise")
		worn.says("worker started")
		s.ok("modules", "push", workflows(t, testModules))
		for range 8 {
			s.ok("submit", "echo.star", "--wait")
		}
		require.GreaterOrEqual(t, strings.Count(worn.log.String(), "worker process started"), 3)
	})
}

// What stays when a worker is replaced: that it was paused, and that somebody answers on its address, to whom it shows its last
// figures before the replacement has its turn. Who drains is looked at to the end.
func TestReplacementTakesOver(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := setup(t, server)
	s.ok("modules", "push", workflows(t, testModules))
	addr := freeAddress(t)
	supervisor := s.with("BOBBIN_HTTP_ADDR=" + addr).start("supervise")
	get := func(path string) string {
		response, err := http.Get("http://" + addr + path)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		return string(body)
	}
	shows := func(path, line string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(get(path), line) }, patience, pollEvery, line)
	}
	supervisor.says("metrics and health")
	shows("/readyz", "ok")
	s.ok("pause", "--all")
	require.NoError(t, syscall.Kill(workerOf(t, supervisor.cmd.Process.Pid), syscall.SIGKILL))
	supervisor.says("started paused")
	shows("/readyz", "paused")
	s.ok("resume", "--all")
	s.ok("submit", "echo.star", "--wait")

	shows("/metrics", `status="succeeded"} 1`)
	s.ok("recycle", "--all")
	supervisor.says("waiting for the last scrape")
	require.Equal(t, "ok\n", get("/healthz"), "what waits is well")
	last := get("/metrics")
	require.Contains(t, last, `status="succeeded"} 1`)
	require.Contains(t, last, `,state="EXITING"} 1`)
	shows("/readyz", "ok")

	s.ok("submit", "sleep.star", "--params", `{"seconds":3600}`, "--id", "long")
	shows("/metrics", `bobbin_running{prefix="`+server.Prefix+`",queue="default"} 1`)
	s.ok("drain", "--all")
	require.Contains(t, get("/metrics"), `,state="DRAINING"} 1`)
	require.Equal(t, "ok\n", get("/healthz"), "a probe must not kill what finishes its work")
	s.ok("cancel", "long")
	require.Zero(t, supervisor.exits())
}

// freeAddress is one on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// A drain of all that comes right after a recycle is for the replacement too, which is not there yet to hear of it.
func TestDrainRightAfterRecycle(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := setup(t, server)
	s.ok("modules", "push", workflows(t, testModules))
	supervisor := s.start("supervise")
	supervisor.says("worker started")
	s.ok("submit", "sleep.star", "--params", `{"seconds":3600}`, "--id", "long")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "long"), "running on") }, patience, pollEvery)
	control := queue.NewKeys(server.Prefix, "default").Control
	for _, word := range []string{"recycle", "drain"} {
		require.NoError(t, server.Client().Publish(t.Context(), control, word).Err())
	}
	supervisor.says("the replacement is not started")
	s.ok("cancel", "long")
	require.Zero(t, supervisor.exits())
}

// SIGHUP and SIGQUIT end what runs in order, here with the supervisor and without. SIGQUIT says what every goroutine does.
func TestTerminalSignals(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := setup(t, server)
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		for _, command := range []string{"worker", "supervise"} {
			p := s.start(command)
			p.says("worker started")
			p.signal(signal)
			require.Zero(t, p.exits())
			require.Contains(t, p.log.String(), "worker stopped")
			require.Equal(t, signal == syscall.SIGQUIT, strings.Contains(p.log.String(), "goroutine 1 ["))
		}
	}
}

// What no second start mends is said at once, with its exit code.
func TestStartThatCannotWork(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := setup(t, server)
	for _, command := range []string{"worker", "supervise"} {
		said := s.with("BOBBIN_PYTHON=/nonexistent").do("", command)
		require.Equal(t, execution.ExitUsage, said.code)
		require.Contains(t, said.err, `BOBBIN_PYTHON="/nonexistent"`)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	said := s.with("BOBBIN_HTTP_ADDR="+taken.Addr().String()).do("", "worker")
	require.Equal(t, execution.ExitFailure, said.code)
	require.Contains(t, said.err, "address already in use")
}

// workerOf returns the process ID of a supervisor's worker.
func workerOf(t *testing.T, supervisor int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", supervisor))
	require.NoError(t, err)
	for _, task := range tasks {
		var pid int
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", supervisor, task.Name()))
		if _, err := fmt.Sscan(string(data), &pid); err == nil {
			return pid
		}
	}
	require.Fail(t, "the supervisor has no worker")
	return 0
}
