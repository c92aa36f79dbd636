package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/internal/supervise"
)

func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise", Short: "Keep one ACTIVE worker running, and replace it without a gap",
		Long: "Keep exactly one ACTIVE worker process running. When it begins to leave (recycle, stuck limit, BOBBIN_MAX_RSS,\n" +
			"BOBBIN_MAX_EXECUTIONS) a replacement claims at once, while the old one finishes what it runs. Crashes are started again\n" +
			"after a pause; a worker that crashes as soon as it is started ends the supervisor with exit code 70. After drain and\n" +
			"shutdown nothing is started: the supervisor ends with its worker. Signals are passed on. The workers are configured by\n" +
			"the environment: see bobbin worker --help.",
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
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGUSR1)
			defer signal.Stop(signals)
			s := &supervise.Supervisor{
				Command: []string{self, "worker"}, Env: os.Environ(), Output: a.stderr,
				Log: logging.New(a.stderr, cfg.LogFormat, cfg.LogLevel, isTerminal(a.stderr)).With("from", "supervisor"),
			}
			if code := s.Run(cmd.Context(), signals); code != execution.ExitDone {
				return &exitError{code: code}
			}
			return nil
		},
	}
}

// reporter returns what tells a supervisor the worker's states, or nil where there is none.
func reporter() func(execution.State, execution.Event) {
	fd, err := strconv.Atoi(os.Getenv(supervise.ReportVariable))
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "supervisor")
	return func(state execution.State, because execution.Event) { supervise.Report(pipe, state, because) }
}
