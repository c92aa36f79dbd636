package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// treacherous is an error whose message cannot be had from a nil pointer, which Go programs return by mistake.
type treacherous struct{ says string }

func (e *treacherous) Error() string { return e.says }

func TestErrorsThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		b.submit("theirs", 0, func(context.Context) (json.RawMessage, error) { var e *treacherous; return nil, e })
		o := b.only("theirs")
		require.Equal(t, execution.Failed, o.Status)
		require.Equal(t, execution.TypePanic, o.Err.Type, "it costs the execution, not the process")
		require.Contains(t, o.Err.Traceback, "treacherous")

		b.submit("ours", 0, func(context.Context) (json.RawMessage, error) { var e *execution.Error; return json.RawMessage("1"), e })
		o = b.only("ours")
		require.Equal(t, execution.Failed, o.Status, "a non-nil error is a failure")
		require.Equal(t, execution.TypeHandlerError, o.Err.Type)

		b.submit("value", 0, func(context.Context) (json.RawMessage, error) { panic(&treacherous{"as a value"}) })
		require.Contains(t, b.only("value").Err.Message, "as a value")
		b.submit("after", 0, returns("1"))
		require.Equal(t, execution.Succeeded, b.only("after").Status, "the slot goes on")
	})
}

// What an operator sees of a task: when it began, when it must end, and why it was cancelled.
func TestRunningDescribesWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		open, began := make(chan struct{}), time.Now()
		defer close(open)
		b.submit("deaf", time.Minute, deafHandler(open))
		b.submit("free", 0, listens)
		advance(time.Second)
		b.Cancel(pool.ErrCancelled, func(t pool.Task) bool { return t.ID == "deaf" })
		of := map[string]pool.Running{}
		for _, r := range b.Running(true) {
			of[r.ID] = r
		}
		require.Len(t, of, 2)
		require.NotEqual(t, of["deaf"].Slot, of["free"].Slot)
		deaf := of["deaf"]
		require.Equal(t, began, deaf.Started)
		require.Equal(t, began.Add(time.Minute), deaf.Deadline)
		require.Equal(t, began.Add(time.Second), deaf.Cancelled)
		require.ErrorIs(t, deaf.Cause, pool.ErrCancelled)
		require.Contains(t, deaf.Stack, "deafHandler")
		require.False(t, deaf.Stuck)
		require.Zero(t, of["free"].Deadline)
		require.Zero(t, of["free"].Cancelled)
		require.Empty(t, b.Running(false)[0].Stack, "stacks only for those who ask")
		b.CancelAll(pool.ErrShutdown)
	})
}

func TestHandlerSeesTheCauseItWasCancelledWith(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, cause := range []error{pool.ErrCancelled, pool.ErrShutdown, pool.ErrLeaseLost} {
			b, seen := setup(t, 1), make(chan error, 1)
			b.submit("x", 0, func(ctx context.Context) (json.RawMessage, error) {
				_, limited := ctx.Deadline()
				require.False(t, limited, "no timeout, no deadline")
				<-ctx.Done()
				seen <- context.Cause(ctx)
				return nil, ctx.Err()
			})
			b.CancelAll(cause)
			require.Equal(t, cause, <-seen)
			b.only("x")
		}
	})
}

// An operator's cancellation that came first is what the result says, though the timeout passes during the grace.
func TestTimeoutDuringTheGraceChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		open := make(chan struct{})
		defer close(open)
		b.submit("x", 2*time.Second, deafHandler(open))
		advance(time.Second)
		require.Equal(t, 1, b.CancelAll(pool.ErrCancelled))
		advance(grace - time.Nanosecond)
		b.none("x")
		advance(time.Nanosecond)
		require.ErrorIs(t, b.only("x").Cause, pool.ErrCancelled, "and the grace counts from the first cause")
	})
}

// A task that returns while it is being reported stuck is late after that, never before.
func TestLateFollowsStuck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []execution.Status
		open := make(chan struct{})
		note := func(o pool.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, o.Status)
		}
		p := pool.New(pool.Options{Concurrency: 1, CancelGrace: grace, Late: note, Done: func(o pool.Outcome) {
			close(open)             // now it returns
			<-time.After(time.Hour) // and has all the time it wants
			note(o)
		}})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx) })
		p.Submit(pool.Task{ID: "x", Timeout: time.Second, Job: deafHandler(open)})
		advance(2 * time.Hour)
		cancel()
		running.Wait()
		require.Equal(t, []execution.Status{execution.Stuck, execution.Succeeded}, said)
	})
}

func TestStuckTaskWithoutLateAndAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		open := make(chan struct{})
		var done sync.WaitGroup
		done.Add(1)
		p := pool.New(pool.Options{Concurrency: 1, CancelGrace: 0, Done: func(pool.Outcome) { done.Done() }})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx) })
		p.Submit(pool.Task{ID: "x", Timeout: time.Second, Job: deafHandler(open)})
		advance(time.Second)
		done.Wait()
		require.Zero(t, p.Room(), "the only slot is given up")
		cancel()
		running.Wait() // does not wait for it
		close(open)    // and its goroutine ends: the bubble would not
		synctest.Wait()
		require.Zero(t, p.Figures().Stuck)
	})
}

func TestNewRefusesMistakesInTheProgram(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { pool.New(pool.Options{Concurrency: 0, Done: func(pool.Outcome) {}}) })
	require.Panics(t, func() { pool.New(pool.Options{Concurrency: 1}) })
}

// Between the moment a goroutine takes a task and the moment the task runs, it must be in somebody's hands too.
func TestNoTaskIsOutOfReach(t *testing.T) {
	t.Parallel()
	const slots = 8
	for range 2000 {
		open := make(chan struct{})
		p := pool.New(pool.Options{Concurrency: slots, Done: func(pool.Outcome) { t.Error("nothing ended by itself") }})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx) })
		for range slots {
			p.Submit(pool.Task{Job: deafHandler(open)})
		}
		found := len(p.TakeBack()) + len(p.Abandon())
		cancel()
		close(open)
		running.Wait()
		require.Equal(t, slots, found)
	}
}

// ledger counts the places in which tasks ended.
type ledger struct {
	mu     sync.Mutex
	ended  map[string]int
	stacks []string // of the stuck
}

func (l *ledger) add(tasks ...pool.Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, task := range tasks {
		l.ended[task.ID]++
	}
}

func (l *ledger) done(o pool.Outcome) {
	l.add(o.Task)
	if o.Status == execution.Stuck {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stacks = append(l.stacks, o.Err.Traceback)
	}
}

// check asserts that n tasks ended once, and that each stuck one shows its goroutine inside the task, or on its way out.
func (l *ledger) check(t *testing.T, n int) {
	t.Helper()
	require.Len(t, l.ended, n)
	for id, times := range l.ended {
		require.Equal(t, 1, times, id)
	}
	require.NotEmpty(t, l.stacks)
	for _, stack := range l.stacks {
		require.Contains(t, stack, "pool.(*Pool).run(", "inside a task")
	}
}

func neverOrAt(ends time.Duration) job {
	return func(ctx context.Context) (json.RawMessage, error) {
		select {
		case <-time.After(ends):
		case <-ctx.Done():
			<-time.After(ends % (2 * grace)) // sometimes exactly the grace
		}
		return nil, ctx.Err()
	}
}

// fire acts at random every so often until over is closed.
func fire(over chan struct{}, seed uint64, every time.Duration, act func(*rand.Rand)) func() {
	return func() {
		random := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-over:
				return
			case <-time.After(every):
				act(random)
			}
		}
	}
}

// Everything at once, from goroutines of their own: cancelling, taking back, and abandoning in mid-flow.
func TestEveryTaskEndsOnceUnderFire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 3000
		l := &ledger{ended: map[string]int{}}
		p := pool.New(pool.Options{Concurrency: 40, CancelGrace: grace, Done: l.done})
		ctx, cancel := context.WithCancel(context.Background())
		var running, firing sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx) })
		over, causes := make(chan struct{}), []error{pool.ErrCancelled, pool.ErrLeaseLost, pool.ErrTimeout}
		firing.Go(fire(over, 1, time.Second, func(r *rand.Rand) { p.Cancel(causes[r.IntN(3)], func(pool.Task) bool { return r.IntN(4) == 0 }) }))
		firing.Go(fire(over, 2, 3*time.Second, func(*rand.Rand) { l.add(p.TakeBack()...) }))
		firing.Go(fire(over, 3, time.Minute, func(*rand.Rand) { l.add(p.Abandon()...) }))
		random := rand.New(rand.NewPCG(4, 1))
		for i := range n {
			for p.Figures().Busy >= 200 {
				<-time.After(time.Second)
			}
			ends := []time.Duration{0, time.Second, grace, 15 * time.Second, time.Hour + grace}[random.IntN(5)]
			p.Submit(pool.Task{ID: fmt.Sprint(i), Timeout: time.Duration(random.IntN(3)) * time.Second, Job: neverOrAt(ends)})
		}
		l.add(p.TakeBack()...)
		l.add(p.Abandon()...)
		cancel()
		running.Wait()
		close(over)
		firing.Wait()
		advance(2 * time.Hour) // those that were given up return
		l.check(t, n)
		require.Zero(t, p.Figures())
	})
}

// Tasks that hang together share one look at the goroutines, and each still shows its own, as it was after its cancellation.
func TestStuckTogetherEachShowsItsOwnStack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const grace = 100 * time.Millisecond // so that the second ten are cancelled after the first were looked at
		b := setupWith(t, 20, grace)
		open := make(chan struct{})
		defer close(open)
		for i := range 10 {
			b.submit(fmt.Sprint("first-", i), time.Second, deafHandler(open))
		}
		for i := range 10 {
			b.submit(fmt.Sprint("second-", i), 1500*time.Millisecond, func(ctx context.Context) (json.RawMessage, error) {
				<-ctx.Done()
				return deafAfterwards(open)
			})
		}
		advance(1500*time.Millisecond + grace)
		headers := map[string]bool{}
		for i := range 10 {
			first, second := b.only(fmt.Sprint("first-", i)).Err.Traceback, b.only(fmt.Sprint("second-", i)).Err.Traceback
			require.Contains(t, first, "deafHandler")
			require.Contains(t, second, "deafAfterwards", "not what it did before")
			for _, stack := range []string{first, second} {
				header, _, _ := strings.Cut(stack, " [")
				require.False(t, headers[header], "the stack of another task: %s", header)
				headers[header] = true
			}
		}
	})
}

func deafAfterwards(open chan struct{}) (json.RawMessage, error) {
	<-open
	return nil, nil
}
