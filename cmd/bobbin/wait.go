package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

const (
	// waitWindow bounds how many submitted executions are waited for at once, and so the memory of a wait.
	waitWindow = 20_000
	hintAfter  = 3 * time.Second
)

// waiter matches results to what was submitted. The submitting goroutine adds, the reading one takes.
type waiter struct {
	mu          sync.Mutex
	outstanding map[string]bool
	fed         bool // everything was submitted
	counts      map[execution.Status]int
	room        chan struct{} // something was taken
}

func newWaiter() *waiter {
	return &waiter{outstanding: map[string]bool{}, counts: map[execution.Status]int{}, room: make(chan struct{}, 1)}
}

// add notes executions before they are submitted, waiting while too many are outstanding.
func (w *waiter) add(ctx context.Context, batch []queue.Submission) error {
	for {
		w.mu.Lock()
		if len(w.outstanding) < waitWindow {
			for _, one := range batch {
				w.outstanding[string(one.ID)] = true
			}
			w.mu.Unlock()
			return nil
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.room:
		}
	}
}

// take says whether the result is one that is waited for.
func (w *waiter) take(r *execution.Result) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.outstanding[r.ID] {
		return false
	}
	delete(w.outstanding, r.ID)
	w.counts[r.Status]++
	select {
	case w.room <- struct{}{}:
	default:
	}
	return true
}

func (w *waiter) drop(batch []queue.Submission) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range batch {
		delete(w.outstanding, string(one.ID))
	}
}

func (w *waiter) finishedFeeding() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fed = true
}

func (w *waiter) done() (all bool, results, left int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.counts {
		results += n
	}
	return w.fed && len(w.outstanding) == 0, results, len(w.outstanding)
}

// submitAndWait submits and prints the results as they arrive.
func (a *app) submitAndWait(ctx context.Context, q *queue.Queue, next source, total int) error {
	from, err := newestResult(ctx, q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := newWaiter()
	var feeding sync.WaitGroup
	var fedErr error
	feeding.Go(func() {
		defer w.finishedFeeding()
		fedErr = feed(next, func(batch []queue.Submission) error {
			if err := w.add(ctx, batch); err != nil {
				return err
			}
			err := q.Submit(ctx, batch...)
			if err != nil {
				w.drop(batch)
			}
			return err
		})
	})
	err = a.collect(ctx, q, w, from, total)
	cancel()
	feeding.Wait()
	if fedErr != nil && ctx.Err() == nil {
		err = fedErr
	}
	if err != nil {
		return err
	}
	if fedErr != nil {
		return fedErr
	}
	return w.verdict()
}

func newestResult(ctx context.Context, q *queue.Queue) (string, error) {
	latest, err := q.LatestResults(ctx, 1)
	if err != nil {
		return "", err
	}
	if len(latest) == 0 {
		return "0", nil
	}
	return latest[0].StreamID, nil
}

// collect reads results from the stream until everything that was submitted has one.
func (a *app) collect(ctx context.Context, q *queue.Queue, w *waiter, from string, total int) error {
	out := bufio.NewWriter(a.stdout)
	defer func() { _ = out.Flush() }()
	bar := newProgress(a.stderr, total)
	defer bar.end()
	quietSince, hinted := time.Now(), false
	for {
		all, results, left := w.done()
		bar.show(results)
		if all {
			return nil
		}
		if !hinted && time.Since(quietSince) > hintAfter {
			hinted = true
			bar.note(nobodyWorks(ctx, q))
		}
		entries, err := q.ReadResults(ctx, from, 1000, 500*time.Millisecond)
		if ctx.Err() != nil {
			return &exitError{execution.ExitFailure, fmt.Sprintf("interrupted with %d executions still to end; their results will be in the stream", left)}
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			from = e.StreamID
			if w.take(e.Result) {
				quietSince = time.Now()
				if err := json.NewEncoder(a.forData(out)).Encode(e.Result); err != nil {
					return err
				}
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

// nobodyWorks says why no results may be coming.
func nobodyWorks(ctx context.Context, q *queue.Queue) string {
	workers, err := q.Workers(ctx)
	switch {
	case err != nil:
		return err.Error()
	case len(workers) == 0:
		return "waiting, but no worker is registered for this queue; start one with: bobbin worker"
	default:
		return ""
	}
}

// verdict is an error, with a count by status, unless everything succeeded.
func (w *waiter) verdict() error {
	if len(w.counts) == 0 || (len(w.counts) == 1 && w.counts[execution.Succeeded] > 0) {
		return nil
	}
	return &exitError{execution.ExitFailure, "not all succeeded: " + tally(w.counts)}
}

func tally(counts map[execution.Status]int) string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[status], status))
	}
	return strings.Join(parts, ", ")
}

// progress is a bar on a terminal, and silent elsewhere.
type progress struct {
	out     io.Writer
	live    bool
	total   int // -1: not known
	started time.Time
	shown   time.Time
	drawn   bool
	last    int
}

func newProgress(out io.Writer, total int) *progress {
	return &progress{out: out, live: isTerminal(out) && total != 1, total: total, started: time.Now()}
}

// show draws the bar, at most ten times a second.
func (p *progress) show(done int) {
	p.last = done
	if !p.live || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.draw()
}

func (p *progress) draw() {
	p.shown, p.drawn = time.Now(), true
	rate := float64(p.last) / max(time.Since(p.started).Seconds(), 0.001)
	if p.total < 0 {
		fmt.Fprintf(p.out, "\r\033[K%d done  %.0f/s", p.last, rate)
		return
	}
	const width = 30
	filled := width
	if p.total > 0 {
		filled = min(width*p.last/p.total, width)
	}
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(p.total-p.last)/rate*1000) * time.Millisecond).Round(time.Second).String()
	}
	fmt.Fprintf(p.out, "\r\033[K%s%s %d/%d  %.0f/s  %s left", strings.Repeat("█", filled), strings.Repeat("░", width-filled), p.last, p.total, rate, left)
}

// note prints a line without breaking the bar.
func (p *progress) note(line string) {
	if line == "" {
		return
	}
	if p.drawn {
		fmt.Fprint(p.out, "\r\033[K")
	}
	fmt.Fprintln(p.out, line)
}

func (p *progress) end() {
	if p.live && p.drawn {
		p.draw()
		fmt.Fprintln(p.out)
	}
}
