package queue_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

// results appends n results and returns their stream IDs.
func (s *store) results(n int, text string) (ids []string) {
	s.t.Helper()
	replies, err := s.raw.Pipelined(s.ctx, func(p redis.Pipeliner) error {
		for range n {
			p.XAdd(s.ctx, &redis.XAddArgs{Stream: s.Keys.Results, Values: []string{"result", text}})
		}
		return nil
	})
	require.NoError(s.t, err)
	for _, reply := range replies {
		ids = append(ids, reply.(*redis.StringCmd).Val())
	}
	return ids
}

func (s *store) unread(enough int64) int64 {
	s.t.Helper()
	n, err := s.Unread(s.ctx, enough)
	require.NoError(s.t, err)
	return n
}

func (s *store) read(group string, n int64) []string {
	s.t.Helper()
	got, err := s.raw.XReadGroup(s.ctx, &redis.XReadGroupArgs{Group: group, Consumer: "me", Streams: []string{s.Keys.Results, ">"}, Count: n}).Result()
	require.NoError(s.t, err)
	ids := []string{}
	for _, m := range got[0].Messages {
		ids = append(ids, m.ID)
	}
	return ids
}

func TestUnreadWithoutGroups(t *testing.T) {
	suite(t, func(s *store) {
		require.Zero(s.t, s.unread(0))
		s.results(7, "x")
		require.EqualValues(s.t, 7, s.unread(0))
	})
}

// A group that was created in the middle, and one ahead of which entries were deleted: Redis does not say how far they are
// behind. Near the end the answer is exact, far from it never too low.
func TestUnreadWhereRedisDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	ids := s.results(3000, "x")
	require.NoError(t, s.raw.XGroupCreate(s.ctx, s.Keys.Results, "near", ids[2899]).Err())
	require.EqualValues(t, 100, s.unread(0))
	read := s.read("near", 30)
	require.EqualValues(t, 100, s.unread(0), "delivered is not acknowledged")
	require.NoError(t, s.raw.XAck(s.ctx, s.Keys.Results, "near", read...).Err())
	require.EqualValues(t, 70, s.unread(0))
	require.EqualValues(t, 3000, s.unread(3000), "it does not look closer")

	require.NoError(t, s.raw.XGroupCreate(s.ctx, s.Keys.Results, "far", ids[9]).Err())
	require.GreaterOrEqual(t, s.unread(0), int64(2990))
	require.LessOrEqual(t, s.unread(0), int64(3000))

	require.NoError(t, s.raw.XGroupDestroy(s.ctx, s.Keys.Results, "far").Err())
	require.NoError(t, s.raw.XDel(s.ctx, s.Keys.Results, ids[2950], ids[2951]).Err())
	require.EqualValues(t, 68, s.unread(0), "what was deleted is nobody's to read")
	s.read("near", 3000)
	require.EqualValues(t, 68, s.unread(0))
}

// Results may be a megabyte each: what is looked at stays in Redis, and little of it is.
func TestUnreadSendsNoEntriesOver(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Real(t)) // of its own: traffic is counted
	ids := s.results(40, strings.Repeat("x", 256<<10))
	require.NoError(t, s.raw.XGroupCreate(s.ctx, s.Keys.Results, "far", ids[5]).Err())
	sent := func() int64 {
		info, err := s.raw.InfoMap(s.ctx, "stats").Result()
		require.NoError(t, err)
		return number(t, info["Stats"]["total_net_output_bytes"])
	}
	before := sent()
	require.EqualValues(t, 40, s.unread(0), "never fewer than the 34 that there are")
	require.Less(t, sent()-before, int64(64<<10))
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}
