// Package runner decides what runs an execution. A [Runner] takes a [Call] and returns JSON; everything else here is a way
// to get one: a [Mux] of Go handlers by name ([Handle] gives typed parameters and results), and a [Router] that sends
// workflow names with a suffix such as ".star" to the runner for that language.
//
// The contract between the pool and a runner:
//
//   - Run may be called by many goroutines at once.
//   - Run returns soon after its context is cancelled. One that does not is declared stuck after the cancel grace.
//   - A returned [execution.Error] chooses error_type and traceback; Rejected says that nothing of the workflow ran.
//   - The pool recovers panics; a runner need not.
package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/bobbin-run/bobbin/execution"
)

// Call is one execution as its runner sees it. It is immutable: a runner must not change it or what it points to.
type Call struct {
	ID             execution.ID
	Attempt        int    // 1 for the first
	Workflow       string // a module path or the name of a Go handler
	Function       string
	Params         json.RawMessage // always an object
	Meta           json.RawMessage // always an object
	ContentSHA256  string          // lower-case hex the module's source must have, or empty
	Traceparent    string
	Deadline       time.Time    // when the timeout passes, on this machine's clock
	ModulesVersion string       // modules:version as it was when the execution was claimed
	Isolation      string       // "resident", "fork", or empty: the runner's default
	Reporter       Reporter     // receives ReportProgress; nil discards it
	Log            *slog.Logger // base of Logger; nil discards
}

// Logger returns a logger whose lines carry the execution's ID and workflow, and go to the worker's log and to the
// execution's own log stream. Each call builds a new one, so keep it where lines are many.
func (c *Call) Logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log.With("execution_id", string(c.ID), "workflow", c.Workflow)
}

// ReportProgress tells those who watch how far the execution is: an event, of which at most ten a second are sent. Total is 0
// when it is not known.
func (c *Call) ReportProgress(done, total float64, note string) {
	if c.Reporter != nil {
		c.Reporter.Progress(done, total, note)
	}
}

// Reporter is told how far an execution is, from whichever goroutine.
type Reporter interface {
	Progress(done, total float64, note string)
}

// CheckContent returns a rejected ContentMismatch when the call insists on another source than the given one.
func CheckContent(call *Call, source string) error {
	if call.ContentSHA256 == "" {
		return nil
	}
	if sum := sha256.Sum256([]byte(source)); hex.EncodeToString(sum[:]) != call.ContentSHA256 {
		return &execution.Error{Type: execution.TypeContentMismatch, Rejected: true, Message: fmt.Sprintf(
			"module %q has the SHA-256 %x, the context asks for %s", call.Workflow, sum, call.ContentSHA256)}
	}
	return nil
}

// Runner runs executions. See the package comment for its contract.
type Runner interface {
	// Run runs one execution to its end and returns its result as JSON.
	Run(ctx context.Context, call *Call) (json.RawMessage, error)
}

// Func is a plain function as a [Runner].
type Func func(ctx context.Context, call *Call) (json.RawMessage, error)

// Run calls f.
func (f Func) Run(ctx context.Context, call *Call) (json.RawMessage, error) { return f(ctx, call) }

// Router picks a runner by the ending of the workflow's name and falls back to Default. The zero value knows none and
// rejects every execution. It must not be changed once it runs.
type Router struct {
	Default  Runner            // names without a known suffix; usually a *Mux. nil rejects them
	BySuffix map[string]Runner // ".star" → runner
}

// Run sends the call to the runner for its workflow, or returns a rejected WorkflowNotFound. A name that the default
// runner knows exactly wins over a suffix.
func (r *Router) Run(ctx context.Context, call *Call) (json.RawMessage, error) {
	if mux, ok := r.Default.(interface{ Has(workflow string) bool }); ok && mux.Has(call.Workflow) {
		return r.Default.Run(ctx, call)
	}
	if dot := strings.LastIndexByte(call.Workflow, '.'); dot >= 0 {
		if runner, ok := r.BySuffix[call.Workflow[dot:]]; ok {
			return runner.Run(ctx, call)
		}
	}
	if r.Default == nil {
		return nil, NotFound(call.Workflow, "this worker has no runner for it")
	}
	return r.Default.Run(ctx, call)
}

// NotFound returns the rejected WorkflowNotFound error that every runner answers an unknown workflow with.
func NotFound(workflow, why string) error {
	return &execution.Error{
		Type: execution.TypeWorkflowNotFound, Rejected: true,
		Message: fmt.Sprintf("workflow %q not found: %s", workflow, why),
	}
}
