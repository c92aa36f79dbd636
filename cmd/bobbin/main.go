// Command bobbin runs workflows from a Redis list to a results stream, and is the hand on everything around it: submitting,
// reading results, publishing modules, draining workers, looking at a queue.
//
// It configures itself from the environment alone (bobbin worker --help). What is for people goes to stderr, what is data
// to stdout. Exit codes: 0 done; 1 it did not work; 2 bad usage or configuration; 75 (worker) start me again; 70
// (supervise) workers crash as soon as they are started.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/leash"
	"github.com/bobbin-run/bobbin/queue"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "dev"

func main() {
	if leash.First() && len(os.Args) > 1 && (os.Args[1] == "worker" || os.Args[1] == "supervise") {
		code, err := leash.Bury(os.Environ())
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintln(os.Stderr, "bobbin: what ends in this container is not buried:", err)
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// app is what every command has at hand.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// exitError carries an exit code. An empty message means that everything was said already.
type exitError struct {
	code    int
	message string
}

func (e *exitError) Error() string { return e.message }

func usageError(format string, args ...any) error {
	return &exitError{execution.ExitUsage, fmt.Sprintf(format, args...)}
}

// run is the program: it maps errors to exit codes and nothing else.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	queue.LogClient(slog.New(slog.DiscardHandler)) // commands say in their own words what Redis did not do
	a := &app{stdin, stdout, stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return execution.ExitDone
	}
	code := execution.ExitFailure
	var exit *exitError
	var bad *config.Error
	switch {
	case errors.As(err, &exit):
		code = exit.code
	case errors.As(err, &bad):
		code = execution.ExitUsage
	}
	if err.Error() != "" {
		fmt.Fprintln(visible{stderr}, "bobbin:", err)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "bobbin",
		Short: "Run workflows from a Redis list to a results stream",
		Long: "Bobbin is a worker that stays alive: it takes execution IDs from a Redis list, runs each in a fixed pool, and writes\n" +
			"exactly one result to a Redis stream. Start with: bobbin demo",
		SilenceErrors: true, SilenceUsage: true, Version: version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("unknown command %q; see bobbin --help", args[0])
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%v; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(a.workerCommand(), a.superviseCommand(), a.submitCommand(), a.resultsCommand(), a.modulesCommand(), a.statusCommand(),
		a.cancelCommand(), a.demoCommand(), a.devCommand(), a.healthcheckCommand(), a.doctorCommand(), a.keygenCommand(), a.benchCommand(),
		a.inspectCommand(), a.deadCommand(), a.quarantineCommand(), a.topCommand())
	root.AddCommand(a.controlCommands()...)
	return root
}

// exactly is cobra's check of arguments with an error that says what to do.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError("%s takes %d argument(s) %v, got %d; see %s --help", cmd.CommandPath(), len(names), names, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// connect reads the configuration and opens the queue.
func connect() (*config.Config, *queue.Queue, error) {
	cfg, err := config.Load()
	if err != nil {
		return nil, nil, err
	}
	q, err := queue.Open(queue.Options{URL: cfg.RedisURL, Prefix: cfg.Prefix, Queue: cfg.Queue})
	return cfg, q, err
}

// interruptible returns a context that ends with SIGINT or SIGTERM, for the commands that wait.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// isTerminal says whether a person looks at the writer.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
