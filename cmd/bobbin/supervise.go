package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/internal/supervise"
)

func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise", Short: "Keep one ACTIVE worker running, and replace it without a gap",
		Long: "Keep exactly one ACTIVE worker process running. When it begins to leave (recycle, stuck limit, BOBBIN_MAX_RSS,\n" +
			"BOBBIN_MAX_EXECUTIONS) a replacement claims at once, while the old one finishes what it runs. Crashes are started again\n" +
			"after a pause; workers that crash before they are ACTIVE end the supervisor with exit code 70. One that hangs is replaced.\n" +
			"After drain and shutdown, or SIGTERM to the worker, nothing is started: the supervisor ends with its worker, with 1 when\n" +
			"that died on the way. A pause outlives its worker. Signals are passed on. The workers are configured by the\n" +
			"environment: see bobbin worker --help.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			signals := make(chan os.Signal, 16)
			signal.Notify(signals, append(consumer.EndingSignals(), syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGUSR1)...)
			defer signal.Stop(signals)
			s := &supervise.Supervisor{
				Command: []string{self, "worker"}, Env: os.Environ(), Output: a.stderr, Silence: silence(cfg),
				Log: logging.New(a.stderr, cfg.LogFormat, cfg.LogLevel, isTerminal(a.stderr)).With("from", "supervisor"),
			}
			if code := s.Run(cmd.Context(), signals); code != execution.ExitDone {
				return &exitError{code: code}
			}
			return nil
		},
	}
}
