package queue_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// store is a queue under test, with a plain client beside it.
type store struct {
	*queue.Queue
	t   *testing.T
	raw *redis.Client
	ctx context.Context
	seq int64
}

// suite runs a test against miniredis and a real server.
func suite(t *testing.T, test func(s *store)) {
	t.Helper()
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) { test(open(t, server)) })
}

func open(t *testing.T, server *redistest.Server) *store {
	t.Helper()
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: server.Prefix})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	s := &store{Queue: q, t: t, raw: server.Client(), ctx: t.Context()}
	s.register("w-1-a")
	return s
}

func (s *store) register(incarnation string) {
	s.t.Helper()
	require.NoError(s.t, s.Register(s.ctx, queue.Registration{Incarnation: incarnation, Lease: time.Hour, Fields: map[string]string{"host": "h"}}))
}

func (s *store) submit(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		require.NoError(s.t, s.Submit(s.ctx, queue.Submission{ID: execution.ID(id), Context: []byte(`{"workflow":"w-` + id + `"}`)}))
	}
}

func (s *store) claim(incarnation string, want int) *queue.ClaimReply {
	s.t.Helper()
	s.seq++
	reply, err := s.Claim(s.ctx, queue.Claim{Incarnation: incarnation, Seq: s.seq, Want: want, MaxContextBytes: 1000})
	require.NoError(s.t, err)
	return reply
}

func ids(reply *queue.ClaimReply) []string {
	out := []string{}
	for _, c := range reply.Claimed {
		out = append(out, c.ID)
	}
	return out
}

func (s *store) pending() []string {
	list, err := s.raw.LRange(s.ctx, s.Keys.Pending, 0, -1).Result()
	require.NoError(s.t, err)
	return list
}

func TestClaimsFirstInFirstOutAndHandoffFirst(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1", "2", "3", "4")
		require.NoError(s.t, s.raw.LMove(s.ctx, s.Keys.Pending, s.Keys.Handoff, "RIGHT", "LEFT").Err()) // by a pop that died
		s.submit("5")
		reply := s.claim("w-1-a", 2)
		require.Equal(s.t, []string{"1", "2"}, ids(reply))
		require.JSONEq(s.t, `{"workflow":"w-1"}`, string(reply.Claimed[0].Context))
		require.Equal(s.t, 1, reply.Claimed[0].Attempt())
		require.EqualValues(s.t, -1, reply.NextDueMS)
		require.Equal(s.t, []string{"3", "4", "5"}, ids(s.claim("w-1-a", 100)))
		require.Empty(s.t, ids(s.claim("w-1-a", 100)))
	})
}

func TestClaimIsRefusedWithoutRegistration(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1")
		_, err := s.Claim(s.ctx, queue.Claim{Incarnation: "nobody", Seq: 1, Want: 1, MaxContextBytes: 10})
		require.ErrorIs(s.t, err, queue.ErrNotRegistered)
		require.Equal(s.t, []string{"1"}, s.pending())
	})
}

func TestClaimOfOddInput(t *testing.T) {
	suite(t, func(s *store) {
		require.NoError(s.t, s.raw.HSet(s.ctx, s.Keys.Executions, "large", strings.Repeat("x", 1001), "empty", "").Err())
		odd := "nul\x00 \r\n{}"
		require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Pending, "large", "missing", odd, "empty", "large", odd).Err())
		reply := s.claim("w-1-a", 10)
		require.Equal(s.t, []string{"large", "missing", odd, "empty"}, ids(reply))
		require.Equal(s.t, 2, reply.Duplicates)
		require.Nil(s.t, reply.Claimed[0].Context)
		require.EqualValues(s.t, 1001, reply.Claimed[0].Size)
		require.True(s.t, reply.Claimed[1].Missing)
		require.False(s.t, reply.Claimed[3].Missing)
		require.Empty(s.t, s.pending())
	})
}

func (s *store) commitOf(c queue.Claimed, status execution.Status) queue.Commit {
	return queue.Commit{Token: c.Token, History: true, Result: &execution.Result{ID: c.ID, Status: status, Err: &execution.Error{Type: "T", Message: "m"}}}
}

func TestCommitWritesOnceAndForgets(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1", "2")
		claimed := s.claim("w-1-a", 2).Claimed
		good, stale := s.commitOf(claimed[0], execution.Succeeded), s.commitOf(claimed[1], execution.Failed)
		good.ReplyTTL, stale.Token = time.Minute, "w-0-z:1:1"
		for i, want := range [][]queue.CommitOutcome{{queue.CommitDone, queue.CommitFenced}, {queue.CommitGone, queue.CommitFenced}} {
			outcomes, err := s.Commit(s.ctx, []queue.Commit{good, stale})
			require.NoError(s.t, err)
			require.Equal(s.t, want, outcomes, i)
		}
		results, err := s.LatestResults(s.ctx, 10)
		require.NoError(s.t, err)
		require.Len(s.t, results, 1)
		require.Equal(s.t, "1", results[0].Result.ID)
		replies, err := s.raw.LRange(s.ctx, s.Keys.Reply("1"), 0, -1).Result()
		require.NoError(s.t, err)
		require.Len(s.t, replies, 1)
		require.Positive(s.t, s.raw.PTTL(s.ctx, s.Keys.Reply("1")).Val())
		require.Equal(s.t, []string{"2"}, s.raw.HKeys(s.ctx, s.Keys.Executions).Val())
		require.Equal(s.t, []string{"2"}, s.raw.HKeys(s.ctx, s.Keys.Claims).Val())
	})
}

func TestCommitKeepsTheDead(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1")
		c := s.commitOf(s.claim("w-1-a", 1).Claimed[0], execution.Failed)
		c.Dead = true
		_, err := s.Commit(s.ctx, []queue.Commit{c})
		require.NoError(s.t, err)
		dead, err := s.raw.XRange(s.ctx, s.Keys.Dead, "-", "+").Result()
		require.NoError(s.t, err)
		require.Len(s.t, dead, 1)
		require.Equal(s.t, `{"workflow":"w-1"}`, dead[0].Values["context"])
		require.Equal(s.t, "m", dead[0].Values["error"])
	})
}

// A key of the wrong type stops a commit before anything is dropped.
func TestCommitThatFailsDropsNothing(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1", "2")
		var batch []queue.Commit
		for _, c := range s.claim("w-1-a", 2).Claimed {
			batch = append(batch, s.commitOf(c, execution.Succeeded))
		}
		require.NoError(s.t, s.raw.Set(s.ctx, s.Keys.Results, "x", 0).Err())
		_, err := s.Commit(s.ctx, batch)
		require.ErrorIs(s.t, err, queue.ErrRefused)
		require.EqualValues(s.t, 2, s.raw.HLen(s.ctx, s.Keys.Claims).Val())
		require.EqualValues(s.t, 2, s.raw.HLen(s.ctx, s.Keys.Executions).Val())
		require.NoError(s.t, s.raw.Del(s.ctx, s.Keys.Results).Err())
		outcomes, err := s.Commit(s.ctx, batch)
		require.NoError(s.t, err)
		require.Equal(s.t, []queue.CommitOutcome{queue.CommitDone, queue.CommitDone}, outcomes)
	})
}

func TestReleaseRunsNextInOrderAndCostsNothing(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1", "2", "3")
		claimed := s.claim("w-1-a", 2).Claimed
		held := []queue.Held{{ID: "1", Token: claimed[0].Token}, {ID: "2", Token: claimed[1].Token}, {ID: "3", Token: "other:1:1"}}
		n, err := s.Release(s.ctx, held)
		require.NoError(s.t, err)
		require.Equal(s.t, 2, n)
		n, err = s.Release(s.ctx, held)
		require.NoError(s.t, err)
		require.Zero(s.t, n, "the second time does nothing")
		reply := s.claim("w-1-a", 3)
		require.Equal(s.t, []string{"1", "2", "3"}, ids(reply))
		require.Equal(s.t, 1, reply.Claimed[0].Attempt())
		require.NotEqual(s.t, claimed[0].Token, reply.Claimed[0].Token, "an old token matches nothing")
	})
}

func TestRetrySpendsAnAttemptAndWaits(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("soon", "later")
		claimed := s.claim("w-1-a", 2).Claimed
		for range 2 { // the second is a lost reply
			require.NoError(s.t, s.Retry(s.ctx, []queue.Again{
				{Held: queue.Held{ID: "soon", Token: claimed[0].Token}}, {Held: queue.Held{ID: "later", Token: claimed[1].Token}, Pause: time.Hour},
			}))
		}
		reply := s.claim("w-1-a", 10)
		require.Equal(s.t, []string{"soon"}, ids(reply))
		require.Equal(s.t, 2, reply.Claimed[0].Attempt())
		require.Greater(s.t, reply.NextDueMS, int64(time.Minute/time.Millisecond))
	})
}

func TestReapTakesFromTheSilentAlone(t *testing.T) {
	suite(t, func(s *store) {
		s.register("w-2-b")
		s.submit("1", "2", "3")
		s.claim("w-1-a", 2)
		s.claim("w-2-b", 1)
		reaped, err := s.Reap(s.ctx, "w-1-a", time.Hour, false, true)
		require.NoError(s.t, err)
		require.True(s.t, reaped.Alive)
		require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "w-1-a", Score: 1000}).Err()) // silent since 1970
		reaped, err = s.Reap(s.ctx, "w-1-a", time.Hour, false, true)
		require.NoError(s.t, err)
		require.ElementsMatch(s.t, []string{"1", "2"}, reaped.Moved)
		require.ElementsMatch(s.t, []string{"1", "2"}, s.pending())
		again := s.claim("w-2-b", 5)
		require.Equal(s.t, 1, again.Claimed[0].Recoveries)
		require.Equal(s.t, 2, again.Claimed[0].Attempt())
		_, err = s.Heartbeat(s.ctx, queue.Beat{Incarnation: "w-1-a", Lease: time.Hour, Fields: map[string]string{"x": "1"}})
		require.ErrorIs(s.t, err, queue.ErrNotRegistered)
		reaped, err = s.Reap(s.ctx, "w-1-a", time.Hour, true, true)
		require.NoError(s.t, err)
		require.Empty(s.t, reaped.Moved)
	})
}

func TestHeartbeatBringsWhatIsAsked(t *testing.T) {
	suite(t, func(s *store) {
		s.register("w-2-b")
		s.submit("mine", "other", "ended")
		s.claim("w-1-a", 1)
		s.claim("w-2-b", 1)
		require.NoError(s.t, s.SetIntent(s.ctx, "w-1-a", []byte("drain")))
		for _, id := range []string{"mine", "other", "gone"} {
			require.NoError(s.t, s.raw.HSet(s.ctx, s.Keys.Cancels, id, "request of "+id).Err())
		}
		beat := queue.Beat{Incarnation: "w-1-a", Lease: time.Hour, MayReap: true, Fields: map[string]string{"state": "ACTIVE"}}
		pulse, err := s.Heartbeat(s.ctx, beat)
		require.NoError(s.t, err)
		require.Equal(s.t, "drain", pulse.Intent)
		require.Equal(s.t, map[string]string{"mine": "request of mine"}, pulse.Cancels)
		require.Empty(s.t, pulse.Silent)
		require.ElementsMatch(s.t, []string{"mine", "other"}, s.raw.HKeys(s.ctx, s.Keys.Cancels).Val(), "what has ended is forgotten")
		require.NoError(s.t, s.ClearIntent(s.ctx, "w-1-a", "something newer"))
		require.NoError(s.t, s.ClearIntent(s.ctx, "w-1-a", "drain"))
		require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "silent-1-x", Score: 1000}).Err())
		pulse, err = s.Heartbeat(s.ctx, beat)
		require.NoError(s.t, err)
		require.Empty(s.t, pulse.Intent)
		require.Equal(s.t, []string{"silent-1-x"}, pulse.Silent)
		beat.Incarnation = "w-2-b"
		pulse, err = s.Heartbeat(s.ctx, beat)
		require.NoError(s.t, err)
		require.Empty(s.t, pulse.Silent, "one looks after the silent at a time")
	})
}

// A heartbeat writes what it is told of, and no half of a registration that was evicted or deleted: its worker writes that again.
func TestHeartbeatSaysWhetherTheRegistrationIsThere(t *testing.T) {
	suite(t, func(s *store) {
		worker := s.Keys.Worker("w-9-z")
		registration := queue.Registration{Incarnation: "w-9-z", Lease: time.Hour, Fields: map[string]string{"version": "1", "running": "0"}}
		require.NoError(s.t, s.Register(s.ctx, registration))
		beat := queue.Beat{Incarnation: "w-9-z", Lease: time.Hour}
		for _, figures := range []map[string]string{nil, {"running": "2"}, {}} {
			beat.Fields = figures
			pulse, err := s.Heartbeat(s.ctx, beat)
			require.NoError(s.t, err)
			require.False(s.t, pulse.Forgotten)
		}
		require.Equal(s.t, map[string]string{"version": "1", "running": "2", "lease_ms": "3600000"}, s.raw.HGetAll(s.ctx, worker).Val())
		require.Positive(s.t, s.raw.PTTL(s.ctx, worker).Val())
		require.NoError(s.t, s.raw.Del(s.ctx, worker).Err())
		for _, figures := range []map[string]string{nil, {"running": "2"}} {
			beat.Fields = figures
			pulse, err := s.Heartbeat(s.ctx, beat)
			require.NoError(s.t, err)
			require.True(s.t, pulse.Forgotten)
			require.Zero(s.t, s.raw.Exists(s.ctx, worker).Val())
		}
		// A claim that is looked for after a lost reply leaves one field there: that is no registration.
		_, err := s.Reconcile(s.ctx, queue.Claim{Incarnation: "w-9-z", Seq: 3, Want: 1, MaxContextBytes: 9}, func(queue.Held) bool { return true })
		require.NoError(s.t, err)
		pulse, err := s.Heartbeat(s.ctx, beat)
		require.NoError(s.t, err)
		require.True(s.t, pulse.Forgotten)
		beat.Whole, beat.Fields = true, map[string]string{"version": "1", "running": "3"}
		for range 2 {
			pulse, err := s.Heartbeat(s.ctx, beat)
			require.NoError(s.t, err)
			require.False(s.t, pulse.Forgotten)
			require.Equal(s.t, map[string]string{"version": "1", "running": "3", "lease_ms": "3600000", "claim_fence": "3"}, s.raw.HGetAll(s.ctx, worker).Val())
			require.Positive(s.t, s.raw.PTTL(s.ctx, worker).Val())
		}
	})
}

func TestCancelWherever(t *testing.T) {
	suite(t, func(s *store) {
		result := func(id string) *execution.Result {
			return &execution.Result{ID: id, Status: execution.Cancelled, Err: &execution.Error{Type: "ExecutionCancelled"}}
		}
		s.submit("claimed", "scheduled")
		held := s.claim("w-1-a", 2).Claimed
		require.NoError(s.t, s.Retry(s.ctx, []queue.Again{{Held: queue.Held{ID: "scheduled", Token: held[1].Token}, Pause: time.Hour}}))
		s.submit("pending")
		for id, want := range map[string]queue.CancelOutcome{
			"claimed": queue.CancelClaimed, "scheduled": queue.CancelDone, "pending": queue.CancelDone, "nobody": queue.CancelUnknown,
		} {
			outcome, err := s.Cancel(s.ctx, id, "request", result(id), time.Minute)
			require.NoError(s.t, err)
			require.Equal(s.t, want, outcome, id)
		}
		outcome, err := s.Cancel(s.ctx, "pending", "request", result("pending"), time.Minute)
		require.NoError(s.t, err)
		require.Equal(s.t, queue.CancelUnknown, outcome, "it has ended")
		d, err := s.Depths(s.ctx)
		require.NoError(s.t, err)
		require.EqualValues(s.t, 2, d.Results)
		for _, id := range []string{"pending", "scheduled"} {
			require.EqualValues(s.t, 1, s.raw.LLen(s.ctx, s.Keys.Reply(id)).Val(), "who waits for it is told, once")
		}
		require.Zero(s.t, d.Pending+d.Scheduled)
	})
}

func TestModulesAreOfOneVersion(t *testing.T) {
	suite(t, func(s *store) {
		version, sources, err := s.Snapshot(s.ctx, "0")
		require.NoError(s.t, err)
		require.Equal(s.t, "0", version)
		require.Empty(s.t, sources)
		one, err := s.PushModules(s.ctx, map[string]string{"a.star": "1", "b.star": "1"})
		require.NoError(s.t, err)
		version, sources, err = s.Snapshot(s.ctx, one)
		require.NoError(s.t, err)
		require.Equal(s.t, one, version)
		require.Equal(s.t, map[string]string{"a.star": "1", "b.star": "1"}, sources)
		require.Equal(s.t, one, s.claim("w-1-a", 1).ModulesVersion)
		n, err := s.DeleteModules(s.ctx, "b.star", "none")
		require.NoError(s.t, err)
		require.Equal(s.t, 1, n)
		version, _, err = s.Snapshot(s.ctx, one)
		require.NoError(s.t, err)
		require.Equal(s.t, one, version, "an older version is served from memory")
		_, sources, err = s.Snapshot(s.ctx, "2")
		require.NoError(s.t, err)
		require.Equal(s.t, map[string]string{"a.star": "1"}, sources)
	})
}

func TestSubmitLeavesWhatIsThere(t *testing.T) {
	suite(t, func(s *store) {
		s.submit("1")
		err := s.Submit(s.ctx, queue.Submission{ID: "1", Context: []byte("other")}, queue.Submission{ID: "2", Context: []byte("{}")})
		require.ErrorIs(s.t, err, queue.ErrDuplicate)
		require.ErrorContains(s.t, err, `"1"`)
		require.Equal(s.t, []string{"2", "1"}, s.pending())
		context, err := s.StoredContext(s.ctx, "1")
		require.NoError(s.t, err)
		require.JSONEq(s.t, `{"workflow":"w-1"}`, string(context))
	})
}

// What only a real server does.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	s := open(t, server)
	s.submit("1")
	c := s.commitOf(s.claim("w-1-a", 1).Claimed[0], execution.Succeeded)
	require.NoError(t, s.raw.ConfigSet(s.ctx, "maxmemory", "1").Err())
	_, err := s.Commit(s.ctx, []queue.Commit{c})
	require.ErrorIs(t, err, queue.ErrRefused)
	require.True(t, queue.IsPassing(err), err)
	require.EqualValues(t, 1, s.raw.HLen(s.ctx, s.Keys.Claims).Val(), "nothing is dropped")
	_, err = s.Heartbeat(s.ctx, queue.Beat{Incarnation: "w-1-a", Lease: time.Hour, Fields: map[string]string{"x": "1"}})
	require.NoError(t, err, "a worker keeps its lease while Redis is full")
	_, _, err = s.Snapshot(s.ctx, "1")
	require.NoError(t, err, "what was claimed can be run")
	_, err = s.PushModules(s.ctx, map[string]string{"w.star": "x = 1"})
	require.ErrorIs(t, err, queue.ErrRefused)
	require.True(t, queue.IsPassing(err), "%v: not that a transaction was given up, but why", err)
	require.NoError(t, s.raw.ConfigSet(s.ctx, "maxmemory", "0").Err())
	outcomes, err := s.Commit(s.ctx, []queue.Commit{c})
	require.NoError(t, err)
	require.Equal(t, queue.CommitDone, outcomes[0])
}

func TestScriptFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	s := open(t, server)
	require.NoError(t, s.raw.ScriptFlush(s.ctx).Err())
	s.submit("1")
	require.NoError(t, s.raw.ScriptFlush(s.ctx).Err())
	require.Len(t, s.claim("w-1-a", 1).Claimed, 1)
}

func TestServersRefusalsAreTold(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	proxy := redistest.NewProxy(t, server.Addr)
	q, err := queue.Open(queue.Options{URL: proxy.URL(), Prefix: server.Prefix})
	require.NoError(t, err)
	defer func() { _ = q.Close() }()
	for i, refusal := range []string{
		"READONLY You can't write against a read only replica.", "LOADING Redis is loading the dataset in memory", "CLUSTERDOWN The cluster is down",
		"MISCONF Redis is configured to save RDB snapshots", "OOM command not allowed when used memory > 'maxmemory'.",
	} {
		proxy.InjectError("EVALSHA", 1, refusal)
		err := q.Submit(t.Context(), queue.Submission{ID: execution.ID(fmt.Sprint(i)), Context: []byte("{}")})
		require.ErrorIs(t, err, queue.ErrRefused, refusal)
		require.True(t, queue.IsPassing(err), refusal)
	}
}
