package consumer

import (
	"context"
	"time"
)

const maxTrimInterval = time.Minute

// backpressure looks, with every heartbeat, whether readers of results keep up, and trims what they are done with.
type backpressure struct {
	w       *Worker
	trimmed time.Time
}

// check stops and starts claiming. It costs nothing while the stream, whose length comes with the heartbeat, is short.
func (b *backpressure) check(ctx context.Context, length int64) error {
	limit, unread := b.w.opts.ResultsMax, length
	if limit <= 0 {
		return nil
	}
	if length > limit || length < 0 {
		ctx, cancel := context.WithTimeout(ctx, ioTimeout)
		defer cancel()
		var err error
		if unread, err = b.w.queue.Unread(ctx, limit); err != nil {
			return err
		}
	}
	choked := unread > limit
	if choked == b.w.choked.Load() {
		return nil
	}
	b.w.choked.Store(choked)
	if choked {
		b.w.waker.Interrupt() // or what comes next would be claimed by the call that waits
		b.w.log.Warn("too many unread results: nothing is claimed until readers catch up", "unread", unread, "limit", limit)
	} else {
		b.w.log.Info("readers of results have caught up: claiming again", "unread", unread, "limit", limit)
	}
	b.w.tell(event{Type: "queue.backpressure", Unread: unread, Choked: choked})
	poke(b.w.regate)
	return nil
}

// trim removes results that everybody has read, once a minute in the whole fleet.
func (b *backpressure) trim(ctx context.Context) error {
	retention := b.w.opts.ResultsRetention
	interval := min(maxTrimInterval, max(retention/4, time.Second))
	if retention <= 0 || time.Since(b.trimmed) < interval {
		return nil
	}
	b.trimmed = time.Now()
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	mine, err := b.w.queue.Turn(ctx, b.w.Incarnation(), interval)
	if err != nil || !mine {
		return err
	}
	removed, err := b.w.queue.TrimResults(ctx, b.w.redisNow(), retention)
	if removed > 0 {
		b.w.log.Info("trimmed results that were read", "results", removed, "older_than", retention)
	}
	return err
}
