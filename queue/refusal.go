package queue

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Refusal asks whether Redis writes, without having it write anything, and returns why it does not: its memory is full, it is a replica, it
// cannot save what it has, too few replicas are connected. "": it writes, or this user may not ask.
func (q *Queue) Refusal(ctx context.Context) (string, error) {
	never := q.Keys.Logs("") // no ID is empty
	err := q.rdb.XAdd(ctx, &redis.XAddArgs{Stream: never, NoMkStream: true, Values: []string{"would", "write"}}).Err()
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return "", nil
	case !errors.Is(classify(err), ErrRefused):
		return "", wrap("refusal", err)
	case IsPassing(err):
		return refusalText(err), nil
	}
	return "", nil
}
