package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
)

const grace = 10 * time.Second

// job is a function as a pool.Job.
type job func(ctx context.Context) (json.RawMessage, error)

func (j job) Run(ctx context.Context) (json.RawMessage, error) { return j(ctx) }

func returns(value string) job {
	return func(context.Context) (json.RawMessage, error) { return json.RawMessage(value), nil }
}

// listens waits for its cancellation and returns the cause.
func listens(ctx context.Context) (json.RawMessage, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// bench is a pool that runs in a synctest bubble, and what it reported.
type bench struct {
	*pool.Pool
	t    *testing.T
	stop func()

	mu   sync.Mutex
	done map[string][]pool.Outcome
	late map[string][]pool.Outcome
}

// setup starts a pool that ends with the test.
func setup(t *testing.T, concurrency int) *bench {
	t.Helper()
	return setupWith(t, concurrency, grace)
}

func setupWith(t *testing.T, concurrency int, grace time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, done: map[string][]pool.Outcome{}, late: map[string][]pool.Outcome{}}
	b.Pool = pool.New(pool.Options{Concurrency: concurrency, CancelGrace: grace, Done: b.note(b.done), Late: b.note(b.late)})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = b.Run(ctx) })
	b.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(b.stop)
	synctest.Wait()
	return b
}

func (b *bench) note(into map[string][]pool.Outcome) func(pool.Outcome) {
	return func(o pool.Outcome) {
		b.mu.Lock()
		defer b.mu.Unlock()
		into[o.Task.ID] = append(into[o.Task.ID], o)
	}
}

// only returns the one outcome of a task.
func (b *bench) only(id string) pool.Outcome {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Len(b.t, b.done[id], 1, id)
	return b.done[id][0]
}

func (b *bench) none(id string) {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.done[id])
}

func (b *bench) submit(id string, timeout time.Duration, j job) {
	b.Submit(pool.Task{ID: id, Timeout: timeout, Job: j})
	synctest.Wait()
}

// advance lets the bubble's clock run.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

func TestDispatchExecution(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("x", time.Minute, returns(`{"a":1}`))
		o := b.only("x")
		require.Equal(t, execution.Succeeded, o.Status)
		require.JSONEq(t, `{"a":1}`, string(o.Value))
		require.Nil(t, o.Err)
		require.Equal(t, pool.Figures{}, b.Figures())
	})
}

func TestMultipleConcurrent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 3)
		var at, most atomic.Int64
		open := make(chan struct{})
		held := job(func(context.Context) (json.RawMessage, error) {
			most.Store(max(most.Load(), at.Add(1)))
			<-open
			at.Add(-1)
			return nil, nil
		})
		require.Equal(t, 3, b.Room())
		for i := range 3 {
			b.submit(fmt.Sprint(i), 0, held)
		}
		require.EqualValues(t, 3, at.Load(), "three run side by side")
		require.Zero(t, b.Room())
		b.submit("waits", 0, held)
		require.EqualValues(t, 3, at.Load(), "the fourth waits for a slot")
		require.True(t, b.Waiting())
		close(open)
		for _, id := range []string{"0", "1", "2", "waits"} {
			require.Equal(t, execution.Succeeded, b.only(id).Status)
		}
		require.EqualValues(t, 3, most.Load())
	})
}

func TestTimeoutIsCancelledWithACause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		started := time.Now()
		b.submit("x", 5*time.Second, func(ctx context.Context) (json.RawMessage, error) {
			until, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, 5*time.Second, until.Sub(started))
			child, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-child.Done()
			require.ErrorIs(t, context.Cause(child), context.DeadlineExceeded)
			return nil, fmt.Errorf("gave up: %w", context.Cause(child))
		})
		advance(5 * time.Second)
		o := b.only("x")
		require.Equal(t, execution.TimedOut, o.Status)
		require.ErrorIs(t, o.Cause, pool.ErrTimeout)
		require.Equal(t, execution.TypeTimeout, o.Err.Type)
		require.Equal(t, 5*time.Second, o.Finished.Sub(o.Started))
	})
}

// The goroutine that will not stop, by a name that its stack must show.
func deafHandler(open chan struct{}) job {
	return func(context.Context) (json.RawMessage, error) {
		<-open
		return json.RawMessage(`"late"`), nil
	}
}

func TestStuckAfterGrace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		open := make(chan struct{})
		b.submit("deaf", time.Second, deafHandler(open))
		advance(time.Second + grace - time.Nanosecond)
		b.none("deaf")
		advance(time.Nanosecond)
		o := b.only("deaf")
		require.Equal(t, execution.Stuck, o.Status)
		require.ErrorIs(t, o.Cause, pool.ErrTimeout)
		require.Contains(t, o.Err.Traceback, "deafHandler")
		require.NotContains(t, o.Err.Traceback, "TestStuckAfterGrace(", "no other goroutine's stack")
		require.Equal(t, pool.Figures{Stuck: 1}, b.Figures())
		require.Equal(t, 1, b.Room(), "its slot is given up")
		require.True(t, b.Running(false)[0].Stuck)

		b.submit("well", 0, returns("1"))
		require.Equal(t, execution.Succeeded, b.only("well").Status, "the other slot works on")
		close(open)
		synctest.Wait()
		require.Len(t, b.late["deaf"], 1)
		require.Equal(t, execution.Succeeded, b.late["deaf"][0].Status)
		b.only("deaf") // still one
		require.Equal(t, pool.Figures{}, b.Figures())
		require.GreaterOrEqual(t, b.Room(), 2, "the slot is regained")
		b.submit("again", 0, returns("1"))
		b.only("again")
	})
}

func TestCompletionDuringGraceIsNotStuck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("slow", time.Second, func(ctx context.Context) (json.RawMessage, error) {
			<-ctx.Done()
			<-time.After(grace - time.Millisecond) // tidies up
			return nil, ctx.Err()
		})
		b.submit("done", 30*time.Second, func(ctx context.Context) (json.RawMessage, error) {
			<-ctx.Done()
			<-time.After(time.Second)
			return json.RawMessage(`"in spite of it"`), nil
		})
		advance(time.Minute)
		require.Equal(t, execution.TimedOut, b.only("slow").Status)
		require.Equal(t, execution.Succeeded, b.only("done").Status, "its work is done")
		require.Zero(t, b.Figures().Stuck)
		require.Empty(t, b.late)
	})
}

func TestCausesDecideTheOutcome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 4)
		for _, id := range []string{"cancelled", "shutdown", "lease", "first"} {
			b.submit(id, time.Hour, listens)
		}
		is := func(id string) func(pool.Task) bool { return func(t pool.Task) bool { return t.ID == id } }
		require.Equal(t, 1, b.Cancel(pool.ErrCancelled, is("cancelled")))
		require.Equal(t, 1, b.Cancel(pool.ErrShutdown, is("shutdown")))
		require.Equal(t, 1, b.Cancel(pool.ErrLeaseLost, is("lease")))
		require.Zero(t, b.Cancel(pool.ErrCancelled, is("nobody")))
		require.Equal(t, execution.Cancelled, b.only("cancelled").Status)
		require.Equal(t, execution.TypeCancelled, b.only("cancelled").Err.Type)
		for _, id := range []string{"shutdown", "lease"} {
			require.True(t, b.only(id).Interrupted, id)
			require.Empty(t, b.only(id).Status, id)
		}
		require.Equal(t, 1, b.CancelAll(pool.ErrCancelled))
		require.Equal(t, execution.Cancelled, b.only("first").Status)
	})
}

func TestFirstCauseCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("x", time.Second, func(ctx context.Context) (json.RawMessage, error) {
			<-ctx.Done()
			<-time.After(time.Second)
			return nil, context.Cause(ctx)
		})
		advance(time.Second)
		b.CancelAll(pool.ErrShutdown)
		advance(time.Second)
		require.Equal(t, execution.TimedOut, b.only("x").Status)
	})
}

// A worker that leaves has a deadline of its own and calls nobody stuck; a lost lease does take the slot away in the end.
func TestLadderOfShutdownAndLeaseLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		open := make(chan struct{})
		defer close(open)
		b.submit("shutdown", 0, deafHandler(open))
		b.CancelAll(pool.ErrShutdown)
		b.submit("lease", 0, deafHandler(open))
		b.Cancel(pool.ErrLeaseLost, func(t pool.Task) bool { return t.ID == "lease" })
		advance(time.Hour)
		b.none("shutdown")
		require.Equal(t, execution.Stuck, b.only("lease").Status)
		require.ErrorIs(t, b.only("lease").Cause, pool.ErrLeaseLost)
		require.Len(t, b.Abandon(), 1)
	})
}

// exits is an error that ends the goroutine of whoever wants to know what it says.
type exits struct{}

func (exits) Error() string { runtime.Goexit(); return "" }

func TestErrorsPanicsAndGoexit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("error", 0, func(context.Context) (json.RawMessage, error) { return nil, errors.New("no") })
		require.Equal(t, execution.TypeHandlerError, b.only("error").Err.Type)
		require.Equal(t, execution.Failed, b.only("error").Status)

		refused := &execution.Error{Type: "Odd", Message: "m", Traceback: "t", Rejected: true}
		b.submit("refused", 0, func(context.Context) (json.RawMessage, error) { return nil, fmt.Errorf("wrapped: %w", refused) })
		require.Equal(t, execution.Rejected, b.only("refused").Status)
		require.Equal(t, refused, b.only("refused").Err)

		b.submit("panic", 0, func(context.Context) (json.RawMessage, error) { panic("boom") })
		require.Equal(t, execution.Failed, b.only("panic").Status)
		require.Equal(t, execution.TypePanic, b.only("panic").Err.Type)
		require.Contains(t, b.only("panic").Err.Message, "boom")
		require.Contains(t, b.only("panic").Err.Traceback, "TestErrorsPanicsAndGoexit")

		b.submit("goexit", 0, func(context.Context) (json.RawMessage, error) { runtime.Goexit(); return nil, nil })
		require.Equal(t, execution.TypePanic, b.only("goexit").Err.Type)
		b.submit("goexit of an error", 0, func(context.Context) (json.RawMessage, error) { return nil, exits{} })
		require.Equal(t, execution.TypePanic, b.only("goexit of an error").Err.Type)
		b.submit("goexit of what was thrown", 0, func(context.Context) (json.RawMessage, error) { panic(exits{}) })
		require.Equal(t, execution.TypePanic, b.only("goexit of what was thrown").Err.Type)
		b.submit("after", 0, returns("1"))
		require.Equal(t, execution.Succeeded, b.only("after").Status, "the slot goes on")
	})
}

func TestGoexitOfAStuckTask(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		open := make(chan struct{})
		b.submit("x", time.Second, func(context.Context) (json.RawMessage, error) {
			<-open
			runtime.Goexit()
			return nil, nil
		})
		advance(time.Second + grace)
		require.Equal(t, execution.Stuck, b.only("x").Status)
		close(open)
		synctest.Wait()
		require.Len(t, b.late["x"], 1)
		b.submit("after", 0, returns("1"))
		require.Equal(t, execution.Succeeded, b.only("after").Status)
	})
}

func TestAbandonHandsBackWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		open := make(chan struct{})
		b.submit("deaf", 0, deafHandler(open))
		left := b.Abandon()
		require.Len(t, left, 1)
		require.Equal(t, "deaf", left[0].ID)
		require.Zero(t, b.Figures().Busy)
		b.stop() // does not wait for it
		close(open)
		b.none("deaf")
		require.Empty(t, b.late)
	})
}

func TestTakeBackKeepsTheOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("runs", 0, listens)
		for _, id := range []string{"a", "b", "c"} {
			b.submit(id, 0, returns("1"))
		}
		back := b.TakeBack()
		require.Len(t, back, 3)
		require.Equal(t, []string{"a", "b", "c"}, []string{back[0].ID, back[1].ID, back[2].ID})
		require.Equal(t, 1, b.Figures().Busy)
		require.Empty(t, b.TakeBack())
		b.CancelAll(pool.ErrCancelled)
		b.none("a")
	})
}

func TestRoomFollowsTheServiceTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		takes := func(d time.Duration) job {
			return func(context.Context) (json.RawMessage, error) { <-time.After(d); return nil, nil }
		}
		require.Equal(t, 2, b.Room(), "nothing is known: no claiming ahead")
		for i := range 100 {
			b.submit(fmt.Sprint("short", i), 0, takes(100*time.Microsecond))
			advance(100 * time.Microsecond)
		}
		room := b.Room()
		require.InDelta(t, 202, room, 30, "two slots, and about 10 ms of 100 µs on each")
		for i := range room {
			b.Submit(pool.Task{ID: fmt.Sprint("many", i), Job: takes(100 * time.Microsecond)})
		}
		require.Zero(t, b.Room(), "full")
		require.False(t, b.Stalled())
		advance(time.Second)
		for i := range 50 {
			b.submit(fmt.Sprint("long", i), 0, takes(time.Minute))
			advance(time.Minute)
		}
		require.Equal(t, 2, b.Room(), "executions of a minute are not claimed ahead")
		b.submit("x", 0, listens)
		b.submit("y", 0, listens)
		b.submit("waits", 0, returns("1"))
		advance(pool.AheadWait + time.Millisecond)
		require.True(t, b.Stalled())
		b.CancelAll(pool.ErrCancelled)
	})
}

func TestSubmitBeyondTheQueuePanics(t *testing.T) {
	t.Parallel()
	p := pool.New(pool.Options{Concurrency: 1, Done: func(pool.Outcome) {}}) // does not run
	for range 1 + pool.MaxAhead {
		p.Submit(pool.Task{Job: returns("1")})
	}
	require.Panics(t, func() { p.Submit(pool.Task{Job: returns("1")}) })
}

// Whatever races with whatever, each task ends in exactly one place.
func TestEveryTaskEndsInExactlyOnePlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 2000
		b := setup(t, 50)
		random := rand.New(rand.NewPCG(1, 2))
		ended := map[string]int{}
		for i := 0; i < n; {
			for range min(b.Room(), n-i) {
				lasts := []time.Duration{0, time.Second, time.Second + grace, time.Hour}[random.IntN(4)]
				b.Submit(pool.Task{ID: fmt.Sprint(i), Timeout: time.Second, Job: job(func(context.Context) (json.RawMessage, error) {
					<-time.After(lasts)
					return nil, nil
				})})
				i++
			}
			switch random.IntN(3) {
			case 0:
				for _, task := range b.TakeBack() {
					ended[task.ID]++
				}
			case 1:
				b.Cancel(pool.ErrCancelled, func(pool.Task) bool { return random.IntN(2) == 0 })
			}
			advance(time.Duration(random.IntN(int(3 * time.Second))))
		}
		for _, task := range b.TakeBack() {
			ended[task.ID]++
		}
		for _, task := range b.Abandon() {
			ended[task.ID]++
		}
		advance(2 * time.Hour)
		b.mu.Lock()
		defer b.mu.Unlock()
		for i := range n {
			require.Equal(t, 1, ended[fmt.Sprint(i)]+len(b.done[fmt.Sprint(i)]), i)
		}
	})
}

func BenchmarkDispatch(b *testing.B) {
	var left sync.WaitGroup
	p := pool.New(pool.Options{Concurrency: 16, Done: func(pool.Outcome) { left.Done() }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			left.Wait()
		}
		left.Add(1)
		p.Submit(pool.Task{Timeout: time.Minute, Job: returns("1")})
	}
	left.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
	cancel()
	running.Wait()
}
