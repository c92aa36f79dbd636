package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/failpoint"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// job is one claimed execution on its way through the worker: what was claimed, what it asks for, who runs it. It is written
// once, before it is shared, but for what is atomic and for call, which is its handler's.
type job struct {
	id, token string // the claim; the ID is raw: it need not be a valid one
	*arrival
	attempts   int32 // spent before this one
	recoveries int32 // of those, how many because a worker died
	place      int32 // in the ledger
	context    int32 // bytes of the context, while something of it is kept
	asked      bool  // somebody asked to cancel it before it was claimed
	read       bool  // the context could be read: what follows is what it says

	workflow string
	meta     json.RawMessage
	timeout  time.Duration    // 0: the worker's
	retry    *execution.Retry // nil: a failure is final
	replyTTL time.Duration    // 0: no reply list
	call     runner.Call
	reported atomic.Int64 // when it last told of its progress, in Unix nanoseconds
}

// arrival is what the executions of one claim have in common.
type arrival struct {
	worker      *Worker
	incarnation string
	claimedMS   int64     // Redis's clock
	since       time.Time // when the claim's reply was read, on the monotonic clock
}

// newJob makes a job of what was claimed. It keeps of it what is needed later: there is one for each execution, so that its size is
// most of what one costs the collector.
func newJob(c *queue.Claimed, a *arrival) *job {
	return &job{
		id: c.ID, token: c.Token, arrival: a, attempts: short(c.Attempts), recoveries: short(c.Recoveries), asked: c.Cancel != "",
	}
}

// short is n, or the nearest number that fits: what is in Redis may have been written by anybody.
func short(n int) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

// attempt returns the number of this attempt; the first is 1.
func (j *job) attempt() int { return int(j.attempts) + 1 }

// Run runs the execution. It makes job a [pool.Job].
func (j *job) Run(ctx context.Context) (json.RawMessage, error) {
	if until, ok := ctx.Deadline(); ok {
		j.call.Deadline = until
	}
	failpoint.Hit("before-run")
	value, err := j.worker.runner.Run(ctx, &j.call)
	failpoint.Hit("after-run")
	return value, err
}

// held names the claim.
func (j *job) held() queue.Held { return queue.Held{ID: j.id, Token: j.token} }

// admit decides whether a claimed execution can run. It returns the error it is to be answered with, or nil when the job is
// ready for the pool. It reads the context into says, which is free again when it returns.
func (w *Worker) admit(j *job, c *queue.Claimed, modulesVersion string, says *execution.Context) (execution.Status, *execution.Error) {
	id, err := execution.ParseID(c.ID)
	if err != nil {
		return execution.Rejected, &execution.Error{Type: execution.TypeInvalidID, Message: err.Error()}
	}
	if refused := w.readContext(j, c, says); refused != nil {
		return execution.Rejected, refused
	}
	if c.Cancel != "" && w.cancelHolds(c) {
		return execution.Cancelled, &execution.Error{Type: execution.TypeCancelled, Message: "cancelled before it ran"}
	}
	if limit := max(w.opts.MaxRecoveries, 0); c.Recoveries > limit {
		return execution.Lost, &execution.Error{Type: execution.TypeWorkerLost, Message: fmt.Sprintf(
			"the workers that ran it died %d times, the limit of recoveries is %d", c.Recoveries, limit)}
	}
	if refused := w.refused(j.workflow); refused != nil {
		return execution.Rejected, refused
	}
	j.call.ID, j.call.ModulesVersion, j.call.Log, j.call.Reporter = id, modulesVersion, w.log, j
	return "", nil
}

// cancelHolds says whether a cancel request that was stored for an execution is in order.
func (w *Worker) cancelHolds(c *queue.Claimed) bool {
	command, err := control.Parse([]byte(c.Cancel))
	if err == nil {
		err = w.verify(command)
	}
	if err != nil || command.Verb != control.Cancel || command.ExecutionID != c.ID {
		w.log.Warn("a stored cancel request is refused", "execution_id", printableID(c.ID), "error", err)
		return false
	}
	return true
}

func (w *Worker) readContext(j *job, c *queue.Claimed, says *execution.Context) *execution.Error {
	var message string
	switch {
	case c.Missing:
		message = fmt.Sprintf("context is missing: expected a JSON document in the hash %s under this ID, set before the ID is pushed", w.queue.Keys.Executions)
	case c.Context == nil && c.Size > 0:
		message = fmt.Sprintf("context is %d bytes, expected at most %d", c.Size, w.opts.ContextMaxBytes)
	default:
		err := w.guarded((*execution.Context).Parse, says, c)
		if err == nil {
			j.take(says, len(c.Context))
			return nil
		}
		message = err.Error()
	}
	return &execution.Error{Type: execution.TypeInvalidContext, Message: message}
}

// take takes what the context says, so that it can be used for the next one. What it takes keeps the context's bytes.
func (j *job) take(x *execution.Context, bytes int) {
	j.context = short(bytes)
	j.read, j.workflow, j.meta, j.timeout, j.retry, j.replyTTL = true, x.Workflow, x.Meta, x.Timeout, x.Retry, x.ReplyTTL
	j.call = runner.Call{
		Attempt: j.attempt(), Workflow: x.Workflow, Function: x.Function, Params: x.Params, Meta: x.Meta,
		ContentSHA256: x.ContentSHA256, Traceparent: x.Traceparent, Isolation: x.Isolation,
	}
}

// guarded reads a context. Should that panic, which were a defect of ours, one execution is rejected: it would otherwise end one
// worker after another, since nobody has read yet how often it did.
func (w *Worker) guarded(read func(*execution.Context, []byte) error, says *execution.Context, c *queue.Claimed) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			w.log.Error("reading a context panicked: this is a defect of Bobbin", "execution_id", printableID(c.ID), "panic", reason,
				"stack", string(debug.Stack()))
			err = fmt.Errorf("context could not be read: %v", reason)
		}
	}()
	return read(says, c.Context)
}

// finish turns how the pool says a job ended into what is to be written.
func (w *Worker) finish(j *job, o *pool.Outcome) item {
	if o.Interrupted || (errors.Is(o.Cause, pool.ErrLeaseLost) && o.Status != execution.Succeeded) {
		return item{job: j, kind: release}
	}
	if o.Status == execution.Succeeded {
		o.Value, o.Err = w.checkValue(o.Value)
		if o.Err != nil {
			o.Status = execution.Failed
		}
	}
	if retry := j.retry; retry != nil && (o.Status == execution.Failed || o.Status == execution.TimedOut) {
		if spent := j.attempt() - int(j.recoveries); spent < retry.MaxAttempts {
			return item{job: j, kind: again, pause: retry.Backoff(spent), err: o.Err}
		}
	}
	result := w.result(j, o.Status, o.Err)
	result.Value = o.Value
	result.StartedMS, result.FinishedMS = j.redisClock(o.Started), j.redisClock(o.Finished)
	result.Duration = o.Finished.Sub(o.Started)
	return item{job: j.light(), kind: commit, result: result}
}

// heavy is how large a context may be that is kept until its result is written.
const heavy = 4 << 10

// light returns the job as it waits for its result to be written: without a large context, which would be most of what thousands
// of them hold while Redis is away.
func (j *job) light() *job {
	if j.context <= heavy {
		return j
	}
	return &job{
		id: j.id, token: j.token, arrival: j.arrival, attempts: j.attempts, recoveries: j.recoveries, place: j.place, asked: j.asked,
		read: j.read, workflow: j.workflow, replyTTL: j.replyTTL,
	}
}

// checkValue makes sure that what a runner returned can be written: JSON, and not too much of it.
func (w *Worker) checkValue(value json.RawMessage) (json.RawMessage, *execution.Error) {
	if len(value) == 0 {
		return json.RawMessage("null"), nil
	}
	if int64(len(value)) > w.opts.ResultMaxBytes {
		return nil, &execution.Error{Type: execution.TypeResultTooLarge, Message: fmt.Sprintf(
			"result is %d bytes, expected at most %d", len(value), w.opts.ResultMaxBytes)}
	}
	if !execution.Valid(value) {
		return nil, &execution.Error{Type: execution.TypeInvalidResult, Message: fmt.Sprintf("result is not JSON: %.80q", value)}
	}
	return value, nil
}

// result begins the stream entry of a job.
func (w *Worker) result(j *job, status execution.Status, err *execution.Error) execution.Result {
	r := execution.Result{
		ID: j.id, Worker: j.incarnation, Attempt: j.attempt(), Status: status,
		ClaimedMS: j.claimedMS, FinishedMS: j.redisClock(time.Now()), Err: bounded(err), Workflow: j.workflow, Meta: j.meta,
	}
	if j.context > heavy {
		r.Meta = bytes.Clone(r.Meta) // it is a piece of the context
	}
	return r
}

// redisClock converts a moment of this process to Redis's clock, so that the times in results agree across machines.
func (j *job) redisClock(t time.Time) int64 {
	return j.claimedMS + max(t.Sub(j.since), 0).Milliseconds()
}

const maxErrorBytes = 64 << 10

// bounded cuts what an error says to a size that a results stream can bear.
func bounded(err *execution.Error) *execution.Error {
	if err == nil || (len(err.Message) <= maxErrorBytes && len(err.Traceback) <= maxErrorBytes) {
		return err
	}
	cut := *err
	cut.Message, cut.Traceback = clip(err.Message), clip(err.Traceback)
	return &cut
}

func clip(s string) string {
	if len(s) <= maxErrorBytes {
		return s
	}
	return s[:maxErrorBytes] + "\n… cut"
}

func (j *job) attrs() []any {
	return []any{slog.String("execution_id", printableID(j.id)), slog.String("workflow", j.workflow), slog.Int("attempt", j.attempt())}
}

// printableID makes a raw ID fit for a log line.
func printableID(id string) string {
	if _, err := execution.ParseID(id); err != nil {
		return fmt.Sprintf("%.60q", id)
	}
	return id
}
