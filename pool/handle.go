package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/bobbin-run/bobbin/execution"
)

type phase int32

const (
	waiting phase = iota
	running
	stuck     // its outcome was reported, its slot given up
	abandoned // its task was handed back while it ran
	ended
)

// handle is the pool's hold on one task. The pool's mutex guards every field but those set before it is shared. There is one for each
// execution, so that its size is most of what one costs the collector: moments are counted from when the pool was made.
type handle struct {
	pool     *Pool
	task     Task
	context  taskContext   // what its job is given
	started  time.Duration // of the pool's clock
	finished time.Duration // likewise; its goroutine's own
	phase    phase
	slot     int32
	*ending  // noEnding until it is asked to end
}

// ending is what there is to know of a task that was asked to end; few are.
type ending struct {
	asked time.Time
	cause error
	grace *time.Timer   // nil: it has as long as it takes
	told  chan struct{} // closed when the outcome of a stuck task was reported
}

var noEnding = &ending{}

// turn is how long a slot runs one short task after another before it lets others have the processor: whoever brings more tasks and
// whoever writes results down would else wait until nothing is left to run, up to the ten milliseconds after which Go interrupts.
const turn = time.Millisecond

// loop is the life of one slot: tasks, one after another, until ctx is done. It owns one count of loops, which it loses when
// its slot is given up (giveUp, Abandon) and takes again when the stuck task returns.
func (p *Pool) loop(ctx context.Context, slot int) {
	p.mu.Lock()
	p.routines[slot] = goroutineID()
	p.mu.Unlock()
	yielded, owned, returned := p.clock(), true, false
	defer func() {
		switch {
		case owned && returned:
			p.loops.Done()
		case owned || p.regain(): // the task ended this goroutine with runtime.Goexit: another takes the slot
			go p.loop(ctx, slot)
		}
	}()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-p.wake:
			if h := p.next(slot); h != nil { // nil: it was taken back meanwhile
				p.run(h, &owned)
				if h.finished-yielded > turn {
					runtime.Gosched()
					yielded = h.finished
				}
			}
			if owned = owned || p.regain(); !owned {
				return
			}
		}
	}
	returned = true
}

// regain counts a goroutine whose task was given up and returned after all, unless the pool is closed.
func (p *Pool) regain() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.loops.Add(1)
	return true
}

// run runs one task and reports its outcome. It clears owned when the slot was given up meanwhile.
func (p *Pool) run(h *handle, owned *bool) {
	var value json.RawMessage
	var err error = errGoexit
	defer func() { // deferred, so that runtime.Goexit reports an outcome too
		defer func() { *owned = h.end(value, err) }() // even if what was thrown does not let itself be printed
		if thrown := recover(); thrown != nil {
			value, err = nil, panicked(thrown)
		}
	}()
	returned, failure := h.task.Job.Run(&h.context)
	if failure != nil {
		failure = execution.AsError(failure) // here, because its Error method is the handler's code, and may panic or exit as well
	}
	value, err = returned, failure
}

var errGoexit = &execution.Error{Type: execution.TypePanic, Message: "the handler ended its goroutine (runtime.Goexit)"}

// panicked is the error of a job that panicked, with the stack of where it happened. Call it while the panic is being recovered.
func panicked(thrown any) error {
	return &execution.Error{
		Type: execution.TypePanic, Message: fmt.Sprintf("panic: %v", thrown), Traceback: string(debug.Stack()),
	}
}

// next takes the longest waiting task and begins it, in one step: at no moment is a task neither waiting, where TakeBack
// finds it, nor running, where Cancel and Abandon do. It returns nil when none waits.
func (p *Pool) next(slot int) *handle {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued == 0 {
		return nil
	}
	h := p.queue[p.first]
	p.queue[p.first] = nil
	p.first, p.queued = (p.first+1)%len(p.queue), p.queued-1
	now := time.Now()
	h.slot, h.phase, h.started = int32(slot), running, now.Sub(p.made)
	p.slots[slot], p.lastProgress = h, h.started
	if h.task.Timeout > 0 {
		h.context.until = now.Add(h.task.Timeout)
		p.wakeBy(h.context.until, now)
	}
	return h
}

// ask cancels the task and starts the grace. The first cause counts. The pool's mutex is held.
func (h *handle) ask(cause error) {
	if h.phase != running || h.cause != nil {
		return
	}
	h.ending = &ending{asked: time.Now(), cause: cause}
	h.context.end(cause)
	if !errors.Is(cause, ErrShutdown) { // a worker that leaves has a deadline of its own and blames nobody
		h.grace = time.AfterFunc(h.pool.opts.CancelGrace, h.giveUp)
	}
}

// giveUp ends the grace: a task that still runs is stuck.
func (h *handle) giveUp() {
	p := h.pool
	p.mu.Lock()
	if h.phase != running {
		p.mu.Unlock()
		return
	}
	h.phase = stuck
	p.inPool--
	p.stuck++
	h.told = make(chan struct{})
	outcome := Outcome{Task: h.task, Status: execution.Stuck, Cause: h.cause, Started: p.at(h.started), Finished: time.Now()}
	outcome.Err = &execution.Error{
		Type:      execution.TypeStuck,
		Message:   fmt.Sprintf("%v, and it has not returned %s after it was cancelled", h.cause, p.opts.CancelGrace),
		Traceback: p.stackOf(h),
	}
	p.mu.Unlock()
	p.opts.Done(outcome)
	close(h.told)
	p.loops.Done()
	p.signal()
}

// end reports how the task ended. It returns false when its slot was given up before.
func (h *handle) end(value json.RawMessage, err error) bool {
	p := h.pool
	p.mu.Lock()
	was := h.phase
	h.phase = ended
	h.stopGrace()
	h.finished = p.clock()
	if p.slots[h.slot] == h {
		p.slots[h.slot] = nil
	}
	switch was {
	case running:
		p.inPool--
		p.learn(h.finished-h.started, h.finished-p.lastEnd)
		p.lastEnd = h.finished
	case stuck:
		p.stuck--
	}
	outcome := h.outcome(value, err)
	outcome.Backlog, outcome.Pace = p.backlog(), p.pace
	p.mu.Unlock()
	h.context.end(nil)

	switch {
	case was == running:
		p.opts.Done(outcome)
	case was == stuck && p.opts.Late != nil:
		<-h.told // one that returns in this very moment is late only after it was reported stuck
		p.opts.Late(outcome)
	}
	p.signal()
	return was == running
}

func (h *handle) stopGrace() {
	if h.grace != nil {
		h.grace.Stop()
	}
}

// learn keeps running averages of how long tasks take and how far apart they end, quick to follow. The mutex is held.
func (p *Pool) learn(took, apart time.Duration) {
	took = max(took, time.Microsecond)
	if p.average == 0 {
		p.average = took
	}
	p.average += (took - p.average) / 8
	p.pace += (min(apart, took) - p.pace) / 8 // at most took: there was nothing to run before
}

// outcome decides how a returned task ended. A result that came in spite of a cancellation counts: its work is done.
func (h *handle) outcome(value json.RawMessage, err error) Outcome {
	o := Outcome{Task: h.task, Cause: h.cause, Started: h.pool.at(h.started), Finished: h.pool.at(h.finished)}
	failure := execution.AsError(err)
	switch {
	case failure == nil:
		o.Status, o.Value = execution.Succeeded, value
	case failure.Type == execution.TypePanic:
		o.Status, o.Err = execution.Failed, failure
	case errors.Is(h.cause, ErrTimeout):
		o.Status, o.Err = execution.TimedOut, cancelError(execution.TypeTimeout, fmt.Sprintf("timed out after %s", h.task.Timeout), failure)
	case errors.Is(h.cause, ErrCancelled):
		o.Status, o.Err = execution.Cancelled, cancelError(execution.TypeCancelled, h.cause.Error(), failure)
	case h.cause != nil:
		o.Interrupted, o.Err = true, failure
	case failure.Rejected:
		o.Status, o.Err = execution.Rejected, failure
	default:
		o.Status, o.Err = execution.Failed, failure
	}
	return o
}

// cancelError says why the task was cancelled and, where the runner said more than that, what it was doing.
func cancelError(kind, message string, failure *execution.Error) *execution.Error {
	return &execution.Error{Type: kind, Message: message, Traceback: failure.Traceback}
}
