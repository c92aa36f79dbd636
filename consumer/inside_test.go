package consumer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/pool"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

func newWorker(t *testing.T) *Worker {
	t.Helper()
	w, err := New(Options{Runner: runner.NewMux(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.queue.Close()) })
	return w
}

// What still waits to be told when a worker leaves does not keep it, however long Redis is silent.
func TestTheLastMailHasADeadline(t *testing.T) {
	t.Parallel()
	w := newWorker(t)
	synctest.Test(t, func(t *testing.T) {
		for range 1000 {
			w.send("event", func(ctx context.Context, _ *queue.Queue) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}
		begun := time.Now()
		w.lastMail()
		require.Equal(t, flushTimeout, time.Since(begun)) // of the bubble's clock
	})
}

// A result that waits for Redis keeps what is to be written, and not the context that it came from; and its error counts.
func TestWhatWaitsForRedisIsCounted(t *testing.T) {
	t.Parallel()
	w := newWorker(t)
	document := []byte(`{"workflow":"w","reply_ttl_seconds":5,"meta":{"a":1},"params":{"b":"` + strings.Repeat("x", heavy) + `"}}`)
	parsed, err := execution.ParseContext(document)
	require.NoError(t, err)
	j := newJob(&queue.Claimed{ID: "x", Token: "t", Context: document}, &arrival{incarnation: "i"})
	j.take(parsed, len(document))
	failed := &execution.Error{Type: "T", Message: strings.Repeat("m", 1000), Traceback: strings.Repeat("t", 1000)}
	it := w.finish(j, &pool.Outcome{Task: pool.Task{Job: j}, Status: execution.Failed, Err: failed})
	require.Zero(t, it.job.context)
	require.Nil(t, it.job.call.Params)
	require.Equal(t, j.held(), it.job.held())
	require.Equal(t, json.RawMessage(`{"a":1}`), it.result.Meta)
	require.Less(t, cap(it.result.Meta), heavy, "a copy")
	require.Equal(t, 5*time.Second, it.commit().ReplyTTL)
	require.Greater(t, it.bytes(), 2000)
	require.Less(t, it.bytes(), heavy)
}

// When Redis's clock is set, or this machine slept, everybody seems silent: that is no reason to declare anybody dead.
func TestAClockThatWasSetIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorker(t)
	h, at := &heart{w: w}, time.Now()
	require.False(t, h.stepped(&moment{1_000_000, at}), "the first look")
	w.clock.Store(&moment{1_000_000, at})
	later := func(theirs, ours time.Duration) *moment {
		return &moment{1_000_000 + theirs.Milliseconds(), at.Add(ours)}
	}
	require.False(t, h.stepped(later(3*time.Second, 3*time.Second)))
	require.False(t, h.stepped(later(3*time.Second, 6*time.Second)), "a reply that took long")
	require.True(t, h.stepped(later(time.Hour, 3*time.Second)))
	require.True(t, h.stepped(later(-time.Hour, 3*time.Second)))
	require.True(t, h.stepped(later(12*time.Second, 3*time.Second)))
}

// What idle workers send comes together by Redis's clock, whatever theirs show, and never later than without that.
func TestPausesOfAFleetEndTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(t)
		for _, redisMS := range []int64{1_795_000_000_000, 1_795_000_000_001, 1_795_000_000_099, 77} {
			w.clock.Store(&moment{redisMS, time.Now().Add(-3 * time.Second)})
			for _, pause := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 10 * time.Second / 3} {
				got := w.coalesced(pause)
				require.LessOrEqual(t, got, pause)
				require.Greater(t, got, pause-slot)
				ends := time.Duration(redisMS)*time.Millisecond + 3*time.Second + got
				require.Less(t, ends%slot, time.Millisecond, "%d, %s", redisMS, pause)
			}
			require.Equal(t, 100*time.Millisecond, w.coalesced(100*time.Millisecond), "a slot would be most of it")
		}
	})
}

// quick is a job that takes no time.
type quick struct{}

func (quick) Run(context.Context) (json.RawMessage, error) { return nil, nil }

// A claim that waits for something to be pushed takes what there are slots for and no more: by the time it is answered, what was
// learned of short executions may be wrong.
func TestAClaimThatWaitsIsForFreeSlots(t *testing.T) {
	t.Parallel()
	w := newWorker(t)
	w.registered.Store(true)
	ended := make(chan struct{}, 100)
	w.pool = pool.New(pool.Options{Concurrency: 4, Done: func(pool.Outcome) { ended <- struct{}{} }})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.pool.Run(ctx) })
	defer running.Wait()
	defer stop()
	f := &fetcher{w: w}
	require.Eventually(t, func() bool { // it has learned, and looks while that is fresh
		w.pool.Submit(pool.Task{Job: quick{}})
		<-ended
		return f.awaitRoom(ctx) > 4
	}, 20*time.Second, time.Millisecond)
	f.idle = true
	require.LessOrEqual(t, f.awaitRoom(ctx), 4)
}

// What is given back runs in the order in which it was submitted, also where it is more than one batch.
func TestWhatIsGivenBackKeepsItsOrder(t *testing.T) {
	t.Parallel()
	server := redistest.Mini(t)
	w, err := New(Options{RedisURL: server.URL(), Prefix: server.Prefix, Runner: runner.NewMux(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { _ = w.queue.Close() }()
	const n = maxBatchItems + 88 // the second batch is the sooner written
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint("e", i))
		require.NoError(t, w.queue.Submit(t.Context(), queue.Submission{ID: execution.ID(ids[i]), Context: []byte(`{"workflow":"w"}`)}))
	}
	me := w.Incarnation()
	require.NoError(t, w.queue.Register(t.Context(), queue.Registration{Incarnation: me, Lease: time.Hour}))
	var jobs []*job
	for seq := int64(1); len(jobs) < n; seq++ {
		reply, err := w.queue.Claim(t.Context(), queue.Claim{Incarnation: me, Seq: seq, Want: n, MaxContextBytes: 1 << 20})
		require.NoError(t, err)
		for _, c := range reply.Claimed {
			jobs = append(jobs, newJob(&c, &arrival{incarnation: me}))
		}
	}
	w.ledger.add(jobs)
	w.release(jobs...)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.releaser.Run(ctx) })
	for w.ledger.size() > 0 {
		<-w.changed
	}
	stop()
	running.Wait()
	pending, err := server.Client().LRange(t.Context(), w.queue.Keys.Pending, 0, -1).Result()
	require.NoError(t, err)
	slices.Reverse(pending) // it is taken from the right
	require.Equal(t, ids, pending)
}

// Batches are what was added, in order, whatever is added meanwhile; and the space that a crowd needed is given up after it.
func TestTheBufferKeepsItsOrderAndNotItsSize(t *testing.T) {
	t.Parallel()
	c := newCommitter(newWorker(t))
	added, taken := 0, 0
	add := func(n int) {
		for range n {
			c.add(item{job: &job{place: int32(added)}, kind: commit})
			added++
		}
	}
	var batch []item
	add(3 * maxBufferItems)
	for taken < added {
		batch = c.take(batch[:0])
		require.NotEmpty(t, batch)
		for i := range batch {
			require.EqualValues(t, taken, batch[i].job.place)
			taken++
		}
		if added < 4*maxBufferItems {
			add(300)
		}
	}
	require.Empty(t, c.take(nil))
	require.LessOrEqual(t, cap(c.items), maxBufferItems)
	add(1)
	require.Len(t, c.take(nil), 1)
}
