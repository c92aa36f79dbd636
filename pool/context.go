package pool

import (
	"context"
	"sync"
	"time"
)

// taskContext is what a job is given: a context that the pool cancels, with the task's deadline, so that handlers can pass it on to
// what they call. Most jobs run for microseconds and ask nothing of it. So the context of the standard library on which Done, Value
// and [context.Cause] rest is made when one of them is first asked for; until then there is a mutex.
type taskContext struct {
	until time.Time // when the timeout passes; written before the job is called

	mu    sync.Mutex
	whole *wholeContext // nil: nobody asked for it yet
	cause error         // nil: not cancelled
	after *afterFunc
}

// wholeContext is a context of the standard library.
type wholeContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

// afterFunc is a function to be called after the context was cancelled, in a list of them.
type afterFunc struct {
	f    func()
	next *afterFunc
}

// Deadline returns when the task's timeout passes.
func (c *taskContext) Deadline() (time.Time, bool) { return c.until, !c.until.IsZero() }

// Done returns a channel that is closed once the context is cancelled.
func (c *taskContext) Done() <-chan struct{} { return c.make().Done() }

// Value returns nil, but for the standard library, which so finds what children are to hang on.
func (c *taskContext) Value(key any) any { return c.make().Value(key) }

// Err returns [context.Canceled] once the context is cancelled.
func (c *taskContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return context.Canceled
	}
	return nil
}

// String names it: a handler that prints its context is not to read what the pool writes.
func (c *taskContext) String() string { return "pool.Context" }

// AfterFunc does what [context.AfterFunc] does, for less: f is called in a goroutine of its own after the context was cancelled, unless
// stop, which then returns true, comes before.
func (c *taskContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		go f()
		return func() bool { return false }
	}
	entry := &afterFunc{f: f, next: c.after}
	c.after = entry
	return func() bool { return c.forget(entry) }
}

func (c *taskContext) forget(entry *afterFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := &c.after; *at != nil; at = &(*at).next {
		if *at == entry {
			*at = entry.next
			return true
		}
	}
	return false
}

// make returns the standard library's context.
func (c *taskContext) make() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole == nil {
		ctx, cancel := context.WithCancelCause(context.Background())
		if c.cause != nil {
			cancel(c.cause)
		}
		c.whole = &wholeContext{ctx, cancel}
	}
	return c.whole.Context
}

// end cancels the context; nil stands for [context.Canceled]. The first cause counts.
func (c *taskContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	if c.cause = cause; cause == nil {
		c.cause = context.Canceled
	}
	if c.whole != nil {
		c.whole.cancel(cause) // under the mutex: who sees Err must see Cause. It calls nobody who could want it.
	}
	for ; c.after != nil; c.after = c.after.next {
		go c.after.f()
	}
}
