package consumer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

func newWorker(o consumer.Options) (*consumer.Worker, error) { return consumer.New(o) }

// stage is a handler whose executions say when they start and end when told to. Those named "deaf" do not hear of their
// cancellation.
type stage struct {
	begun chan string
	open  chan struct{}
	ended atomic.Int64
}

func newStage() *stage { return &stage{begun: make(chan string, 100), open: make(chan struct{})} }

func (s *stage) mux() *runner.Mux {
	mux := runner.NewMux()
	mux.Handle("hold", runner.Func(s.hold))
	mux.Handle("deaf", runner.Func(s.deaf))
	return mux
}

func (s *stage) hold(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	s.begun <- string(call.ID)
	defer s.ended.Add(1)
	select {
	case <-s.open:
		return json.RawMessage(`"held"`), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *stage) deaf(_ context.Context, call *runner.Call) (json.RawMessage, error) {
	s.begun <- string(call.ID)
	defer s.ended.Add(1)
	<-s.open
	return json.RawMessage(`"late"`), nil
}

func (s *stage) awaitBegun(t *testing.T) string {
	t.Helper()
	select {
	case id := <-s.begun:
		return id
	case <-time.After(patience):
		require.FailNow(t, "nothing begins")
		return ""
	}
}

// onStage runs a test against every Redis, each with a stage of its own.
func onStage(t *testing.T, test func(t *testing.T, f *fleet, s *stage)) {
	t.Helper()
	each(t, nil, func(t *testing.T, f *fleet) {
		s := newStage()
		t.Cleanup(func() {
			select {
			case <-s.open:
			default:
				close(s.open)
			}
		})
		f.options.Runner = s.mux()
		test(t, f, s)
	})
}

func (f *fleet) publish(message string) {
	f.t.Helper()
	require.NoError(f.t, f.raw.Publish(context.Background(), f.queue.Keys.Control, message).Err())
}

func (f *fleet) awaitState(w *started, state execution.State) {
	f.t.Helper()
	f.until("state "+string(state), func() bool { return w.State() == state })
}

func TestStopAcceptingWhenDraining(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		w := f.start()
		f.submit("first", `{"workflow":"hold"}`)
		require.Equal(t, "first", s.awaitBegun(t))
		f.publish("drain")
		f.awaitState(w, execution.Draining)
		f.submit("second", `{"workflow":"hold"}`)
		close(s.open) // only now may the first end: the worker waited for it
		require.Equal(t, execution.ExitDone, w.exits())
		require.Equal(t, execution.Succeeded, f.result("first").Status)
		require.Equal(t, execution.Exiting, w.State())
		pending, err := f.raw.LRange(context.Background(), f.queue.Keys.Pending, 0, -1).Result()
		require.NoError(t, err)
		require.Equal(t, []string{"second"}, pending, "a draining worker accepts nothing")
		require.Empty(t, f.results["second"])
		require.Zero(t, f.size(f.queue.Keys.Claims))
		registered, err := f.queue.Workers(context.Background())
		require.NoError(t, err)
		require.Empty(t, registered)
	})
}

func TestRecycleAsksForAReplacement(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		w := f.start()
		f.submit("x", `{"workflow":"hold"}`)
		s.awaitBegun(t)
		f.publish(`{"v":1,"command":"recycle","worker":"*","request_id":"r1"}`)
		f.awaitState(w, execution.PendingKill)
		f.publish(`{"v":1,"command":"drain","worker":"*","request_id":"r2"}`)
		require.Equal(t, control.Accepted, f.receipt("r1").Outcome)
		require.Equal(t, control.Ignored, f.receipt("r2").Outcome, "states only move forward")
		close(s.open)
		require.Equal(t, execution.ExitReplace, w.exits())
		require.Equal(t, execution.Succeeded, f.result("x").Status)
	})
}

func (f *fleet) receipt(request string) *control.Receipt {
	f.t.Helper()
	reply, err := f.raw.BLPop(context.Background(), patience, f.queue.Keys.Receipts(request)).Result()
	require.NoError(f.t, err)
	r := &control.Receipt{}
	require.NoError(f.t, json.Unmarshal([]byte(reply[1]), r))
	return r
}

// The ladder to its end: stuck result, drain at the limit, the healthy execution finishes, exit 75, and what returns after
// all is kept in late and nowhere else.
func TestExitsWhenOnlyStuckRemain(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		healthy := newStage()
		mux := s.mux()
		mux.Handle("healthy", runner.Func(healthy.hold))
		f.options.Runner = mux
		w := f.start()
		f.submit("ok", `{"workflow":"healthy"}`)
		healthy.awaitBegun(t)
		f.submit("stuck", `{"workflow":"deaf","timeout_seconds":0.05}`)
		s.awaitBegun(t)
		r := f.result("stuck")
		require.Equal(t, execution.Stuck, r.Status)
		require.Equal(t, "ExecutionStuck", r.Err.Type)
		require.Contains(t, r.Err.Traceback, "(*stage).deaf", "the stack of the very goroutine")
		f.awaitState(w, execution.Draining)
		require.Zero(t, healthy.ended.Load(), "the healthy execution is not killed on the way")
		close(healthy.open)
		require.Equal(t, execution.ExitReplace, w.exits())
		require.Equal(t, execution.Succeeded, f.result("ok").Status)
		require.Zero(t, s.ended.Load(), "the stuck one still runs")
		f.requireNothingLeft()
	})
}

func TestStuckThatReturnsGoesToLate(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		f.options.StuckLimit = 2
		w := f.start()
		f.submit("stuck", `{"workflow":"deaf","timeout_seconds":0.05}`)
		require.Equal(t, execution.Stuck, f.result("stuck").Status)
		close(s.open)
		f.until("the late outcome", func() bool {
			late, err := f.raw.XRange(context.Background(), f.queue.Keys.Late, "-", "+").Result()
			return err == nil && len(late) == 1 && late[0].Values["result"] == `"late"` && late[0].Values["late_because"] == "was stuck"
		})
		require.Equal(t, execution.Active, w.State())
		f.readAll()
		require.Len(t, f.results["stuck"], 1)
	})
}

func TestShutdownReleasesWhatDoesNotFinish(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		f.options.ShutdownTimeout = 200 * time.Millisecond
		w := f.start()
		f.submit("hears", `{"workflow":"hold"}`)
		s.awaitBegun(t)
		f.submit("deaf", `{"workflow":"deaf"}`)
		s.awaitBegun(t)
		w.stop()
		require.Equal(t, execution.ExitDone, w.exits())
		f.readAll()
		require.Empty(t, f.results, "being interrupted is nobody's result")
		pending, err := f.raw.LRange(context.Background(), f.queue.Keys.Pending, 0, -1).Result()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"hears", "deaf"}, pending)
		require.Zero(t, f.size(f.queue.Keys.Claims))
		require.Zero(t, f.size(f.queue.Keys.Attempts), "a shutdown costs no attempt")
		close(s.open)
		f.start()
		require.Equal(t, 1, f.result("hears").Attempt)
		require.Equal(t, 1, f.result("deaf").Attempt)
	})
}

func TestSecondSignalLeavesAtOnceStillReleasing(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		f.options.ShutdownTimeout = time.Hour
		w := f.start()
		f.submit("deaf", `{"workflow":"deaf"}`)
		s.awaitBegun(t)
		w.stop()
		f.awaitState(w, execution.Exiting)
		w.Hurry()
		require.Equal(t, execution.ExitDone, w.exits())
		pending, err := f.raw.LRange(context.Background(), f.queue.Keys.Pending, 0, -1).Result()
		require.NoError(t, err)
		require.Equal(t, []string{"deaf"}, pending)
	})
}

func TestPauseAndResume(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		close(s.open)
		f.start()
		f.publish(`{"v":1,"command":"pause","request_id":"p"}`)
		require.Equal(t, control.Accepted, f.receipt("p").Outcome)
		f.submit("x", `{"workflow":"hold"}`)
		f.publish(`{"v":1,"command":"ping","request_id":"q"}`)
		require.Equal(t, execution.Active, f.receipt("q").State)
		f.readAll()
		require.Empty(t, f.results)
		f.publish(`{"v":1,"command":"resume","request_id":"r"}`)
		require.Equal(t, control.Accepted, f.receipt("r").Outcome)
		require.Equal(t, execution.Succeeded, f.result("x").Status)
	})
}

// A worker that starts paused is as one that was paused: what became of commands is told, and resume lets it claim.
func TestStartsPaused(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		close(s.open)
		told := make(chan string, 10)
		f.options.Pause = execution.PausedByOperator
		f.options.OnCommand = func(c control.Command, outcome control.ReceiptOutcome, _ bool) {
			told <- string(c.Verb) + " " + string(outcome)
		}
		f.start()
		f.submit("x", `{"workflow":"hold"}`)
		f.publish(`{"v":1,"command":"pause","request_id":"p"}`)
		require.Equal(t, control.Ignored, f.receipt("p").Outcome)
		f.readAll()
		require.Empty(t, f.results)
		f.publish(`{"v":1,"command":"resume","request_id":"r"}`)
		require.Equal(t, control.Accepted, f.receipt("r").Outcome)
		require.Equal(t, execution.Succeeded, f.result("x").Status)
		require.Equal(t, "pause ignored", <-told)
		require.Equal(t, "resume accepted", <-told)
	})
}

func TestCancelRunningAndWaiting(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		f.options.Concurrency = 1
		f.start()
		f.submit("runs", `{"workflow":"hold"}`)
		s.awaitBegun(t)
		f.publish(`{"v":1,"command":"cancel","execution_id":"runs","request_id":"c"}`)
		require.Equal(t, control.Accepted, f.receipt("c").Outcome)
		r := f.result("runs")
		require.Equal(t, execution.Cancelled, r.Status)
		require.Equal(t, "ExecutionCancelled", r.Err.Type)
	})
}

func TestRefusesWhatItDoesNotUnderstand(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, _ *stage) {
		w := f.start()
		f.publish(`{"v":1,"command":"ping","request_id":"up"}`)
		f.receipt("up")
		f.publish("explode")
		f.publish(`{"v":1,"command":"explode","request_id":"x1"}`)
		f.publish(`{"v":2,"command":"drain","request_id":"x2"}`)
		f.publish(`{"v":1,"command":"drain","worker":"nobody-*","request_id":"x3"}`)
		require.Equal(t, control.Refused, f.receipt("x1").Outcome)
		require.Equal(t, control.Refused, f.receipt("x2").Outcome)
		require.Equal(t, execution.Active, w.State())
	})
}

// What was claimed ahead, behind an execution that turns out to be a long one, does not wait for it: another worker runs it meanwhile.
func TestWhatWaitsBehindALongOneRunsElsewhere(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		mux := s.mux()
		mux.Handle("quick", runner.Func(func(context.Context, *runner.Call) (json.RawMessage, error) { return nil, nil }))
		f.options.Runner, f.options.Concurrency = mux, 1
		f.submitMany(1000, "first", `{"workflow":"quick"}`) // it learns that executions are short
		f.submit("long", `{"workflow":"hold"}`)
		f.submitMany(1000, "behind", `{"workflow":"quick"}`)
		f.start()
		require.Equal(t, "long", s.awaitBegun(t))
		other := f.start()
		for i := range 1000 {
			require.Equal(t, other.Incarnation(), f.result(fmt.Sprint("behind", i)).Worker)
		}
		require.Zero(t, s.ended.Load(), "the long one runs")
	})
}
