package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

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
		require.GreaterOrEqual(t, strings.Count(worn.log.String(), "starting its replacement"), 2)
	})
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
