package consumer

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
)

// brain is what the loop knows. Only the loop touches it.
type brain struct {
	w        *Worker
	fetching *part
	fetched  <-chan struct{} // closed when the fetcher has ended; nil once that was seen
	cause    execution.Event // what made the worker leave ACTIVE
	last     execution.Event // what made it exit
	bySignal bool            // paused by a signal, not by an operator
	answered recent          // requests that were obeyed: a doorbell and its stored twin are one command
	refusals refusals
}

// loop owns the worker's state from ACTIVE to the end: it obeys commands, watches for the stuck limit, and once the worker
// leaves ACTIVE sees to it that everything claimed is resolved. It returns the exit code.
func (w *Worker) loop(ctx context.Context, fetching *part) int {
	b := &brain{w: w, fetching: fetching, fetched: w.fetched, refusals: refusals{log: w.log}, bySignal: w.opts.Pause == execution.PausedBySignal}
	if w.paused.Load() {
		w.log.Info("started paused: nothing is claimed until resumed")
	}
	for w.State() != execution.Exiting {
		select {
		case <-ctx.Done():
			b.move(execution.EventShutdown)
		case n := <-w.inbox:
			b.hear(n)
		case <-w.changed:
		case <-b.fetched:
			b.fetched = nil
		}
		b.look()
	}
	b.exit()
	b.refusals.report()
	return execution.ExitCode(b.cause, b.last)
}

// look does what the worker's own condition asks for.
func (b *brain) look() {
	w := b.w
	if stuck := w.pool.Figures().Stuck; w.State() == execution.Active && stuck >= w.opts.StuckLimit {
		w.log.Error("stuck limit reached; draining to be replaced", "stuck", stuck, "limit", w.opts.StuckLimit)
		b.move(execution.EventStuckLimit)
	}
	if why := w.worn(); why != "" && w.State() == execution.Active {
		w.log.Info("recycling to be replaced", "because", why)
		b.move(execution.EventRecycle)
	}
	leaving := w.State() == execution.Draining || w.State() == execution.PendingKill
	if leaving && b.resolved() {
		b.move(execution.EventIdle)
	}
}

// worn says why the worker has had enough; "" when it has not.
func (w *Worker) worn() string {
	if n := w.processed.Load(); w.maxExecutions > 0 && n >= w.maxExecutions {
		return fmt.Sprintf("%d executions ended here", n)
	}
	if held := w.rss.Load(); w.maxRSS > 0 && held > w.maxRSS {
		return fmt.Sprintf("it holds %d bytes of memory, more than %d", held, w.maxRSS)
	}
	return ""
}

// resolved says that nothing is being fetched and nothing claimed is left: only stuck executions may still run.
func (b *brain) resolved() bool { return b.fetched == nil && b.w.ledger.size() == 0 }

// move makes one transition and begins what the new state asks for. It says whether the transition was legal.
func (b *brain) move(event execution.Event) bool {
	w, from := b.w, b.w.State()
	to, err := from.Next(event)
	if err != nil {
		return false
	}
	w.state.Store(to)
	if from == execution.Active {
		b.cause = event
	}
	b.last = event
	b.fetching.cancel()
	w.waker.Interrupt()
	w.log.Info("worker state changed", "from", from, "to", to, "because", event)
	w.tell(stateChanged(from, to, event))
	if w.opts.OnState != nil {
		w.opts.OnState(to, event)
	}
	poke(w.beatNow)
	return true
}

// exit brings EXITING to its end: cancels what still runs, waits for it, and releases what does not return in time. Commands
// are still answered meanwhile.
func (b *brain) exit() {
	w := b.w
	// A little of the time is kept for releasing and unregistering.
	deadline := time.NewTimer(w.opts.ShutdownTimeout - min(w.opts.ShutdownTimeout/10, time.Second))
	defer deadline.Stop()
	var again <-chan time.Time // a task may have started while the others were cancelled
	for cancelled := false; !b.resolved(); {
		if !cancelled {
			again = time.After(20 * time.Millisecond)
			w.pool.CancelAll(pool.ErrShutdown)
			w.waker.Interrupt() // again: the first may have come before the pop blocked
			cancelled = b.fetched == nil
		}
		select {
		case n := <-w.inbox:
			b.hear(n)
		case <-w.changed:
		case <-again:
		case <-b.fetched:
			b.fetched = nil
		case <-w.hurry:
			b.abandon("told to leave at once")
			return
		case <-deadline.C:
			b.abandon("shutdown timeout passed")
			return
		}
	}
}

// abandon releases what still runs: others run it again. What is being fetched is awaited, so that nothing starts later.
func (b *brain) abandon(why string) {
	if b.fetched != nil {
		<-b.fetched
		b.fetched = nil
	}
	tasks := b.w.pool.Abandon()
	if len(tasks) > 0 { // or only results are left to be written
		b.w.log.Warn("releasing executions that did not finish", "because", why, "executions", len(tasks))
	}
	b.w.release(jobsOf(tasks)...)
}

// hear takes a note apart and obeys the command in it, if it is for this worker.
func (b *brain) hear(n note) {
	if n.heard != nil {
		close(n.heard)
		return
	}
	if n.local != nil {
		outcome, _ := b.obey(*n.local, n.bySignal)
		b.w.commanded(*n.local, outcome, n.bySignal)
		return
	}
	c, err := control.Parse(n.message)
	if err != nil {
		b.refusals.add(err)
		b.answer(c, control.Refused, err.Error())
		b.forget(n)
		return
	}
	if !n.stored() && !c.Targets(b.w.Incarnation()) {
		return
	}
	if n.cancels != "" && n.cancels != c.ExecutionID {
		b.refusals.add(fmt.Errorf("%w: a cancel of %.60q stored for %.60q", control.ErrMalformed, c.ExecutionID, n.cancels))
		return
	}
	// A command that was verified before needs to be fresh no more; another one under its request ID is another one.
	if err := b.w.verify(c); err != nil && !b.answered.knows(c) {
		b.refusals.add(err)
		b.answer(c, control.Refused, err.Error())
		b.forget(n)
		return
	}
	if !b.answered.add(c) {
		b.w.log.Info("command received", "command", c.Verb, "request_id", c.RequestID, "stored", n.stored())
		outcome, reason := b.obey(c, false)
		b.w.commanded(c, outcome, false)
		b.answer(c, outcome, reason)
	} else if c.Verb == control.Cancel { // stored cancels come back until the execution has ended
		b.cancel(c.ExecutionID)
	}
	b.forget(n)
}

// verify checks a command's signature, where the worker was given a key.
func (w *Worker) verify(c control.Command) error {
	if w.opts.ControlKey == nil {
		return nil
	}
	return c.Verify(w.opts.ControlKey, w.queue.Keys.Control, w.redisNow())
}

func (w *Worker) commanded(c control.Command, outcome control.ReceiptOutcome, bySignal bool) {
	if w.opts.OnCommand != nil {
		w.opts.OnCommand(c, outcome, bySignal)
	}
}

// obey does what a command asks for and says what became of it.
func (b *brain) obey(c control.Command, bySignal bool) (control.ReceiptOutcome, string) {
	switch c.Verb {
	case control.Drain:
		return b.transition(execution.EventDrain)
	case control.Recycle:
		return b.transition(execution.EventRecycle)
	case control.Shutdown:
		return b.transition(execution.EventShutdown)
	case control.Pause:
		return b.pause(bySignal)
	case control.Resume:
		return b.resume(bySignal)
	case control.Cancel:
		if b.cancel(c.ExecutionID) == 0 {
			return control.Ignored, "this worker does not run it"
		}
	case control.Stacks:
		return control.Accepted, b.stacks()
	case control.Ping:
	}
	return control.Accepted, ""
}

func (b *brain) transition(event execution.Event) (control.ReceiptOutcome, string) {
	if !b.move(event) {
		return control.Ignored, fmt.Sprintf("%s changes nothing in state %s", event, b.w.State())
	}
	return control.Accepted, ""
}

func (b *brain) pause(bySignal bool) (control.ReceiptOutcome, string) {
	if b.w.State() != execution.Active || b.w.paused.Load() {
		return control.Ignored, "not claiming already"
	}
	b.bySignal = bySignal
	b.w.paused.Store(true)
	b.w.waker.Interrupt()
	poke(b.w.regate) // what waits to run alone is given back
	b.w.log.Info("paused: nothing is claimed until resumed")
	poke(b.w.beatNow)
	return control.Accepted, ""
}

// resume undoes a pause. SIGCONT, which also follows a SIGSTOP, undoes only the pause that came by signal.
func (b *brain) resume(bySignal bool) (control.ReceiptOutcome, string) {
	if !b.w.paused.Load() || (bySignal && !b.bySignal) {
		return control.Ignored, "not paused"
	}
	b.w.paused.Store(false)
	b.w.log.Info("resumed")
	poke(b.w.regate)
	poke(b.w.beatNow)
	return control.Accepted, ""
}

func (b *brain) cancel(id string) int {
	return b.w.pool.Cancel(pool.ErrCancelled, func(t pool.Task) bool { return t.ID == id })
}

// stacks logs what every running execution is doing, and returns it: in the words of its runner where it has some, else as the
// stack of its goroutine, which only says how the runner waits.
func (b *brain) stacks() string {
	running := b.w.pool.Running(true)
	own := make([]string, len(running))
	var asking sync.WaitGroup
	for i, r := range running { // all at once: each may take a moment to answer
		asking.Go(func() { own[i] = b.w.stackOf(r.ID) })
	}
	asking.Wait()
	var all strings.Builder
	for i, r := range running {
		j := r.Job.(*job)
		attrs := append(j.attrs(), "running_for", time.Since(r.Started).Round(time.Millisecond), "slot", r.Slot, "stuck", r.Stuck)
		if r.Cause != nil {
			attrs = append(attrs, "cancelled_because", r.Cause, "cancelled_for", time.Since(r.Cancelled).Round(time.Millisecond))
		}
		if own[i] != "" {
			attrs, r.Stack = append(attrs, "goroutine", r.Stack), own[i]
		}
		b.w.log.Info("execution running", append(attrs, "stack", r.Stack)...)
		fmt.Fprintf(&all, "execution %s, workflow %s, running for %s\n%s\n\n", r.ID, j.workflow, time.Since(r.Started).Round(time.Millisecond), r.Stack)
	}
	b.w.log.Info("end of running executions", "running", len(running))
	return clip(all.String())
}

// stackOf is what a runner says of where an execution is, in the language of the workflow; "" where it cannot tell.
func (w *Worker) stackOf(id string) string {
	for _, r := range w.built {
		if teller, ok := r.(interface{ Stack(id string) string }); ok {
			if stack := teller.Stack(id); stack != "" {
				return stack
			}
		}
	}
	return ""
}

// answer sends a receipt, where the command named a request.
func (b *brain) answer(c control.Command, outcome control.ReceiptOutcome, reason string) {
	if c.RequestID == "" {
		return
	}
	receipt := control.Receipt{
		Worker: b.w.Incarnation(), RequestID: c.RequestID, Outcome: outcome, State: b.w.State(), Reason: reason,
	}
	if c.Verb == control.Stacks && outcome == control.Accepted {
		receipt.Reason, receipt.Stacks = "", reason
	}
	b.w.sendReceipt(receipt)
}

// forget removes the stored twin of a command that was heard.
func (b *brain) forget(n note) {
	if n.intent {
		incarnation, message := b.w.Incarnation(), string(n.message)
		b.w.send("clear intent", func(ctx context.Context, q *queue.Queue) error {
			return q.ClearIntent(ctx, incarnation, message)
		})
	}
}

// recent remembers the last commands that named a request.
type recent struct {
	seen map[string]control.Command
	ring [256]string
	next int
}

// knows says whether this very command, with its signature, was added.
func (r *recent) knows(c control.Command) bool { return c.RequestID != "" && r.seen[c.RequestID] == c }

// add remembers the command and says whether one with its request ID was known. The empty ID never is.
func (r *recent) add(c control.Command) bool {
	id := c.RequestID
	if id == "" {
		return false
	}
	if _, known := r.seen[id]; known {
		return true
	}
	if r.seen == nil {
		r.seen = map[string]control.Command{}
	}
	delete(r.seen, r.ring[r.next])
	r.ring[r.next], r.seen[id] = id, c
	r.next = (r.next + 1) % len(r.ring)
	return false
}
