package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/bobbin-run/bobbin/runner"
)

// Smoke counts what does not vary from machine to machine: commands and allocations per execution. The worker shares this
// process, so that its allocations can be counted.
func (l *Lab) Smoke(ctx context.Context, n int) (r *Report, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return nil, err
	}
	if err := l.stage(ctx, n, noopBacklog); err != nil {
		return nil, err
	}
	mux := runner.NewMux()
	mux.Handle("noop", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) { return nil, nil }))
	w, err := l.startLocal(ctx, 1, 16, mux)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err := l.measure(ctx, n, func() error {
		return errors.Join(l.release(ctx), l.awaitResults(ctx, int64(n)))
	})
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&after)
	r = &Report{Name: "smoke", About: fmt.Sprintf("%d executions that do nothing, one worker in this process", n)}
	r.add("scripts per execution", s.roundTrips(), "")
	r.add("Redis commands per execution, inside of scripts too", float64(s.commands)/float64(n), "")
	r.add("allocations per execution", float64(after.Mallocs-before.Mallocs)/float64(n), "")
	return r, nil
}
