// Package pool runs executions on a fixed number of goroutines and knows, of each, what it is doing and whether it still
// listens. It knows nothing of Redis.
//
// # Slots
//
// A pool has as many slots as its concurrency, each with a goroutine of its own. [Pool.Room] says how many more tasks may
// be submitted; the caller claims that many and submits them. A few may wait beyond the slots (claimed ahead) where tasks
// are so short that the wait is below [AheadWait]; [Pool.TakeBack] hands them back when they turn out to be longer.
//
// # The ladder
//
// A task whose timeout passes, or that is cancelled, has its context cancelled with a cause. It has the cancel grace to
// return. After that it is stuck: its outcome is reported with the goroutine's own stack, and its slot is given up, because
// Go cannot kill a goroutine. Should the task return after all, its outcome is reported as late and its slot is regained.
//
// # Exactly one outcome
//
// Every submitted task ends in exactly one of: a call of Done, a place in what TakeBack returned, or a place in what
// [Pool.Abandon] returned. A mutex per pool decides races such as a return in the moment the grace ends.
package pool

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/execution"
)

// Causes with which the context of a running task is cancelled; [context.Cause] returns them.
var (
	// ErrTimeout is the cause when the task's timeout passed. It is also a [context.DeadlineExceeded].
	ErrTimeout error = timeoutError{}
	// ErrCancelled is the cause when an operator cancelled the execution.
	ErrCancelled = errors.New("execution was cancelled")
	// ErrShutdown is the cause when the worker leaves: the execution is released and runs elsewhere.
	ErrShutdown = errors.New("worker is shutting down")
	// ErrLeaseLost is the cause when the worker's claims were, or may have been, given to others.
	ErrLeaseLost = errors.New("lease lost")
)

type timeoutError struct{}

// Error says what happened, for people.
func (timeoutError) Error() string { return "execution timed out" }

// Is makes a timeout look like every other expired deadline to the handlers that ask.
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

const (
	// AheadWait is how long a task claimed ahead should at most wait for a slot.
	AheadWait = 10 * time.Millisecond
	// MaxAhead is the most tasks that wait for a slot.
	MaxAhead = 1024
)

// Job is what a task runs. Run must return soon after ctx is cancelled.
type Job interface {
	Run(ctx context.Context) (json.RawMessage, error)
}

// Task is one execution for the pool.
type Task struct {
	ID      string
	Timeout time.Duration // 0: none
	Job     Job
}

// Outcome is how a task ended.
type Outcome struct {
	Task     Task
	Status   execution.Status // empty when Interrupted
	Value    json.RawMessage  // when Succeeded
	Err      *execution.Error // when not Succeeded
	Cause    error            // why it was cancelled; nil when it was not
	Started  time.Time        // to be compared with other moments: its wall clock is not corrected when that of the machine is set
	Finished time.Time        // likewise
	// Interrupted says that the task stopped because the worker asked it to, for no fault of its own: run it again elsewhere.
	Interrupted bool
	// Backlog is how many tasks waited behind full slots when it returned, and Pace how far apart tasks returned lately.
	Backlog int
	Pace    time.Duration
}

// Options configure a pool. Concurrency and Done are required.
type Options struct {
	Concurrency int
	CancelGrace time.Duration
	// Done is called once per task, from the goroutine that ran it or, for a stuck one, from a timer's. It must not block.
	Done func(Outcome)
	// Late is called with the outcome of a stuck task that returned after all. nil discards it.
	Late func(Outcome)
}

// Pool is a fixed set of goroutines that run tasks. Make one with [New] and start it with [Pool.Run]. All methods may be
// called by many goroutines at once.
type Pool struct {
	opts    Options
	made    time.Time
	wake    chan struct{} // at least one message for each waiting task; more after TakeBack
	changed chan struct{}
	loops   sync.WaitGroup // goroutines that are not given up

	mu           sync.Mutex // guards what follows and every handle
	queue        []*handle  // a ring of what waits, in the order of submission
	first        int        // where the ring begins
	queued       int        // how many wait
	slots        []*handle  // what each slot runs; nil: idle
	routines     []int64    // the ID of the goroutine of each slot
	inPool       int        // submitted and neither finished, stuck nor taken back
	stuck        int        // slots given up
	average      time.Duration
	pace         time.Duration // from one end to the next, likewise
	lastEnd      time.Duration // of the pool's clock
	lastProgress time.Duration // likewise: a task started, or an empty pool was given one
	closed       bool          // Run is ending
	alarm        alarm         // for timeouts
	seen         *snapshot     // stacks that were taken a moment ago; nil: none
}

// New returns a pool that does not run yet. It panics on a concurrency below 1 or without Done: mistakes in the program.
func New(o Options) *Pool {
	if o.Concurrency < 1 || o.Done == nil {
		panic("pool: New needs a concurrency above 0 and Done")
	}
	return &Pool{
		opts: o, made: time.Now(), changed: make(chan struct{}, 1),
		slots: make([]*handle, o.Concurrency), routines: make([]int64, o.Concurrency),
		wake: make(chan struct{}, o.Concurrency+MaxAhead), queue: make([]*handle, o.Concurrency+MaxAhead),
	}
}

// clock is the time since the pool was made, on the monotonic clock.
func (p *Pool) clock() time.Duration { return time.Since(p.made) }

// at is a moment of the pool's clock, to be compared with others: what it says of the wall clock knows nothing of how that was set since.
func (p *Pool) at(moment time.Duration) time.Time { return p.made.Add(moment) }

// Run starts the goroutines and blocks until ctx is done and every task has ended, is stuck or was abandoned. It does not
// wait for stuck goroutines: nothing can. End tasks first ([Pool.CancelAll], [Pool.TakeBack]), then ctx.
func (p *Pool) Run(ctx context.Context) error {
	for slot := range p.slots {
		p.loops.Add(1)
		go p.loop(ctx, slot) // awaited through loops, which a goroutine leaves when its slot is given up
	}
	<-ctx.Done()
	p.mu.Lock()
	p.closed = true // from here on no returning stuck goroutine counts again
	p.mu.Unlock()
	p.loops.Wait()
	p.silence()
	return nil
}

// Changed returns a channel that receives after the pool's room, or the number of running tasks, may have changed. Several
// changes may be one message; one reader may use it.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

func (p *Pool) signal() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Submit hands the pool a task. Never submit more than [Pool.Room] said: beyond what the queue holds, Submit panics.
func (p *Pool) Submit(task Task) {
	h := &handle{pool: p, task: task, ending: noEnding}
	p.mu.Lock()
	if p.queued == len(p.queue) {
		p.mu.Unlock()
		panic("pool: more tasks were submitted than there was room for")
	}
	if p.inPool == 0 {
		p.lastProgress = p.clock()
	}
	p.inPool++
	p.queue[(p.first+p.queued)%len(p.queue)] = h
	p.queued++
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // full: there are more messages than tasks
	}
}

// Room returns how many more tasks may be submitted now: free slots, and as many beyond them as will likely start within
// [AheadWait]. While more than half of those wait already it returns 0, so that claims come in batches.
func (p *Pool) Room() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	usable := len(p.slots) - p.stuck
	waiting, ahead := max(p.inPool-usable, 0), p.ahead(usable)
	if p.inPool >= usable && (ahead == 0 || waiting > ahead/2) {
		return 0
	}
	return usable + ahead - p.inPool
}

// Free returns how many slots have nothing to run, now or next.
func (p *Pool) Free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(len(p.slots)-p.stuck-p.inPool, 0)
}

// ahead is how many tasks usable slots will likely start within AheadWait. A pool in which nothing starts any more claims
// nothing ahead, whatever the average was.
func (p *Pool) ahead(usable int) int {
	if p.average == 0 || p.average > AheadWait/2 || p.clock()-p.lastProgress > AheadWait {
		return 0
	}
	return int(min(int64(usable)*int64(AheadWait/p.average), MaxAhead))
}

// Stalled says that tasks wait for a slot and none has started for [AheadWait]: what waits is better taken back.
func (p *Pool) Stalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inPool > len(p.slots)-p.stuck && p.clock()-p.lastProgress > AheadWait
}

// Waiting says whether tasks wait for a slot.
func (p *Pool) Waiting() bool { return p.Backlog() > 0 }

// Backlog returns how many tasks wait behind full slots: for each of them to start, another one must return or be taken back.
func (p *Pool) Backlog() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.backlog()
}

func (p *Pool) backlog() int { return max(p.inPool-(len(p.slots)-p.stuck), 0) }

// TakeBack removes the tasks that have not started, in the order in which they were submitted.
func (p *Pool) TakeBack() []Task {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued == 0 {
		return nil
	}
	back := make([]Task, p.queued)
	for i := range back {
		at := (p.first + i) % len(p.queue)
		back[i], p.queue[at] = p.queue[at].task, nil
	}
	p.inPool -= len(back)
	p.queued = 0
	p.signal()
	return back
}

// Figures are counts of what a pool is doing.
type Figures struct {
	Busy  int // submitted tasks that have not ended: running or waiting, without the stuck
	Stuck int // tasks that ignored their cancellation and still have not returned
}

// Figures returns the counts of this moment.
func (p *Pool) Figures() Figures {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Figures{Busy: p.inPool, Stuck: p.stuck}
}
