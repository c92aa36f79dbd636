package queue

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// receiptTTL is how long acknowledgements wait for the operator who asked.
const receiptTTL = 5 * time.Minute

// PublishControl rings the doorbell and returns how many subscriptions heard it. Nothing depends on that number.
func (q *Queue) PublishControl(ctx context.Context, message []byte) (int64, error) {
	heard, err := q.rdb.Publish(ctx, q.Keys.Control, message).Result()
	return heard, wrap("publish control", err)
}

// SetIntent stores the command that an incarnation is to obey at its next heartbeat, should the doorbell be missed.
func (q *Queue) SetIntent(ctx context.Context, incarnation string, message []byte) error {
	return wrap("set intent", q.rdb.HSet(ctx, q.Keys.Intents, incarnation, message).Err())
}

// SubscribeControl opens the subscription to the control channel. The caller closes it.
func (q *Queue) SubscribeControl(ctx context.Context) *redis.PubSub {
	return q.pubsub.Subscribe(ctx, q.Keys.Control)
}

// PushReceipt acknowledges a control request.
func (q *Queue) PushReceipt(ctx context.Context, request string, receipt []byte) error {
	key := q.Keys.Receipts(request)
	pipe := q.rdb.TxPipeline()
	pipe.RPush(ctx, key, receipt)
	pipe.PExpire(ctx, key, receiptTTL)
	return wrap("push receipt", execute(ctx, pipe))
}

// PopReceipt waits up to timeout for the next acknowledgement of a request; nil means that none came.
func (q *Queue) PopReceipt(ctx context.Context, request string, timeout time.Duration) ([]byte, error) {
	values, err := q.blocked.BLPop(ctx, min(timeout, MaxBlock), q.Keys.Receipts(request)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("pop receipt", err)
	}
	return []byte(values[1]), nil
}

// PublishEvent tells live views what happened. Nothing depends on it.
func (q *Queue) PublishEvent(ctx context.Context, event []byte) error {
	return wrap("publish event", q.rdb.Publish(ctx, q.Keys.Events, event).Err())
}
