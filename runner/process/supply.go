package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Who has which interpreter. Interpreters are started by the runner, in the background, and executions wait for one: whoever
// gives up waiting (a timeout that is shorter than a start) takes nothing down, and the next one has what was started.

const (
	maxUnused  = 3                      // interpreters that an execution may find dead
	crashPause = 100 * time.Millisecond // before the replacement of one that crashed: whoever waits must not pay for another's crash
	firstPause = 50 * time.Millisecond  // after a start that failed; doubled by each further one
	maxPause   = 30 * time.Second
)

var errClosed = errors.New("the runner is closed")

// arrival is what a waiting execution gets.
type arrival struct {
	i   *interpreter
	err error
}

// take returns an interpreter for one execution: an idle one, or the next that comes.
func (r *Runner) take(ctx context.Context, mode Mode, s *snapshot) (*interpreter, error) {
	r.mu.Lock()
	if i := r.takeIdle(mode); i != nil {
		r.mu.Unlock()
		return i, nil
	}
	w := make(chan arrival, 1)
	r.waiting[mode] = append(r.waiting[mode], w)
	if len(r.waiting[mode]) > r.coming[mode] {
		r.bring(mode, s, 0)
	}
	r.mu.Unlock()
	select {
	case a := <-w:
		return a.i, a.err
	case <-ctx.Done():
		return nil, r.giveUp(w, mode, context.Cause(ctx))
	case <-r.ctx.Done():
		return nil, r.giveUp(w, mode, context.Cause(r.ctx))
	}
}

// giveUp ends an execution's wait, and returns the cause with what is known of it.
func (r *Runner) giveUp(w chan arrival, mode Mode, cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := slices.Index(r.waiting[mode], w); at >= 0 {
		r.waiting[mode] = slices.Delete(r.waiting[mode], at, at+1)
	} else if a := <-w; a.i != nil { // it came in this very moment; what takes a wait from the list answers it at once
		r.offer(a.i)
	}
	if r.failures > 0 {
		return fmt.Errorf("%w; the last start failed: %w", cause, r.failure)
	}
	return cause
}

// takeIdle returns an idle interpreter. mu is held.
func (r *Runner) takeIdle(mode Mode) *interpreter {
	for at := len(r.idle) - 1; at >= 0; at-- {
		i := r.idle[at]
		if i.over() || i.output.flooded.Load() {
			r.idle = slices.Delete(r.idle, at, at+1)
			r.drop(i)
			continue
		}
		if i.mode == mode {
			r.idle = slices.Delete(r.idle, at, at+1)
			i.busy.Store(true)
			r.nowWorking()
			return i
		}
	}
	return nil
}

// offer hands an interpreter to the execution that waits longest, or keeps it for the next one. mu is held.
func (r *Runner) offer(i *interpreter) {
	if r.ctx.Err() != nil {
		r.drop(i)
		return
	}
	switch w := r.first(i.mode); {
	case w != nil:
		i.busy.Store(true)
		r.nowWorking()
		w <- arrival{i: i}
	case len(r.live) > r.opts.Limit:
		r.drop(i)
	default:
		i.busy.Store(false)
		r.idle = append(r.idle, i)
	}
}

// first takes the execution that waits longest, if one does. mu is held.
func (r *Runner) first(mode Mode) chan<- arrival {
	if len(r.waiting[mode]) == 0 {
		return nil
	}
	w := r.waiting[mode][0]
	r.waiting[mode] = r.waiting[mode][1:]
	return w
}

// drop forgets an interpreter and ends it. mu is held.
func (r *Runner) drop(i *interpreter) {
	delete(r.live, i)
	i.end()
}

// bring starts an interpreter in the background, after a pause. Idle ones of the other mode end where there would be too
// many. s is nil for the newest snapshot. mu is held.
func (r *Runner) bring(mode Mode, s *snapshot, pause time.Duration) {
	if r.ctx.Err() != nil {
		return
	}
	for len(r.live)+r.coming[Resident]+r.coming[Fork] >= r.opts.Limit {
		at := slices.IndexFunc(r.idle, func(i *interpreter) bool { return i.mode != mode })
		if at < 0 {
			break
		}
		i := r.idle[at]
		r.idle = slices.Delete(r.idle, at, at+1)
		r.drop(i)
	}
	r.coming[mode]++
	r.wg.Go(func() {
		i, err := r.launch(mode, s, pause)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.coming[mode]--
		if err == nil {
			r.failures, r.live[i] = 0, true
			r.offer(i)
			return
		}
		r.failed(err)
		if w := r.first(mode); w != nil {
			w <- arrival{err: err}
		}
	})
}

// launch starts an interpreter as soon as one may be started.
func (r *Runner) launch(mode Mode, s *snapshot, pause time.Duration) (*interpreter, error) {
	for wait := max(pause, r.rest()); wait > 0; wait = r.rest() {
		select {
		case <-r.ctx.Done():
			return nil, context.Cause(r.ctx)
		case <-time.After(wait):
		}
	}
	if s == nil {
		var err error
		if s, err = r.snapshot(r.ctx, ""); err != nil {
			return nil, fmt.Errorf("cannot read modules: %w", err)
		}
	}
	return r.newInterpreter(mode, s)
}

func (r *Runner) rest() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.notYet)
}

// failed makes the next start wait, longer with every failure in a row, with jitter. mu is held.
func (r *Runner) failed(err error) {
	if r.ctx.Err() != nil {
		return
	}
	pause := min(maxPause, firstPause<<min(r.failures, 12))
	r.failures++
	r.failure, r.notYet = err, time.Now().Add(pause/2+rand.N(pause/2))
	r.log.Warn("interpreter cannot be started", "error", err, "next_start_in", pause, "in_a_row", r.failures)
}

// giveBack takes an interpreter back after an execution, or replaces it.
func (r *Runner) giveBack(i *interpreter) {
	i.executions++
	if i.mode == Fork && i.spent == "" {
		i.sweep()
	}
	why := r.worn(i)
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == "" {
		r.offer(i)
		return
	}
	r.drop(i)
	var pause time.Duration
	if i.crash != nil {
		pause = crashPause
		r.log.Warn("interpreter crashed", "pid", i.pid, "error", i.crash)
	}
	r.log.Debug("interpreter replaced", "pid", i.pid, "why", why, "executions", i.executions)
	r.replace(i.mode, pause)
}

// worn says why an interpreter is not to run another execution; "" when it is.
func (r *Runner) worn(i *interpreter) string {
	switch {
	case i.spent != "":
		return i.spent
	case i.maxExecutions > 0 && i.executions >= i.maxExecutions:
		return fmt.Sprintf("it ran %d executions", i.executions)
	case r.opts.MaxRSS > 0 && i.dueForMemory() && i.rss() > i.softRSS:
		return "it holds too much memory"
	case i.mode == Fork && r.mum.outgrew(i.born):
		return "its mother has imported more since"
	}
	return ""
}

// replace starts an interpreter so that the next execution need not wait for it, unless there are enough. mu is held.
func (r *Runner) replace(mode Mode, pause time.Duration) {
	if len(r.live)+r.coming[Resident]+r.coming[Fork] < r.opts.Limit {
		r.bring(mode, nil, pause)
	}
}
