package script

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.starlark.net/lib/math"
	startime "go.starlark.net/lib/time"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"github.com/bobbin-run/bobbin/runner"
)

// runningKey is where a thread keeps what it runs: modules are shared between executions, threads are not.
const runningKey = "bobbin.running"

var predeclared = starlark.StringDict{
	"json":    jsonModule,
	"time":    startime.Module,
	"math":    math.Module,
	"re":      reModule,
	"hashlib": hashlibModule,
	"struct":  starlark.NewBuiltin("struct", starlarkstruct.Make),
	"sleep":   starlark.NewBuiltin("sleep", sleep),
	"log": &starlarkstruct.Module{Name: "log", Members: starlark.StringDict{
		"debug": logger("debug", slog.LevelDebug), "info": logger("info", slog.LevelInfo),
		"warn": logger("warn", slog.LevelWarn), "error": logger("error", slog.LevelError),
	}},
	"bobbin": own{},
}

func runningOf(thread *starlark.Thread) *running { return thread.Local(runningKey).(*running) }

// callOf returns the execution that a thread runs; nil while a module's top level runs.
func callOf(thread *starlark.Thread) *runner.Call { return runningOf(thread).call }

func contextOf(thread *starlark.Thread) context.Context { return runningOf(thread).ctx }

// printToLog is where print goes. What a module prints at its top level belongs to no execution and is dropped.
func printToLog(thread *starlark.Thread, text string) {
	if call := callOf(thread); call != nil {
		call.Logger().Info(text)
	}
}

// logger is one of log.debug, log.info, log.warn, log.error: a message, and fields by name.
func logger(name string, level slog.Level) *starlark.Builtin {
	return starlark.NewBuiltin("log."+name, func(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var message string
		if err := starlark.UnpackPositionalArgs(b.Name(), args, nil, 1, &message); err != nil {
			return nil, err
		}
		call := callOf(thread)
		if call == nil {
			return starlark.None, nil
		}
		attrs := make([]slog.Attr, len(kwargs))
		for i, pair := range kwargs {
			key, _ := starlark.AsString(pair[0])
			attrs[i] = slog.String(key, plain(pair[1]))
		}
		call.Logger().LogAttrs(contextOf(thread), level, message, attrs...)
		return starlark.None, nil
	})
}

func plain(value starlark.Value) string {
	if text, ok := starlark.AsString(value); ok {
		return text
	}
	return value.String()
}

const maxSleep = 365 * 24 * time.Hour

// sleep waits for seconds, or until the execution is cancelled.
func sleep(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var value starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "seconds", &value); err != nil {
		return nil, err
	}
	seconds, ok := starlark.AsFloat(value)
	if !ok || !(seconds >= 0 && seconds <= maxSleep.Seconds()) { // as written, NaN is refused too
		return nil, fmt.Errorf("sleep: seconds is %s, expected a number from 0 to %.0f", value, maxSleep.Seconds())
	}
	timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer timer.Stop()
	run := runningOf(thread)
	for run.answer(thread); ; run.answer(thread) {
		select {
		case <-timer.C:
			return starlark.None, nil
		case <-run.ctx.Done():
			return nil, context.Cause(run.ctx)
		case run.question = <-run.listen():
		}
	}
}

// own is the value bobbin. Its attributes are those of the execution that asks, so they are functions of the thread:
// bobbin.context() returns a struct with execution_id, attempt, workflow, meta and deadline (Unix seconds, or None).
type own struct{}

func (own) String() string        { return "bobbin" }
func (own) Type() string          { return "bobbin" }
func (own) Freeze()               {}
func (own) Truth() starlark.Bool  { return true }
func (own) Hash() (uint32, error) { return 0, fmt.Errorf("bobbin is not hashable") }
func (own) AttrNames() []string   { return []string{"context"} }

func (own) Attr(name string) (starlark.Value, error) {
	if name != "context" {
		return nil, nil // Starlark's way to say that there is no such attribute
	}
	return starlark.NewBuiltin("bobbin.context", describeCall), nil
}

func describeCall(thread *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	if err := starlark.UnpackArgs(b.Name(), args, kwargs); err != nil {
		return nil, err
	}
	call := callOf(thread)
	if call == nil {
		return nil, fmt.Errorf("bobbin.context() belongs to an execution; a module's top level is shared by all of them")
	}
	meta, err := decodeObject(call.Meta)
	if err != nil {
		return nil, err
	}
	var deadline starlark.Value = starlark.None
	if !call.Deadline.IsZero() {
		deadline = starlark.Float(float64(call.Deadline.UnixMilli()) / 1000)
	}
	return starlarkstruct.FromStringDict(starlarkstruct.Default, starlark.StringDict{
		"execution_id": starlark.String(call.ID), "attempt": starlark.MakeInt(call.Attempt),
		"workflow": starlark.String(call.Workflow), "meta": meta, "deadline": deadline,
	}), nil
}
