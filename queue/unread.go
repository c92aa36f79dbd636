package queue

import (
	"context"
	"fmt"
	"time"
)

var (
	unreadScript = load("unread")
	trimScript   = load("trim")
)

// Unread returns how many results somebody still has to read: for the consumer group that is furthest behind, what was not
// delivered to it and what it has not acknowledged; without groups, all there are. Where Redis does not know how far a group is
// behind and it is far, that is the length of the stream: never fewer than there are. While there are at most enough entries
// altogether it does not look closer and returns their number. Cost: one command, which sends no entries over.
func (q *Queue) Unread(ctx context.Context, enough int64) (int64, error) {
	raw, err := q.run(ctx, "unread", unreadScript, []string{q.Keys.Results}, enough)
	return number(raw), err
}

// TrimResults removes results older than retention that every consumer group has acknowledged, and returns how many. Results
// that a group has not acknowledged are never removed.
func (q *Queue) TrimResults(ctx context.Context, nowMS int64, retention time.Duration) (int64, error) {
	before := fmt.Sprintf("%d-0", max(nowMS-retention.Milliseconds(), 0))
	raw, err := q.run(ctx, "trim", trimScript, []string{q.Keys.Results}, before)
	return number(raw), err
}

// Turn says whether it is this caller's turn to do a chore that the whole fleet needs done once in every interval.
func (q *Queue) Turn(ctx context.Context, incarnation string, interval time.Duration) (bool, error) {
	mine, err := q.rdb.SetNX(ctx, q.Keys.Janitor, incarnation, interval).Result()
	return mine, wrap("turn", err)
}
