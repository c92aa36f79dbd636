package consumer

import (
	"context"
	"fmt"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// incident counts a stuck or lost execution against its workflow. Nothing waits for it.
func (w *Worker) incident(j *job, status execution.Status) {
	if w.opts.QuarantineThreshold < 0 || !j.read || (status != execution.Stuck && status != execution.Lost) {
		return
	}
	i := queue.Incident{
		ID: j.id, Workflow: j.workflow, What: string(status), Window: w.opts.QuarantineWindow, Threshold: w.opts.QuarantineThreshold,
	}
	w.send("incident", func(ctx context.Context, q *queue.Queue) error {
		quarantined, err := q.Incident(ctx, i)
		if quarantined {
			w.log.Error("workflow is quarantined: its executions were stuck or lost too often", "workflow", i.Workflow,
				"threshold", i.Threshold, "window", i.Window, "undo", "bobbin quarantine remove "+i.Workflow)
			w.tell(event{Type: "workflow.quarantined", Workflow: i.Workflow, ExecutionID: i.ID})
			poke(w.beatNow)
		}
		return err
	})
}

// heed takes over which workflows are refused, as the heartbeat brought it.
func (w *Worker) heed(workflows []string) {
	if len(workflows) == 0 {
		w.quarantined.Store(nil)
		return
	}
	set := make(map[string]bool, len(workflows))
	for _, workflow := range workflows {
		set[workflow] = true
	}
	w.quarantined.Store(&set)
}

// refused says whether a workflow is in quarantine.
func (w *Worker) refused(workflow string) *execution.Error {
	set := w.quarantined.Load()
	if set == nil || !(*set)[workflow] {
		return nil
	}
	return &execution.Error{Type: execution.TypeQuarantined, Message: fmt.Sprintf(
		"workflow %q is in quarantine: bobbin quarantine list says why, bobbin quarantine remove lets it run again", workflow)}
}

// aloneAfter is how many workers an execution may have died with before it runs alone: two, or one where it would be lost after
// that.
func (w *Worker) aloneAfter() int { return min(2, max(w.opts.MaxRecoveries, 1)) }

// runAlone runs an execution whose workers died twice with nothing beside it, so that no neighbour is charged when a third one
// dies: this worker holds no other claim meanwhile, not even of another suspect. Until it has ended nothing is claimed. It is
// released when ctx ends, or the worker is paused, before it began.
func (f *fetcher) runAlone(ctx context.Context) {
	if len(f.lone) == 0 {
		return
	}
	j, others := f.lone[0], f.lone[1:]
	f.lone = nil
	f.w.release(others...)
	f.w.giveBack()
	attrs := append(j.attrs(), "deaths", j.recoveries)
	if beside := f.w.ledger.size() - 1; beside > 0 {
		f.w.log.Warn("an execution waits to run alone, because its workers died: nothing is claimed until it has", append(attrs, "beside", beside)...)
	}
	if !f.awaitClaims(ctx, 1) || !f.w.submitAlone(j) {
		f.w.release(j)
		return
	}
	f.w.log.Warn("an execution runs alone: it was running when its workers died", attrs...)
	f.awaitClaims(ctx, 0)
}

// awaitClaims waits until this worker holds so few claims: what ran has ended, and its results are written.
func (f *fetcher) awaitClaims(ctx context.Context, n int) bool {
	for f.w.ledger.size() > n {
		if ctx.Err() != nil || (n > 0 && !f.w.accepting()) {
			return false
		}
		select {
		case <-ctx.Done():
		case <-f.w.pool.Changed():
		case <-f.w.regate:
		}
	}
	return true
}

// submitAlone says whether the job was handed to the pool: not when the worker was fenced, drained or paused while it waited.
func (w *Worker) submitAlone(j *job) bool {
	w.fencing.RLock()
	defer w.fencing.RUnlock()
	if w.Incarnation() != j.incarnation || !w.accepting() {
		return false
	}
	w.submit(j)
	return true
}
