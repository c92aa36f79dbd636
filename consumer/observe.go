package consumer

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// Observer is told what happens in a worker, for metrics. Its methods are called by many goroutines at once, on the path of
// every execution, and must not block.
type Observer interface {
	// Executed is told of every result that was written.
	Executed(result execution.Result)
	// Recovered is told that executions were taken over: by "lease" from a silent worker, by "process_gone" from one that
	// provably died, by "lost_reply" from a claim of this very worker whose answer never came.
	Recovered(cause string, executions int)
	// RedisError is told of a failed operation: "refused", "timeout" or "unreachable".
	RedisError(kind string)
}

// noObserver is the Observer of a worker that has none.
type noObserver struct{}

func (noObserver) Executed(execution.Result) {}
func (noObserver) Recovered(string, int)     {}
func (noObserver) RedisError(string)         {}

func errorKind(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, queue.ErrRefused), errors.Is(err, queue.ErrNotRegistered), errors.Is(err, queue.ErrStaleClaim):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	default:
		return "unreachable"
	}
}

// Condition is how a worker is at one moment.
type Condition struct {
	State       execution.State
	Concurrency int
	Running     int // claimed and not ended, without the stuck
	Stuck       int
	RSSBytes    int64
}

// Condition returns how the worker is.
func (w *Worker) Condition() Condition {
	f := w.pool.Figures()
	return Condition{State: w.State(), Concurrency: w.opts.Concurrency, Running: f.Busy, Stuck: f.Stuck, RSSBytes: w.rss.Load()}
}

// Depths asks Redis for the sizes of the queue's parts, and for how many results somebody still has to read.
func (w *Worker) Depths(ctx context.Context) (depths *queue.Depths, unread int64, err error) {
	if depths, err = w.queue.Depths(ctx); err != nil {
		return nil, 0, err
	}
	unread, err = w.queue.Unread(ctx, 0)
	return depths, unread, err
}

// Turns returns nil once the worker's loop has taken note of the question: the process lives and is not wedged.
func (w *Worker) Turns(ctx context.Context) error {
	heard := make(chan struct{})
	n := note{local: &control.Command{Verb: control.Ping}, heard: heard}
	select {
	case w.inbox <- n:
	case <-ctx.Done():
		return errors.New("the worker's loop does not turn")
	}
	select {
	case <-heard:
		return nil
	case <-ctx.Done():
		return errors.New("the worker's loop does not turn")
	}
}

// NotReady says why the worker is not one to count on; "" when it is.
func (w *Worker) NotReady() string {
	switch {
	case w.State() != execution.Active:
		return "the worker is " + string(w.State())
	case w.paused.Load():
		return "the worker is paused"
	case !w.registered.Load():
		return "the worker is not registered"
	case w.choked.Load():
		return "too many results are unread"
	}
	if bad := w.health.trouble(); len(bad) > 0 {
		return "redis: " + strings.Join(bad, ", ") + " failed"
	}
	return ""
}

// observed returns the observer, never nil.
func observed(o Observer) Observer {
	if o == nil {
		return noObserver{}
	}
	return o
}
