package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

// pythonWorkload does what the Go handler of the chaos runs does: it writes when it starts and ends, under the worker's PID,
// which is its parent's or, where it is forked, that of its third ancestor.
const pythonWorkload = `
import os, time, bobbin

def ancestor(generations):
    pid = os.getpid()
    for _ in range(generations):
        with open("/proc/%d/stat" % pid) as f:
            pid = int(f.read().rpartition(")")[2].split()[1])
    return pid

def main(history, sleep_ms, generations):
    worker = ancestor(generations)
    def note(what):
        fd = os.open(history, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        os.write(fd, b"%s %s %d %d %d\n" % (what, bobbin.context.execution_id.encode(), bobbin.context.attempt, worker, time.time_ns()))
        os.close(fd)
    note(b"start")
    time.sleep(sleep_ms / 1000)
    note(b"end")
`

func (a *arena) publishPython() {
	if _, err := exec.LookPath("python3"); err != nil {
		require.Empty(a.t, os.Getenv("BOBBIN_REQUIRE_REDIS"), "CI has python3")
		return
	}
	ctx := a.t.Context()
	require.NoError(a.t, a.raw.HSet(ctx, a.keys.Modules, "chaos.py", pythonWorkload).Err())
	require.NoError(a.t, a.raw.Incr(ctx, a.keys.ModulesVersion).Err())
	a.python = true
}

// inPython is a load of Python workflows, half of them forked; of Go handlers where there is no Python.
func (a *arena) inPython(ms int) func(int) string {
	if !a.python {
		return sleeps(ms)
	}
	return func(i int) string {
		isolation, generations := "resident", 1
		if i%2 == 0 {
			isolation, generations = "fork", 3
		}
		return fmt.Sprintf(`{"workflow":"chaos.py","isolation":%q,"params":{"history":%q,"sleep_ms":%d,"generations":%d}}`,
			isolation, a.history, ms, generations)
	}
}

// A worker that is killed takes its interpreters with it, whatever they are doing: no process is left behind.
func TestInterpretersDieWithTheirWorker(t *testing.T) {
	t.Parallel()
	a := newArena(t, redistest.Real(t))
	a.publishPython()
	if !a.python {
		t.Skip("no python3")
	}
	s := a.add(a.server.URL(), "PATH="+os.Getenv("PATH"))
	s.over = true
	a.submit(6, a.inPython(600_000))
	require.Eventually(t, func() bool {
		data, _ := os.ReadFile(a.history)
		return strings.Count(string(data), "start") == 6
	}, patience, 10*time.Millisecond)
	s.mu.Lock()
	worker := s.cmd.Process
	s.mu.Unlock()
	interpreters := descendants(worker.Pid)
	require.GreaterOrEqual(t, len(interpreters), 10, "3 resident; a mother, 3 slots and 3 children")
	require.NoError(t, worker.Kill())
	require.Eventually(t, func() bool {
		for _, pid := range interpreters {
			if alive(pid) {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
}

// descendants lists the processes below one, with their children.
func descendants(pid int) []int {
	var all []int
	for _, child := range childrenOf(pid) {
		all = append(append(all, child), descendants(child)...)
	}
	return all
}

func childrenOf(pid int) []int {
	var all []int
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for _, field := range strings.Fields(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// alive says whether a process runs: one that only waits to be buried does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
