package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// sleeping is the context of an execution that sleeps.
func sleeping(d time.Duration) func(int) string {
	context := document("sleep", map[string]any{"millis": d.Milliseconds()})
	return func(int) string { return context }
}

// waiting is the context of an execution that waits for its cancellation.
var waiting = document("wait", map[string]any{"customer": 4711})

// InFlight measures what executions cost that only wait: memory, and the rate of commits beside them. n is how many wait. The rate is
// that of a worker that has run a while: its first garbage is memory that it never had before, once in its life, and the more of it the
// more wait. What it does until then is a figure of its own.
func (l *Lab) InFlight(ctx context.Context, n, executions int) (*Report, error) {
	all := series{}
	for run := range l.Runs {
		order := []int{10, n}
		if run%2 == 1 { // or what the machine does meanwhile would always count for the same one
			slices.Reverse(order)
		}
		for _, many := range order {
			if err := l.inFlightOnce(ctx, all, many, executions); err != nil {
				return nil, err
			}
		}
		few, many := fmt.Sprint(10), fmt.Sprint(n)
		at := func(name string) float64 { return all[name][run] }
		all.add("each", (at("rss "+many)-at("rss "+few))/float64(n-10)/1024)
		all.add("rate", at("rate "+many)/at("rate "+few))
		all.add("first", at("first "+many)/at("first "+few))
		all.add("cpu", at("cpu "+many)/at("cpu "+few))
		l.say("in flight %d/%d: idle %.1f MiB, %d waiting %.1f MiB, %.0f/s beside 10, %.0f/s beside %d", run+1, l.Runs, at("idle "+few)/(1<<20),
			n, at("rss "+many)/(1<<20), at("rate "+few), at("rate "+many), n)
	}
	many := fmt.Sprint(n)
	r := &Report{Name: "inflight", About: fmt.Sprintf("%d executions that wait, in one worker, and %d that do nothing beside them", n, executions)}
	r.below("idle worker, resident", all.median("idle 10")/(1<<20), "MiB", 25)
	r.add(fmt.Sprintf("worker with %d waiting, resident", n), all.median("rss "+many)/(1<<20), "MiB")
	r.below("each waiting execution", all.median("each"), "KiB", 12)
	r.add("commits beside 10 waiting", all.median("rate 10"), "/s")
	r.add(fmt.Sprintf("commits beside %d waiting", n), all.median("rate "+many), "/s")
	r.atLeast("rate, many / few", all.median("rate"), "", 0.9)
	r.add(fmt.Sprintf("the same of a worker's first %d", executions/5), all.median("first"), "")
	r.below("Redis CPU per execution, many / few", all.median("cpu"), "", 1.15)
	return r, nil
}

// inFlightOnce notes the figures of one worker with so many waiting executions under their number.
func (l *Lab) inFlightOnce(ctx context.Context, all series, n, executions int) (err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return err
	}
	c, err := l.start(ctx, fmt.Sprintf("BOBBIN_CONCURRENCY=%d", n+16), "BOBBIN_TIMEOUT=1h")
	if err != nil {
		return err
	}
	defer c.kill() // the waiting ones would keep it
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	idle, err := c.residentBytes()
	if err != nil {
		return err
	}
	name := fmt.Sprint(n)
	all.add("idle "+name, float64(idle))
	if err := l.stage(ctx, n, func(int) string { return waiting }); err != nil {
		return err
	}
	if err := l.release(ctx); err != nil {
		return err
	}
	err = l.await(ctx, func() (bool, error) {
		claims, err := l.Redis.Client.HLen(ctx, keys.Claims).Result()
		return claims == int64(n), err
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil { // all of them have begun
		return err
	}
	rss, err := c.residentBytes()
	if err != nil {
		return err
	}
	all.add("rss "+name, float64(rss))
	first, err := l.drainBeside(ctx, n, executions/5)
	if err != nil {
		return err
	}
	all.add("first "+name, first.rate())
	s, err := l.drainBeside(ctx, n+executions/5, executions)
	all.add("rate "+name, s.rate())
	all.add("cpu "+name, s.cpuMicros())
	return err
}

// drainBeside drains executions that do nothing through whatever runs already. IDs begin after those of others.
func (l *Lab) drainBeside(ctx context.Context, others, n int) (spent, error) {
	if err := l.stageFrom(ctx, others, n, noopBacklog); err != nil {
		return spent{}, err
	}
	before, err := l.Redis.Client.XLen(ctx, keys.Results).Result()
	if err != nil {
		return spent{}, err
	}
	return l.measure(ctx, n, func() error {
		return errors.Join(l.release(ctx), l.awaitResults(ctx, before+int64(n)))
	})
}

// Quiet measures a worker that has nothing to do.
func (l *Lab) Quiet(ctx context.Context, d time.Duration) (r *Report, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return nil, err
	}
	c, err := l.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := pause(ctx, 3*time.Second); err != nil { // until it has settled
		return nil, err
	}
	before, err := c.cpu()
	if err != nil {
		return nil, err
	}
	sentBefore, err := l.Redis.sent(ctx)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, d); err != nil {
		return nil, err
	}
	after, err := c.cpu()
	if err != nil {
		return nil, err
	}
	sent, err := l.Redis.sent(ctx)
	if err != nil {
		return nil, err
	}
	rss, err := c.residentBytes()
	if err != nil {
		return nil, err
	}
	beats := d.Seconds() / (10.0 / 3)
	r = &Report{Name: "quiet", About: fmt.Sprintf("a worker with nothing to do, for %s", d)}
	r.below("commands a second beside the heartbeat", (float64(sent-sentBefore)-2*beats)/d.Seconds(), "", 2)
	r.below("processor, of one core", 100*(after-before).Seconds()/d.Seconds(), "%", 0.2)
	r.below("resident", float64(rss)/(1<<20), "MiB", 25)
	return r, nil
}
