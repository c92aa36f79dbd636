package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/supervise"
)

// silence is how long a worker may say nothing to its supervisor before it is replaced: others have had its executions for
// long then.
func silence(cfg *config.Config) time.Duration { return max(3*cfg.Lease, 30*time.Second) }

// overseer is a supervisor as its worker sees it. A nil one is none.
type overseer struct {
	pipe  *os.File
	pause execution.Pause // so the worker is to start
}

// findOverseer returns the supervisor of this process, or nil.
func findOverseer() *overseer {
	fd, err := strconv.Atoi(os.Getenv(supervise.ReportVariable))
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetNonblock(fd, true) // a supervisor that was stopped must not stop the worker
	return &overseer{os.NewFile(uintptr(fd), "supervisor"), execution.Pause(os.Getenv(supervise.PauseVariable))}
}

// Write writes to the supervisor, as long as it listens.
func (o *overseer) Write(line []byte) (int, error) {
	_ = o.pipe.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	return o.pipe.Write(line)
}

// look has the supervisor told what happens. handOver is called when the worker leaves and a replacement is about to start.
func (o *overseer) look(options *consumer.Options, handOver func()) {
	if o == nil {
		return
	}
	options.Pause = o.pause
	options.OnState = func(state execution.State, because execution.Event) {
		if because == execution.EventRecycle || because == execution.EventStuckLimit {
			handOver()
		}
		supervise.Report(o, state, because)
	}
	options.OnCommand = func(c control.Command, outcome control.ReceiptOutcome, bySignal bool) {
		switch {
		case c.Worker == control.Everyone && (c.Verb == control.Drain || c.Verb == control.Shutdown):
			supervise.ReportToldAll(o, execution.Event(c.Verb))
		case c.Verb == control.Pause && outcome == control.Accepted && bySignal:
			supervise.ReportPause(o, execution.PausedBySignal)
		case c.Verb == control.Pause && outcome == control.Accepted:
			supervise.ReportPause(o, execution.PausedByOperator)
		case c.Verb == control.Resume && outcome == control.Accepted:
			supervise.ReportPause(o, execution.NotPaused)
		}
	}
}

// keepTelling tells the supervisor that the worker lives for as long as its loop turns. Call what is returned to end it.
func (o *overseer) keepTelling(every time.Duration, turns func(context.Context) error) (stop func()) {
	if o == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var telling sync.WaitGroup
	telling.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for ctx.Err() == nil {
			if turns(ctx) == nil {
				supervise.ReportAlive(o)
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return func() {
		cancel()
		telling.Wait()
	}
}

// lastScrape is how long a worker that is being replaced keeps the address for one more scrape.
const lastScrape = 30 * time.Second

// farewell serves a worker's metrics and gives the address up when a replacement is to have it: after one more scrape, or what
// was counted last, such as what was stuck, would be seen by nobody.
type farewell struct {
	http.Handler
	giveUp  func()
	scraped atomic.Bool // at all: otherwise there is nobody to wait for
	leaving atomic.Bool
	over    atomic.Bool // the worker has ended
}

// ServeHTTP serves a request.
func (f *farewell) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" && f.over.Load() { // its loop turns no more, and need not
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	last := f.leaving.Load()
	f.Handler.ServeHTTP(w, r)
	if r.URL.Path != "/metrics" {
		return
	}
	f.scraped.Store(true)
	if last {
		f.giveUp()
	}
}

// begin notes that the worker leaves and a replacement waits for the address.
func (f *farewell) begin() {
	f.leaving.Store(true)
	if !f.scraped.Load() {
		f.giveUp()
		return
	}
	time.AfterFunc(lastScrape, f.giveUp)
}

// wait waits, after the worker's end, for the last scrape, unless the process is told to end.
func (f *farewell) wait(ctx, serving context.Context, log *slog.Logger) {
	f.over.Store(true)
	if serving.Err() == nil {
		log.Info("waiting for the last scrape of the metrics", "at_most", lastScrape)
	}
	select {
	case <-serving.Done():
	case <-ctx.Done():
	}
}
