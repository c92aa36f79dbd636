package control

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/queue"
)

const (
	// DefaultInterval is how long a subscription may be silent before it is asked for a sign of life. Commands come with heartbeats too.
	DefaultInterval = 30 * time.Second
	maxPause        = 2 * time.Second
)

// errDeaf says that a subscription did not answer a ping. go-redis would not notice: its own ping does not wait for the pong.
var errDeaf = errors.New("subscription is deaf: no answer to a ping")

// Listener keeps a subscription to the control channel and hands every message on, unread.
type Listener struct {
	Queue    *queue.Queue
	Log      *slog.Logger
	Interval time.Duration // 0: DefaultInterval
	// Subscribed, if there is one, is called when a subscription is confirmed: Redis may be another than the one that broke the last.
	Subscribed func()
	// Handle is called with each message, one at a time. While it runs, later messages wait in Redis and the socket.
	Handle func(ctx context.Context, message []byte)
}

// Run subscribes, and subscribes again after every error and after two silent intervals, until ctx is done. It returns nil:
// a control channel that is away is no reason to stop working.
func (l *Listener) Run(ctx context.Context) error {
	if l.Interval == 0 {
		l.Interval = DefaultInterval
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		heard, err := l.listen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if heard {
			failures = 0
		}
		l.Log.Warn("control subscription lost; subscribing again", "error", err)
		pause := min(maxPause, 50*time.Millisecond<<min(failures, 10))
		wait(ctx, rand.N(pause)+pause/2)
	}
	return nil
}

func wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// listen serves one subscription until it fails. heard says that the subscription was confirmed.
func (l *Listener) listen(ctx context.Context) (heard bool, err error) {
	subscription := l.Queue.SubscribeControl(ctx)
	stop := context.AfterFunc(ctx, func() { _ = subscription.Close() }) // a blocked receive does not see ctx
	defer stop()
	defer func() { _ = subscription.Close() }()
	silent := 0
	for {
		message, err := subscription.ReceiveTimeout(ctx, l.Interval)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			if silent++; silent > 1 {
				return heard, errDeaf
			}
			if err := subscription.Ping(ctx); err != nil {
				return heard, err
			}
			continue
		case err != nil:
			return heard, err
		}
		silent = 0
		switch m := message.(type) {
		case *redis.Subscription:
			heard = true
			if l.Subscribed != nil {
				l.Subscribed()
			}
		case *redis.Message:
			l.Handle(ctx, []byte(m.Payload))
		}
	}
}
