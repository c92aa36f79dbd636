package consumer

import (
	"context"
	"fmt"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// incident counts a stuck or lost execution against its workflow. Nothing waits for it.
func (w *Worker) incident(j *job, status execution.Status) {
	if w.opts.QuarantineThreshold < 0 || j.context == nil || (status != execution.Stuck && status != execution.Lost) {
		return
	}
	i := queue.Incident{
		ID: j.claimed.ID, Workflow: j.context.Workflow, What: string(status), Window: w.opts.QuarantineWindow, Threshold: w.opts.QuarantineThreshold,
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

// aloneAfter is how many workers an execution may have died with before it runs alone.
const aloneAfter = 2

// runAlone runs, one by one, executions whose workers died twice: nothing runs beside them, so that no neighbour is charged
// when a third one dies. Until they have ended nothing is claimed. What has not begun when ctx ends is released.
func (f *fetcher) runAlone(ctx context.Context) {
	for len(f.lone) > 0 && ctx.Err() == nil {
		f.w.giveBack()
		if !f.awaitIdle(ctx) {
			break
		}
		j := f.lone[0]
		f.lone = f.lone[1:]
		f.w.log.Warn("an execution runs alone: it was running when its workers died", append(j.attrs(), "deaths", j.claimed.Recoveries)...)
		f.w.submitAlone(j)
		f.awaitIdle(ctx)
	}
	for _, j := range f.lone {
		f.w.committer.add(item{job: j, kind: release})
	}
	f.lone = nil
}

func (f *fetcher) awaitIdle(ctx context.Context) bool {
	for f.w.pool.Figures().Busy > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-f.w.pool.Changed():
		}
	}
	return true
}

func (w *Worker) submitAlone(j *job) {
	w.fencing.RLock()
	defer w.fencing.RUnlock()
	if w.Incarnation() != j.incarnation { // fenced while it waited
		w.committer.add(item{job: j, kind: release})
		return
	}
	w.submit(j)
}
