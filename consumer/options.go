package consumer

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

// Options configure a worker. Runner is required; every other zero value means the default.
type Options struct {
	RedisURL string        // redis://127.0.0.1:6379/0
	Prefix   string        // "bobbin"
	Queue    string        // "default"
	GiveWay  bool          // Redis is on this machine: see queue.Options
	Runner   runner.Runner // what runs executions: a *runner.Mux, a *runner.Router, or your own
	// ScriptRunners builds runners that need the queue's workflow modules. They are asked for names with their suffix, such
	// as ".star"; Runner gets the rest. One with a method WarmUp() has it called when the worker starts, an io.Closer is closed
	// when it stops.
	ScriptRunners map[string]func(Modules) runner.Runner

	Concurrency     int           // 4: executions at the same time
	Timeout         time.Duration // 300 s: for executions that give none
	CancelGrace     time.Duration // 10 s: from cancellation to stuck
	ShutdownTimeout time.Duration // 25 s: from shutdown to leaving
	StuckLimit      int           // 1: stuck executions before the worker drains itself
	Lease           time.Duration // 10 s: silence after which the worker's claims go to others
	MaxRecoveries   int           // 3: how often an execution is taken over from a dead worker; below 0: never
	ContextMaxBytes int64         // 1 MiB
	ResultMaxBytes  int64         // 1 MiB

	// ResultsMax stops claiming while more results are unread; 0: never. ResultsRetention trims results that every consumer
	// group has acknowledged, or that no group asks for, when they are older; 0: never.
	ResultsMax       int64
	ResultsRetention time.Duration

	// MaxRSS and MaxExecutions make the worker recycle itself: it holds about as many bytes of memory, or has ended about as
	// many executions, up to a tenth fewer so that a fleet does not leave as one. 0: never.
	MaxRSS        int64
	MaxExecutions int

	// A workflow of which QuarantineThreshold executions were stuck or lost within QuarantineWindow is refused by every worker,
	// until an operator lets it run again. 0: 5 in an hour; a threshold below 0: never.
	QuarantineThreshold int
	QuarantineWindow    time.Duration

	// Observer is told what happens, for metrics; nil: nobody.
	Observer Observer

	// OnState is told of every state that the worker enters, ACTIVE once it is registered, and why. It must not block.
	OnState func(state execution.State, because execution.Event)

	// OnCommand is told of every command that was for this worker and in order, SIGTSTP and SIGCONT among them, and what became
	// of it. It must not block.
	OnCommand func(command control.Command, outcome control.ReceiptOutcome, bySignal bool)

	// Pause lets the worker start paused, as the one was that it replaces.
	Pause execution.Pause

	// ControlKey, when set, makes the worker obey only commands that are signed with its other half and fresh.
	ControlKey ed25519.PublicKey

	// ControlInterval is how long the control subscription may be silent before it is asked for a sign of life; 0: 30 s.
	ControlInterval time.Duration

	Version string       // shown in the registration
	Runners []string     // names shown in the registration
	Log     *slog.Logger // nil: slog.Default()
}

func (o *Options) setDefaults() {
	fallback(&o.Concurrency, 4)
	fallback(&o.Timeout, 300*time.Second)
	fallback(&o.CancelGrace, 10*time.Second)
	fallback(&o.ShutdownTimeout, 25*time.Second)
	fallback(&o.StuckLimit, 1)
	fallback(&o.Lease, 10*time.Second)
	fallback(&o.MaxRecoveries, 3)
	fallback(&o.ContextMaxBytes, 1<<20)
	fallback(&o.QuarantineThreshold, 5)
	fallback(&o.QuarantineWindow, time.Hour)
	fallback(&o.ResultMaxBytes, 1<<20)
	if o.Queue == "" {
		o.Queue = "default"
	}
	if o.Version == "" {
		o.Version = "unknown"
	}
	o.Observer = observed(o.Observer)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.StuckLimit = min(o.StuckLimit, o.Concurrency) // with every slot given up nothing could be claimed for ever
}

func (o *Options) check() error {
	if o.Runner == nil {
		return fmt.Errorf("consumer: Options.Runner is nil, expected a runner such as runner.NewMux()")
	}
	for name, value := range map[string]int64{
		"Concurrency": int64(o.Concurrency), "Timeout": int64(o.Timeout), "CancelGrace": int64(o.CancelGrace),
		"ShutdownTimeout": int64(o.ShutdownTimeout), "StuckLimit": int64(o.StuckLimit), "Lease": int64(o.Lease),
		"QuarantineWindow": int64(o.QuarantineWindow), "MaxRSS": o.MaxRSS, "MaxExecutions": int64(o.MaxExecutions), "ContextMaxBytes": o.ContextMaxBytes, "ResultMaxBytes": o.ResultMaxBytes,
	} {
		if value < 0 {
			return fmt.Errorf("consumer: Options.%s is %d, expected a value above 0", name, value)
		}
	}
	return nil
}

func fallback[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
