package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	spent         string         // why it is not to be used again
	crash         error          // it did not survive the last execution, and nobody killed it
	unused        bool           // it was dead before the last execution began: nothing of that ran
	ran           []execution.ID // the last ones, whose threads may still write lines

	busy atomic.Bool // runs an execution
	runs atomic.Pointer[execution.ID]
	fat  atomic.Bool // was killed for its memory
}

// newInterpreter starts an interpreter and waits until it is ready.
func (r *Runner) newInterpreter(mode Mode, s *snapshot) (*interpreter, error) {
	i := &interpreter{r: r, mode: mode}
	if n := r.opts.MaxExecutions; n > 0 {
		i.maxExecutions = max(n-rand.IntN(n/10+1), 1)
	}
	if limit := r.opts.MaxRSS; limit > 0 {
		i.softRSS = limit*9/10 - rand.Int64N(limit/10+1)
	}
	var err error
	if mode == Fork {
		i.child, i.born, err = r.mum.fork(s)
	} else {
		i.child, err = r.begin(mode, s)
	}
	return i, err
}

// begin starts a process and takes it through hello and ready.
func (r *Runner) begin(mode Mode, s *snapshot) (*child, error) {
	c, err := r.lang.spawn(&r.wg, r.opts.FrameMaxBytes, r.stray)
	if err != nil {
		return nil, err
	}
	_ = c.wire.send(&frame{ // likewise
		Type: "hello", Protocol: ProtocolVersion, Mode: mode, Preload: r.opts.Preload, Generation: s.generation,
		ResultMaxBytes: r.opts.ResultMaxBytes, FrameMaxBytes: r.opts.FrameMaxBytes,
	})
	if err := r.awaitReady(c, s); err != nil {
		c.kill()
		<-c.gone
		err = fmt.Errorf("%s did not become ready: %w%s", r.lang.Name, err, quoted(c.output.last()))
		c.close()
		return nil, err
	}
	return c, nil
}

// starting is how long a start may take. It belongs to the runner and to no execution: one whose timeout is shorter than a
// start only waits for it, and the next one finds the interpreter ready.
func (r *Runner) starting() (context.Context, context.CancelFunc) {
	why := fmt.Errorf("it took longer than %s", r.opts.StartTimeout)
	return context.WithTimeoutCause(r.ctx, r.opts.StartTimeout, why)
}

// awaitReady answers what a preload asks for until the process says that it is ready.
func (r *Runner) awaitReady(c *child, s *snapshot) error {
	ctx, cancel := r.starting()
	defer cancel()
	defer context.AfterFunc(ctx, c.kill)()
	for {
		f, err := c.wire.read()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return c.lost(err, time.Second)
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
	defer i.output.attend(nil)
	i.remember(call.ID)
	stopped := i.stopWith(ctx)
	defer stopped()
	err := i.wire.send(request(call, s))
	i.unused = errors.Is(err, syscall.EPIPE)
	for asked := false; err == nil; {
		var f *frame
		if f, err = i.wire.read(); err != nil {
			i.unused = !asked && errors.Is(err, syscall.ECONNRESET) // it ended, and what it had not read is the run
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
			i.hear(ctx, f, log)
		case "progress":
			if f.ExecutionID == "" || f.ExecutionID == string(call.ID) {
				call.ReportProgress(f.Done, f.Total, f.Note)
			}
		case "imported":
			i.r.mum.learn(f.Modules)
		default:
			asked = true
			err = i.serve(f, s)
		}
	}
	return nil, i.broken(ctx, err)
}

func request(call *runner.Call, s *snapshot) *frame {
	f := &frame{
		Type: "run", Generation: s.generation, ExecutionID: string(call.ID), Attempt: call.Attempt, Workflow: call.Workflow,
		Function: call.Function, Params: call.Params, Meta: call.Meta, Traceparent: call.Traceparent,
	}
	if !call.Deadline.IsZero() {
		f.DeadlineMS = call.Deadline.UnixMilli()
	}
	return f
}

const maxRan = 64

// remember notes that an execution ran here.
func (i *interpreter) remember(id execution.ID) {
	if len(i.ran) == maxRan {
		i.ran = slices.Delete(i.ran, 0, 1)
	}
	i.ran = append(i.ran, id)
}

// hear logs a line: of the execution that runs, or of one that ran here and whose threads still do. One of another is nobody's:
// what a workflow writes on its wire must not become another's line.
func (i *interpreter) hear(ctx context.Context, f *frame, log *lazyLog) {
	id := execution.ID(f.ExecutionID)
	switch {
	case id == "" || id == log.call.ID:
		if f.Level == "warn" || f.Level == "error" {
			i.output.note(f.Message)
		}
		log.get().Log(ctx, level(f.Level), f.Message, attrs(f)...)
	case slices.Contains(i.ran, id) && log.call.Log != nil:
		log.call.Log.With("execution_id", f.ExecutionID).Log(ctx, level(f.Level), f.Message, attrs(f)...)
	default:
		i.r.stray(f.Message)
	}
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
	how := i.lost(err, min(time.Second, i.r.opts.CancelGrace/5)).Error()
	i.kill()
	i.spent = how
	if ctx.Err() == nil && !i.fat.Load() && !i.unused {
		i.crash = errors.New(how)
	}
	return i.crashError(ctx, how)
}

// crashError is what an execution is told whose process ended under it.
func (i *interpreter) crashError(ctx context.Context, how string) error {
	last := i.output.last()
	switch {
	case i.fat.Load():
		return &execution.Error{Type: TypeMemory, Message: fmt.Sprintf("%s held more than %d bytes of memory and was killed", i.r.lang.Name, i.r.opts.MaxRSS), Traceback: last}
	case ctx.Err() != nil:
		return &execution.Error{Type: TypeStopped, Message: i.r.lang.Name + " " + how, Traceback: last}
	default:
		return &execution.Error{Type: TypeCrashed, Message: i.r.lang.Name + " " + how + " while it ran the execution" + quoted(last), Traceback: last}
	}
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

// quoted appends a line of what a process wrote to a message: the one by which a language's runtime says why it dies, which a
// stack follows, or else the last.
func quoted(last string) string {
	if last == "" {
		return ""
	}
	line := last[strings.LastIndexByte(last, '\n')+1:]
	for one := range strings.Lines(last) {
		if len(one) > 6 && strings.EqualFold(one[:6], "fatal ") {
			line = strings.TrimSpace(one)
		}
	}
	return ": " + line
}
