package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

// The error_type words of this runner, beside those in package execution and the names of a language's own exceptions.
const (
	TypeCrashed     = "InterpreterCrashed"     // the process ended, or broke the frame protocol, while it ran the execution
	TypeUnavailable = "InterpreterUnavailable" // no interpreter could be started
	TypeMemory      = "MemoryLimitExceeded"    // the process was killed because it held more than Options.MaxRSS
	TypeStopped     = "InterpreterKilled"      // the execution did not stop when asked; the result's status says why it was to
)

// Store is where the source of modules comes from; *queue.Queue is one.
type Store interface {
	// Snapshot returns every module, path → source, as of one version at least as new as the given one. The map is shared.
	Snapshot(ctx context.Context, version string) (current string, sources map[string]string, err error)
}

// Options tune a runner. The zero value is ready.
type Options struct {
	Mode           Mode          // of executions that ask for none; "": Resident
	Warm           int           // interpreters started ahead of the first execution
	Limit          int           // above this many interpreters, idle ones of the other mode are ended; 0: 4
	Preload        string        // modules to import before the first execution, separated by commas
	MaxExecutions  int           // an interpreter is replaced after about that many, up to a tenth fewer; 0: never
	MaxRSS         int64         // bytes an interpreter may hold: above nine tenths it is replaced, above all of it killed; 0: any
	CancelGrace    time.Duration // the pool's; a process is killed just before it is over. 0: 10 s
	ResultMaxBytes int           // 0: 1 MiB
	FrameMaxBytes  int           // 0: 64 MiB
	Log            *slog.Logger  // for what belongs to no execution; nil: slog.Default()
}

// Runner runs the workflows of one language. Make it with [New]; it may be used by many goroutines at once. Close it when
// no execution runs any more.
type Runner struct {
	lang  *Language
	store Store
	opts  Options
	log   *slog.Logger

	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	wg    sync.WaitGroup // everything that the runner started
	pin   pinned
	mum   motherhood
	start sync.Once

	mu      sync.Mutex
	idle    []*interpreter // the last one is the warmest
	live    map[*interpreter]bool
	coming  int           // replacements on their way
	changed chan struct{} // closed, and made anew, when one came or will not
	crashes int           // in a row
	notYet  time.Time     // no interpreter is started before
}

// New returns a runner. It starts nothing until the first call of Run or [Runner.WarmUp].
func New(lang *Language, store Store, o Options) *Runner {
	o.Mode = cmp.Or(o.Mode, Resident)
	o.Limit = cmp.Or(o.Limit, 4)
	o.CancelGrace = cmp.Or(o.CancelGrace, 10*time.Second)
	o.ResultMaxBytes = cmp.Or(o.ResultMaxBytes, 1<<20)
	o.FrameMaxBytes = max(cmp.Or(o.FrameMaxBytes, 64<<20), 2*o.ResultMaxBytes)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Runner{lang: lang, store: store, opts: o, log: o.Log.With("runner", lang.Name), live: map[*interpreter]bool{}, changed: make(chan struct{})}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.mum.r, r.mum.turn = r, make(chan struct{}, 1)
	return r
}

// Close kills every interpreter and waits until all of them are gone.
func (r *Runner) Close() error {
	r.stop()
	r.mu.Lock()
	for i := range r.live {
		i.end()
	}
	r.mu.Unlock()
	r.mum.close()
	r.wg.Wait()
	return nil
}

// WarmUp starts interpreters in the background, as many as Options.Warm says. It returns at once.
func (r *Runner) WarmUp() {
	r.start.Do(func() {
		if r.opts.MaxRSS > 0 {
			r.wg.Go(r.watchMemory)
		}
		for range r.opts.Warm {
			r.replace(r.opts.Mode)
		}
	})
}

// Run runs one execution in an interpreter. Errors are [*execution.Error].
func (r *Runner) Run(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	mode, err := r.mode(call)
	if err != nil {
		return nil, err
	}
	modules, err := r.modules(ctx, call)
	if err != nil {
		return nil, err
	}
	r.WarmUp()
	i, err := r.take(ctx, mode, modules)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	value, err := i.run(ctx, call, modules)
	r.giveBack(i)
	return value, err
}

func (r *Runner) mode(call *runner.Call) (Mode, error) {
	mode := cmp.Or(Mode(call.Isolation), r.opts.Mode)
	if mode == Fork && !r.lang.Forks {
		if call.Isolation == "" {
			return Resident, nil
		}
		return "", &execution.Error{Type: execution.TypeInvalidContext, Rejected: true, Message: fmt.Sprintf(
			"field \"isolation\": expected \"resident\", which is all that %s has, got %q", r.lang.Name, call.Isolation)}
	}
	return mode, nil
}

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &execution.Error{Type: TypeUnavailable, Message: "stopped while it waited for an interpreter: " + err.Error()}
	}
	return &execution.Error{Type: TypeUnavailable, Message: err.Error()}
}

// snapshot is what one execution sees of the published modules.
type snapshot struct {
	version    string
	sources    map[string]string
	generation string   // changes with everything that this language could import, and with nothing else
	paths      []string // of this language's modules, in order
}

// pinned keeps the newest snapshot that was seen.
type pinned struct {
	mu   sync.Mutex
	last *snapshot
}

// modules returns the snapshot for a call, with its workflow in it.
func (r *Runner) modules(ctx context.Context, call *runner.Call) (*snapshot, error) {
	s, err := r.snapshot(ctx, call.ModulesVersion)
	if err != nil {
		return nil, &execution.Error{Type: execution.TypeModuleUnavailable, Message: fmt.Sprintf("cannot read modules: %v", err)}
	}
	source, ok := s.sources[call.Workflow]
	if !ok {
		return nil, runner.NotFound(call.Workflow, "no module of that path is published")
	}
	return s, runner.CheckContent(call, source)
}

func (r *Runner) snapshot(ctx context.Context, version string) (*snapshot, error) {
	current, sources, err := r.store.Snapshot(ctx, version)
	if err != nil {
		return nil, err
	}
	r.pin.mu.Lock()
	defer r.pin.mu.Unlock()
	if last := r.pin.last; last != nil && last.version == current {
		return last, nil
	}
	s := &snapshot{version: current, sources: sources, paths: []string{}}
	hash := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(sources)) {
		if strings.HasSuffix(path, r.lang.Suffix) {
			s.paths = append(s.paths, path)
			fmt.Fprintf(hash, "%q %d\n%s", path, len(sources[path]), sources[path])
		}
	}
	s.generation = hex.EncodeToString(hash.Sum(nil)[:12])
	r.pin.last = s
	return s, nil
}

// take returns an interpreter for one execution: an idle one, or a new one.
func (r *Runner) take(ctx context.Context, mode Mode, s *snapshot) (*interpreter, error) {
	for {
		if i := r.takeIdle(mode); i != nil {
			return i, nil
		}
		wait, changed := r.makeRoom(mode, true)
		if wait <= 0 {
			return r.launch(ctx, mode, s)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-r.ctx.Done():
			timer.Stop()
			return nil, errors.New("the runner is closed")
		}
	}
}

func (r *Runner) takeIdle(mode Mode) *interpreter {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := len(r.idle) - 1; at >= 0; at-- {
		i := r.idle[at]
		select {
		case <-i.gone:
			r.idle = slices.Delete(r.idle, at, at+1)
			r.drop(i)
			continue
		default:
		}
		if i.mode == mode {
			r.idle = slices.Delete(r.idle, at, at+1)
			i.busy.Store(true)
			return i
		}
	}
	return nil
}

// makeRoom ends an idle interpreter of the other mode where there are too many, and returns how long to wait before
// another may be started: a while after a crash, or, for whoever can use it, until the replacement that would be one too
// many is there. The channel is closed when that changes.
func (r *Runner) makeRoom(mode Mode, await bool) (time.Duration, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.notYet); wait > 0 {
		return wait, r.changed
	}
	if await && r.coming > 0 && len(r.live)+r.coming >= r.opts.Limit {
		return startTimeout, r.changed
	}
	if len(r.live) >= r.opts.Limit {
		if at := slices.IndexFunc(r.idle, func(i *interpreter) bool { return i.mode != mode }); at >= 0 {
			i := r.idle[at]
			r.idle = slices.Delete(r.idle, at, at+1)
			r.drop(i)
		}
	}
	return 0, nil
}

// news wakes those who wait. mu is held.
func (r *Runner) news() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// drop forgets an interpreter and ends it. mu is held.
func (r *Runner) drop(i *interpreter) {
	delete(r.live, i)
	i.end()
}

// launch starts an interpreter. It is busy, for the caller.
func (r *Runner) launch(ctx context.Context, mode Mode, s *snapshot) (*interpreter, error) {
	i, err := r.newInterpreter(ctx, mode, s)
	if err != nil {
		if ctx.Err() == nil {
			r.crashed(err)
		}
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i.busy.Store(true)
	r.live[i] = true
	if r.ctx.Err() != nil {
		r.drop(i)
		return nil, errors.New("the runner is closed")
	}
	return i, nil
}

const maxPause = 30 * time.Second

// crashed makes the next start wait, longer with every crash in a row, with jitter.
func (r *Runner) crashed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := min(maxPause, 50*time.Millisecond<<min(r.crashes, 12))
	r.crashes++
	r.notYet = time.Now().Add(pause/2 + rand.N(pause/2))
	r.log.Warn("interpreter crashed", "error", err, "next_start_in", pause, "in_a_row", r.crashes)
}

// giveBack takes an interpreter back after an execution, or replaces it.
func (r *Runner) giveBack(i *interpreter) {
	i.executions++
	if crash := i.crash; crash != nil {
		r.crashed(crash)
	} else {
		r.mu.Lock()
		r.crashes = 0
		r.mu.Unlock()
	}
	why := r.worn(i)
	r.mu.Lock()
	if why == "" && r.ctx.Err() == nil && len(r.live) <= r.opts.Limit {
		i.busy.Store(false)
		r.idle = append(r.idle, i)
		r.news()
		r.mu.Unlock()
		return
	}
	r.drop(i)
	r.mu.Unlock()
	r.log.Debug("interpreter replaced", "pid", i.pid, "why", why, "executions", i.executions)
	r.replace(i.mode)
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

// replace starts an interpreter in the background, so that the next execution need not wait for it.
func (r *Runner) replace(mode Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || len(r.live)+r.coming >= r.opts.Limit {
		return
	}
	r.coming++
	r.wg.Go(func() {
		i := r.startAhead(mode)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.coming--
		if i != nil {
			i.busy.Store(false)
			r.idle = append(r.idle, i)
		}
		r.news()
	})
}

// startAhead starts an interpreter as soon as one may be started. It returns nil when that failed: the next execution will
// try, and say.
func (r *Runner) startAhead(mode Mode) *interpreter {
	for wait, _ := r.makeRoom(mode, false); wait > 0; wait, _ = r.makeRoom(mode, false) {
		select {
		case <-r.ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
	s, err := r.snapshot(r.ctx, "")
	if err != nil {
		return nil
	}
	i, err := r.launch(r.ctx, mode, s)
	if err != nil {
		return nil
	}
	return i
}

var _ io.Closer = (*Runner)(nil)
