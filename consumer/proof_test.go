package consumer_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
)

// Whether an ID without a context was pushed twice is asked of Redis, and asked again when the answer is lost: it gets no second
// result for that.
func TestSecondPushGetsNoResultWhenRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]string{"lost": "", "refused": "LOADING Redis is loading the dataset in memory"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, proxy := behindProxy(t, handlers())
			ctx, k := context.Background(), f.queue.Keys
			f.start()
			f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
			require.Equal(t, execution.Succeeded, f.result("x").Status)
			if lose == "" {
				proxy.DropReply("XRANGE", 1)
			} else {
				proxy.InjectError("XRANGE", 1, lose)
			}
			require.NoError(t, f.raw.LPush(ctx, k.Pending, "x").Err())
			require.NoError(t, proxy.WaitFired(ctx, 1))
			f.until("the second push is dropped", func() bool { return f.size(k.Claims) == 0 && f.raw.LLen(ctx, k.Pending).Val() == 0 })
			f.readAll() // fails on a second result
			f.requireNothingLeft()
		})
	}
}

// An ID that the pop of a worker left in hand-off when it died is run by the next one that looks, also by one that is idle.
func TestIdleWorkerFindsWhatIsLeftInHandoff(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		ctx, k := context.Background(), f.queue.Keys
		f.options.Lease = time.Hour
		f.start()
		f.submit("first", `{"workflow":"add","params":{"A":1,"B":2}}`)
		f.result("first") // it waits for the next
		require.NoError(t, f.raw.HSet(ctx, k.Executions, "left", `{"workflow":"add","params":{"A":1,"B":2}}`).Err())
		require.NoError(t, f.raw.LPush(ctx, k.Handoff, "left").Err())
		require.Equal(t, execution.Succeeded, f.result("left").Status)
	})
}

// A Redis that loads its data, or is a replica still, is a reason to wait with the start, not to fail it.
func TestStartWaitsForWhatPasses(t *testing.T) {
	t.Parallel()
	for _, refusal := range []string{
		"LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
		"MASTERDOWN Link with MASTER is down", "CLUSTERDOWN The cluster is down",
	} {
		f, proxy := behindProxy(t, handlers())
		proxy.InjectError("register", 1, refusal)
		f.start()
		require.NoError(t, proxy.WaitFired(t.Context(), 1))
		f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
		require.Equal(t, execution.Succeeded, f.result("x").Status, refusal)
	}
}
