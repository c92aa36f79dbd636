package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
	StartTimeout   time.Duration // from a program's start to its ready: a preload may import much. 0: 60 s
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
	stop  context.CancelCauseFunc
	wg    sync.WaitGroup // everything that the runner started
	pin   pinned
	mum   motherhood
	start sync.Once

	strays  strays
	working chan struct{} // full: an interpreter runs or ran something since watchMemory looked

	mu       sync.Mutex
	idle     []*interpreter // the last one is the warmest
	live     map[*interpreter]bool
	coming   map[Mode]int            // starts on their way; never fewer than wait
	waiting  map[Mode][]chan arrival // executions without an interpreter, the first one first
	failures int                     // starts that failed, in a row
	failure  error                   // of the last one
	notYet   time.Time               // no interpreter is started before
}

// New returns a runner. It starts nothing until the first call of Run or [Runner.WarmUp].
func New(lang *Language, store Store, o Options) *Runner {
	o.Mode = cmp.Or(o.Mode, Resident)
	o.Limit = cmp.Or(o.Limit, 4)
	o.StartTimeout = cmp.Or(o.StartTimeout, time.Minute)
	o.CancelGrace = cmp.Or(o.CancelGrace, 10*time.Second)
	o.ResultMaxBytes = cmp.Or(o.ResultMaxBytes, 1<<20)
	o.FrameMaxBytes = max(cmp.Or(o.FrameMaxBytes, 64<<20), 2*o.ResultMaxBytes)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Runner{
		lang: lang, store: store, opts: o, log: o.Log.With("runner", lang.Name),
		live: map[*interpreter]bool{}, coming: map[Mode]int{}, waiting: map[Mode][]chan arrival{}, working: make(chan struct{}, 1),
	}
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	r.mum.r, r.mum.turn = r, make(chan struct{}, 1)
	return r
}

// Close kills every interpreter and waits until all of them are gone.
func (r *Runner) Close() error {
	r.stop(errClosed)
	r.mu.Lock()
	for i := range r.live {
		i.end()
	}
	r.mu.Unlock()
	r.mum.close()
	r.wg.Wait()
	r.strays.tell(r.log)
	return nil
}

// WarmUp starts interpreters in the background, as many as Options.Warm says. It returns at once.
func (r *Runner) WarmUp() {
	r.start.Do(func() {
		if r.opts.MaxRSS > 0 {
			r.wg.Go(r.watchMemory)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for range r.opts.Warm {
			r.replace(r.opts.Mode, 0)
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
	for left := maxUnused; ; left-- {
		i, err := r.take(ctx, mode, modules)
		if err != nil {
			return nil, unavailable(ctx, err)
		}
		value, err := i.run(ctx, call, modules)
		r.giveBack(i)
		if i.unused && left > 0 && ctx.Err() == nil {
			continue // it was dead already, which is not for the execution to pay
		}
		return value, err
	}
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

var _ io.Closer = (*Runner)(nil)
