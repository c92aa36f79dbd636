package queue_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// wake claims as an idle worker does.
func (s *store) wake(w *queue.Waker, want int, timeout time.Duration) *queue.ClaimReply {
	s.t.Helper()
	s.seq++
	reply, err := w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: s.seq, Want: want, MaxContextBytes: 1000}, timeout)
	require.NoError(s.t, err)
	return reply
}

// An idle worker has what is pushed after one exchange: the ID that woke it, and what came with it. When nothing comes it has
// looked all the same, also for what a dead worker's pop left in hand-off and for what has come due.
func TestWakingIsClaiming(t *testing.T) {
	suite(t, func(s *store) {
		require.NoError(s.t, s.LoadScripts(s.ctx))
		w := s.NewWaker()
		defer w.Close()
		require.Empty(s.t, ids(s.wake(w, 5, 10*time.Millisecond)))
		s.submit("1", "2", "3")
		reply := s.wake(w, 2, patience)
		require.Equal(s.t, []string{"1", "2"}, ids(reply))
		require.True(s.t, reply.More)
		require.Equal(s.t, []string{"3"}, ids(s.wake(w, 2, patience)))
		require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Handoff, "left").Err())
		require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Scheduled, redis.Z{Member: "due", Score: 1}).Err())
		require.Equal(s.t, []string{"left", "due"}, ids(s.wake(w, 5, 10*time.Millisecond)))
		require.Zero(s.t, s.raw.LLen(s.ctx, s.Keys.Handoff).Val()+s.raw.LLen(s.ctx, s.Keys.Pending).Val())
	})
}

// A heartbeat goes along with the pop of an idle worker, whatever the pop brings, and counts only where Redis answered it.
func TestHeartbeatGoesAlong(t *testing.T) {
	suite(t, func(s *store) {
		w := s.NewWaker()
		defer w.Close()
		incarnation := "w-1-a"
		wake := func() (*queue.ClaimReply, *queue.Pulse) {
			s.t.Helper()
			s.seq++
			along := &queue.Along{Beat: queue.Beat{Incarnation: incarnation, Lease: time.Hour}}
			reply, err := w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: s.seq, Want: 1, MaxContextBytes: 1000, Along: along}, 10*time.Millisecond)
			require.NoError(s.t, err)
			return reply, along.Pulse
		}
		wake() // whether Redis knows the scripts or not
		require.NoError(s.t, s.LoadScripts(s.ctx))
		require.NoError(s.t, s.raw.HSet(s.ctx, s.Keys.Intents, "w-1-a", "leave").Err())
		require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "w-1-a", Score: 1}).Err())
		reply, pulse := wake()
		require.Empty(s.t, ids(reply))
		require.Equal(s.t, "leave", pulse.Intent)
		require.EqualValues(s.t, pulse.NowMS, s.raw.ZScore(s.ctx, s.Keys.Workers, "w-1-a").Val())
		s.submit("1")
		reply, pulse = wake()
		require.Equal(s.t, []string{"1"}, ids(reply))
		require.Equal(s.t, "leave", pulse.Intent)
		incarnation = "nobody"
		s.submit("2")
		reply, pulse = wake()
		require.Equal(s.t, []string{"2"}, ids(reply))
		require.Nil(s.t, pulse)
	})
}

// Where a full Redis refuses the pop and the claim, it has taken the heartbeat that went along.
func TestHeartbeatGoesAlongToAFullRedis(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Real(t))
	require.NoError(t, s.LoadScripts(s.ctx))
	w := s.NewWaker()
	defer w.Close()
	require.NoError(t, s.raw.ConfigSet(s.ctx, "maxmemory", "1").Err())
	along := &queue.Along{Beat: queue.Beat{Incarnation: "w-1-a", Lease: time.Hour}}
	_, err := w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: 1, Want: 1, MaxContextBytes: 1000, Along: along}, 10*time.Millisecond)
	require.ErrorIs(t, err, queue.ErrRefused)
	require.NotNil(t, along.Pulse)
}
