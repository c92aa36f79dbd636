package bench

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/runner"
)

// local is a number of workers in this process, for what cannot be seen from outside of theirs.
type local struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	failed  []error
}

// startLocal starts workers and waits until all are registered.
func (l *Lab) startLocal(ctx context.Context, n, concurrency int, mux *runner.Mux) (*local, error) {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &local{stop: stop, failed: make([]error, n)}
	for i := range n {
		worker, err := consumer.New(consumer.Options{
			RedisURL: l.Redis.URL(), Prefix: prefix, Runner: mux, Concurrency: concurrency, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, errors.Join(err, w.end())
		}
		w.running.Go(func() { _, w.failed[i] = worker.Run(own) })
	}
	return w, errors.Join(l.await(ctx, func() (bool, error) {
		have, err := l.Redis.Client.ZCard(ctx, keys.Workers).Result()
		return have >= int64(n), err
	}))
}

func (w *local) end() error {
	w.stop()
	w.running.Wait()
	return errors.Join(w.failed...)
}
