package main

import (
	"context"
	"fmt"
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/heap"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/internal/nice"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/telemetry"
)

func (a *app) workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "worker",
		Short: "Run executions until told otherwise",
		Long: "Run executions until drained, recycled or shut down. SIGTERM, SIGINT, SIGHUP and SIGQUIT shut down, a second\n" +
			"one leaves at once; SIGTSTP pauses, SIGCONT resumes; SIGUSR1 logs what is running, SIGQUIT all of the program. Exit code 75\n" +
			"asks to be started again.\n\n" +
			"Configuration is the environment alone:\n\n" + config.Text(),
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load()
			if err != nil {
				return err
			}
			log := logging.New(a.stderr, cfg.LogFormat, cfg.LogLevel, isTerminal(a.stderr))
			queue.LogClient(log)
			for _, unknown := range cfg.Unknown {
				log.Warn("unknown variable in the environment", "variable", unknown, "closest", config.Closest(unknown))
			}
			log.Debug("configuration", "config", cfg)
			settle(cfg, log)
			options, err := workerOptions(cfg, log)
			if err != nil {
				return err
			}
			code, err := a.work(cmd.Context(), cfg, options, log)
			if err != nil {
				return fmt.Errorf("worker: %w", err)
			}
			if code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
}

// work runs the worker, with what monitoring looks at beside it.
func (a *app) work(ctx context.Context, cfg *config.Config, options consumer.Options, log *slog.Logger) (code int, err error) {
	tracer, err := telemetry.NewTracer(ctx, version, log)
	if err != nil {
		return execution.ExitFailure, fmt.Errorf("traces: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if failed := tracer.Close(ctx); failed != nil {
			log.Warn("the last spans were not exported", "error", failed)
		}
	}()
	options.Runner, options.ScriptRunners = tracer.Trace(options.Runner), tracer.TraceAll(options.ScriptRunners)
	var metrics *telemetry.Metrics
	if cfg.HTTPAddr != "" {
		metrics = telemetry.New(version, cfg.Prefix, cfg.Queue)
		options.Observer = metrics
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	supervisor, monitor := findOverseer(), &farewell{giveUp: stop}
	supervisor.look(&options, monitor.begin)
	w, err := consumer.New(options)
	if err != nil {
		return execution.ExitFailure, err
	}
	if metrics != nil {
		monitor.Handler = metrics.Handler(w)
		wait, err := telemetry.Serve(serving, cfg.HTTPAddr, monitor, supervisor != nil, log)
		if err != nil {
			return execution.ExitFailure, err
		}
		defer wait()
		defer stop()
	}
	signalled, release := signal.NotifyContext(ctx, consumer.EndingSignals()...)
	defer release()
	quiet := supervisor.keepTelling(silence(cfg)/6, w.Turns)
	code, err = w.RunWithSignals(signalled)
	quiet()
	if code == execution.ExitReplace && supervisor != nil && metrics != nil {
		monitor.wait(signalled, serving, log)
	}
	if err != nil {
		err = fmt.Errorf("%w; Redis is expected at %s (BOBBIN_REDIS_URL)", err, config.RedactURL(cfg.RedisURL))
	}
	return code, err
}

// settle arranges the process for work.
func settle(cfg *config.Config, log *slog.Logger) {
	heap.Pace(heapFew, heapPlenty(cfg))
	if !stepsBack(cfg) {
		return
	}
	if err := nice.Raise(cfg.Nice); err != nil {
		log.Warn("Redis is on this machine, and may have to wait for a processor behind this worker", "error", err)
	}
}

// stepsBack says whether the worker leaves the processors to Redis: one that is on its machine answers the sooner.
func stepsBack(cfg *config.Config) bool { return cfg.Nice > 0 && cfg.RedisIsLocal() }

// heapFew is how much garbage a busy worker may gather before it is collected: for 12 MiB more than Go would let, a tenth in throughput.
const heapFew = 16 << 20

// heapPlenty is how much more it may gather beside a larger heap: little of what a worker may hold before it asks to be replaced.
func heapPlenty(cfg *config.Config) uint64 {
	const plenty = 64 << 20
	if cfg.MaxRSS > 0 {
		return min(plenty, uint64(cfg.MaxRSS)/4)
	}
	return plenty
}

// workerOptions is where the environment meets the library.
func workerOptions(cfg *config.Config, log *slog.Logger) (consumer.Options, error) {
	languages, err := interpreters(cfg.Python, cfg.Node)
	if err != nil {
		return consumer.Options{}, err
	}
	runners, names := scriptRunners(languages, processOptions(cfg, log))
	options := consumer.Options{
		RedisURL: cfg.RedisURL, Prefix: cfg.Prefix, Queue: cfg.Queue, GiveWay: stepsBack(cfg),
		Runner: builtinHandlers(), ScriptRunners: runners, Runners: names,
		Concurrency: cfg.Concurrency, Timeout: cfg.Timeout, CancelGrace: cfg.CancelGrace,
		ShutdownTimeout: cfg.ShutdownTimeout, StuckLimit: cfg.StuckLimit, Lease: cfg.Lease, MaxRecoveries: recoveries(cfg),
		ContextMaxBytes: int64(cfg.ContextMaxBytes), ResultMaxBytes: int64(cfg.ResultMaxBytes),
		ResultsMax: int64(cfg.ResultsMax), ResultsRetention: cfg.ResultsRetention,
		QuarantineThreshold: threshold(cfg), QuarantineWindow: cfg.QuarantineWindow, MaxRSS: int64(cfg.MaxRSS), MaxExecutions: cfg.MaxExecutions,
		Version: version, Log: log,
	}
	if cfg.ControlPublicKey == "" {
		return options, nil
	}
	key, err := control.ParsePublicKey(cfg.ControlPublicKey)
	options.ControlKey = key
	return options, err
}

// threshold spells "never" the way the library does, where 0 means the default.
func threshold(cfg *config.Config) int {
	if cfg.QuarantineThreshold == 0 {
		return -1
	}
	return cfg.QuarantineThreshold
}

// recoveries spells "none" the way the library does, where 0 means the default.
func recoveries(cfg *config.Config) int {
	if cfg.MaxRecoveries == 0 {
		return -1
	}
	return cfg.MaxRecoveries
}
