package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bobbin-run/bobbin/runner"
)

// Scale shows what Redis spends per execution as things grow: the backlog, the workers, the stream of results.
func (l *Lab) Scale(ctx context.Context, backlog, stream int) (*Report, error) {
	all := series{}
	n := backlog / 5
	one := func() (spent, error) { return l.drainWorker(ctx, n, 16, noopBacklog) }
	for run := range l.Runs {
		for _, step := range []struct {
			name string
			do   func() (spent, error)
		}{
			{"small", func() (spent, error) { return l.drainRepeatedly(ctx, n/1000, 1000) }},
			{"one before", one}, // the measure of two others: the machine may have become faster or slower meanwhile
			{"large", func() (spent, error) { return l.drainWorker(ctx, backlog, 16, noopBacklog) }},
			{"eight", func() (spent, error) { return l.drainFleet(ctx, n, 8) }},
			{"long", func() (spent, error) { return l.drainOntoStream(ctx, n, stream) }},
			{"one after", one},
		} {
			s, err := step.do()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", step.name, err)
			}
			all.add(step.name, s.cpuMicros())
			l.say("scale %d/%d: %s: %.2f µs of Redis per execution, %.0f/s", run+1, l.Runs, step.name, s.cpuMicros(), s.rate())
		}
		all.add("one", (all["one before"][run]+all["one after"][run])/2)
		for _, name := range []string{"large", "eight", "long"} {
			base := "one"
			if name == "large" {
				base = "small"
			}
			all.add(name+" ratio", all[name][run]/all[base][run])
		}
	}
	r := &Report{Name: "scale", About: "Redis CPU per execution that does nothing, as things grow"}
	r.add("backlog of 1,000", all.median("small"), "µs")
	r.add("backlog of "+thousands(float64(backlog)), all.median("large"), "µs")
	r.below("large / small backlog", all.median("large ratio"), "", 1.15)
	r.add("1 worker", all.median("one"), "µs")
	r.add("8 workers", all.median("eight"), "µs")
	r.below("8 workers / 1", all.median("eight ratio"), "", 1.15)
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

func (l *Lab) drainFleet(ctx context.Context, n, workers int) (spent, error) {
	if err := l.Redis.flush(ctx); err != nil {
		return spent{}, err
	}
	return l.drainStarted(ctx, n, noopBacklog, []string{"BOBBIN_CONCURRENCY=16"}, workers)
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
	return l.drainStarted(ctx, n, noopBacklog, []string{"BOBBIN_CONCURRENCY=16", "BOBBIN_RESULTS_MAX=0"}, 1)
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
