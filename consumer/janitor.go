package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/bobbin-run/bobbin/queue"
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

// forgetTorn sees to it, whenever the worker is connected anew, that a Redis which was started again does not keep what its crash
// tore: see [queue.Queue.ForgetTorn].
func (w *Worker) forgetTorn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.anew:
		}
		for failures := 0; !w.askToForget(ctx); failures++ {
			if !backoff(ctx, failures) {
				return nil
			}
		}
	}
}

// askToForget does so once, and says whether that was answered.
func (w *Worker) askToForget(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	asked, err := w.queue.ForgetTorn(ctx)
	if err != nil {
		refused := errors.Is(err, queue.ErrRefused) && !queue.IsPassing(err)
		if refused {
			w.log.Info("redis refuses to write its append-only file anew (BGREWRITEAOF): what a crash of Redis tore may come back, see bobbin doctor", "error", err)
		}
		return refused
	}
	if asked {
		w.log.Info("redis was started: asked it to write its append-only file anew (BGREWRITEAOF), so that nothing that a crash tore comes back")
	}
	return true
}
