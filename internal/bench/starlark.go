package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/script"
)

// workflow is ten lines of the kind that people write.
const workflow = `def main(customer, items):
    total = 0
    names = []
    for item in items:
        total += item["price"] * item["count"]
        if item["count"] > 1:
            names.append(item["name"].upper())
    label = "%s: %d" % (customer, total)
    kind = "large" if total > 100 else "small"
    return {"total": total, "names": names, "label": label, "kind": kind}
`

var orderParams = map[string]any{"customer": "acme", "items": []map[string]any{
	{"name": "bobbin", "price": 12, "count": 3}, {"name": "thread", "price": 4, "count": 1}, {"name": "needle", "price": 1, "count": 20},
}}

const workflowPath = "bench/order.star"

// Starlark drains n executions of a ten-line workflow, beside the interpreter alone on the same cores.
func (l *Lab) Starlark(ctx context.Context, n, concurrency int) (*Report, error) {
	all := series{}
	context := document(workflowPath, orderParams)
	for run := range l.Runs {
		if err := l.Redis.flush(ctx); err != nil {
			return nil, err
		}
		if err := l.push(ctx, map[string]string{workflowPath: workflow}); err != nil {
			return nil, err
		}
		before, err := interpreterAlone(ctx, max(n/2, 1))
		if err != nil {
			return nil, err
		}
		settings := []string{fmt.Sprintf("BOBBIN_CONCURRENCY=%d", concurrency)}
		worker, err := l.drainStarted(ctx, n, func(int) string { return context }, settings)
		if err != nil {
			return nil, err
		}
		after, err := interpreterAlone(ctx, max(n/2, 1))
		if err != nil {
			return nil, err
		}
		alone := (before + after) / 2 // the machine may have become faster or slower meanwhile
		all.add("worker", worker.rate())
		all.add("alone", alone)
		all.add("of", worker.rate()/alone)
		l.say("starlark %d/%d: worker %.0f/s, interpreter alone %.0f/s", run+1, l.Runs, worker.rate(), alone)
	}
	r := &Report{Name: "starlark", About: fmt.Sprintf("%d executions of a ten-line Starlark workflow, one worker, concurrency %d", n, concurrency)}
	r.add("worker, Redis to Redis", all.median("worker"), "/s")
	r.add(fmt.Sprintf("interpreter alone, %d cores", runtime.NumCPU()), all.median("alone"), "/s")
	r.atLeast("worker / interpreter alone", all.median("of"), "", 0.55)
	return r, nil
}

// shelf is a store of modules in memory.
type shelf map[string]string

// Snapshot returns all of it.
func (s shelf) Snapshot(context.Context, string) (string, map[string]string, error) {
	return "1", s, nil
}

// interpreterAlone is how many calls a second the runner does with nothing around it, parameters and result included.
func interpreterAlone(ctx context.Context, n int) (float64, error) {
	params, err := json.Marshal(orderParams)
	if err != nil {
		return 0, err
	}
	r := script.New(shelf{workflowPath: workflow}, script.Options{})
	each := max(n/runtime.NumCPU(), 1)
	failed := make([]error, runtime.NumCPU())
	var loops sync.WaitGroup
	started := time.Now()
	for i := range failed {
		loops.Go(func() {
			for range each {
				call := &runner.Call{ID: "alone", Attempt: 1, Workflow: workflowPath, Function: "main", Params: params, Log: slog.New(slog.DiscardHandler)}
				if _, err := r.Run(ctx, call); err != nil {
					failed[i] = err
					return
				}
			}
		})
	}
	loops.Wait()
	for _, err := range failed {
		if err != nil {
			return 0, err
		}
	}
	return float64(each*len(failed)) / time.Since(started).Seconds(), nil
}
