// Package consumer is the worker: it claims executions, has the pool run them, commits their results, keeps its lease, and
// obeys. Read it top to bottom like the life of a worker:
//
//	worker.go     its parts, how they start, and in which order they end
//	loop.go       the one goroutine that owns the state: commands, the stuck limit, leaving
//	fetch.go      from Redis to the pool: wait for room, claim, block
//	job.go        one execution: what is refused, what a result says
//	commit.go     from the pool to Redis, in batches that form by themselves
//	heartbeat.go  registration, lease, fencing, reaping the dead
//	piggyback.go  the heartbeats of a worker with nothing to do
//
// Three rules hold everywhere. A slot is taken before anything is claimed. What was claimed is committed, released, or left
// to its lease; never dropped. And a drain ends only the fetching: what must still be said to Redis has contexts of its own.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// ErrUnavailable is what the error of [Worker.Run] is when Redis could not be reached at start.
var ErrUnavailable = errors.New("redis is not available")

const (
	ioTimeout    = 5 * time.Second // of one exchange with Redis
	startTimeout = 10 * time.Second
	flushTimeout = 3 * time.Second // at least this long for the last results, whatever the shutdown timeout
)

// moment is what Redis's clock showed at a moment of ours.
type moment struct {
	redisMS int64
	at      time.Time
}

// redisNow estimates Redis's clock.
func (w *Worker) redisNow() int64 {
	if m := w.clock.Load(); m != nil {
		return m.redisMS + time.Since(m.at).Milliseconds()
	}
	return time.Now().UnixMilli()
}

// slot is how far what nobody waits for is brought forward to happen together: as often as Redis looks after its clients by default.
const slot = 100 * time.Millisecond

// coalesced shortens a pause, by less than a slot, so that it ends where Redis's clock is at a multiple of one. What the idle workers of
// a fleet send then comes at once, and Redis wakes up and warms its caches for all of it instead of for each: a fifth less of its time
// (bobbin bench fleet). Pauses that a slot would make much shorter stay as they are.
func (w *Worker) coalesced(pause time.Duration) time.Duration {
	if pause < 5*slot {
		return pause
	}
	over := (w.redisNow() + pause.Milliseconds()) % slot.Milliseconds()
	return pause - time.Duration(over)*time.Millisecond
}

// Worker is one worker. Make it with [New] and call [Worker.Run] once. The other methods may be called from any goroutine.
type Worker struct {
	opts      Options
	log       *slog.Logger
	process   identity
	queue     *queue.Queue
	waker     *queue.Waker
	runner    runner.Runner
	built     []runner.Runner // by Options.ScriptRunners
	pool      *pool.Pool
	committer *committer
	retrier   *committer // of executions that are to be tried again
	releaser  *committer // of what is given back
	ledger    *ledger
	health    *health
	started   time.Time

	inbox   chan note     // to the loop
	changed chan struct{} // to the loop: look again at what runs
	hurry   chan struct{} // to the loop: leave now
	fetched chan struct{} // closed when the fetcher has ended
	regate  chan struct{} // to the fetcher: look again whether you may claim
	beatNow chan struct{} // to the heart
	woken   chan struct{} // to the heart: there is something to do
	silent  chan []string // to the reaper
	anew    chan struct{} // to forgetTorn: Redis may have been started again
	post    chan letter   // to the mailer

	piggyback   atomic.Pointer[piggyback] // the heartbeat that is offered; nil: none. Written by the heart
	piggybacked chan *piggybacked         // to the heart

	fencing     sync.RWMutex           // held for writing while the incarnation changes
	incarnation atomic.Pointer[string] // written by the heart
	state       atomic.Value           // execution.State; written by the loop
	paused      atomic.Bool            // written by the loop
	clock       atomic.Pointer[moment] // Redis's clock as last heard; written by the heart
	registered  atomic.Bool            // written by the heart, like the next
	choked      atomic.Bool            // too many results are unread
	processed   atomic.Int64           // written by the committer, like the next
	failed      atomic.Int64
	rss         atomic.Int64 // bytes; written by the heart

	quarantined atomic.Pointer[map[string]bool] // workflows; nil: none. Written by the heart

	maxExecutions, maxRSS int64 // of the options, with jitter
}

// New returns a worker for the options. It does not connect yet. The error says which option is wrong.
func New(o Options) (*Worker, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.setDefaults()
	q, err := queue.Open(queue.Options{
		URL: o.RedisURL, Prefix: o.Prefix, Queue: o.Queue, GiveWay: o.GiveWay,
	})
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	w := &Worker{
		opts: o, queue: q, process: thisProcess(), ledger: newLedger(), started: time.Now(), waker: q.NewWaker(),
		inbox: make(chan note, 64), changed: make(chan struct{}, 1), hurry: make(chan struct{}, 1), fetched: make(chan struct{}),
		regate: make(chan struct{}, 1), beatNow: make(chan struct{}, 1), woken: make(chan struct{}, 1),
		silent: make(chan []string, 1), anew: make(chan struct{}, 1), post: make(chan letter, 4096), piggybacked: make(chan *piggybacked, 1),
	}
	w.maxExecutions, w.maxRSS = upToATenthLess(int64(o.MaxExecutions)), upToATenthLess(o.MaxRSS)
	w.paused.Store(o.Pause != execution.NotPaused)
	incarnation := w.process.newIncarnation()
	w.incarnation.Store(&incarnation)
	w.state.Store(execution.Active)
	w.log = slog.New(tee{stamped{o.Log.Handler(), &w.incarnation}, w, ""})
	w.health = newHealth(w.log, func(err error) { o.Observer.RedisError(errorKind(err)) })
	w.runner = o.Runner
	if len(o.ScriptRunners) > 0 {
		router := &runner.Router{Default: o.Runner, BySuffix: map[string]runner.Runner{}}
		for suffix, build := range o.ScriptRunners {
			built := build(modules{w})
			w.built = append(w.built, built)
			router.BySuffix[suffix] = built
		}
		w.runner = router
	}
	w.pool = pool.New(pool.Options{Concurrency: o.Concurrency, CancelGrace: o.CancelGrace, Done: w.ended, Late: w.endedLate})
	w.committer, w.retrier, w.releaser = newCommitter(w), newCommitter(w), newCommitter(w)
	return w, nil
}

// upToATenthLess is a limit that differs from worker to worker, so that a fleet does not leave as one. 0 stays 0.
func upToATenthLess(limit int64) int64 { return limit - rand.Int64N(limit/10+1) }

// Incarnation returns the name under which the worker claims now.
func (w *Worker) Incarnation() string { return *w.incarnation.Load() }

// State returns where the worker is in its life.
func (w *Worker) State() execution.State { return w.state.Load().(execution.State) }

// Run works until ctx is done, which shuts the worker down, or an operator sends it away. It returns the exit code for the
// process; the error is not nil only with [execution.ExitFailure], when the worker could not start.
//
// The parts end in the order of what they owe each other: fetching first, then what runs, then what is to be written, then
// the lease.
func (w *Worker) Run(ctx context.Context) (int, error) {
	defer func() { _ = w.queue.Close() }()
	defer w.waker.Close()
	heart := &heart{w: w, results: &backpressure{w: w}}
	if err := w.start(ctx, heart); err != nil {
		if ctx.Err() != nil { // told to leave before it had begun
			return execution.ExitDone, nil
		}
		return execution.ExitFailure, err
	}
	w.warmUp()
	base := context.WithoutCancel(ctx)
	fetching, pooling, committing, living := newPart(base), newPart(base), newPart(base), newPart(base)
	pooling.run(w.pool.Run)
	for range committers {
		committing.run(w.committer.Run)
	}
	committing.run(w.retrier.Run)
	committing.run(w.releaser.Run) // one: what is given back keeps its order
	living.run(heart.Run)
	living.run(w.reap)
	living.run(w.forgetTorn)
	living.run(w.mail)
	living.run((&control.Listener{
		Queue: w.queue, Log: w.log, Interval: w.opts.ControlInterval, Subscribed: func() { poke(w.anew) },
		Handle: func(ctx context.Context, message []byte) { w.deliver(ctx, note{message: message}) },
	}).Run)
	fetching.run(func(ctx context.Context) error {
		defer close(w.fetched)
		return (&fetcher{w: w}).Run(ctx)
	})

	code := w.loop(ctx, fetching)

	w.flush(committing)
	pooling.end()
	w.closeRunners()
	living.end()
	w.leave(heart)
	w.log.Info("worker stopped", "exit_code", code, "processed", w.processed.Load(), "failed", w.failed.Load())
	return code, nil
}

// part is a group of components that end together.
type part struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newPart(ctx context.Context) *part {
	p := &part{}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

func (p *part) run(component func(context.Context) error) {
	p.wg.Go(func() { _ = component(p.ctx) }) // components of a worker outlive every error; they end with their context
}

// end tells the components to end and waits until they have.
func (p *part) end() {
	p.cancel()
	p.wg.Wait()
}

// start registers the worker. A Redis that refuses the credentials is an error at once, one that does not answer after a
// while.
func (w *Worker) start(ctx context.Context, h *heart) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for failures := 0; ; failures++ {
		err := w.queue.Ping(ctx)
		if err == nil {
			err = w.queue.LoadScripts(ctx)
		}
		if err == nil {
			err = w.reapPredecessors(ctx)
		}
		if err == nil {
			err = h.register(ctx)
		}
		if err == nil {
			break
		}
		if errors.Is(err, queue.ErrRefused) && !queue.IsPassing(err) {
			return fmt.Errorf("cannot start: %w", err)
		}
		if failures == 0 {
			said := "redis does not answer yet"
			if errors.Is(err, queue.ErrRefused) {
				said = "redis refuses for now" // it loads, or its memory is full
			}
			w.log.Warn(said, "error", err)
		}
		if !backoff(ctx, failures) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if w.opts.OnState != nil {
		w.opts.OnState(execution.Active, "")
	}
	w.log.Info("worker started", "queue", w.opts.Queue, "concurrency", w.opts.Concurrency, "version", w.opts.Version)
	return nil
}

// warmUp lets runners that start something ahead do so.
func (w *Worker) warmUp() {
	for _, r := range w.built {
		if warm, ok := r.(interface{ WarmUp() }); ok {
			warm.WarmUp()
		}
	}
}

// closeRunners ends what the runners that were built for this worker hold, such as processes.
func (w *Worker) closeRunners() {
	for _, r := range w.built {
		if closer, ok := r.(io.Closer); ok {
			if err := closer.Close(); err != nil {
				w.log.Warn("a runner did not close", "error", err)
			}
		}
	}
}

// flush waits until the last results are written.
func (w *Worker) flush(committing *part) {
	deadline := time.NewTimer(flushTimeout)
	defer deadline.Stop()
	for w.ledger.size() > 0 {
		select {
		case <-w.changed:
			continue
		case <-w.hurry:
			deadline.Reset(time.Second)
			continue
		case <-deadline.C:
			w.log.Error("results could not be written in time; their executions run again when the lease is over", "executions", w.ledger.size())
		}
		break
	}
	committing.end()
}

// leave gives back whatever is still claimed, known here or not, and unregisters.
func (w *Worker) leave(h *heart) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	failpoint.Hit("before-unregister")
	w.registered.Store(false)
	w.tellNow(ctx, event{Type: "worker.offline"})
	for _, incarnation := range append(h.predecessors, w.Incarnation()) {
		if _, err := w.queue.Reap(ctx, incarnation, w.opts.Lease, true, false); err != nil {
			w.log.Warn("could not unregister; others take over when the lease is over", "error", err)
			return
		}
	}
}

// Ready says whether the worker is one to count on: registered, claiming, and Redis answers it.
func (w *Worker) Ready() bool {
	return w.accepting() && w.registered.Load() && w.health.ready()
}

// mayClaim says whether the fetcher may claim, apart from room in the pool.
func (w *Worker) mayClaim() bool {
	return w.accepting() && w.registered.Load() && !w.choked.Load() && !w.committer.full() && !w.retrier.full() && !w.releaser.full()
}

// accepting says whether operators want the worker to take on executions.
func (w *Worker) accepting() bool { return w.State() == execution.Active && !w.paused.Load() }

// count counts a written result.
func (w *Worker) count(status execution.Status) {
	if w.processed.Add(1) == w.maxExecutions {
		poke(w.changed)
	}
	if status != execution.Succeeded {
		w.failed.Add(1)
	}
}

// registration returns the fields that do not change while the incarnation lives.
func (w *Worker) registration() map[string]string {
	runners := ""
	for i, name := range w.opts.Runners {
		if i > 0 {
			runners += ","
		}
		runners += name
	}
	fields := map[string]string{
		"version": w.opts.Version, "started_at_ms": strconv.FormatInt(w.started.UnixMilli(), 10), "queue": w.opts.Queue,
		"concurrency": strconv.Itoa(w.opts.Concurrency), "runners": runners,
	}
	maps.Copy(fields, w.process.fields())
	return fields
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const maxBackoff = 2 * time.Second

// backoff waits before the next try, longer with every failure, with jitter so that a fleet does not come back as one. It
// returns false when ctx ended.
func backoff(ctx context.Context, failures int) bool {
	timer := time.NewTimer(backoffPause(failures))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// backoffPause is how long that is.
func backoffPause(failures int) time.Duration {
	pause := min(maxBackoff, 20*time.Millisecond<<min(failures, 10))
	return pause/2 + rand.N(pause/2)
}
