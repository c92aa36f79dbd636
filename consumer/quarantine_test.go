package consumer_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/runner"
)

// Two executions that die for the third time each count as lost; the third one of the workflow is refused by every worker, others
// are not, and an operator lets it run again.
func TestQuarantine(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		ctx := context.Background()
		f.options.QuarantineThreshold, f.options.MaxRecoveries = 2, 1
		events := f.raw.Subscribe(ctx, f.queue.Keys.Events)
		defer func() { _ = events.Close() }()
		_, err := events.Receive(ctx)
		require.NoError(t, err)
		f.start()
		f.start()
		for _, id := range []string{"lost-1", "lost-2"} {
			require.NoError(t, f.raw.HSet(ctx, f.queue.Keys.Attempts, id, 2).Err())
			require.NoError(t, f.raw.HSet(ctx, f.queue.Keys.Recoveries, id, 2).Err())
			f.submit(id, `{"workflow":"add","params":{"A":1,"B":2}}`)
			require.Equal(t, execution.Lost, f.result(id).Status)
		}
		for told := false; !told; {
			message, err := events.ReceiveMessage(ctx)
			require.NoError(t, err)
			var e struct{ Type, Workflow string }
			require.NoError(t, json.Unmarshal([]byte(message.Payload), &e))
			told = e.Type == "workflow.quarantined" && e.Workflow == "add"
		}
		list, err := f.queue.Quarantine(ctx)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Contains(t, list[0].Why, "2 executions lost")
		f.untilStatus("refused", `{"workflow":"add","params":{"A":1,"B":2}}`, execution.Rejected)
		f.submit("other", `{"workflow":"fail"}`)
		require.Equal(t, execution.Failed, f.result("other").Status)
		removed, err := f.queue.QuarantineRemove(ctx, "add")
		require.NoError(t, err)
		require.True(t, removed)
		f.untilStatus("again", `{"workflow":"add","params":{"A":1,"B":2}}`, execution.Succeeded)
	})
}

// untilStatus submits executions until one of them ends with the status: every worker has heard then, or soon will.
func (f *fleet) untilStatus(name, document string, status execution.Status) {
	f.t.Helper()
	n := 0
	f.until(name, func() bool {
		n++
		id := name + string(rune('a'+n%26)) + string(rune('a'+n/26%26)) + string(rune('a'+n/676%26))
		f.submit(id, document)
		r := f.result(id)
		if status == execution.Rejected && r.Status == status {
			require.Equal(f.t, execution.TypeQuarantined, r.Err.Type)
		}
		return r.Status == status
	})
}

// What two workers died of runs alone: its neighbour ends first, and the next one waits until it has ended.
func TestRunsAloneAfterTwoDeaths(t *testing.T) {
	t.Parallel()
	finish, begun := make(chan struct{}), make(chan string, 10)
	running := make(chan int, 1)
	running <- 0
	mux := func() *runner.Mux {
		m := runner.NewMux()
		m.Handle("hold", runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
			n := <-running + 1
			running <- n
			defer func() { running <- <-running - 1 }()
			begun <- string(call.ID)
			if call.ID != "suspect" {
				<-finish
			}
			return json.Marshal(n)
		}))
		return m
	}
	f := setup(t, redistest.Shared(t), mux())
	ctx := context.Background()
	f.start()
	f.submit("neighbour", `{"workflow":"hold"}`)
	require.Equal(t, "neighbour", <-begun)
	f.suspect("suspect")
	f.submit("suspect", `{"workflow":"hold"}`)
	f.until("the suspect is claimed", func() bool { return f.raw.HExists(ctx, f.queue.Keys.Claims, "suspect").Val() })
	f.submit("next", `{"workflow":"hold"}`)
	require.Empty(t, begun, "it waits for its neighbour")
	close(finish)
	for _, id := range []string{"suspect", "next"} {
		require.Equal(t, id, <-begun)
		require.Equal(t, "1", string(f.result(id).Value), "alone")
	}
}

// suspect makes Redis believe that two workers died of an execution.
func (f *fleet) suspect(id string) {
	f.t.Helper()
	require.NoError(f.t, f.raw.HSet(context.Background(), f.queue.Keys.Attempts, id, 2).Err())
	require.NoError(f.t, f.raw.HSet(context.Background(), f.queue.Keys.Recoveries, id, 2).Err())
}

// Of several suspects that are claimed together, one is held and the others are given back: when their worker dies, only the one
// that ran is charged.
func TestOfSeveralSuspectsOneIsHeld(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		ctx, k := context.Background(), f.queue.Keys
		all := []string{"a", "b", "c"}
		for _, id := range all {
			f.suspect(id)
			f.submit(id, `{"workflow":"hold"}`)
		}
		f.start()
		first := s.awaitBegun(t)
		require.Equal(t, []string{first}, f.raw.HKeys(ctx, k.Claims).Val(), "it alone is claimed")
		require.EqualValues(t, 2, f.raw.LLen(ctx, k.Pending).Val())
		f.publish(`{"v":1,"command":"pause","request_id":"p"}`)
		require.Equal(t, control.Accepted, f.receipt("p").Outcome)
		close(s.open)
		require.Equal(t, execution.Succeeded, f.result(first).Status)
		f.until("nothing is claimed", func() bool { return f.size(k.Claims) == 0 })
		f.publish("resume")
		for _, id := range all {
			require.Equal(t, execution.Succeeded, f.result(id).Status, id)
		}
	})
}
