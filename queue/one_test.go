package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// What the commit of one may come upon: "a" is claimed by w-1-a, and is committed.
var one = map[string]func(s *store, c *queue.Commit){
	"plain":         func(*store, *queue.Commit) {},
	"with meta":     func(_ *store, c *queue.Commit) { c.Result.Meta = []byte(`{"x":1}`) },
	"without value": func(_ *store, c *queue.Commit) { c.Result.Value = nil },
	"no claim":      func(s *store, _ *queue.Commit) { s.raw.Del(s.ctx, s.Keys.Claims) },
	"of another":    func(s *store, _ *queue.Commit) { s.raw.HSet(s.ctx, s.Keys.Claims, "a", "w-2-b:1:1") },
	"no context":    func(s *store, _ *queue.Commit) { s.raw.Del(s.ctx, s.Keys.Executions) },
	"odd results":   func(s *store, _ *queue.Commit) { s.raw.Set(s.ctx, s.Keys.Results, "x", 0) },
	"odd claims": func(s *store, _ *queue.Commit) {
		s.raw.Del(s.ctx, s.Keys.Claims)
		s.raw.Set(s.ctx, s.Keys.Claims, "x", 0)
	},
	"odd contexts": func(s *store, _ *queue.Commit) {
		s.raw.Del(s.ctx, s.Keys.Executions)
		s.raw.Set(s.ctx, s.Keys.Executions, "x", 0)
	},
	"odd ended": func(s *store, _ *queue.Commit) { s.raw.Set(s.ctx, s.Keys.Ended, "x", 0) },
}

// committed is what a commit said and left behind.
type committed struct {
	refused         bool
	outcomes        []queue.CommitOutcome
	results, ended  []map[string]any
	claims, waiting map[string]string
}

// The short way of a commit of one (one.lua) says and leaves behind what the long one would, whatever there is.
func TestCommitOfOne(t *testing.T) {
	t.Parallel()
	for name, found := range one {
		t.Run(name, func(t *testing.T) {
			suite(t, func(s *store) {
				long := s.commitOne(found, true)
				s.forget()
				require.Equal(s.t, long, s.commitOne(found, false))
			})
		})
	}
}

// commitOne commits "a", by the long way when it may have a history, which it has not.
func (s *store) commitOne(found func(*store, *queue.Commit), long bool) committed {
	s.t.Helper()
	s.submit("a", "b")
	s.seq = 6
	claimed := s.claim("w-1-a", 2).Claimed
	c := s.commitOf(claimed[0], execution.Succeeded)
	c.Result.ClaimedMS, c.Result.StartedMS, c.Result.FinishedMS = 1, 2, 3
	c.History = long
	found(s, &c)
	var out committed
	var err error
	if out.outcomes, err = s.Commit(s.ctx, []queue.Commit{c}); err != nil {
		require.ErrorIs(s.t, err, queue.ErrRefused)
		require.ErrorContains(s.t, err, "WRONGTYPE")
		out.refused = true
	}
	for key, into := range map[string]*[]map[string]any{s.Keys.Results: &out.results, s.Keys.Ended: &out.ended} {
		for _, m := range s.raw.XRange(s.ctx, key, "-", "+").Val() {
			*into = append(*into, m.Values)
		}
	}
	out.claims, out.waiting = s.raw.HGetAll(s.ctx, s.Keys.Claims).Val(), s.raw.HGetAll(s.ctx, s.Keys.Executions).Val()
	return out
}
