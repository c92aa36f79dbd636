package consumer_test

import (
	"context"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// go-redis would run a claim whose reply was lost a second time and forget what the first one took.
func TestRetriesOfTheClientAreOff(t *testing.T) {
	t.Parallel()
	f, proxy := behindProxy(t, nil)
	q, err := queue.Open(queue.Options{URL: proxy.URL(), Prefix: f.unique})
	require.NoError(t, err)
	defer func() { _ = q.Close() }()
	ctx := context.Background()
	require.NoError(t, q.Register(ctx, queue.Registration{Incarnation: "h-1-x", Lease: time.Hour}))
	f.submit("a", "{}")
	f.submit("b", "{}")
	c := queue.Claim{Incarnation: "h-1-x", Seq: 1, Want: 1, MaxContextBytes: 100}
	_, err = q.Claim(ctx, queue.Claim{Incarnation: "h-1-x", Seq: 0, Want: 0, MaxContextBytes: 100}) // the script is known
	require.NoError(t, err)
	lost := proxy.DropReply("claim", 1)
	_, err = q.Claim(ctx, c)
	require.Error(t, err)
	require.True(t, lost.Fired())
	require.EqualValues(t, 1, f.size(f.queue.Keys.Claims), "it ran once")
}

// A fleet must not exhaust Redis's clients: with nothing to do, a worker keeps one for its pop, one for commands to it, one for the rest.
// What it opened when it started or was busy it closes.
func TestIdleWorkerKeepsThreeConnections(t *testing.T) {
	t.Parallel()
	f, proxy := behindProxy(t, handlers())
	f.options.Lease = time.Second
	f.start()
	three := func() bool { return proxy.Connections() == 3 }
	f.until("what it needed to start is closed", three)
	for i := range 200 {
		f.submit(fmt.Sprint(i), `{"workflow":"add","params":{"A":1,"B":2}}`)
	}
	for i := range 200 {
		f.result(fmt.Sprint(i))
	}
	f.until("what it needed to work is closed", three)
}

// A subscription that the network silently swallowed is noticed and renewed; the doorbell rings again.
func TestDeafSubscriptionIsRenewed(t *testing.T) {
	t.Parallel()
	f, proxy := behindProxy(t, nil)
	f.options.Lease = time.Hour // its heartbeat would not notice, nor bring an intent
	f.options.ControlInterval = 50 * time.Millisecond
	w := f.start()
	proxy.BlackHole(true)
	f.publish("lost on the way")
	f.publish("and this")
	lost := time.NewTimer(300 * time.Millisecond) // the publications are on their way, and a ping
	<-lost.C
	proxy.BlackHole(false) // a connection that lost bytes stays silent for good
	f.until("the doorbell is heard", func() bool {
		f.publish(`{"v":1,"command":"pause","request_id":"p"}`)
		return f.raw.LLen(context.Background(), f.queue.Keys.Receipts("p")).Val() > 0
	})
	require.Equal(t, control.Accepted, f.receipt("p").Outcome)
	require.Equal(t, execution.Active, w.State())
}

// What a claim brings that was on its way when a drain began is released, not run.
func TestClaimOnItsWayWhenADrainBegins(t *testing.T) {
	t.Parallel()
	s := newStage()
	f, proxy := behindProxy(t, s.mux())
	f.options.Lease = time.Hour
	w := f.start()
	proxy.Delay(300 * time.Millisecond)
	f.submit("x", `{"workflow":"hold"}`)
	f.until("it is claimed", func() bool { return f.size(f.queue.Keys.Claims) == 1 })
	w.stop() // the reply to the claim is still on its way
	require.Equal(t, execution.ExitDone, w.exits())
	require.Empty(t, s.begun)
	pending, err := f.raw.LRange(context.Background(), f.queue.Keys.Pending, 0, -1).Result()
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, pending)
}

// The heartbeats of a worker with nothing to do go along with its pops: no other connection of its is used meanwhile.
func TestIdleWorkersHeartbeatsGoAlong(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	f := setup(t, server, handlers())
	f.options.Lease = time.Second
	w := f.start()
	incarnation := w.Incarnation()
	ctx := context.Background()
	f.until("the connection of its commands rests for longer than heartbeats do", func() bool {
		clients, err := f.raw.ClientList(ctx).Result()
		require.NoError(t, err)
		return regexp.MustCompile(`(?m) idle=([2-9]|\d\d+) .* cmd=evalsha `).MatchString(clients)
	})
	now, err := f.raw.Time(ctx).Result()
	require.NoError(t, err)
	beat, err := f.raw.ZScore(ctx, f.queue.Keys.Workers, incarnation).Result()
	require.NoError(t, err)
	require.Less(t, now.UnixMilli()-int64(beat), time.Second.Milliseconds())
	f.submit("x", `{"workflow":"add","params":{"A":1,"B":2}}`)
	require.Equal(t, incarnation, f.result("x").Worker)
}
