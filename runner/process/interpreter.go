package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

const (
	startTimeout = 60 * time.Second // from a program's start to its ready: a preload may import much
	maxPaths     = 1 << 20
)

// interpreter is a child that is ready to run executions, one at a time. What is not atomic belongs to whoever took it.
type interpreter struct {
	*child
	r             *Runner
	mode          Mode
	born          int // how much its mother had imported
	executions    int
	maxExecutions int   // 0: any number
	softRSS       int64 // bytes; above it is replaced between two executions
	looked        time.Time
	spent         string // why it is not to be used again
	crash         error  // it did not survive the last execution, and nobody killed it

	busy atomic.Bool // runs an execution
	runs atomic.Pointer[execution.ID]
	fat  atomic.Bool // was killed for its memory
}

// newInterpreter starts an interpreter and waits until it is ready.
func (r *Runner) newInterpreter(ctx context.Context, mode Mode, s *snapshot) (*interpreter, error) {
	i := &interpreter{r: r, mode: mode}
	if n := r.opts.MaxExecutions; n > 0 {
		i.maxExecutions = max(n-rand.IntN(n/10+1), 1)
	}
	if limit := r.opts.MaxRSS; limit > 0 {
		i.softRSS = limit*9/10 - rand.Int64N(limit/10+1)
	}
	var err error
	if mode == Fork {
		i.child, i.born, err = r.mum.fork(ctx, s)
	} else {
		i.child, err = r.begin(ctx, mode, s)
	}
	return i, err
}

// begin starts a process and takes it through hello and ready.
func (r *Runner) begin(ctx context.Context, mode Mode, s *snapshot) (*child, error) {
	c, err := r.lang.spawn(&r.wg, r.opts.FrameMaxBytes, r.stray)
	if err != nil {
		return nil, err
	}
	_ = c.wire.send(&frame{ // likewise
		Type: "hello", Protocol: ProtocolVersion, Mode: mode, Preload: r.opts.Preload, Generation: s.generation,
		ResultMaxBytes: r.opts.ResultMaxBytes, FrameMaxBytes: r.opts.FrameMaxBytes,
	})
	if err := r.awaitReady(ctx, c, s); err != nil {
		c.kill()
		<-c.gone
		err = fmt.Errorf("%s did not become ready: %w%s", r.lang.Name, err, quoted(c.output.last()))
		c.close()
		return nil, err
	}
	return c, nil
}

// awaitReady answers what a preload asks for until the process says that it is ready.
func (r *Runner) awaitReady(ctx context.Context, c *child, s *snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, c.kill)()
	defer context.AfterFunc(r.ctx, c.kill)()
	for {
		f, err := c.wire.read()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return c.lost(err)
		}
		switch f.Type {
		case "ready":
			if f.Protocol != ProtocolVersion {
				return fmt.Errorf("it speaks version %d of the frame protocol, expected %d", f.Protocol, ProtocolVersion)
			}
			r.log.Debug("interpreter ready", "pid", f.PID, "version", f.Version)
			return nil
		case "log":
			r.log.Warn(f.Message)
		default:
			if err := c.serve(f, s); err != nil {
				return err
			}
		}
	}
}

// stray logs what an interpreter writes while it runs nothing.
func (r *Runner) stray(line string) { r.log.Warn(line, "from", "interpreter") }

// lost says how a process ended whose connection broke.
func (c *child) lost(err error) error {
	select {
	case <-c.gone:
		return errors.New(c.exit.String())
	case <-time.After(time.Second): // it closed its wire, or broke the protocol, and lives
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return errors.New("closed its connection")
	}
	return err
}

// serve answers a question about modules.
func (c *child) serve(f *frame, s *snapshot) error {
	switch f.Type {
	case "index":
		return c.wire.send(&frame{Type: "index", Paths: s.paths})
	case "source":
		source, ok := s.sources[f.Path]
		if !ok {
			return fmt.Errorf("%w: asks for a module %q that is not in the index", ErrFrame, f.Path)
		}
		return c.wire.send(&frame{Type: "source", Path: f.Path, Source: &source})
	default:
		return fmt.Errorf("%w: type %q was not expected", ErrFrame, f.Type)
	}
}

// end kills the interpreter and lets go of it.
func (i *interpreter) end() {
	i.kill()
	i.close()
}

// run runs one execution to its end. Afterwards i.spent says whether the interpreter may be used again.
func (i *interpreter) run(ctx context.Context, call *runner.Call, s *snapshot) (json.RawMessage, error) {
	i.runs.Store(&call.ID)
	defer i.runs.Store(nil)
	log := &lazyLog{call: call}
	i.output.attend(func(line string) { log.get().Info(line, "from", "output") })
	defer i.output.attend(i.r.stray)
	stopped := i.stopWith(ctx)
	defer stopped()
	request := frame{
		Type: "run", Generation: s.generation, ExecutionID: string(call.ID), Attempt: call.Attempt, Workflow: call.Workflow,
		Function: call.Function, Params: call.Params, Meta: call.Meta, Traceparent: call.Traceparent,
	}
	if !call.Deadline.IsZero() {
		request.DeadlineMS = call.Deadline.UnixMilli()
	}
	err := i.wire.send(&request)
	for err == nil {
		var f *frame
		if f, err = i.wire.read(); err != nil {
			break
		}
		if err = mine(f, call); err != nil {
			break
		}
		switch f.Type {
		case "result":
			return i.answer(ctx, slices.Clone(f.Value))
		case "error":
			i.markStopped(ctx)
			return nil, &execution.Error{Type: f.ErrorType, Message: f.Message, Traceback: f.Traceback}
		case "died": // a forked child; its slot lives
			if f.ExecutionID != string(call.ID) {
				continue // it had answered before it died
			}
			i.markStopped(ctx)
			return nil, i.crashError(ctx, exit{signal: sys(f.Signal), code: f.Code}.String())
		case "log":
			log.of(f.ExecutionID).Log(ctx, level(f.Level), f.Message, attrs(f)...)
		case "progress":
			call.ReportProgress(f.Done, f.Total, f.Note)
		case "imported":
			i.r.mum.learn(f.Modules)
		default:
			err = i.serve(f, s)
		}
	}
	return nil, i.broken(ctx, err)
}

// mine makes sure that an answer is that of the execution which runs: one too many, of a workflow that ran twice because it
// forked, must never become the result of the next.
func mine(f *frame, call *runner.Call) error {
	if (f.Type == "result" || f.Type == "error") && f.ExecutionID != string(call.ID) {
		return fmt.Errorf("%w: an answer for %.60q while %q runs", ErrFrame, f.ExecutionID, call.ID)
	}
	return nil
}

func (i *interpreter) answer(ctx context.Context, value json.RawMessage) (json.RawMessage, error) {
	i.markStopped(ctx)
	if len(value) == 0 {
		i.spent = "it answered without a value"
		return nil, &execution.Error{Type: TypeCrashed, Message: i.r.lang.Name + " answered without a value"}
	}
	return value, nil
}

// markStopped takes an interpreter that was asked to stop out of use: what it interrupted may be half done, and the signal
// may still be on its way.
func (i *interpreter) markStopped(ctx context.Context) {
	if ctx.Err() != nil {
		i.spent = "its execution was cancelled"
	}
}

// broken is the error of an execution whose interpreter ended, was killed, or no longer speaks the protocol.
func (i *interpreter) broken(ctx context.Context, err error) error {
	if errors.Is(err, ErrFrame) {
		i.spent, i.crash = "it broke the frame protocol", err
		i.kill()
		return &execution.Error{Type: TypeCrashed, Message: fmt.Sprintf("%s broke the frame protocol: %v", i.r.lang.Name, err)}
	}
	how := i.lost(err).Error()
	i.kill()
	<-i.gone
	i.spent = how
	if ctx.Err() == nil && !i.fat.Load() {
		i.crash = errors.New(how)
	}
	return i.crashError(ctx, how)
}

// crashError is what an execution is told whose process ended under it.
func (i *interpreter) crashError(ctx context.Context, how string) error {
	last := i.lastWords()
	switch {
	case i.fat.Load():
		return &execution.Error{Type: TypeMemory, Message: fmt.Sprintf("%s held more than %d bytes of memory and was killed", i.r.lang.Name, i.r.opts.MaxRSS), Traceback: last}
	case ctx.Err() != nil:
		return &execution.Error{Type: TypeStopped, Message: i.r.lang.Name + " " + how, Traceback: last}
	default:
		return &execution.Error{Type: TypeCrashed, Message: i.r.lang.Name + " " + how + " while it ran the execution" + quoted(last), Traceback: last}
	}
}

// lastWords waits a moment for what the process wrote last.
func (i *interpreter) lastWords() string {
	select {
	case <-i.output.done:
	case <-time.After(200 * time.Millisecond): // something that it started still holds the pipe, or it lives
	}
	return i.output.last()
}

// stopWith asks the interpreter to stop when ctx ends, once more half-way through the grace, and kills it just before the
// grace is over. The function it returns calls all of that off.
func (i *interpreter) stopWith(ctx context.Context) (off func()) {
	grace := i.r.opts.CancelGrace
	grace -= min(grace/5, 500*time.Millisecond)
	var again, last atomic.Pointer[time.Timer]
	cancel := context.AfterFunc(ctx, func() {
		i.interrupt()
		again.Store(time.AfterFunc(grace/2, i.interrupt))
		last.Store(time.AfterFunc(grace, i.kill))
	})
	return func() {
		if cancel() {
			return
		}
		for _, t := range []*atomic.Pointer[time.Timer]{&again, &last} {
			if timer := t.Load(); timer != nil { // one that is being set still hits an interpreter that is not used again
				timer.Stop()
			}
		}
	}
}

// lazyLog builds a call's logger when the first line comes.
type lazyLog struct {
	call *runner.Call
	log  atomic.Pointer[slog.Logger]
}

func (l *lazyLog) get() *slog.Logger {
	if log := l.log.Load(); log != nil {
		return log
	}
	log := l.call.Logger()
	l.log.Store(log)
	return log
}

// of returns the logger for lines of an execution: this one's, or of one whose threads still run.
func (l *lazyLog) of(id string) *slog.Logger {
	if id == "" || id == string(l.call.ID) || l.call.Log == nil {
		return l.get()
	}
	return l.call.Log.With("execution_id", id)
}

func level(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func attrs(f *frame) []any {
	if f.Logger == "" || f.Logger == "root" {
		return nil
	}
	return []any{"logger", f.Logger}
}

// quoted appends the last line of what a process wrote to a message.
func quoted(last string) string {
	if last == "" {
		return ""
	}
	return ": " + last[strings.LastIndexByte(last, '\n')+1:]
}
