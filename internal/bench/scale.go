package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bobbin-run/bobbin/runner"
)

// Scale shows what Redis spends per execution as things grow: the backlog, the workers, the stream of results. Eight workers that have
// just started share what one has to itself, so that each of them does an eighth, and most of it while its memory is new, its code
// unread and Redis' processor taken: they are compared with one worker by a second drain, of which the first is a figure of its own.
func (l *Lab) Scale(ctx context.Context, backlog, stream int) (*Report, error) {
	all := series{}
	n := backlog / 5
	warmed := func(name string, workers int) func() (spent, error) {
		return func() (spent, error) { return l.drainTwice(ctx, all, name, n, workers) }
	}
	for run := range l.Runs {
		for _, step := range []struct {
			name string
			do   func() (spent, error)
		}{
			{"small", func() (spent, error) { return l.drainRepeatedly(ctx, n/1000, 1000) }},
			{"large", func() (spent, error) { return l.drainWorker(ctx, backlog, 16, noopBacklog) }},
			{"one", warmed("one cold", 1)}, // before and after: the machine becomes faster and slower meanwhile
			{"eight", warmed("eight cold", 8)},
			{"one", warmed("one cold", 1)},
			{"long", func() (spent, error) { return l.drainOntoStream(ctx, n, stream) }},
		} {
			s, err := step.do()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", step.name, err)
			}
			all.add(step.name, s.cpuMicros())
			l.say("scale %d/%d: %s: %.2f µs of Redis per execution, %.0f/s", run+1, l.Runs, step.name, s.cpuMicros(), s.rate())
		}
		for name, base := range map[string]string{"large": "small", "eight": "one", "eight cold": "one cold", "long": "one cold"} {
			all.add(name+" ratio", all.mean(name, run)/all.mean(base, run))
		}
	}
	r := &Report{Name: "scale", About: "Redis CPU per execution that does nothing, as things grow"}
	r.add("backlog of 1,000", all.median("small"), "µs")
	r.add("backlog of "+thousands(float64(backlog)), all.median("large"), "µs")
	r.below("large / small backlog", all.median("large ratio"), "", 1.15)
	r.add("1 worker", all.median("one"), "µs")
	r.add("8 workers", all.median("eight"), "µs")
	r.below("8 workers / 1", all.median("eight ratio"), "", 1.15)
	r.add(fmt.Sprintf("the same of their first %s executions", thousands(float64(n))), all.median("eight cold ratio"), "")
	r.add(fmt.Sprintf("onto %s results", thousands(float64(stream))), all.median("long"), "µs")
	r.below("long stream / empty one", all.median("long ratio"), "", 1.15)
	return r, nil
}

// drainRepeatedly drains small backlogs, one after another, through one worker.
func (l *Lab) drainRepeatedly(ctx context.Context, times, n int) (total spent, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return total, err
	}
	c, err := l.start(ctx, "BOBBIN_CONCURRENCY=16")
	if err != nil {
		return total, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	for range times {
		s, err := l.drainBeside(ctx, 0, n)
		if err != nil {
			return total, err
		}
		total.cpu += s.cpu
		total.took += s.took
		total.scripts += s.scripts
		total.n += s.n
	}
	return total, nil
}

// drainTwice drains n executions through so many workers that have just started, notes what that cost, and drains n more.
func (l *Lab) drainTwice(ctx context.Context, all series, name string, n, workers int) (second spent, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return second, err
	}
	for range workers {
		c, err := l.start(ctx, "BOBBIN_CONCURRENCY=16")
		if err != nil {
			return second, err
		}
		defer func() { err = errors.Join(err, c.stop()) }()
	}
	first, err := l.drainBeside(ctx, 0, n)
	if err != nil {
		return second, err
	}
	all.add(name, first.cpuMicros())
	if err := l.Redis.Client.Del(ctx, keys.Results).Err(); err != nil {
		return second, err
	}
	return l.drainBeside(ctx, n, n)
}

// fill appends results as a worker writes them, in chunks that do not block Redis for long.
const fill = `for i = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], '*', 'execution_id', 'old' .. i, 'workflow', 'noop', 'worker', 'host-1-abcdef', 'attempt', '1',
    'status', 'succeeded', 'claimed_at_ms', '1795469666444', 'started_at_ms', '1795469666444', 'finished_at_ms', '1795469666444',
    'duration_us', '3', 'result', 'null', 'meta', '{}')
end`

func (l *Lab) drainOntoStream(ctx context.Context, n, length int) (spent, error) {
	if err := l.Redis.flush(ctx); err != nil {
		return spent{}, err
	}
	const chunk = 20_000
	for filled := 0; filled < length; filled += chunk {
		if err := l.Redis.Client.Eval(ctx, fill, []string{keys.Results}, min(chunk, length-filled)).Err(); err != nil && err.Error() != "redis: nil" {
			return spent{}, err
		}
	}
	return l.drainStarted(ctx, n, noopBacklog, []string{"BOBBIN_CONCURRENCY=16", "BOBBIN_RESULTS_MAX=0"})
}

// Fleet measures what so many workers with nothing to do cost Redis. They share this process.
func (l *Lab) Fleet(ctx context.Context, workers int, d time.Duration) (r *Report, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return nil, err
	}
	w, err := l.startLocal(ctx, workers, 4, runner.NewMux())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	if err := pause(ctx, 12*time.Second); err != nil { // past the lease, so that all of it is routine
		return nil, err
	}
	s, err := l.measure(ctx, workers, func() error {
		if err := pause(ctx, d); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r = &Report{Name: "fleet", About: fmt.Sprintf("%d workers with nothing to do, for %s", workers, d)}
	r.below("Redis, of one core", 100*s.cpu.Seconds()/s.took.Seconds(), "%", 5)
	r.add("scripts a second", float64(s.scripts)/s.took.Seconds(), "")
	return r, nil
}
