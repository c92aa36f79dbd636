package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/bobbin-run/bobbin/queue"
)

// PythonModule is a trivial workflow that imports what workflows import.
const PythonModule = `import asyncio, email, json, sqlite3, ssl, urllib.request

async def main(name):
    return {"hello": name}
`

const pythonPath = "bench/hello.py"

// SpawnWorkflow is the name of the Go handler that starts a Python process for an execution of [PythonModule].
const SpawnWorkflow = "spawn"

// Python drains the same trivial Python workflow through resident interpreters, through forked children, and through a
// process started for each execution. n is how many the resident ones run; the slower ways run fewer.
func (l *Lab) Python(ctx context.Context, n, concurrency int) (*Report, error) {
	all := series{}
	for run := range l.Runs {
		spawn, _, err := l.pythonOnce(ctx, SpawnWorkflow, "resident", max(n/300, 20), concurrency)
		if err != nil {
			return nil, err
		}
		fork, slots, err := l.pythonOnce(ctx, pythonPath, "fork", max(n/10, 100), concurrency)
		if err != nil {
			return nil, err
		}
		resident, _, err := l.pythonOnce(ctx, pythonPath, "resident", n, concurrency)
		if err != nil {
			return nil, err
		}
		all.add("spawn", spawn)
		all.add("fork", fork)
		all.add("resident", resident)
		all.add("fork of", fork/spawn)
		all.add("resident of", resident/spawn)
		all.add("pss", slots)
		l.say("python %d/%d: spawn %.1f/s, fork %.0f/s, resident %.0f/s", run+1, l.Runs, spawn, fork, resident)
	}
	r := &Report{Name: "python", About: fmt.Sprintf("a trivial async Python function, Redis to Redis, concurrency %d", concurrency)}
	r.add("a python3 process for each execution", all.median("spawn"), "/s")
	r.add("mode fork", all.median("fork"), "/s")
	r.add("mode resident", all.median("resident"), "/s")
	r.atLeast("resident / spawn", all.median("resident of"), "", 250)
	r.atLeast("fork / spawn", all.median("fork of"), "", 12)
	r.below("each further warm interpreter of mode fork, proportional set size", all.median("pss"), "MB", 12)
	return r, nil
}

// pythonOnce returns the rate of one way, and the memory of a slot in MB where there are slots.
func (l *Lab) pythonOnce(ctx context.Context, workflow, mode string, n, concurrency int) (rate, slot float64, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return 0, 0, err
	}
	if err := l.push(ctx, map[string]string{pythonPath: PythonModule}); err != nil {
		return 0, 0, err
	}
	c, err := l.start(ctx, fmt.Sprintf("BOBBIN_CONCURRENCY=%d", concurrency), "BOBBIN_PYTHON_MODE="+mode)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	hello := document(workflow, map[string]any{"name": "world"})
	warm := 10 * concurrency
	if err := errors.Join(l.drainMore(ctx, 0, warm, hello), l.checkResults(ctx)); err != nil { // every interpreter has started and imported
		return 0, 0, err
	}
	s, err := l.measure(ctx, n, func() error { return l.drainMore(ctx, warm, n, hello) })
	if err != nil {
		return 0, 0, err
	}
	if mode == "fork" && workflow == pythonPath {
		slot, err = slotMegabytes(c.cmd.Process.Pid)
	}
	return s.rate(), slot, err
}

// drainMore submits n executions after the first ones, and waits for their results.
func (l *Lab) drainMore(ctx context.Context, first, n int, document string) error {
	if err := l.stageFrom(ctx, first, n, func(int) string { return document }); err != nil {
		return err
	}
	if err := l.release(ctx); err != nil {
		return err
	}
	return l.awaitResults(ctx, int64(first+n))
}

func (l *Lab) push(ctx context.Context, modules map[string]string) error {
	q, err := queue.Open(queue.Options{URL: l.Redis.URL(), Prefix: prefix})
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	_, err = q.PushModules(ctx, modules)
	return err
}

// slotMegabytes is the mean proportional set size of the processes that were forked from the worker's only child that has
// children: the slots of mode fork.
func slotMegabytes(worker int) (float64, error) {
	for _, mother := range childrenOf(worker) {
		slots := childrenOf(mother)
		if len(slots) == 0 {
			continue
		}
		total := 0.0
		for _, slot := range slots {
			kib, err := proportional(slot)
			if err != nil {
				return 0, err
			}
			total += kib * 1024 / 1e6
		}
		return total / float64(len(slots)), nil
	}
	return 0, errors.New("bench: no slots were found below the worker")
}

// childrenOf lists the processes whose parent is pid, whichever of its threads started them.
func childrenOf(pid int) []int {
	var children []int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// proportional is a process's memory in KiB, with what it shares divided among those that share it.
func proportional(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseFloat(strings.Fields(value)[0], 64)
		}
	}
	return 0, errors.New("bench: /proc says nothing of Pss")
}
