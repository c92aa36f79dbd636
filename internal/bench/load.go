package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/queue"
)

// prefix is that of every key of the bench.
const prefix = "bench"

var keys = queue.NewKeys(prefix, "default")

// stagedKey is where IDs wait for the start: it is renamed to pending in one step.
const stagedKey = prefix + ":{default}:staged"

// document is the context of one execution of the load.
func document(workflow string, params any) string {
	encoded, err := json.Marshal(map[string]any{"workflow": workflow, "params": params, "meta": map[string]string{"tenant": "acme"}})
	if err != nil {
		panic(err) // of maps of strings and numbers: cannot happen
	}
	return string(encoded)
}

// noop is the context of an execution that does nothing.
var noop = document("noop", map[string]any{"customer": 4711, "note": "nothing to do"})

func executionID(i int) string { return fmt.Sprintf("7f3a1c%08d", i) }

// stage writes n contexts and their IDs, ready for [Lab.release].
func (l *Lab) stage(ctx context.Context, n int, context func(i int) string) error {
	return l.stageFrom(ctx, 0, n, context)
}

// stageFrom is stage with IDs that begin after the first ones.
func (l *Lab) stageFrom(ctx context.Context, first, n int, context func(i int) string) error {
	const chunk = 2000
	for from := first; from < first+n; from += chunk {
		contexts, ids := make([]any, 0, 2*chunk), make([]any, 0, chunk)
		for i := from; i < min(from+chunk, first+n); i++ {
			contexts = append(contexts, executionID(i), context(i))
			ids = append(ids, executionID(i))
		}
		_, err := l.Redis.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, keys.Executions, contexts...)
			p.LPush(ctx, stagedKey, ids...)
			return nil
		})
		if err != nil {
			return fmt.Errorf("bench: stage: %w", err)
		}
	}
	return nil
}

// release makes what was staged pending.
func (l *Lab) release(ctx context.Context) error {
	return l.Redis.Client.Rename(ctx, stagedKey, keys.Pending).Err()
}

// awaitResults returns once the stream has n entries, or an error when it stops growing.
func (l *Lab) awaitResults(ctx context.Context, n int64) error {
	first, last, started := int64(-1), int64(-1), time.Now()
	for grew := started; ; {
		have, err := l.Redis.Client.XLen(ctx, keys.Results).Result()
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		if have >= n {
			return nil
		}
		if have != last {
			last, grew = have, time.Now()
		}
		if first < 0 {
			first = have
		}
		if time.Since(grew) > 30*time.Second {
			return fmt.Errorf("bench: only %d of %d results, and none new for 30 s", have, n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(nextLook(time.Since(started), have-first, n-have)):
		}
	}
}

// nextLook is a quarter of what the rest will take at the rate so far, or of what was waited so far if that is less: looking takes
// processor time from those who are measured, and what is seen late counts as slow.
func nextLook(elapsed time.Duration, done, left int64) time.Duration {
	rest := float64(elapsed) * float64(left) / float64(max(done, 1))
	return time.Duration(max(min(rest/4, float64(elapsed)/4, float64(50*time.Millisecond)), float64(time.Millisecond)))
}

// checkResults is an error when an execution of the load did not succeed: what fails is done sooner, and its rate is of nothing.
// Whatever failed for good has its entry in dead, so that this costs the same however many there are.
func (l *Lab) checkResults(ctx context.Context) error {
	failed, err := l.Redis.Client.XLen(ctx, keys.Dead).Result()
	if err != nil || failed == 0 {
		return err
	}
	first, err := l.Redis.Client.XRangeN(ctx, keys.Dead, "-", "+", 1).Result()
	if err != nil || len(first) == 0 {
		return err
	}
	of := first[0].Values
	return fmt.Errorf("bench: about %d executions did not succeed, so that nothing was measured; the first, of %v, is %v: %v: %v",
		failed, of["workflow"], of["status"], of["error_type"], of["error"])
}

// spent is what a stretch of work took.
type spent struct {
	meter
	took time.Duration
	n    int
}

func (s spent) rate() float64       { return float64(s.n) / s.took.Seconds() }
func (s spent) cpuMicros() float64  { return float64(s.cpu.Nanoseconds()) / 1000 / float64(s.n) }
func (s spent) roundTrips() float64 { return float64(s.scripts) / float64(s.n) }

// measure runs work over n executions and meters Redis meanwhile. When the clock has stopped, it looks whether they succeeded.
func (l *Lab) measure(ctx context.Context, n int, work func() error) (spent, error) {
	before, err := l.Redis.meter(ctx)
	if err != nil {
		return spent{}, err
	}
	started := time.Now()
	if err := work(); err != nil {
		return spent{}, err
	}
	took := time.Since(started)
	after, err := l.Redis.meter(ctx)
	if err != nil {
		return spent{}, err
	}
	return spent{after.since(before), took, n}, l.checkResults(ctx)
}
