package queue

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
)

// Dead is an execution that failed for good, kept with its context.
type Dead struct {
	StreamID string
	Context  []byte
	Result   *execution.Result
}

// DeadLately returns the newest executions in dead, at most count, the newest first.
func (q *Queue) DeadLately(ctx context.Context, count int64) ([]Dead, error) {
	messages, err := q.rdb.XRevRangeN(ctx, q.Keys.Dead, "+", "-", count).Result()
	return deadOf(messages), wrap("dead", err)
}

func deadOf(messages []redis.XMessage) []Dead {
	list := make([]Dead, len(messages))
	for i, e := range entries(messages) {
		list[i] = Dead{e.StreamID, []byte(text(messages[i].Values["context"])), e.Result}
	}
	return list
}

// RetryDead submits an execution in dead again, under its ID and with its context, and takes it out of dead. [ErrDuplicate] means
// that the ID is in use. It says whether the ID was in dead. Cost: one pass over what died later.
func (q *Queue) RetryDead(ctx context.Context, id execution.ID) (found bool, err error) {
	at, _, err := q.findNewest(ctx, q.Keys.Dead, string(id), maxDead*2)
	if err != nil || at == "" {
		return false, err
	}
	messages, err := q.rdb.XRange(ctx, q.Keys.Dead, at, at).Result()
	if err != nil || len(messages) == 0 { // somebody else was faster
		return false, wrap("dead", err)
	}
	if err := q.Submit(ctx, Submission{ID: id, Context: deadOf(messages)[0].Context}); err != nil {
		return true, err
	}
	if err := q.rdb.XDel(ctx, q.Keys.Dead, at).Err(); err != nil {
		return true, fmt.Errorf("%q runs again, and stays in dead: %w", id, wrap("dead", err))
	}
	return true, nil
}
