package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// What ended lately is known, whoever ended it and however it ended: pushed again without a context, it was pushed twice.
func TestEndedLately(t *testing.T) {
	suite(t, func(s *store) {
		ended := func(ids ...string) map[string]bool {
			found, err := s.EndedLately(s.ctx, ids)
			require.NoError(s.t, err)
			return found
		}
		require.Empty(s.t, ended("1"))
		s.submit("1", "2", "3")
		claimed := s.claim("w-1-a", 2).Claimed
		require.NoError(s.t, s.raw.HSet(s.ctx, s.Keys.Claims, "4 5", "w-1-a:0:1").Err()) // not an ID, and not two
		odd := queue.Commit{Token: "w-1-a:0:1", Result: &execution.Result{ID: "4 5", Status: execution.Rejected, Err: &execution.Error{}}}
		outcomes, err := s.Commit(s.ctx, []queue.Commit{s.commitOf(claimed[0], execution.Succeeded), s.commitOf(claimed[1], execution.Failed), odd})
		require.NoError(s.t, err)
		require.Equal(s.t, []queue.CommitOutcome{queue.CommitDone, queue.CommitDone, queue.CommitDone}, outcomes)
		require.Equal(s.t, map[string]bool{"1": true, "2": true}, ended("1", "2", "3", "4", "5"))
		_, err = s.Cancel(s.ctx, "3", "r", &execution.Result{ID: "3", Status: execution.Cancelled}, 0)
		require.NoError(s.t, err)
		require.Equal(s.t, map[string]bool{"1": true, "3": true}, ended("1", "3", "4"))
		for i := range 3000 { // batches, by others
			require.NoError(s.t, s.raw.XAdd(s.ctx, &redis.XAddArgs{Stream: s.Keys.Ended, Values: []string{"ids", fmt.Sprint("x", i, " y", i)}}).Err())
		}
		require.Len(s.t, ended("1", "x0", "y0", "x2999", "y2999", "z"), 5)
	})
}

// Whatever ended still holds is known, also when it is all that 2,000 full commits write.
func TestEndedLatelyOnABusyQueue(t *testing.T) {
	suite(t, func(s *store) {
		const commits = 2_000
		id := func(commit, item int) string { return fmt.Sprintf("%d-%d", commit, item) }
		commit := func(p redis.Pipeliner, n int) {
			all := make([]string, queue.MaxBatch)
			for i := range all {
				all[i] = id(n, i)
			}
			p.XAdd(s.ctx, &redis.XAddArgs{Stream: s.Keys.Ended, MaxLen: commits, Approx: true, Values: []string{"ids", strings.Join(all, " ")}})
		}
		add := func(first, n int) {
			_, err := s.raw.Pipelined(s.ctx, func(p redis.Pipeliner) error {
				for i := range n {
					commit(p, first+i)
				}
				return nil
			})
			require.NoError(s.t, err)
		}
		known := func(want bool, ids ...string) {
			found, err := s.EndedLately(s.ctx, ids)
			require.NoError(s.t, err)
			for _, id := range ids {
				require.Equal(s.t, want, found[id], id)
			}
		}
		add(0, commits)
		known(true, id(0, 0), id(commits/2, 7), id(commits-1, queue.MaxBatch-1))
		add(commits, 100)
		known(true, id(100, 0), id(commits/2, 7), id(commits+99, queue.MaxBatch-1))
		known(false, "0-512", id(commits+100, 0))
	})
}

// What is no count, under attempts or recoveries, counts as none, and stops nobody: not the claim, not a retry, not the recovery of
// what was claimed beside it.
func TestCountsThatAreNone(t *testing.T) {
	suite(t, func(s *store) {
		all := []string{"word", "fraction", "negative", "huge", "nan", "fine"}
		set := func() {
			for _, key := range []string{s.Keys.Attempts, s.Keys.Recoveries} {
				require.NoError(s.t, s.raw.HSet(s.ctx, key, "word", "abc", "fraction", "1.5", "negative", "-3", "huge", "1e300", "nan", "nan", "fine", "2").Err())
			}
		}
		set()
		s.submit(all...)
		held := func(reply *queue.ClaimReply) (again []queue.Again) {
			require.ElementsMatch(s.t, all, ids(reply))
			for _, c := range reply.Claimed {
				require.Equal(s.t, s.raw.HGet(s.ctx, s.Keys.Claims, c.ID).Val(), c.Token, "the worker knows the token: %s", c.ID)
				again = append(again, queue.Again{Held: queue.Held{ID: c.ID, Token: c.Token}})
			}
			return again
		}
		first := s.claim("w-1-a", 10)
		require.Equal(s.t, 3, first.Claimed[5].Attempt())
		require.NoError(s.t, s.Retry(s.ctx, held(first)))
		set()
		held(s.claim("w-1-a", 10))
		set()
		reaped, err := s.Reap(s.ctx, "w-1-a", time.Hour, true, true)
		require.NoError(s.t, err)
		require.ElementsMatch(s.t, all, reaped.Moved)
		require.Equal(s.t, "1", s.raw.HGet(s.ctx, s.Keys.Recoveries, "word").Val())
		require.Equal(s.t, "3", s.raw.HGet(s.ctx, s.Keys.Recoveries, "fine").Val())
	})
}

// A worker that leaves in order while Redis takes nothing is charged with nothing by who finds its claims.
func TestLeavingInOrderCostsNothingWhateverRedisRefuses(t *testing.T) {
	suite(t, func(s *store) {
		s.register("w-2-b")
		s.submit("1", "2")
		s.claim("w-1-a", 2)
		require.NoError(s.t, s.raw.Set(s.ctx, s.Keys.Pending, "in the way", 0).Err())
		_, err := s.Reap(s.ctx, "w-1-a", time.Hour, true, false)
		require.ErrorIs(s.t, err, queue.ErrRefused)
		require.NoError(s.t, s.raw.Del(s.ctx, s.Keys.Pending).Err())
		reaped, err := s.Reap(s.ctx, "w-1-a", time.Hour, false, true)
		require.NoError(s.t, err)
		require.ElementsMatch(s.t, []string{"1", "2"}, reaped.Moved)
		for _, c := range s.claim("w-2-b", 2).Claimed {
			require.Equal(s.t, 1, c.Attempt())
			require.Zero(s.t, c.Recoveries)
		}
	})
}

// However long IDs are, a claim brings about so much at once as it may.
func TestHugeIDsAreClaimedOneByOne(t *testing.T) {
	suite(t, func(s *store) {
		for i := range 2 {
			require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Pending, fmt.Sprint(i, strings.Repeat("x", 9<<20))).Err())
		}
		for range 2 {
			reply := s.claim("w-1-a", 10)
			require.Len(s.t, reply.Claimed, 1)
		}
		require.Empty(s.t, s.pending())
	})
}

// Contexts above the limit (a thousand bytes here) are not read and their sizes told, wherever they stand among others, and also
// where IDs are in the list twice.
func TestLargeContextsAmongSmallOnes(t *testing.T) {
	for name, list := range map[string][]string{
		"once": {"small", "big", "none", "bigger", "last"}, "twice": {"small", "big", "big", "none", "bigger", "small", "last"},
	} {
		t.Run(name, func(t *testing.T) {
			suite(t, func(s *store) {
				sizes := map[string]int{"small": 7, "big": 1001, "bigger": 5000, "last": 1000}
				for id, size := range sizes {
					require.NoError(s.t, s.raw.HSet(s.ctx, s.Keys.Executions, id, strings.Repeat("x", size)).Err())
				}
				for _, id := range list {
					require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Pending, id).Err())
				}
				reply := s.claim("w-1-a", 10)
				require.Equal(s.t, []string{"small", "big", "none", "bigger", "last"}, ids(reply))
				require.Equal(s.t, len(list)-5, reply.Duplicates)
				adopted, err := s.Reconcile(s.ctx, queue.Claim{Incarnation: "w-1-a", Seq: s.seq, MaxContextBytes: 1000}, func(queue.Held) bool { return false })
				require.NoError(s.t, err)
				require.Len(s.t, adopted.Claimed, 5)
				for _, c := range append(reply.Claimed, adopted.Claimed...) {
					require.EqualValues(s.t, sizes[c.ID], c.Size, c.ID)
					require.Equal(s.t, c.ID == "none", c.Missing, c.ID)
					require.Equal(s.t, c.ID == "small" || c.ID == "last", c.Context != nil, c.ID)
				}
			})
		})
	}
}

// An ID that was pushed twice, and submitted again while the second push was being dropped, runs again.
func TestSubmittedAgainWhileItsSecondPushIsDropped(t *testing.T) {
	suite(t, func(s *store) {
		require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Pending, "x").Err())
		claimed := s.claim("w-1-a", 1).Claimed
		s.submit("x")
		require.Empty(s.t, ids(s.claim("w-1-a", 1)), "claimed already")
		for range 2 {
			require.NoError(s.t, s.Drop(s.ctx, []queue.Held{{ID: "x", Token: claimed[0].Token}}))
		}
		again := s.claim("w-1-a", 5)
		require.Equal(s.t, []string{"x"}, ids(again))
		require.False(s.t, again.Claimed[0].Missing)
	})
}
