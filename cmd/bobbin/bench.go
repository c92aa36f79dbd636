package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/internal/bench"
	"github.com/bobbin-run/bobbin/internal/logging"
	"github.com/bobbin-run/bobbin/runner"
)

// benchOptions are the flags that every measurement takes.
type benchOptions struct {
	runs, executions, concurrency int
	redisServer, fsync, write     string
	asJSON, defaults              bool
}

// measurement is one subcommand of bench.
type measurement struct {
	name, short             string
	executions, concurrency int // defaults; 0: it has no such flag
	do                      func(context.Context, *bench.Lab, *benchOptions) (*bench.Report, error)
}

var measurements = []measurement{
	{"drain", "a backlog of executions that do nothing, beside two loops", 200_000, 16, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Drain(ctx, o.executions, o.concurrency)
	}},
	{"starlark", "a backlog of ten-line Starlark workflows, beside the interpreter alone", 100_000, 16, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Starlark(ctx, o.executions, o.concurrency)
	}},
	{"idle", "from LPUSH to handler start and to the result, one at a time", 2000, 0, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Idle(ctx, o.executions)
	}},
	{"inflight", "memory and throughput with thousands of executions that wait", 500_000, 9984, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.InFlight(ctx, o.concurrency, o.executions)
	}},
	{"quiet", "a worker with nothing to do", 0, 0, func(ctx context.Context, l *bench.Lab, _ *benchOptions) (*bench.Report, error) {
		return l.Quiet(ctx, 20*time.Second)
	}},
	{"fairness", "executions of 50 ms on two workers", 2000, 4, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Fairness(ctx, o.executions, o.concurrency)
	}},
	{"scale", "Redis CPU per execution as backlog, workers and stream grow", 1_000_000, 0, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Scale(ctx, o.executions, 5*o.executions)
	}},
	{"fleet", "a thousand workers with nothing to do", 0, 1000, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Fleet(ctx, o.concurrency, 20*time.Second)
	}},
	{"python", "Python: resident, forked, and a process for each execution", 20_000, 4, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Python(ctx, o.executions, o.concurrency)
	}},
	{"smoke", "commands and allocations per execution, which do not vary", 20_000, 0, func(ctx context.Context, l *bench.Lab, o *benchOptions) (*bench.Report, error) {
		return l.Smoke(ctx, o.executions)
	}},
}

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure this machine: throughput, latency, memory, scale",
		Long: "Measures a worker beside its baselines on a redis-server of its own, started on a free port and ended afterwards.\n" +
			"Ratios within one run are what to compare; absolute figures differ between machines and hours.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.benchWorker(), a.benchAll())
	for _, m := range measurements {
		cmd.AddCommand(a.benchOne(m))
	}
	return cmd
}

func (a *app) benchOne(m measurement) *cobra.Command {
	o := &benchOptions{executions: 1, concurrency: 1}
	cmd := &cobra.Command{
		Use: m.name, Short: m.short, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd.Context(), []measurement{m}, o)
		},
	}
	o.flags(cmd)
	if m.executions > 0 {
		cmd.Flags().IntVar(&o.executions, "executions", m.executions, "how many executions")
	}
	if m.concurrency > 0 {
		what := "how many at the same time"
		if m.name == "fleet" {
			what = "how many workers"
		}
		cmd.Flags().IntVar(&o.concurrency, "concurrency", m.concurrency, what)
	}
	return cmd
}

func (a *app) benchAll() *cobra.Command {
	o := &benchOptions{executions: 1, concurrency: 1}
	cmd := &cobra.Command{
		Use: "all", Short: "All of them, with their defaults: about ten minutes", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.measure(cmd.Context(), measurements, o) },
	}
	o.flags(cmd)
	o.defaults = true
	cmd.Flags().StringVar(&o.write, "write", "", "also put the figures between the markers of this Markdown page")
	return cmd
}

func (o *benchOptions) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.runs, "runs", 5, "how often to repeat; medians are reported")
	flags.StringVar(&o.redisServer, "redis-server", "", "path of the redis-server to start (default: from PATH)")
	flags.StringVar(&o.fsync, "appendfsync", "no", "no (no persistence), everysec or always")
	flags.BoolVar(&o.asJSON, "json", false, "write one JSON document")
}

// measure runs measurements one after another on one server.
func (a *app) measure(ctx context.Context, all []measurement, o *benchOptions) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	lab, machine, err := a.benchLab(ctx, o)
	if err != nil {
		return err
	}
	defer lab.Redis.Close()
	if !o.asJSON {
		fmt.Fprintln(a.stdout, machine)
	}
	var reports []*bench.Report
	for _, m := range all {
		own := *o
		if o.defaults {
			own.executions, own.concurrency = m.executions, m.concurrency
		}
		report, err := m.do(ctx, lab, &own)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		report.Machine = machine
		reports = append(reports, report)
		if o.asJSON {
			continue
		}
		if err := report.Table(a.stdout); err != nil {
			return err
		}
	}
	if o.asJSON {
		err = bench.JSON(a.stdout, reports)
	}
	if o.write != "" {
		err = errors.Join(err, bench.Write(o.write, reports, time.Now()))
	}
	return err
}

func (o *benchOptions) check() error {
	switch {
	case o.runs < 1:
		return usageError("--runs is %d, expected at least 1", o.runs)
	case o.executions < 1 || o.executions > 10_000_000:
		return usageError("--executions is %d, expected 1 to 10000000", o.executions)
	case o.concurrency < 1 || o.concurrency > 10_000:
		return usageError("--concurrency is %d, expected 1 to 10000", o.concurrency)
	case o.fsync != "no" && o.fsync != "everysec" && o.fsync != "always":
		return usageError("--appendfsync is %q, expected no, everysec or always", o.fsync)
	}
	return nil
}

func (a *app) benchLab(ctx context.Context, o *benchOptions) (*bench.Lab, *bench.Machine, error) {
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	path := o.redisServer
	if path == "" {
		found, err := exec.LookPath("redis-server")
		if err != nil {
			return nil, nil, usageError("no redis-server in PATH: apt-get install redis-server, or give --redis-server")
		}
		path = found
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	server, err := bench.StartServer(ctx, path, o.fsync)
	if err != nil {
		return nil, nil, err
	}
	lab := &bench.Lab{Redis: server, Worker: []string{self, "bench", "worker"}, Log: a.stderr, Runs: o.runs}
	machine, err := lab.Machine(ctx, version)
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	return lab, machine, nil
}

// benchWorker is the worker that measurements start: the service's, with two Go handlers more.
func (a *app) benchWorker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "The worker under measurement", Hidden: true, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load()
			if err != nil {
				return err
			}
			log := logging.New(a.stderr, cfg.LogFormat, cfg.LogLevel, false)
			settle(cfg, log)
			options, err := workerOptions(cfg, log)
			if err != nil {
				return err
			}
			options.Runner = benchHandlers()
			w, err := consumer.New(options)
			if err != nil {
				return err
			}
			code, err := w.RunWithSignals(cmd.Context())
			if err == nil && code != 0 {
				err = &exitError{code: code}
			}
			return err
		},
	}
}

// pause is what the sleeping workflow of the measurements takes.
type pause struct {
	Millis int `json:"millis"`
}

func benchHandlers() *runner.Mux {
	mux := runner.NewMux()
	mux.Handle("noop", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) { return nil, nil }))
	mux.Handle(bench.SpawnWorkflow, runner.Func(spawnPython))
	mux.Handle("stamp", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) {
		return strconv.AppendInt(nil, time.Now().UnixNano(), 10), nil
	}))
	mux.Handle("wait", runner.Func(func(ctx context.Context, _ *runner.Call) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}))
	runner.Handle(mux, "sleep", func(ctx context.Context, p pause) (any, error) {
		timer := time.NewTimer(time.Duration(p.Millis) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	return mux
}

// spawnPython is what Bobbin replaces: a Python process for one execution.
func spawnPython(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	const run = "\nimport sys\nprint(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))"
	out, err := exec.CommandContext(ctx, pythonItself(), "-c", bench.PythonModule+run, string(call.Params)).Output()
	return bytes.TrimSpace(out), err
}

// pythonItself is the interpreter behind what python3 may be: a version manager's script would add its own time to a spawn.
var pythonItself = sync.OnceValue(func() string {
	program := cmp.Or(os.Getenv("BOBBIN_PYTHON"), "python3")
	path, err := exec.Command(program, "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return program
	}
	return strings.TrimSpace(string(path))
})
