package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
)

// Submission is one execution to be run.
type Submission struct {
	ID      execution.ID
	Context []byte // the JSON document
}

// Submit accepts a batch in one round trip. Each ID that is in use already is left as it is and reported in an error that
// wraps [ErrDuplicate]; the others of the batch are accepted all the same. Batches of a thousand are a good size.
func (q *Queue) Submit(ctx context.Context, batch ...Submission) error {
	args := make([]any, 0, 2*len(batch))
	for _, s := range batch {
		args = append(args, string(s.ID), s.Context)
	}
	raw, err := q.run(ctx, "submit", submitScript, []string{q.Keys.Executions, q.Keys.Pending}, args...)
	if err != nil {
		return err
	}
	values, _ := raw.([]any)
	var duplicates error
	for i, value := range values {
		if number(value) == 0 {
			duplicates = errors.Join(duplicates, fmt.Errorf("submit: %w: %q", ErrDuplicate, batch[i].ID))
		}
	}
	return duplicates
}

// StoredContext returns the context document of an execution that has not ended, or nil.
func (q *Queue) StoredContext(ctx context.Context, id string) ([]byte, error) {
	document, err := q.rdb.HGet(ctx, q.Keys.Executions, id).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return document, wrap("context", err)
}

// CancelOutcome says where [Queue.Cancel] found the execution.
type CancelOutcome string

// What a cancel found.
const (
	CancelDone    CancelOutcome = "cancelled" // it waited: its cancelled result is written and it is gone
	CancelClaimed CancelOutcome = "claimed"   // a worker holds it and will hear of the request
	CancelUnknown CancelOutcome = "unknown"   // it is neither waiting nor claimed
)

// Cancel cancels one execution. The result is what is written when it has not been claimed, and pushed to reply:<id> as well with
// a replyTTL above 0. It is safe to repeat.
func (q *Queue) Cancel(ctx context.Context, id, request string, result *execution.Result, replyTTL time.Duration) (CancelOutcome, error) {
	document, err := json.Marshal(result)
	if err != nil {
		return "", fmt.Errorf("cancel: encode reply of %q: %w", id, err)
	}
	k := q.Keys
	keys := []string{k.Claims, k.Executions, k.Pending, k.Handoff, k.Scheduled, k.Attempts, k.Recoveries, k.Cancels, k.Results, k.Ended, k.Reply(id)}
	args := []any{id, request, replyTTL.Milliseconds(), document}
	for _, field := range result.Fields() {
		args = append(args, field)
	}
	raw, err := q.run(ctx, "cancel", cancelScript, keys, args...)
	return CancelOutcome(text(raw)), err
}

// Entry is one result with its place in the stream.
type Entry struct {
	StreamID string
	Result   *execution.Result
}

// ReadResults returns up to count results after the stream ID from ("0" is the beginning, "$" only what comes), waiting up
// to block for the first; below zero it does not wait.
func (q *Queue) ReadResults(ctx context.Context, from string, count int64, block time.Duration) ([]Entry, error) {
	streams, err := q.blocked.XRead(ctx, &redis.XReadArgs{
		Streams: []string{q.Keys.Results, from}, Count: count, Block: block,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("results", err)
	}
	return entries(streams[0].Messages), nil
}

// LatestResults returns the newest count results, the newest first.
func (q *Queue) LatestResults(ctx context.Context, count int64) ([]Entry, error) {
	messages, err := q.rdb.XRevRangeN(ctx, q.Keys.Results, "+", "-", count).Result()
	return entries(messages), wrap("results", err)
}

func entries(messages []redis.XMessage) []Entry {
	out := make([]Entry, len(messages))
	for i, message := range messages {
		fields := make(map[string]string, len(message.Values))
		for name, value := range message.Values {
			fields[name] = text(value)
		}
		out[i] = Entry{StreamID: message.ID, Result: execution.ParseResult(fields)}
	}
	return out
}

// Depths are the sizes of a queue's parts.
type Depths struct {
	Pending   int64 `json:"pending"`
	Handoff   int64 `json:"handoff"`
	Claimed   int64 `json:"in_flight"`
	Scheduled int64 `json:"scheduled"`
	Results   int64 `json:"results"`
	Late      int64 `json:"late"`
	Dead      int64 `json:"dead"`
	NowMS     int64 `json:"now_ms"`
}

// Depths measures the queue in one round trip.
func (q *Queue) Depths(ctx context.Context) (*Depths, error) {
	pipe, k := q.rdb.Pipeline(), q.Keys
	pending, handoff, claimed := pipe.LLen(ctx, k.Pending), pipe.LLen(ctx, k.Handoff), pipe.HLen(ctx, k.Claims)
	scheduled, results := pipe.ZCard(ctx, k.Scheduled), pipe.XLen(ctx, k.Results)
	late, dead, now := pipe.XLen(ctx, k.Late), pipe.XLen(ctx, k.Dead), pipe.Time(ctx)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, wrap("depths", err)
	}
	return &Depths{
		Pending: pending.Val(), Handoff: handoff.Val(), Claimed: claimed.Val(), Scheduled: scheduled.Val(),
		Results: results.Val(), Late: late.Val(), Dead: dead.Val(), NowMS: now.Val().UnixMilli(),
	}, nil
}
