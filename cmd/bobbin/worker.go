package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/internal/heap"
	"github.com/bobbin-run/bobbin/internal/logging"
)

func (a *app) workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "worker",
		Short: "Run executions until told otherwise",
		Long: "Run executions until drained, recycled or shut down. SIGTERM and SIGINT shut down, a second one leaves at once;\n" +
			"SIGTSTP pauses, SIGCONT resumes; SIGUSR1 logs what is running. Exit code 75 asks to be started again.\n\n" +
			"Configuration is the environment alone:\n\n" + config.Text(),
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load()
			if err != nil {
				return err
			}
			log := logging.New(a.stderr, cfg.LogFormat, cfg.LogLevel, isTerminal(a.stderr))
			for _, unknown := range cfg.Unknown {
				log.Warn("unknown variable in the environment", "variable", unknown, "closest", config.Closest(unknown))
			}
			log.Debug("configuration", "config", cfg)
			heap.KeepFloor(heapFloor)
			options, err := workerOptions(cfg, log)
			if err != nil {
				return err
			}
			w, err := consumer.New(options)
			if err != nil {
				return err
			}
			code, err := w.RunWithSignals(cmd.Context())
			if err != nil {
				return fmt.Errorf("worker: %w; Redis is expected at %s (BOBBIN_REDIS_URL)", err, config.RedactURL(cfg.RedisURL))
			}
			if code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
}

// heapFloor is how much garbage a worker may gather before it is collected: for some memory, half as much again in throughput.
const heapFloor = 16 << 20

// workerOptions is where the environment meets the library.
func workerOptions(cfg *config.Config, log *slog.Logger) (consumer.Options, error) {
	languages, err := interpreters(cfg.Python, cfg.Node)
	if err != nil {
		return consumer.Options{}, err
	}
	runners, names := scriptRunners(languages, processOptions(cfg, log))
	options := consumer.Options{
		RedisURL: cfg.RedisURL, Prefix: cfg.Prefix, Queue: cfg.Queue,
		Runner: builtinHandlers(), ScriptRunners: runners, Runners: names,
		Concurrency: cfg.Concurrency, Timeout: cfg.Timeout, CancelGrace: cfg.CancelGrace,
		ShutdownTimeout: cfg.ShutdownTimeout, StuckLimit: cfg.StuckLimit, Lease: cfg.Lease, MaxRecoveries: recoveries(cfg),
		ContextMaxBytes: int64(cfg.ContextMaxBytes), ResultMaxBytes: int64(cfg.ResultMaxBytes),
		ResultsMax: int64(cfg.ResultsMax), ResultsRetention: cfg.ResultsRetention,
		QuarantineThreshold: threshold(cfg), QuarantineWindow: cfg.QuarantineWindow, MaxRSS: int64(cfg.MaxRSS), MaxExecutions: cfg.MaxExecutions,
		Version: version, Log: log, OnState: reporter(),
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
