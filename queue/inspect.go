package queue

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
)

// Whereabouts is all that Redis knows of one execution at one moment. Several places may hold it: pushed twice, or between
// two steps.
type Whereabouts struct {
	NowMS       int64             `json:"now_ms"`             // Redis's clock
	Position    int64             `json:"position,omitempty"` // in pending: 1 is next; 0: not there
	Pending     int64             `json:"pending"`            // how many wait
	Handoff     bool              `json:"handoff,omitempty"`
	Incarnation string            `json:"claimed_by,omitempty"`
	Token       string            `json:"token,omitempty"`
	DueMS       int64             `json:"due_ms,omitempty"` // when it is tried again
	Cancel      string            `json:"cancel,omitempty"` // the request
	Attempts    int64             `json:"attempts"`         // spent
	Recoveries  int64             `json:"recoveries"`       // of those, because a worker died
	Context     string            `json:"context,omitempty"`
	Result      *execution.Result `json:"-"`                   // the newest: of an ID in use again, an earlier one
	ResultAt    string            `json:"result_at,omitempty"` // its ID in the stream
	DeadAt      string            `json:"dead_at,omitempty"`   // the ID of its entry in dead
	Lines       []map[string]any  `json:"lines,omitempty"`     // the last ones of its log
	Searched    int64             `json:"-"`                   // results that were looked through
}

// Inspect finds out where an execution is. A result is looked for among the newest ones, at most search of them. It costs one
// pass over pending, so it is for people.
func (q *Queue) Inspect(ctx context.Context, id string, search int64) (*Whereabouts, error) {
	w, err := q.locate(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := q.findResult(ctx, id, search, w); err != nil {
		return nil, err
	}
	if w.Result != nil && w.InUse() { // it may have ended between the two: then it is in use no more
		again, err := q.locate(ctx, id)
		if err != nil {
			return nil, err
		}
		again.Result, again.ResultAt, again.Searched = w.Result, w.ResultAt, w.Searched
		w = again
	}
	w.DeadAt, _, err = q.findNewest(ctx, q.Keys.Dead, id, search)
	return w, err
}

// InUse says that something is kept of an execution that has not ended, so that a result is an earlier one's.
func (w *Whereabouts) InUse() bool {
	return w.Position > 0 || w.Handoff || w.Token != "" || w.DueMS > 0 || w.Context != ""
}

// locate reads every place but the results, all at one moment; one after another where Redis lets nobody queue a transaction, not even
// to read, which is so while its memory is full.
func (q *Queue) locate(ctx context.Context, id string) (*Whereabouts, error) {
	w, err := q.locateIn(ctx, q.rdb.TxPipeline(), id)
	if errors.Is(err, ErrRefused) && IsPassing(err) {
		return q.locateIn(ctx, q.rdb.Pipeline(), id)
	}
	return w, err
}

func (q *Queue) locateIn(ctx context.Context, tx redis.Pipeliner, id string) (*Whereabouts, error) {
	k, w := q.Keys, &Whereabouts{}
	now, at, length := tx.Time(ctx), tx.LPos(ctx, k.Pending, id, redis.LPosArgs{}), tx.LLen(ctx, k.Pending)
	handoff, token := tx.LPos(ctx, k.Handoff, id, redis.LPosArgs{}), tx.HGet(ctx, k.Claims, id)
	due, cancel := tx.ZScore(ctx, k.Scheduled, id), tx.HGet(ctx, k.Cancels, id)
	attempts, recoveries := tx.HGet(ctx, k.Attempts, id), tx.HGet(ctx, k.Recoveries, id)
	document, lines := tx.HGet(ctx, k.Executions, id), tx.XRevRangeN(ctx, k.Logs(id), "+", "-", 10)
	if err := execute(ctx, tx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, wrap("inspect", err)
	}
	w.NowMS, w.Pending = now.Val().UnixMilli(), length.Val()
	if at.Err() == nil {
		w.Position = length.Val() - at.Val()
	}
	w.Handoff, w.Token = handoff.Err() == nil, token.Val()
	w.Incarnation = holder(w.Token)
	w.DueMS, w.Cancel, w.Context = int64(due.Val()), cancel.Val(), document.Val()
	w.Attempts, w.Recoveries = number(attempts.Val()), number(recoveries.Val())
	for i := len(lines.Val()) - 1; i >= 0; i-- {
		w.Lines = append(w.Lines, lines.Val()[i].Values)
	}
	return w, nil
}

// holder is the incarnation in a claim token.
func holder(token string) string {
	parts := strings.Split(token, ":")
	if len(parts) < 3 {
		return ""
	}
	return strings.Join(parts[:len(parts)-2], ":")
}

func (q *Queue) findResult(ctx context.Context, id string, search int64, w *Whereabouts) error {
	at, searched, err := q.findNewest(ctx, q.Keys.Results, id, search)
	w.Searched = searched
	if err != nil || at == "" {
		return err
	}
	messages, err := q.rdb.XRange(ctx, q.Keys.Results, at, at).Result()
	if err != nil || len(messages) == 0 { // trimmed just now
		return wrap("inspect", err)
	}
	w.Result, w.ResultAt = entries(messages)[0].Result, at
	return nil
}

// findNewest looks through the newest entries of a stream for an execution's, and says where it is and how many it looked at.
func (q *Queue) findNewest(ctx context.Context, stream, id string, search int64) (at string, searched int64, err error) {
	const page = 2000
	for to := "+"; searched < search; {
		messages, err := q.rdb.XRevRangeN(ctx, stream, to, "-", min(page, search-searched)).Result()
		if err != nil {
			return "", searched, wrap("inspect", err)
		}
		for _, m := range messages {
			searched++
			if m.Values["execution_id"] == id {
				return m.ID, searched, nil
			}
		}
		if len(messages) < page {
			return "", searched, nil
		}
		to = "(" + messages[len(messages)-1].ID
	}
	return "", searched, nil
}

// Oldest returns the ID that waits longest, or "".
func (q *Queue) Oldest(ctx context.Context) (string, error) {
	id, err := q.rdb.LIndex(ctx, q.Keys.Pending, -1).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return id, wrap("oldest", err)
}

// ParseMS reads a number of milliseconds from a field of a registration; 0 where there is none.
func ParseMS(field string) int64 {
	n, _ := strconv.ParseInt(field, 10, 64)
	return n
}

// StreamMS is the moment, on Redis's clock, in a stream ID.
func StreamMS(id string) int64 {
	ms, _, _ := strings.Cut(id, "-")
	return ParseMS(ms)
}
