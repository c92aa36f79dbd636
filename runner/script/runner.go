// Package script runs workflows written in Starlark, a small dialect of Python, inside the worker. Their source, and that of
// everything they load, is published to the queue's modules; nothing is on disk.
//
// # From source to call
//
// A module is compiled and its top level run once per version of its source and of all it loads; the frozen globals are
// shared by every goroutine from then on. Running an execution on a warm cache only calls its function. All modules an
// execution sees are of one version.
//
// # The dialect
//
// while, sets, and if and for at top level are on; recursion is off, as in Bazel. Predeclared beside Starlark's own: json,
// time, math, re, hashlib, struct, sleep(seconds), log and bobbin (the execution's own data). print and log go to the
// worker's log and the execution's log stream. load("./x.star", …) is relative to the loading module; "//dir/x.star" and
// "dir/x.star" start at the root.
//
// # Stopping
//
// A cancelled or timed-out execution is stopped between two steps of the interpreter, so no loop can hold out. One built-in
// call is one step: a regular expression over megabytes, or a string repeated a billion times, ends before it is stopped.
package script

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

// Suffix ends the names of the workflows that this package runs.
const Suffix = ".star"

// The error_type words of this runner, beside those in package execution.
const (
	TypeModuleNotFound = "ModuleNotFound" // a load names a module that is not published
	TypeImportCycle    = "ImportCycle"    // modules load each other in a circle
	TypeSyntax         = "SyntaxError"    // the source does not compile
	TypeStarlark       = "StarlarkError"  // the workflow failed while it ran, fail() included
)

// Store is where the source of modules comes from; *queue.Queue is one.
type Store interface {
	// Snapshot returns every module, path → source, as of one version at least as new as the given one. The map is shared.
	Snapshot(ctx context.Context, version string) (current string, sources map[string]string, err error)
}

// Options tune a runner. The zero value is ready.
type Options struct {
	// MaxSteps stops an execution after that many steps of the interpreter; 0 means never. A module's top level has as many
	// of its own.
	MaxSteps uint64
	// ResultMaxBytes bounds a result; 0 means 1 MiB.
	ResultMaxBytes int
}

// Runner runs Starlark workflows. It may be used by many goroutines at once.
type Runner struct {
	store  Store
	opts   Options
	loader loader
	asked  asked
}

// New returns a runner that reads modules from the store.
func New(store Store, o Options) *Runner {
	o.ResultMaxBytes = cmp.Or(o.ResultMaxBytes, 1<<20)
	return &Runner{store: store, opts: o, loader: loader{maxSteps: o.MaxSteps}}
}

// Run runs one execution. Errors are [*execution.Error]; one that was cancelled also matches its context's cause.
func (r *Runner) Run(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	version, sources, err := r.store.Snapshot(ctx, call.ModulesVersion)
	if err != nil {
		return nil, &execution.Error{Type: execution.TypeModuleUnavailable, Message: fmt.Sprintf("cannot read modules: %v", err)}
	}
	source, ok := sources[call.Workflow]
	if !ok {
		return nil, runner.NotFound(call.Workflow, "no module of that path is published")
	}
	if err := runner.CheckContent(call, source); err != nil {
		return nil, err
	}
	value, err := r.call(ctx, call, r.loader.at(version, sources))
	if err == nil {
		var result json.RawMessage
		if result, err = encode(ctx, value, r.opts.ResultMaxBytes); err == nil {
			return result, nil
		}
	}
	return nil, describe(ctx, err, sources)
}

// call calls the function that the execution names.
func (r *Runner) call(ctx context.Context, call *runner.Call, g *generation) (starlark.Value, error) {
	module, err := g.module(ctx, call.Workflow)
	if err != nil {
		return nil, err
	}
	function, err := module.function(call.Function)
	if err != nil {
		return nil, err
	}
	args, kwargs, err := function.arguments(call.Params)
	if err != nil {
		return nil, err
	}
	run := &running{ctx: ctx, call: call, maxSteps: r.opts.MaxSteps, sources: g.sources, asked: &r.asked}
	thread, stop := newThread(run, string(call.ID))
	defer stop()
	defer run.leave()
	return starlark.Call(thread, function.Function, args, kwargs)
}

// running is what a thread runs: an execution, or, where call is nil, the top level of a module, which belongs to none.
type running struct {
	ctx      context.Context
	call     *runner.Call
	maxSteps uint64            // 0: any number
	sources  map[string]string // of its modules, for its stack
	asked    *asked

	// Its goroutine's own:
	place    *place        // where it is asked, once it has run for a moment
	question chan<- string // who asked and has no answer yet
	tries    int           // steps taken since
}

// newThread returns a thread that stops between two steps once the context ends. stop gives back what it holds.
func newThread(r *running, name string) (thread *starlark.Thread, stop func() bool) {
	thread = &starlark.Thread{Name: name, Print: printToLog, OnMaxSteps: look}
	thread.SetLocal(runningKey, r)
	r.lookLater(thread)
	return thread, afterFunc(r.ctx, func() { thread.Cancel("cancelled") })
}

// afterFunc is [context.AfterFunc], asking the context itself where it can do that (the pool's can, for much less): the standard
// library asks only contexts that it did not make.
func afterFunc(ctx context.Context, f func()) (stop func() bool) {
	if able, ok := ctx.(interface {
		AfterFunc(f func()) (stop func() bool)
	}); ok {
		return able.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}

// cancelled is an error of an execution that was stopped: it also is the cause of its context.
type cancelled struct {
	said  *execution.Error
	cause error
}

// Error is what the runner says.
func (c *cancelled) Error() string { return c.said.Message }

// Unwrap lets errors.Is and As find both what the runner says and why it was stopped.
func (c *cancelled) Unwrap() []error { return []error{c.said, c.cause} }

// describe turns an error of the interpreter into one for a result, with a traceback that shows the source.
func describe(ctx context.Context, err error, sources map[string]string) error {
	var known *execution.Error
	var failed *starlark.EvalError
	described := &execution.Error{Type: TypeStarlark, Message: err.Error()}
	switch {
	case errors.As(err, &known):
		described = known
	case errors.As(err, &failed):
		described.Message, described.Traceback = failed.Msg, traceback(failed, sources)
	}
	if ctx.Err() != nil {
		return &cancelled{described, context.Cause(ctx)}
	}
	return described
}

// traceback renders a call stack with the line of source below each frame, the innermost last.
func traceback(e *starlark.EvalError, sources map[string]string) string {
	var b strings.Builder
	b.WriteString("Traceback (most recent call last):\n")
	writeFrames(&b, e.CallStack, sources)
	fmt.Fprintf(&b, "Error: %s", e.Msg)
	return b.String()
}

func sourceLine(source string, number int) string {
	lines := strings.SplitN(source, "\n", number+1)
	if number < 1 || len(lines) < number {
		return ""
	}
	return strings.TrimSpace(lines[number-1])
}
