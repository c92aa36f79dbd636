package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

// behindProxy is a fleet whose workers reach Redis through a proxy that can lose what networks lose.
func behindProxy(t *testing.T, mux *runner.Mux) (*fleet, *redistest.Proxy) {
	t.Helper()
	server := redistest.Shared(t)
	proxy := redistest.NewProxy(t, server.Addr)
	for verb, sha := range queue.Scripts() {
		proxy.Label(sha, verb)
	}
	f := setup(t, server, mux)
	// A lost NOSCRIPT would prove nothing: what is lost must be the reply of a script that ran.
	require.NoError(t, f.queue.LoadScripts(context.Background()))
	f.options.RedisURL = proxy.URL()
	return f, proxy
}

// Nobody but the worker that made the lost claim can find it here: the lease is an hour.
func TestLostClaimReplyIsRunByTheSameWorker(t *testing.T) {
	t.Parallel()
	f, proxy := behindProxy(t, handlers())
	f.options.Lease = time.Hour
	lost := proxy.DropReply("claim", 1)
	f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
	w := f.start()
	r := f.result("x")
	require.True(t, lost.Fired())
	require.Equal(t, w.Incarnation(), r.Worker)
	require.Equal(t, 1, r.Attempt)
}

// A reply that never comes, on a connection that stays open: the same.
func TestSwallowedClaimReplyIsRunByTheSameWorker(t *testing.T) {
	t.Parallel()
	f, proxy := behindProxy(t, handlers())
	f.options.Lease = time.Hour
	proxy.SwallowReply("claim", 1)
	f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
	w := f.start()
	require.Equal(t, w.Incarnation(), f.result("x").Worker)
}

func TestLostRepliesOfEveryVerb(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"commit", "commit_one", "register", "heartbeat", "release", "retry", "fence", "unregister", "BLMOVE"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			mux := handlers()
			mux.Handle("twice", runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
				if call.Attempt == 1 {
					return nil, fmt.Errorf("the first time")
				}
				return nil, nil
			}))
			f, proxy := behindProxy(t, mux)
			proxy.DropReply(verb, 1)
			w := f.start()
			f.submit("once", `{"workflow":"add","params":{"A":1,"B":2}}`)
			f.submit("twice", `{"workflow":"twice","retry":{"max_attempts":2,"initial_backoff_seconds":0.01}}`)
			require.Equal(t, execution.Succeeded, f.result("once").Status)
			require.Equal(t, execution.Succeeded, f.result("twice").Status)
			f.submit("interrupted", `{"workflow":"wait"}`)
			f.until("it is claimed", func() bool { return f.size(f.queue.Keys.Claims) == 1 })
			w.stop()
			require.Equal(t, execution.ExitDone, w.exits())
			f.until("it is released", func() bool {
				n, err := f.raw.LLen(context.Background(), f.queue.Keys.Pending).Result()
				return err == nil && n == 1
			})
			f.readAll()
			require.Len(t, f.results, 2)
			require.Zero(t, f.size(f.queue.Keys.Claims))
			late, err := f.raw.XLen(context.Background(), f.queue.Keys.Late).Result()
			require.NoError(t, err)
			require.Zero(t, late, "a commit whose reply was lost is not late")
		})
	}
}

// Connections that break under six heartbeats in a row, as those that a restarted Redis left in the pool do, take milliseconds and not
// the lease: with it would go whatever runs.
func TestHeartbeatsWhoseRepliesAreLostCostNoLease(t *testing.T) {
	t.Parallel()
	s := newStage()
	f, proxy := behindProxy(t, s.mux())
	f.options.Lease = 6 * time.Second
	w := f.start()
	before := w.Incarnation()
	f.submit("x", `{"workflow":"hold"}`)
	s.awaitBegun(t)
	var last *redistest.Fault
	for nth := range 6 {
		last = proxy.DropReply("heartbeat", nth+1)
	}
	f.until("the last of them is lost", last.Fired)
	close(s.open)
	r := f.result("x")
	require.Equal(t, execution.Succeeded, r.Status)
	require.Equal(t, before, r.Worker)
	require.Equal(t, before, w.Incarnation())
}

// A registration that was evicted or deleted is written again, whole, and what changes reaches it.
func TestRegistrationComesBack(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		w := f.start()
		key := f.queue.Keys.Worker(w.Incarnation())
		field := func(name string) string { return f.raw.HGet(context.Background(), key, name).Val() }
		require.Equal(t, "0", field("running"))
		f.submit("x", `{"workflow":"hold"}`)
		s.awaitBegun(t)
		f.until("it is seen to run", func() bool { return field("running") == "1" })
		require.NoError(t, f.raw.Del(context.Background(), key).Err())
		f.until("it is registered again", func() bool { return field("queue") == "default" && field("running") == "1" })
		close(s.open)
		f.until("it is seen to have ended", func() bool { return field("running") == "0" && field("processed") == "1" })
	})
}

// What Redis has otherwise than it was told, since it was restarted without its last writes, say, is told again in a while.
func TestFiguresAreToldAgain(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fleet) {
		f.options.Lease = time.Second
		w := f.start()
		key := f.queue.Keys.Worker(w.Incarnation())
		require.NoError(t, f.raw.HSet(context.Background(), key, "processed", 17).Err())
		f.until("it is as the worker knows it", func() bool {
			return f.raw.HGet(context.Background(), f.queue.Keys.Worker(w.Incarnation()), "processed").Val() == "0"
		})
	})
}

// Another worker declared this one dead while it ran: what it runs is cancelled, what it still writes goes to late, and it
// works on under a new name.
func TestFencedWorkerWorksOnAsANewIncarnation(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		f.options.CancelGrace = patience
		w := f.start()
		before := w.Incarnation()
		f.submit("deaf", `{"workflow":"deaf"}`)
		s.awaitBegun(t)
		_, err := f.queue.Reap(context.Background(), before, time.Hour, true, true)
		require.NoError(t, err)
		f.until("a new incarnation", func() bool { return w.Incarnation() != before })
		require.Equal(t, "deaf", s.awaitBegun(t), "it is run again, under the new name")
		close(s.open)
		r := f.result("deaf")
		require.Equal(t, w.Incarnation(), r.Worker)
		require.Equal(t, 2, r.Attempt)
		f.until("the late outcome", func() bool {
			late, err := f.raw.XRange(context.Background(), f.queue.Keys.Late, "-", "+").Result()
			return err == nil && len(late) == 1 && late[0].Values["worker"] == before && late[0].Values["late_because"] == "claim lost"
		})
		f.readAll()
		require.Len(t, f.results["deaf"], 1)
	})
}

func TestFenceCancelsWithTheCauseLeaseLost(t *testing.T) {
	causes := make(chan error, 10)
	mux := func() *runner.Mux {
		m := runner.NewMux()
		m.Handle("listen", runner.Func(func(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
			if call.Attempt > 1 {
				return nil, nil
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		}))
		return m
	}
	each(t, mux, func(t *testing.T, f *fleet) {
		w := f.start()
		f.submit("x", `{"workflow":"listen"}`)
		f.until("it is claimed", func() bool { return f.size(f.queue.Keys.Claims) == 1 })
		_, err := f.queue.Reap(context.Background(), w.Incarnation(), time.Hour, true, true)
		require.NoError(t, err)
		select {
		case cause := <-causes:
			require.ErrorContains(t, cause, "lease lost")
		case <-time.After(patience):
			require.FailNow(t, "what it runs is not cancelled")
		}
		require.Equal(t, execution.Succeeded, f.result("x").Status)
	})
}

// A Redis that was started again is asked to forget what its crash tore, also by workers that say nothing to it but their heartbeats.
func TestRedisForgetsWhatItsCrashTore(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways))
	f := setup(t, server, handlers())
	f.options.Pause = execution.PausedByOperator
	f.start()
	f.until("it is asked when a worker starts", server.Rewritten)
	// So much that workers are connected again while it is read.
	long := "for i = 1, 500000 do redis.call('INCR', KEYS[1]) end return 1"
	require.NoError(t, f.raw.Eval(context.Background(), long, []string{server.Prefix + "count"}).Err())
	server.Kill()
	server.Start()
	f.until("it is asked when it was started again", server.Rewritten)
}

// An outage makes everybody silent. Nobody is declared dead for it: no execution is charged a recovery.
func TestNoMassReapingAfterAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways))
	s := newStage()
	f := setup(t, server, s.mux())
	f.options.Lease, f.options.CancelGrace = 5*time.Second, patience
	var workers []*started
	var before []string
	for range 3 {
		w := f.start()
		workers, before = append(workers, w), append(before, w.Incarnation())
	}
	for i := range 6 {
		f.submit(fmt.Sprint("e", i), `{"workflow":"deaf"}`)
	}
	for range 6 {
		s.awaitBegun(t)
	}
	server.Kill() // not paused: it would obey the heartbeats that wait in its sockets before it is asked anything
	outage := time.NewTimer(2 * f.options.Lease)
	<-outage.C
	server.Start()
	// All three come back, as new incarnations beside the old, whose executions do not listen and still run.
	f.until("all are back and have been heard again", func() bool {
		back := 0
		for i, w := range workers {
			figures := f.raw.HMGet(context.Background(), f.queue.Keys.Worker(w.Incarnation()), "state").Val()
			if w.Incarnation() != before[i] && w.Ready() && len(figures) == 1 && figures[0] == "ACTIVE" {
				back++
			}
		}
		return back == len(workers)
	})
	close(s.open)
	for i := range 6 {
		r := f.result(fmt.Sprint("e", i))
		require.Equal(t, execution.Succeeded, r.Status)
		require.Equal(t, 1, r.Attempt, "nobody was declared dead")
	}
	f.until("everything is gone", func() bool { return f.size(f.queue.Keys.Claims) == 0 })
	f.requireNothingLeft()
}

// A silent worker's executions go to another after the lease, and each is charged a recovery.
func TestSilentWorkerIsReaped(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		ctx := context.Background()
		f.options.Lease = 500 * time.Millisecond
		require.NoError(t, f.queue.Register(ctx, queue.Registration{Incarnation: "gone-1-x", Lease: f.options.Lease}))
		f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
		claimed, err := f.queue.Claim(ctx, queue.Claim{Incarnation: "gone-1-x", Seq: 1, Want: 1, MaxContextBytes: 1000})
		require.NoError(t, err)
		require.Len(t, claimed.Claimed, 1)
		f.start()
		require.Equal(t, 2, f.result("x").Attempt)
		f.until("it is forgotten", func() bool { return f.raw.ZScore(ctx, f.queue.Keys.Workers, "gone-1-x").Err() != nil })
		f.until("claims are gone", func() bool { return f.size(f.queue.Keys.Claims) == 0 })
		f.requireNothingLeft()
	})
}

func TestLostAfterMaxRecoveries(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		ctx, k := context.Background(), f.queue.Keys
		for id, recoveries := range map[string]int{"again": 3, "lost": 4} {
			require.NoError(t, f.raw.HSet(ctx, k.Attempts, id, recoveries).Err())
			require.NoError(t, f.raw.HSet(ctx, k.Recoveries, id, recoveries).Err())
			f.submit(id, `{"workflow":"add","params":{"A":1,"B":2},"meta":{"k":1}}`)
		}
		f.start()
		require.Equal(t, execution.Succeeded, f.result("again").Status)
		r := f.result("lost")
		require.Equal(t, execution.Lost, r.Status)
		require.Equal(t, "WorkerLost", r.Err.Type)
		require.Equal(t, "add", r.Workflow)
		f.until("claims are gone", func() bool { return f.size(k.Claims) == 0 })
		f.requireNothingLeft()
	})
}

// While results cannot be written, finished ones wait, within bounds, and nothing more is claimed; then all are written once.
func TestBufferedResultsAreBoundedAndWritten(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		const n = 12_000
		ctx, k := context.Background(), f.queue.Keys
		f.options.Lease = time.Minute
		require.NoError(t, f.raw.Set(ctx, k.Results, "in the way", 0).Err())
		w := f.start()
		f.submitMany(n, "e", `{"workflow":"add","params":{"A":1,"B":2}}`)
		f.until("the buffer is full", func() bool { return f.size(k.Claims) >= 4096 })
		f.until("the worker is unready", func() bool { return !w.Ready() })
		require.LessOrEqual(t, f.size(k.Claims), int64(4096+1024+4), "the buffer, and what was claimed ahead when it filled")
		require.NoError(t, f.raw.Del(ctx, k.Results).Err())
		f.until("every result", func() bool { f.readAll(); return len(f.results) == n })
		f.until("claims are gone", func() bool { return f.size(k.Claims) == 0 })
		f.requireNothingLeft()
		f.until("the worker is ready", w.Ready)
	})
}

func TestDuplicatePushesGetOneResult(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		ctx, k := context.Background(), f.queue.Keys
		f.start()
		f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
		require.NoError(t, f.raw.LPush(ctx, k.Pending, "x", "x", "x").Err())
		f.result("x")
		require.NoError(t, f.raw.LPush(ctx, k.Pending, "x").Err())
		f.submit("after", `{"workflow":"add","params":{"A":1,"B":2}}`)
		f.result("after")
		f.submitMany(3000, "other", `{"workflow":"add","params":{"A":1,"B":2}}`)
		f.until("all have ended", func() bool { f.readAll(); return len(f.results) == 3002 })
		require.NoError(t, f.raw.LPush(ctx, k.Pending, "x", "other0", "other2999").Err())
		f.until("all is gone", func() bool {
			return f.size(k.Claims) == 0 && f.raw.LLen(ctx, k.Pending).Val() == 0
		})
		f.readAll() // fails on a second result
		f.requireNothingLeft()
	})
}

// A flood of garbage is counted and logged a few times, and the worker goes on answering.
func TestControlFlood(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		w := f.start()
		ctx := context.Background()
		garbage := []string{"", "explode", "{", `{"v":1,"command":"drain","worker":"nobody"}`, strings.Repeat("x", 5000), "\x00\xff\r\n", "drain two words"}
		for range 100 {
			pipe := f.raw.Pipeline()
			for i := range 1000 {
				pipe.Publish(ctx, f.queue.Keys.Control, garbage[i%len(garbage)])
			}
			_, err := pipe.Exec(ctx)
			require.NoError(t, err)
		}
		f.until("an answer", func() bool { // the doorbell may be lost to the flood; an operator rings again
			f.publish(`{"v":1,"command":"ping","request_id":"after"}`)
			return f.raw.LLen(ctx, f.queue.Keys.Receipts("after")).Val() > 0
		})
		require.Equal(t, control.Accepted, f.receipt("after").Outcome)
		require.Equal(t, execution.Active, w.State())
	})
}

// A context of a hundred megabytes costs one rejected result: it is never read.
func TestHugeContextIsNeverRead(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		f.start()
		f.submit("huge", strings.Repeat("x", 100<<20))
		r := f.result("huge")
		require.Equal(t, execution.Rejected, r.Status)
		require.Equal(t, "context is 104857600 bytes, expected at most 1048576", r.Err.Message)
	})
}

// Executions of one claim share its token. That one of them has ended says nothing about the others: a lost reply must not
// make the worker run them again.
func TestLostClaimReplyLeavesAloneWhatRuns(t *testing.T) {
	t.Parallel()
	s := newStage()
	f, proxy := behindProxy(t, s.mux())
	f.options.Lease = time.Hour
	f.submit("ended", `{"workflow":"unknown"}`)
	f.submit("runs", `{"workflow":"hold"}`)
	f.start()
	require.Equal(t, "runs", s.awaitBegun(t))
	require.Equal(t, execution.Rejected, f.result("ended").Status)
	lost := proxy.DropReply("claim", 1)
	f.submit("first", `{"workflow":"hold"}`) // by a claim that waits already
	require.Equal(t, "first", s.awaitBegun(t))
	f.submit("next", `{"workflow":"hold"}`)
	require.Equal(t, "next", s.awaitBegun(t), "the claim whose reply was lost is found")
	require.True(t, lost.Fired())
	f.submit("last", `{"workflow":"hold"}`)
	require.Equal(t, "last", s.awaitBegun(t), "and nothing else was begun")
	close(s.open)
	for _, id := range []string{"runs", "first", "next", "last"} {
		require.Equal(t, execution.Succeeded, f.result(id).Status)
	}
	require.EqualValues(t, 4, s.ended.Load())
}
