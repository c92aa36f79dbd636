package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Idle submits one execution at a time to a worker that waits for it, and compares with the round trip of a PING on the
// connection that submits, in the same state of rest. The handler's result is when it started.
func (l *Lab) Idle(ctx context.Context, n int) (r *Report, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return nil, err
	}
	c, err := l.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	p := &probe{lab: l, client: l.Redis.Client.Conn(), reader: l.Redis.Client.Conn(), last: "0"}
	defer func() { _, _ = p.client.Close(), p.reader.Close() }()
	var pings, starts, results []float64
	for i := range n + n/10 {
		ping, err := p.ping(ctx)
		if err != nil {
			return nil, err
		}
		start, visible, err := p.submit(ctx, i)
		if err != nil {
			return nil, err
		}
		if i >= n/10 { // after warming up
			pings, starts, results = append(pings, micros(ping)), append(starts, micros(start)), append(results, micros(visible))
		}
	}
	ping := median(pings)
	r = &Report{Name: "idle", About: fmt.Sprintf("%d executions submitted one at a time to an idle worker", n)}
	r.add("PING, median", ping, "µs")
	r.add("LPUSH to handler start, median", median(starts), "µs")
	r.add("LPUSH to handler start, p99", percentile(starts, 0.99), "µs")
	r.add("LPUSH to result visible, median", median(results), "µs")
	r.below("handler start, median / PING", median(starts)/ping, "", 3)
	r.below("handler start, p99 / PING", percentile(starts, 0.99)/ping, "", 10)
	r.below("result visible, median / PING", median(results)/ping, "", 5)
	return r, nil
}

// probe submits and waits. Its connections are used for nothing else.
type probe struct {
	lab            *Lab
	client, reader *redis.Conn
	last           string // the last result seen
}

// rest is how long everything is left alone before something is timed: the worker then waits in its blocking pop.
const rest = 2 * time.Millisecond

func (p *probe) ping(ctx context.Context) (time.Duration, error) {
	if err := pause(ctx, rest); err != nil {
		return 0, err
	}
	sent := time.Now()
	err := p.client.Ping(ctx).Err()
	return time.Since(sent), err
}

// submit returns how long after LPUSH the handler started, and how long after it the result was seen.
func (p *probe) submit(ctx context.Context, i int) (start, visible time.Duration, err error) {
	if err := p.lab.awaitBlocked(ctx); err != nil {
		return 0, 0, err
	}
	if err := p.client.HSet(ctx, keys.Executions, executionID(i), stamp).Err(); err != nil {
		return 0, 0, err
	}
	type seen struct {
		at      time.Time
		message redis.XMessage
		err     error
	}
	arrived := make(chan seen, 1)
	go func() { // awaited through arrived
		streams, err := p.reader.XRead(ctx, &redis.XReadArgs{Streams: []string{keys.Results, p.last}, Block: 5 * time.Second}).Result()
		if err != nil {
			arrived <- seen{err: fmt.Errorf("bench: no result within 5 s: %w", err)}
			return
		}
		arrived <- seen{at: time.Now(), message: streams[0].Messages[0]}
	}()
	if err := pause(ctx, rest); err != nil {
		return 0, 0, err
	}
	sent := time.Now()
	if err := p.client.LPush(ctx, keys.Pending, executionID(i)).Err(); err != nil {
		return 0, 0, err
	}
	s := <-arrived
	if s.err != nil {
		return 0, 0, s.err
	}
	p.last = s.message.ID
	result, _ := s.message.Values["result"].(string)
	nanos, err := strconv.ParseInt(result, 10, 64)
	return time.Unix(0, nanos).Sub(sent.Round(0)), s.at.Sub(sent), err
}

// stamp is the context of an execution whose result is when it started, in Unix nanoseconds.
var stamp = document("stamp", map[string]any{})

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// awaitBlocked waits until a worker waits in its blocking pop.
func (l *Lab) awaitBlocked(ctx context.Context) error {
	return l.await(ctx, func() (bool, error) {
		info, err := l.Redis.Client.InfoMap(ctx, "clients").Result()
		return err == nil && info["Clients"]["blocked_clients"] != "0", err
	})
}

// await asks every millisecond, for half a minute, whether something is so.
func (l *Lab) await(ctx context.Context, so func() (bool, error)) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		yes, err := so()
		if err != nil || yes {
			return err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(errors.New("bench: what was waited for did not come about within 30 s"), ctx.Err())
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// pause lets d go by: a bench measures over time, so that here a span of time is the thing itself and not a guess.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
