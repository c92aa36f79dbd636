package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// Drain empties a backlog of n executions that do nothing: one worker, beside a bare loop over the same scripts and a loop with
// one command per round trip.
func (l *Lab) Drain(ctx context.Context, n, concurrency int) (*Report, error) {
	all := series{}
	for run := range l.Runs {
		worker, err := l.drainWorker(ctx, n, concurrency, noopBacklog)
		if err != nil {
			return nil, err
		}
		bare, err := l.drainBare(ctx, n)
		if err != nil {
			return nil, err
		}
		single, err := l.drainRoundTrips(ctx, n)
		if err != nil {
			return nil, err
		}
		l.say("drain %d/%d: worker %.0f/s, bare loop %.0f/s, round trips %.0f/s", run+1, l.Runs, worker.rate(), bare.rate(), single.rate())
		all.add("worker", worker.rate())
		all.add("bare", bare.rate())
		all.add("single", single.rate())
		all.add("of bare", worker.rate()/bare.rate())
		all.add("times single", worker.rate()/single.rate())
		all.add("cpu", worker.cpuMicros())
		all.add("trips", worker.roundTrips())
		all.add("bare cpu", bare.cpuMicros())
		all.add("single cpu", single.cpuMicros())
	}
	r := &Report{Name: "drain", About: fmt.Sprintf("%d executions that do nothing, one worker, concurrency %d", n, concurrency)}
	r.add("worker", all.median("worker"), "/s")
	r.add("bare loop over the same scripts, batches of 256", all.median("bare"), "/s")
	r.add("16 goroutines of BRPOP, GET, XADD", all.median("single"), "/s")
	r.atLeast("worker / bare loop", all.median("of bare"), "", 0.8)
	r.atLeast("worker / round trips", all.median("times single"), "", 8)
	r.below("Redis CPU per execution", all.median("cpu"), "µs", 6)
	r.add("… of the bare loop", all.median("bare cpu"), "µs")
	r.add("… of the round trips", all.median("single cpu"), "µs")
	r.below("round trips per execution", all.median("trips"), "", 0.05)
	return r, nil
}

func noopBacklog(int) string { return noop }

// drainWorker measures from the moment the backlog is pending to the last result.
func (l *Lab) drainWorker(ctx context.Context, n, concurrency int, backlog func(int) string, settings ...string) (spent, error) {
	if err := l.Redis.flush(ctx); err != nil {
		return spent{}, err
	}
	return l.drainStarted(ctx, n, backlog, append(settings, fmt.Sprintf("BOBBIN_CONCURRENCY=%d", concurrency)))
}

// drainStarted is drainWorker on whatever is in Redis already.
func (l *Lab) drainStarted(ctx context.Context, n int, backlog func(int) string, settings []string) (s spent, err error) {
	if err := l.stage(ctx, n, backlog); err != nil {
		return s, err
	}
	c, err := l.start(ctx, settings...)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	before, err := l.Redis.Client.XLen(ctx, keys.Results).Result()
	if err != nil {
		return s, err
	}
	return l.measure(ctx, n, func() error {
		if err := l.release(ctx); err != nil {
			return err
		}
		return l.awaitResults(ctx, before+int64(n))
	})
}

// drainBare is the least that the same promise can cost: claim 256, commit 256, again.
func (l *Lab) drainBare(ctx context.Context, n int) (s spent, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return s, err
	}
	if err := l.stage(ctx, n, noopBacklog); err != nil {
		return s, err
	}
	q, err := queue.Open(queue.Options{URL: l.Redis.URL(), Prefix: prefix})
	if err != nil {
		return s, err
	}
	defer func() { _ = q.Close() }()
	const me = "bare-1-loop"
	if err := q.Register(ctx, queue.Registration{Incarnation: me, Lease: time.Hour}); err != nil {
		return s, err
	}
	return l.measure(ctx, n, func() error {
		if err := l.release(ctx); err != nil {
			return err
		}
		for seq, done := int64(1), 0; done < n; seq++ {
			reply, err := q.Claim(ctx, queue.Claim{Incarnation: me, Seq: seq, Want: 256, MaxContextBytes: 1 << 20})
			if err != nil {
				return err
			}
			batch := make([]queue.Commit, len(reply.Claimed))
			for i := range batch {
				batch[i] = bareCommit(&reply.Claimed[i], me)
			}
			if _, err := q.Commit(ctx, batch); err != nil {
				return err
			}
			done += len(batch)
		}
		return nil
	})
}

func bareCommit(c *queue.Claimed, worker string) queue.Commit {
	return queue.Commit{Token: c.Token, Result: &execution.Result{
		ID: c.ID, Workflow: "noop", Worker: worker, Attempt: 1, Status: execution.Succeeded,
		ClaimedMS: c.ClaimedMS, StartedMS: c.ClaimedMS, FinishedMS: c.ClaimedMS, Value: []byte(`null`), Meta: []byte(`{"tenant":"acme"}`),
	}}
}

// drainRoundTrips is the loop that one writes first, without a claim and without a promise: pop, get, add, each a round trip.
func (l *Lab) drainRoundTrips(ctx context.Context, n int) (s spent, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return s, err
	}
	const list, stream = prefix + ":list", prefix + ":stream"
	_, err = l.Redis.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range n {
			p.Set(ctx, prefix+":context:"+executionID(i), noop, 0)
			p.LPush(ctx, list, executionID(i))
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	return l.measure(ctx, n, func() error {
		var loops sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(n))
		failed := make([]error, 16)
		for i := range failed {
			loops.Go(func() { failed[i] = l.roundTrips(ctx, list, stream, &left) })
		}
		loops.Wait()
		return errors.Join(failed...)
	})
}

// roundTrips pops only while something is left: a pop that waits in vain at the end would count as slow.
func (l *Lab) roundTrips(ctx context.Context, list, stream string, left *atomic.Int64) error {
	for left.Add(-1) >= 0 {
		popped, err := l.Redis.Client.BRPop(ctx, time.Second, list).Result()
		if err != nil {
			return err
		}
		if err := l.Redis.Client.Get(ctx, prefix+":context:"+popped[1]).Err(); err != nil {
			return err
		}
		now := time.Now().UnixMilli()
		err = l.Redis.Client.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []any{
			"execution_id", popped[1], "workflow", "noop", "status", "succeeded", "finished_at_ms", now, "duration_us", 0, "result", "null",
		}}).Err()
		if err != nil {
			return err
		}
	}
	return nil
}
