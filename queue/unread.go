package queue

import (
	"context"
	"fmt"
	"time"
)

var trimScript = load("trim")

// Unread returns how many results somebody still has to read: for the consumer group that is furthest behind, what was not
// delivered to it and what it has not acknowledged; without groups, all there are. While there are at most enough entries
// altogether it does not look closer and returns their number. Cost: one command, or two above enough.
func (q *Queue) Unread(ctx context.Context, enough int64) (int64, error) {
	length, err := q.rdb.XLen(ctx, q.Keys.Results).Result()
	if err != nil || length <= enough {
		return length, wrap("unread", err)
	}
	groups, err := q.rdb.XInfoGroups(ctx, q.Keys.Results).Result()
	if err != nil {
		return 0, wrap("unread", err)
	}
	if len(groups) == 0 {
		return length, nil
	}
	most := int64(0)
	for _, group := range groups {
		// Redis before 7 knows no lag, and 7 forgets it when entries were deleted: then what came after the last delivery is
		// counted, up to enough.
		behind := group.Lag
		if behind <= 0 && group.LastDeliveredID != "" {
			behind, err = q.after(ctx, group.LastDeliveredID, enough)
			if err != nil {
				return 0, err
			}
		}
		most = max(most, behind+group.Pending)
	}
	return most, nil
}

// after counts the entries after a stream ID, up to a little more than most.
func (q *Queue) after(ctx context.Context, id string, most int64) (int64, error) {
	const page = 10_000
	for n := int64(0); ; {
		entries, err := q.rdb.XRangeN(ctx, q.Keys.Results, "("+id, "+", page).Result()
		if err != nil {
			return 0, wrap("unread", err)
		}
		n += int64(len(entries))
		if len(entries) < page || n > most {
			return n, nil
		}
		id = entries[len(entries)-1].ID
	}
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
