package consumer

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
)

// fetcher brings executions from Redis to the pool: it waits for room, claims that many, and blocks only when nothing is
// pending. One goroutine runs it; its fields are its own.
type fetcher struct {
	w         *Worker
	seq       int64           // of the last claim; rises for the life of the process
	uncertain bool            // a claim's reply was lost: reconcile before the next
	idle      bool            // the last claim left nothing: block before the next
	due       time.Duration   // from the last claim until the next scheduled execution; below 0: none
	lone      []*job          // to run alone, before anything else is claimed
	space     []queue.Claimed // of the last reply, for the next
}

// Run fetches until ctx ends (drain, recycle, shutdown). Whatever it holds then that has not started is released. It returns
// when nothing it claimed is on its way any more.
func (f *fetcher) Run(ctx context.Context) error {
	defer f.w.giveBack()
	for failures := 0; ctx.Err() == nil; {
		want := f.awaitRoom(ctx)
		if want == 0 {
			continue
		}
		if err := f.claim(ctx, want); err != nil {
			f.w.health.failed("claim", err)
			backoff(ctx, failures)
			failures++
			continue
		}
		failures = 0
		f.w.health.recovered("claim")
		f.runAlone(ctx)
	}
	return nil
}

// awaitRoom returns how many executions may be claimed, or 0 when ctx ended first. Meanwhile it gives back what was claimed
// ahead and turns out to wait too long: where that is seen to pass here. A worker that finds it so when it gets its processor back
// has only not run: what it gave back then, Redis would have to claim again, for a worker that waits for a processor as well.
func (f *fetcher) awaitRoom(ctx context.Context) int {
	for ctx.Err() == nil {
		room := f.w.pool.Room()
		if f.idle { // a call that waits may be answered when what was learned of short executions holds no more
			room = min(room, f.w.pool.Free())
		}
		// In this order: what ends in between leaves the room as it was and counts in the buffer.
		if room > 0 && f.w.mayClaim() {
			return room
		}
		var stalled <-chan time.Time
		if f.w.pool.Waiting() {
			stalled = time.After(pool.AheadWait)
		}
		select {
		case <-ctx.Done():
		case <-f.w.pool.Changed():
		case <-f.w.regate:
		case <-stalled:
			if f.w.pool.Stalled() {
				f.w.giveBack()
			}
		}
	}
	return 0
}

// giveBack releases what the pool has not started.
func (w *Worker) giveBack() { w.release(jobsOf(w.pool.TakeBack())...) }

func jobsOf(tasks []pool.Task) []*job {
	jobs := make([]*job, len(tasks))
	for i, task := range tasks {
		jobs[i] = task.Job.(*job)
	}
	return jobs
}

// release gives claims back, so that the first of them runs first. They go in batches, one after another, and each is put in front of
// those before: so the last are given back first.
func (w *Worker) release(jobs ...*job) {
	items := make([]item, len(jobs))
	for i, j := range jobs {
		items[len(jobs)-1-i] = item{job: j, kind: release}
	}
	w.releaser.add(items...)
	w.committer.add() // results wait for nothing where executions are given back
}

// claim asks for executions, waiting for one when there were none, and hands them to the pool.
func (f *fetcher) claim(ctx context.Context, want int) error {
	// Not cancelled by a drain: what the reply brings must be run or released.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ioTimeout)
	defer cancel()
	f.seq++
	incarnation := f.w.Incarnation()
	reply, err := f.ask(ctx, queue.Claim{
		Incarnation: incarnation, Seq: f.seq, Want: want, MaxContextBytes: f.w.opts.ContextMaxBytes, Space: f.space,
	})
	if errors.Is(err, queue.ErrNotRegistered) {
		poke(f.w.beatNow) // the heartbeat finds out, and fences
		return err
	}
	if err != nil {
		// Only a refusal says that nothing was claimed.
		nothing := errors.Is(err, queue.ErrRefused) || errors.Is(err, queue.ErrStaleClaim)
		f.uncertain = f.uncertain || !nothing
		return err
	}
	if len(reply.Claimed) > 0 {
		failpoint.Hit("after-claim")
		if f.uncertain {
			f.w.opts.Observer.Recovered("lost_reply", len(reply.Claimed))
		}
	}
	// After a reconciliation it is not known that nothing is pending.
	f.idle = !reply.More && !f.uncertain
	f.uncertain, f.due = false, time.Duration(reply.NextDueMS)*time.Millisecond
	f.lone = f.w.accept(ctx, incarnation, reply)
	if len(reply.Claimed) > 0 && f.w.piggyback.Load() != nil {
		poke(f.w.woken)
	}
	clear(reply.Claimed) // its jobs have copies
	if cap(reply.Claimed) > 0 {
		f.space = reply.Claimed[:0]
	}
	runtime.Gosched() // what was claimed starts before this goroutine asks Redis for more
	return nil
}

// maxWoken is the most that a claim takes which waited: a worker that is stopped (SIGSTOP) or cut off while it waits claims
// them all the same, and they wait for the lease.
const maxWoken = 16

// ask makes the call that the moment asks for.
func (f *fetcher) ask(ctx context.Context, c queue.Claim) (*queue.ClaimReply, error) {
	switch {
	case f.uncertain:
		return f.w.queue.Reconcile(ctx, c, f.w.ledger.known())
	case f.idle:
		c.Want = min(c.Want, maxWoken)
		failpoint.Hit("before-wake")
		return f.wait(c)
	default:
		failpoint.Hit("before-claim")
		return f.w.queue.Claim(ctx, c)
	}
}

// accept makes jobs of what was claimed: those that can run go to the pool, the others to their results. It returns those
// that are to run alone.
func (w *Worker) accept(ctx context.Context, incarnation string, reply *queue.ClaimReply) (lone []*job) {
	arrived := &arrival{worker: w, incarnation: incarnation, claimedMS: reply.NowMS, since: time.Now()}
	jobs := make([]*job, len(reply.Claimed))
	for i := range reply.Claimed {
		jobs[i] = newJob(&reply.Claimed[i], arrived)
	}
	w.ledger.add(jobs)
	ended, unsure := w.endedBefore(ctx, reply.Claimed)
	// A fence must see either none of these in the pool, or all of them.
	w.fencing.RLock()
	defer w.fencing.RUnlock()
	// Fenced, drained, paused or choked while the claim was on its way.
	unwanted := w.Incarnation() != incarnation || !w.accepting() || w.choked.Load()
	var says execution.Context // what each of them says, in turn
	var back []*job
	for i, j := range jobs {
		c := &reply.Claimed[i]
		if unwanted || (unsure && c.Missing) {
			back = append(back, j)
			continue
		}
		if c.Missing && ended[j.id] {
			w.log.Info("dropped an ID that was pushed again after its execution had ended", j.attrs()...)
			w.committer.add(item{job: j, kind: drop})
			continue
		}
		if status, refused := w.admit(j, c, reply.ModulesVersion, &says); refused != nil {
			w.committer.add(item{job: j, kind: commit, result: w.result(j, status, refused)})
			continue
		}
		if c.Recoveries >= w.aloneAfter() {
			lone = append(lone, j)
			continue
		}
		w.submit(j)
	}
	if len(back) > 0 {
		w.release(back...)
	}
	return lone
}

// submit hands a job to the pool.
func (w *Worker) submit(j *job) {
	failpoint.Hit("before-submit")
	w.pool.Submit(pool.Task{ID: j.id, Timeout: cmp.Or(j.timeout, w.opts.Timeout), Job: j})
}

// endedBefore finds, among claimed IDs that have no context, those that have a result: a second push of an execution must not
// get a second result. Unsure says that Redis did not answer: such an ID is given back, and asked after again. Where Redis will never
// say (what is there is no stream), it is answered as any that lacks a context.
func (w *Worker) endedBefore(ctx context.Context, claimed []queue.Claimed) (ended map[string]bool, unsure bool) {
	var missing []string
	for i := range claimed {
		if claimed[i].Missing {
			missing = append(missing, claimed[i].ID)
		}
	}
	if len(missing) == 0 {
		return nil, false
	}
	ended, err := w.queue.EndedLately(ctx, missing)
	if err != nil {
		w.log.Warn("cannot tell whether IDs without a context were pushed twice", "error", err)
		unsure = !errors.Is(err, queue.ErrRefused) || queue.IsPassing(err)
	}
	return ended, unsure
}

// ended is called by the pool when a task ended.
func (w *Worker) ended(o pool.Outcome) {
	j := o.Task.Job.(*job)
	if o.Status == execution.Stuck {
		w.log.Error("execution is stuck: it ignored its cancellation", append(j.attrs(), "cause", o.Cause, "stack", o.Err.Traceback)...)
		w.tell(event{Type: "execution.stuck", ExecutionID: printableID(j.id), Workflow: j.workflow})
		poke(w.changed)
	}
	w.finished(w.finish(j, &o), &o)
}

// endedLate is called by the pool when a stuck task returned after all.
func (w *Worker) endedLate(o pool.Outcome) {
	j := o.Task.Job.(*job)
	result := w.result(j, o.Status, o.Err)
	if o.Interrupted {
		result.Status = execution.Cancelled
	}
	result.Value, result.StartedMS, result.FinishedMS = o.Value, j.redisClock(o.Started), j.redisClock(o.Finished)
	result.Duration = o.Finished.Sub(o.Started)
	w.log.Info("a stuck execution returned after all", j.attrs()...)
	w.committer.add(item{job: j, kind: late, result: result, why: "was stuck"})
	poke(w.changed)
}
