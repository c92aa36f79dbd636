package execution

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// Status says how an execution ended.
type Status string

// The statuses of docs/protocol.md. Every accepted execution ends in exactly one of them.
const (
	Succeeded Status = "succeeded"
	Failed    Status = "failed"    // the workflow returned an error, raised or panicked
	TimedOut  Status = "timed_out" // cancelled because its timeout passed
	Cancelled Status = "cancelled" // cancelled by an operator
	Stuck     Status = "stuck"     // ignored its cancellation for the cancel grace
	Rejected  Status = "rejected"  // never run: the ID, the context or the workflow does not fit
	Lost      Status = "lost"      // the workers that ran it kept dying
)

// Statuses lists every status.
var Statuses = []Status{Succeeded, Failed, TimedOut, Cancelled, Stuck, Rejected, Lost}

// The stable words of the error_type field that Bobbin itself uses. Runners may add their own.
const (
	TypeTimeout           = "ExecutionTimeout"
	TypeCancelled         = "ExecutionCancelled"
	TypeStuck             = "ExecutionStuck"
	TypeWorkflowNotFound  = "WorkflowNotFound"
	TypeFunctionNotFound  = "FunctionNotFound"
	TypeInvalidID         = "InvalidExecutionID"
	TypeInvalidContext    = "InvalidContext"
	TypeInvalidParams     = "InvalidParams"
	TypeInvalidResult     = "InvalidResult"
	TypeContentMismatch   = "ContentMismatch"
	TypeWorkerLost        = "WorkerLost"
	TypeQuarantined       = "WorkflowQuarantined"
	TypePanic             = "Panic"
	TypeHandlerError      = "HandlerError"
	TypeResultTooLarge    = "ResultTooLarge"
	TypeModuleUnavailable = "ModulesUnavailable"
)

// Error is an error that knows its error_type and, where there is one, its traceback. A runner returns one to choose what
// the result says; any other error becomes a [TypeHandlerError].
type Error struct {
	Type      string // a stable word, for programs
	Message   string // for people
	Traceback string
	Rejected  bool // true: nothing of the workflow ran, so the status is Rejected and not Failed
}

// Error returns the message for people.
func (e *Error) Error() string { return e.Message }

// AsError returns err as an [Error], wrapping it as a [TypeHandlerError] where it is none. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var known *Error
	switch {
	case !errors.As(err, &known):
		return &Error{Type: TypeHandlerError, Message: err.Error()}
	case known == nil: // a nil pointer in a non-nil error: a failure like every other, and not a success
		return &Error{Type: TypeHandlerError, Message: "the error that was returned is a nil *execution.Error"}
	}
	return known
}

// Result is one entry of the results stream.
type Result struct {
	ID         string // the raw ID: a rejected one need not be a valid [ID]
	Workflow   string
	Worker     string // the incarnation that wrote it
	Attempt    int
	Status     Status
	ClaimedMS  int64 // Unix milliseconds on Redis's clock, like the next two
	StartedMS  int64 // 0: never started
	FinishedMS int64
	Duration   time.Duration   // 0 when never started
	Value      json.RawMessage // when Succeeded
	Err        *Error          // otherwise
	Meta       json.RawMessage
}

// Fields returns the entry as alternating names and values, in the order of docs/protocol.md.
func (r *Result) Fields() []string {
	fields := make([]string, 0, 26)
	fields = append(fields,
		"execution_id", r.ID, "workflow", r.Workflow, "worker", r.Worker, "attempt", strconv.Itoa(r.Attempt),
		"status", string(r.Status),
		"claimed_at_ms", strconv.FormatInt(r.ClaimedMS, 10), "started_at_ms", strconv.FormatInt(r.StartedMS, 10),
		"finished_at_ms", strconv.FormatInt(r.FinishedMS, 10), "duration_us", strconv.FormatInt(r.Duration.Microseconds(), 10))
	if r.Status == Succeeded {
		fields = append(fields, "result", string(r.Value))
	} else if r.Err != nil {
		fields = append(fields, "error_type", r.Err.Type, "error", r.Err.Message, "traceback", r.Err.Traceback)
	}
	meta := r.Meta
	if len(meta) == 0 {
		meta = emptyObject
	}
	return append(fields, "meta", string(meta))
}

// ParseResult reads a stream entry. Numbers that are absent or malformed are read as 0: a reader of results must not fail
// because another version wrote one.
func ParseResult(fields map[string]string) *Result {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(fields[name], 10, 64)
		return n
	}
	r := &Result{
		ID: fields["execution_id"], Workflow: fields["workflow"], Worker: fields["worker"], Attempt: int(number("attempt")),
		Status: Status(fields["status"]), ClaimedMS: number("claimed_at_ms"), StartedMS: number("started_at_ms"),
		FinishedMS: number("finished_at_ms"), Duration: time.Duration(number("duration_us")) * time.Microsecond,
		Meta: json.RawMessage(fields["meta"]),
	}
	if r.Status == Succeeded {
		r.Value = json.RawMessage(fields["result"])
	} else {
		r.Err = &Error{Type: fields["error_type"], Message: fields["error"], Traceback: fields["traceback"]}
	}
	return r
}

// MarshalJSON writes the result for people and programs that read it outside the stream: the same names, numbers as
// numbers, result and meta as the JSON they are.
func (r *Result) MarshalJSON() ([]byte, error) {
	doc := resultJSON{
		ID: r.ID, Workflow: r.Workflow, Worker: r.Worker, Attempt: r.Attempt, Status: r.Status, ClaimedMS: r.ClaimedMS,
		StartedMS: r.StartedMS, FinishedMS: r.FinishedMS, DurationUS: r.Duration.Microseconds(), Meta: valid(r.Meta),
	}
	if r.Status == Succeeded {
		doc.Value = valid(r.Value)
	} else if r.Err != nil {
		doc.ErrorType, doc.Error, doc.Traceback = r.Err.Type, r.Err.Message, r.Err.Traceback
	}
	return json.Marshal(doc)
}

// valid keeps one malformed entry from making the whole document unwritable.
func valid(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || !Valid(raw) {
		return nil
	}
	return raw
}

type resultJSON struct {
	ID         string          `json:"execution_id"`
	Workflow   string          `json:"workflow"`
	Worker     string          `json:"worker"`
	Attempt    int             `json:"attempt"`
	Status     Status          `json:"status"`
	ClaimedMS  int64           `json:"claimed_at_ms"`
	StartedMS  int64           `json:"started_at_ms"`
	FinishedMS int64           `json:"finished_at_ms"`
	DurationUS int64           `json:"duration_us"`
	Value      json.RawMessage `json:"result,omitempty"`
	ErrorType  string          `json:"error_type,omitempty"`
	Error      string          `json:"error,omitempty"`
	Traceback  string          `json:"traceback,omitempty"`
	Meta       json.RawMessage `json:"meta,omitempty"`
}
