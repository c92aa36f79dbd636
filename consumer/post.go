package consumer

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"time"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// event is one message on the events channel. Nothing depends on events; see docs/protocol.md for what they carry.
type event struct {
	Type        string          `json:"type"`
	Worker      string          `json:"worker"`
	AtMS        int64           `json:"at_ms"`
	From        execution.State `json:"from,omitempty"`
	State       execution.State `json:"state,omitempty"`
	Because     execution.Event `json:"because,omitempty"`
	ExecutionID string          `json:"execution_id,omitempty"`
	Workflow    string          `json:"workflow,omitempty"`
	Incarnation string          `json:"incarnation,omitempty"` // the dead worker, for execution.recovered
	Unread      int64           `json:"unread,omitempty"`      // results, for queue.backpressure
	Choked      bool            `json:"choked,omitempty"`      // claiming stopped, for queue.backpressure
	Done        *float64        `json:"done,omitempty"`        // for execution.progress, like the next two
	Total       float64         `json:"total,omitempty"`
	Note        string          `json:"note,omitempty"`
}

func stateChanged(from, to execution.State, because execution.Event) event {
	return event{Type: "worker.state", From: from, State: to, Because: because}
}

const (
	progressEvery = 100 * time.Millisecond
	maxNoteBytes  = 1000
)

// Progress tells those who watch how far the execution is: an event, at most ten a second and the last one always. It makes
// job a [runner.Reporter].
func (j *job) Progress(done, total float64, note string) {
	now, before := time.Now().UnixNano(), j.reported.Load()
	if done != total && now-before < int64(progressEvery) || !j.reported.CompareAndSwap(before, now) {
		return
	}
	if math.IsNaN(done+total) || math.IsInf(done+total, 0) {
		return // JSON has no such numbers
	}
	j.worker.tell(event{
		Type: "execution.progress", ExecutionID: j.id, Workflow: j.workflow, Done: &done, Total: total,
		Note: note[:min(len(note), maxNoteBytes)],
	})
}

// letter is something to tell Redis on which no result depends: an event, a receipt, a log line.
type letter struct {
	what string
	send func(ctx context.Context, q *queue.Queue) error
	line *queue.LogLine // instead of send: log lines travel together
}

// send puts a letter in the post and never waits: with thousands waiting (Redis is away) it is dropped.
func (w *Worker) send(what string, deliver func(ctx context.Context, q *queue.Queue) error) {
	select {
	case w.post <- letter{what: what, send: deliver}:
	default:
	}
}

func (w *Worker) tell(e event) {
	message := w.encode(e)
	w.send("event", func(ctx context.Context, q *queue.Queue) error { return q.PublishEvent(ctx, message) })
}

// tellNow publishes while the mailer no longer matters.
func (w *Worker) tellNow(ctx context.Context, e event) {
	if err := w.queue.PublishEvent(ctx, w.encode(e)); err != nil {
		w.log.Debug("event not published", "error", err)
	}
}

func (w *Worker) encode(e event) []byte {
	e.Worker, e.AtMS = w.Incarnation(), time.Now().UnixMilli()
	message, _ := json.Marshal(e) // strings and numbers: cannot fail
	return message
}

func (w *Worker) sendReceipt(r control.Receipt) {
	document, _ := json.Marshal(r) // strings: cannot fail
	w.send("receipt", func(ctx context.Context, q *queue.Queue) error { return q.PushReceipt(ctx, r.RequestID, document) })
}

// mail delivers the post until ctx ends, then what is still there. Log lines that wait are sent in one go.
func (w *Worker) mail(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			w.lastMail()
			return nil
		case l := <-w.post:
			w.deliverPost(context.Background(), l)
		}
	}
}

// lastMail delivers what is still there, for as long as the last results have: a Redis that is silent must not keep the worker.
func (w *Worker) lastMail() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	for len(w.post) > 0 && ctx.Err() == nil {
		w.deliverPost(ctx, <-w.post)
	}
}

const maxLogBatch = 500

func (w *Worker) deliverPost(ctx context.Context, l letter) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	var lines []queue.LogLine
	for l.line != nil {
		lines = append(lines, *l.line)
		l = letter{}
		if len(lines) == maxLogBatch {
			break
		}
		select {
		case l = <-w.post:
		default:
		}
	}
	if len(lines) > 0 {
		w.report("log lines", w.queue.AppendLogs(ctx, lines))
	}
	if l.send != nil {
		w.report(l.what, l.send(ctx, w.queue))
	}
}

func (w *Worker) report(what string, err error) {
	if err != nil {
		w.log.Debug("not delivered", "what", what, "error", err)
	}
}

// tee is a log handler that also sends the lines of an execution to its own log stream.
type tee struct {
	slog.Handler
	w  *Worker
	id string
}

// Handle writes the line and, when it belongs to an execution, posts it.
func (h tee) Handle(ctx context.Context, line slog.Record) error {
	if h.id != "" {
		text := line.Message
		line.Attrs(func(a slog.Attr) bool {
			text += " " + a.String()
			return true
		})
		select {
		case h.w.post <- letter{line: &queue.LogLine{ID: h.id, Time: line.Time, Level: line.Level.String(), Text: clip(text)}}:
		default: // the stream of log lines is a convenience; the worker's log has the line
		}
	}
	return h.Handler.Handle(ctx, line)
}

// WithAttrs notices the execution that the lines of this logger belong to.
func (h tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "execution_id" {
			h.id = a.Value.String()
		}
	}
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

// WithGroup keeps the execution.
func (h tee) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}
