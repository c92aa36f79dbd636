package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/examples"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
)

// demoWorkflow is what the demo runs over the real input.
const demoWorkflow = "debian/depends.star"

func (a *app) demoCommand() *cobra.Command {
	var executions, concurrency int
	cmd := &cobra.Command{
		Use: "demo", Short: "Run thousands of real executions on an embedded Redis", Args: exactly(),
		Long: "Starts a Redis inside this process, publishes the example workflows, submits real package records of Debian, runs\n" +
			"them through a real worker, and says what came out. Nothing to install, nothing is kept.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if executions < 1 || executions > 1_000_000 {
				return usageError("--executions is %d, expected 1 to 1000000", executions)
			}
			if concurrency < 1 || concurrency > 10_000 {
				return usageError("--concurrency is %d, expected 1 to 10000", concurrency)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.demo(ctx, executions, concurrency)
		},
	}
	cmd.Flags().IntVar(&executions, "executions", 5000, "how many to run; beyond 5000 the records repeat")
	cmd.Flags().IntVar(&concurrency, "concurrency", 4, "how many at the same time")
	return cmd
}

// lab is an embedded Redis with a worker on it.
type lab struct {
	queue  *queue.Queue
	redis  *embeddedRedis
	wg     sync.WaitGroup
	worker context.CancelFunc // shuts it down
	exit   int
	err    error
}

// startLab starts both; end stops them in order.
func startLab(ctx context.Context, addr string, concurrency int, log *slog.Logger) (*lab, error) {
	embedded, err := startEmbedded(addr)
	if err != nil {
		return nil, err
	}
	ctx, shutdown := context.WithCancel(context.WithoutCancel(ctx))
	l := &lab{redis: embedded, worker: shutdown}
	if l.queue, err = queue.Open(queue.Options{URL: embedded.url()}); err != nil {
		return nil, err
	}
	languages, err := interpreters("python3", "node")
	if err != nil {
		return nil, err
	}
	runners, names := scriptRunners(languages, process.Options{Limit: concurrency, Log: log})
	w, err := consumer.New(consumer.Options{
		RedisURL: embedded.url(), Runner: runner.NewMux(), ScriptRunners: runners, Runners: names,
		Concurrency: concurrency, Version: version, Log: log,
	})
	if err != nil {
		return nil, err
	}
	l.wg.Go(func() { l.exit, l.err = w.Run(ctx) })
	return l, nil
}

// end shuts the worker down, then Redis, and waits for both.
func (l *lab) end() error {
	l.worker()
	l.wg.Wait()
	_ = l.queue.Close()
	l.redis.close()
	return l.err
}

func (a *app) demo(ctx context.Context, executions, concurrency int) error {
	l, err := startLab(ctx, "127.0.0.1:0", concurrency, logging.New(a.stderr, "text", "warn", isTerminal(a.stderr)))
	if err != nil {
		return err
	}
	err = a.runDemo(ctx, l, executions, concurrency)
	if ended := l.end(); err == nil {
		err = ended
	}
	return err
}

func (a *app) runDemo(ctx context.Context, l *lab, executions, concurrency int) error {
	sources, err := readModules(examples.Workflows())
	if err != nil {
		return err
	}
	if _, err := l.queue.PushModules(ctx, sources); err != nil {
		return err
	}
	records, err := examples.DebianPackages()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "An embedded Redis and one worker with %d slots run in this process; %d workflow modules are published to it.\n"+
		"Submitting %d executions of %s over %d real package records.\n\n", concurrency, len(sources), executions, demoWorkflow, len(records))
	d := &demoRun{executions: executions, best: map[string]*execution.Result{}}
	w := newWaiter()
	started := time.Now()
	var feeding sync.WaitGroup
	var fedErr error
	feeding.Go(func() {
		defer w.finishedFeeding()
		fedErr = feed(demoSource(records, executions), func(batch []queue.Submission) error {
			if err := w.add(ctx, batch); err != nil {
				return err
			}
			return l.queue.Submit(ctx, batch...)
		})
	})
	err = a.watchDemo(ctx, l.queue, w, d)
	d.took = time.Since(started)
	feeding.Wait()
	if err == nil {
		err = fedErr
	}
	if err != nil {
		return err
	}
	d.print(a.stdout, w.counts)
	return w.verdict()
}

func demoSource(records []json.RawMessage, executions int) source {
	s := &submission{workflow: demoWorkflow, function: execution.DefaultFunction}
	n := 0
	return func() (queue.Submission, error) {
		if n == executions {
			return queue.Submission{}, io.EOF
		}
		n++
		return s.one("", records[(n-1)%len(records)])
	}
}

// demoRun is what a demo remembers for its summary.
type demoRun struct {
	executions int
	took       time.Duration
	durations  []time.Duration
	best       map[string]*execution.Result // the results worth looking at, by why
}

func (a *app) watchDemo(ctx context.Context, q *queue.Queue, w *waiter, d *demoRun) error {
	bar := newProgress(a.stderr, d.executions)
	defer bar.end()
	for from := "0"; ; {
		all, results, _ := w.done()
		bar.show(results)
		if all {
			return nil
		}
		entries, err := q.ReadResults(ctx, from, 1000, 200*time.Millisecond)
		if ctx.Err() != nil {
			return &exitError{execution.ExitFailure, "interrupted"}
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			from = e.StreamID
			if w.take(e.Result) {
				d.note(e.Result)
			}
		}
	}
}

func (d *demoRun) note(r *execution.Result) {
	d.durations = append(d.durations, r.Duration)
	why := "the longest result"
	if r.Status != execution.Succeeded {
		why = "one that did not succeed"
	}
	if best := d.best[why]; best == nil || len(r.Value) > len(best.Value) {
		d.best[why] = r
	}
	if strings.Contains(string(r.Value), `"architectures":["`) && d.best["one with architectures"] == nil {
		d.best["one with architectures"] = r
	}
	if len(r.Value) < 500 && strings.Count(string(r.Value), `"name"`) > 2 && d.best["a short one"] == nil {
		d.best["a short one"] = r
	}
}

func (d *demoRun) print(out io.Writer, counts map[execution.Status]int) {
	slices.Sort(d.durations)
	at := func(p float64) time.Duration { return d.durations[int(p*float64(len(d.durations)-1))] }
	fmt.Fprintf(out, "\n%d executions in %s: %s\n", d.executions, d.took.Round(time.Millisecond), tally(counts))
	fmt.Fprintf(out, "rate      %.0f executions a second, from submission to result\n", float64(d.executions)/d.took.Seconds())
	fmt.Fprintf(out, "duration  p50 %s, p95 %s, p99 %s, longest %s\n", at(.5), at(.95), at(.99), at(1))
	for _, why := range []string{"one that did not succeed", "a short one", "one with architectures", "the longest result"} {
		if r := d.best[why]; r != nil {
			what := string(r.Value)
			if r.Err != nil {
				what = r.Err.Message + "\n" + r.Err.Traceback
			}
			fmt.Fprintf(out, "\n%s (%s, %s, %d bytes)\n  %s\n", why, r.ID, r.Status, len(what), shorten(what, 600))
		}
	}
	fmt.Fprintf(out, "\nNext: go run ./cmd/bobbin dev   (an embedded Redis and a worker that stay, for you to play with)\n")
}
