package consumer_test

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/control"
	"github.com/bobbin-run/bobbin/execution"
)

func (f *fleet) redisNow() int64 {
	now, err := f.raw.Time(context.Background()).Result()
	require.NoError(f.t, err)
	return now.UnixMilli()
}

// With a key, only fresh commands signed with its other half are obeyed: by the doorbell, as an intent, as a stored cancel.
func TestSignedControl(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		public, private, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		_, other, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		f.options.ControlKey = public
		w := f.start()
		channel, ctx := f.queue.Keys.Control, context.Background()
		sign := func(key ed25519.PrivateKey, request string, verb control.Verb, at int64) control.Command {
			return control.Command{Verb: verb, Worker: "*", RequestID: request}.Sign(key, channel, at)
		}
		tampered := sign(private, "tampered", control.Ping, f.redisNow())
		tampered.Verb = control.Drain
		elsewhere := control.Command{Verb: control.Drain, Worker: "*", RequestID: "elsewhere"}.Sign(private, "bobbin:{other}:control", f.redisNow())
		for request, message := range map[string]control.Command{
			"unsigned": {Verb: control.Drain, RequestID: "unsigned"}, "tampered": tampered, "elsewhere": elsewhere,
			"wrong":  sign(other, "wrong", control.Drain, f.redisNow()),
			"stale":  sign(private, "stale", control.Drain, f.redisNow()-(6*time.Minute).Milliseconds()),
			"future": sign(private, "future", control.Drain, f.redisNow()+(6*time.Minute).Milliseconds()),
		} {
			f.publish(string(message.Encode()))
			require.Equal(t, control.Refused, f.receipt(request).Outcome, request)
		}
		f.publish("drain")
		require.NoError(t, f.queue.SetIntent(ctx, w.Incarnation(), control.Command{Verb: control.Drain, RequestID: "intent"}.Encode()))
		require.Equal(t, control.Refused, f.receipt("intent").Outcome)
		require.Equal(t, execution.Active, w.State())

		f.submit("x", `{"workflow":"hold"}`)
		s.awaitBegun(t)
		require.NoError(t, f.raw.HSet(ctx, f.queue.Keys.Cancels, "x", control.Command{Verb: control.Cancel, ExecutionID: "x", RequestID: "c1"}.Encode()).Err())
		require.Equal(t, control.Refused, f.receipt("c1").Outcome)
		// Who has read a signed command knows its request ID, and can say nothing with it.
		f.publish(string(sign(private, "known", control.Ping, f.redisNow()).Encode()))
		require.Equal(t, control.Accepted, f.receipt("known").Outcome)
		borrowed := control.Command{Verb: control.Cancel, ExecutionID: "x", RequestID: "known"}.Encode()
		f.publish(string(borrowed))
		require.Equal(t, control.Refused, f.receipt("known").Outcome)
		require.NoError(t, f.raw.HSet(ctx, f.queue.Keys.Cancels, "x", borrowed).Err())
		require.Equal(t, control.Refused, f.receipt("known").Outcome)
		signed := control.Command{Verb: control.Cancel, Worker: "*", ExecutionID: "x", RequestID: "c2"}.Sign(private, channel, f.redisNow())
		require.NoError(t, f.raw.HSet(ctx, f.queue.Keys.Cancels, "x", signed.Encode()).Err())
		require.Equal(t, execution.Cancelled, f.result("x").Status)

		f.publish(string(sign(private, "good", control.Drain, f.redisNow()).Encode()))
		require.Equal(t, execution.ExitDone, w.exits())
	})
}

// A request that does not parse, or asks for another execution, cancels nothing.
func TestGarbageCancelsNothing(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		for id, request := range map[string]string{"garbage": "\x00 not a command", "another": "cancel somebody", "drain": "drain"} {
			require.NoError(t, f.raw.HSet(context.Background(), f.queue.Keys.Cancels, id, request).Err())
			f.submit(id, `{"workflow":"add","params":{"A":1,"B":2}}`)
		}
		require.NoError(t, f.raw.HSet(context.Background(), f.queue.Keys.Cancels, "asked", "cancel asked").Err())
		f.submit("asked", `{"workflow":"add","params":{"A":1,"B":2}}`)
		f.start()
		for _, id := range []string{"garbage", "another", "drain"} {
			require.Equal(t, execution.Succeeded, f.result(id).Status, id)
		}
		require.Equal(t, execution.Cancelled, f.result("asked").Status)
		f.requireNothingLeft()
	})
}

// A command published while nobody listened is obeyed through the heartbeat, and once.
func TestIntentsAreObeyedWithoutADoorbell(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, _ *stage) {
		w := f.start()
		intent := control.Command{Verb: control.Recycle, Worker: w.Incarnation(), RequestID: "r"}.Encode()
		require.NoError(t, f.queue.SetIntent(context.Background(), w.Incarnation(), intent))
		require.Equal(t, control.Accepted, f.receipt("r").Outcome)
		require.Equal(t, execution.ExitReplace, w.exits())
		n, err := f.raw.LLen(context.Background(), f.queue.Keys.Receipts("r")).Result()
		require.NoError(t, err)
		require.Zero(t, n, "one receipt per worker and request")
		f.requireNothingLeft()
	})
}

func TestBackpressureOfUnreadResults(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		close(s.open)
		if !f.real {
			return // miniredis counts everything as a group's lag, read or not
		}
		ctx, k := context.Background(), f.queue.Keys
		f.options.ResultsMax, f.options.Lease = 3, time.Second
		require.NoError(t, f.raw.XGroupCreateMkStream(ctx, k.Results, "readers", "0").Err())
		w := f.start()
		for _, id := range []string{"1", "2", "3", "4"} {
			f.submit(id, `{"workflow":"hold"}`)
			f.result(id)
		}
		f.until("the worker says so", func() bool {
			return f.raw.HGet(ctx, k.Worker(w.Incarnation()), "backpressure").Val() == "1"
		})
		f.submit("5", `{"workflow":"hold"}`)
		read, err := f.raw.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "readers", Consumer: "me", Streams: []string{k.Results, ">"}, Count: 10}).Result()
		require.NoError(t, err)
		require.Len(t, read[0].Messages, 4, "delivered is not acknowledged")
		f.until("a heartbeat later it is still so", func() bool {
			return f.raw.HGet(ctx, k.Worker(w.Incarnation()), "backpressure").Val() == "1"
		})
		require.EqualValues(t, 4, f.raw.XLen(ctx, k.Results).Val(), "5 was not claimed")
		for _, m := range read[0].Messages {
			require.NoError(t, f.raw.XAck(ctx, k.Results, "readers", m.ID).Err())
		}
		f.result("5")
	})
}

func TestTrimKeepsWhatIsUnread(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, _ *stage) {
		ctx, k := context.Background(), f.queue.Keys
		for range 4 {
			require.NoError(t, f.raw.XAdd(ctx, &redis.XAddArgs{Stream: k.Results, Values: []string{"execution_id", "x"}}).Err())
		}
		future := f.redisNow() + time.Hour.Milliseconds() // as if they were that old
		require.NoError(t, f.raw.XGroupCreate(ctx, k.Results, "a", "0").Err())
		require.NoError(t, f.raw.XGroupCreate(ctx, k.Results, "b", "0").Err())
		removed, err := f.queue.TrimResults(ctx, future, time.Minute)
		require.NoError(t, err)
		require.Zero(t, removed, "neither group has read anything")
		read := func(group string, n int64) []redis.XMessage {
			got, err := f.raw.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{k.Results, ">"}, Count: n}).Result()
			require.NoError(t, err)
			return got[0].Messages
		}
		for _, m := range read("a", 4) {
			require.NoError(t, f.raw.XAck(ctx, k.Results, "a", m.ID).Err())
		}
		three := read("b", 3)
		require.NoError(t, f.raw.XAck(ctx, k.Results, "b", three[0].ID).Err())
		_, err = f.queue.TrimResults(ctx, future, time.Minute)
		require.NoError(t, err)
		left, err := f.raw.XRange(ctx, k.Results, "-", "+").Result()
		require.NoError(t, err)
		require.Len(t, left, 3, "b has acknowledged only the first")
		require.Equal(t, three[1].ID, left[0].ID)
		removed, err = f.queue.TrimResults(ctx, f.redisNow(), time.Hour)
		require.NoError(t, err)
		require.Zero(t, removed, "nothing is old")
	})
}
