package queue_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// broken puts a string where a script expects something else, so that its write there fails, has do done, and mends it.
func (s *store) broken(key string, do func()) {
	s.t.Helper()
	aside := key + ":aside"
	there := s.raw.Exists(s.ctx, key).Val() == 1
	if there {
		require.NoError(s.t, s.raw.Rename(s.ctx, key, aside).Err())
	}
	require.NoError(s.t, s.raw.Set(s.ctx, key, "in the way", 0).Err())
	do()
	require.NoError(s.t, s.raw.Del(s.ctx, key).Err())
	if there {
		require.NoError(s.t, s.raw.Rename(s.ctx, aside, key).Err())
	}
}

// requireSomewhere checks, with one of the keys broken perhaps, that an execution is not lost: it has one result, or its context
// and a place where a claim or a reap will find it.
func (s *store) requireSomewhere(id, why string) {
	s.t.Helper()
	k, results := s.Keys, 0
	for _, m := range s.raw.XRange(s.ctx, k.Results, "-", "+").Val() {
		if m.Values["execution_id"] == id {
			results++
		}
	}
	places := 0
	for _, there := range []bool{
		slices.Contains(s.raw.LRange(s.ctx, k.Pending, 0, -1).Val(), id), slices.Contains(s.raw.LRange(s.ctx, k.Handoff, 0, -1).Val(), id),
		s.raw.HExists(s.ctx, k.Claims, id).Val(), s.raw.ZScore(s.ctx, k.Scheduled, id).Err() == nil,
	} {
		if there {
			places++
		}
	}
	alive := places > 0 && s.raw.HExists(s.ctx, k.Executions, id).Val()
	require.True(s.t, results == 1 || (results == 0 && alive), "%s: %s has %d results and is in %d places", why, id, results, places)
}

// requireEnds checks that executions can be run to their end, each once, by a worker that comes later.
func (s *store) requireEnds(ids []string, why string) {
	s.t.Helper()
	s.register("w-9-z")
	for range 3 { // what is in two places is claimed once, and once there was nothing to claim
		for _, c := range s.claim("w-9-z", 100).Claimed {
			if c.Missing { // it had ended
				require.NoError(s.t, s.Drop(s.ctx, []queue.Held{{ID: c.ID, Token: c.Token}}))
				continue
			}
			outcomes, err := s.Commit(s.ctx, []queue.Commit{s.commitOf(c, execution.Succeeded)})
			require.NoError(s.t, err)
			require.Equal(s.t, []queue.CommitOutcome{queue.CommitDone}, outcomes)
		}
	}
	ended := map[string]int{}
	for _, m := range s.raw.XRange(s.ctx, s.Keys.Results, "-", "+").Val() {
		ended[fmt.Sprint(m.Values["execution_id"])]++
	}
	want := map[string]int{}
	for _, id := range ids {
		want[id] = 1
	}
	require.Equal(s.t, want, ended, why)
	d, err := s.Depths(s.ctx)
	require.NoError(s.t, err)
	require.Zero(s.t, d.Pending+d.Handoff+d.Claimed+d.Scheduled, why)
}

// verb is a script with several writes, for executions a and b.
type verb struct {
	setup  func(s *store) []queue.Held // returns the claims it is about
	call   func(s *store, held []queue.Held) error
	breaks func(k queue.Keys) []string // keys that the script writes or reads
	after  func(s *store, why string)  // what holds once it was repeated after the mending; nil: nothing special
}

var verbs = map[string]verb{
	"submit": {
		setup: func(*store) []queue.Held { return nil },
		call: func(s *store, _ []queue.Held) error {
			return s.Submit(s.ctx, queue.Submission{ID: "a", Context: []byte("{}")}, queue.Submission{ID: "b", Context: []byte("{}")})
		},
		breaks: func(k queue.Keys) []string { return []string{k.Pending, k.Executions} },
		after:  func(s *store, why string) { require.Equal(s.t, []string{"b", "a"}, s.pending(), why) },
	},
	"claim": {
		setup: func(s *store) []queue.Held {
			s.submit("a", "b")
			require.NoError(s.t, s.raw.LRem(s.ctx, s.Keys.Pending, 0, "b").Err())
			require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Scheduled, redis.Z{Member: "b", Score: 1}).Err()) // due
			return nil
		},
		call: func(s *store, _ []queue.Held) error {
			s.seq++
			_, err := s.Claim(s.ctx, queue.Claim{Incarnation: "w-1-a", Seq: s.seq, Want: 2, MaxContextBytes: 1000})
			return err
		},
		breaks: func(k queue.Keys) []string {
			return []string{k.Pending, k.Handoff, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Scheduled, k.ModulesVersion, k.Worker("w-1-a")}
		},
		after: func(s *store, _ string) { s.reap("w-1-a") },
	},
	"claim of one that waited": { // lone.lua
		setup: func(s *store) []queue.Held {
			s.submit("a", "b")
			s.claim("w-1-a", 1)
			require.NoError(s.t, s.raw.LMove(s.ctx, s.Keys.Pending, s.Keys.Handoff, "RIGHT", "LEFT").Err())
			return nil
		},
		call: func(s *store, _ []queue.Held) error {
			w := s.NewWaker()
			defer w.Close()
			s.seq++
			_, err := w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: s.seq, Want: 2, MaxContextBytes: 1000}, 10*time.Millisecond)
			return err
		},
		breaks: func(k queue.Keys) []string {
			return []string{k.Pending, k.Handoff, k.Claims, k.Executions, k.Attempts, k.Recoveries, k.Cancels, k.Scheduled, k.Workers, k.ModulesVersion, k.Worker("w-1-a")}
		},
		after: func(s *store, _ string) { s.reap("w-1-a") },
	},
	"commit": {
		setup: claimBoth,
		call: func(s *store, held []queue.Held) error {
			var batch []queue.Commit
			for _, h := range held {
				c := s.commitOf(queue.Claimed{ID: h.ID, Token: h.Token}, execution.Failed)
				c.Dead, c.ReplyTTL = true, time.Minute
				batch = append(batch, c)
			}
			_, err := s.Commit(s.ctx, batch)
			return err
		},
		breaks: func(k queue.Keys) []string {
			return []string{k.Results, k.Claims, k.Attempts, k.Recoveries, k.Cancels, k.Dead, k.Ended, k.Reply("a")}
		},
	},
	"commit of one": { // one.lua
		setup: claimBoth,
		call: func(s *store, held []queue.Held) error {
			for _, h := range held {
				c := s.commitOf(queue.Claimed{ID: h.ID, Token: h.Token}, execution.Succeeded)
				c.History = false
				if _, err := s.Commit(s.ctx, []queue.Commit{c}); err != nil {
					return err
				}
			}
			return nil
		},
		breaks: func(k queue.Keys) []string { return []string{k.Results, k.Claims, k.Ended} },
	},
	"release": {
		setup:  claimBoth,
		call:   func(s *store, held []queue.Held) error { _, err := s.Release(s.ctx, held); return err },
		breaks: func(k queue.Keys) []string { return []string{k.Pending, k.Claims} },
		after:  func(s *store, why string) { require.Zero(s.t, s.raw.HLen(s.ctx, s.Keys.Claims).Val(), why) },
	},
	"retry": {
		setup: claimBoth,
		call: func(s *store, held []queue.Held) error {
			return s.Retry(s.ctx, []queue.Again{{Held: held[0]}, {Held: held[1]}})
		},
		breaks: func(k queue.Keys) []string { return []string{k.Scheduled, k.Attempts, k.Claims} },
		after:  func(s *store, why string) { require.Zero(s.t, s.raw.HLen(s.ctx, s.Keys.Claims).Val(), why) },
	},
	"reap": {
		setup: claimBoth,
		call: func(s *store, _ []queue.Held) error {
			_, err := s.Reap(s.ctx, "w-1-a", time.Hour, true, true)
			return err
		},
		breaks: func(k queue.Keys) []string {
			return []string{k.Pending, k.Attempts, k.Recoveries, k.Claims, k.Workers, k.Intents}
		},
		after: func(s *store, why string) {
			require.Zero(s.t, s.raw.HLen(s.ctx, s.Keys.Claims).Val(), why)
			require.Zero(s.t, s.raw.ZCard(s.ctx, s.Keys.Workers).Val(), why)
		},
	},
	"rescue": {
		setup: func(s *store) []queue.Held {
			held := claimBoth(s)
			require.NoError(s.t, s.raw.ZRem(s.ctx, s.Keys.Workers, "w-1-a").Err()) // claimed by nobody, then
			return held
		},
		call: func(s *store, _ []queue.Held) error {
			_, err := s.Repair(s.ctx, queue.Ailment{IDs: []string{"a", "b"}})
			return err
		},
		breaks: func(k queue.Keys) []string { return []string{k.Pending, k.Attempts, k.Recoveries, k.Claims, k.Workers} },
		after:  func(s *store, why string) { require.Zero(s.t, s.raw.HLen(s.ctx, s.Keys.Claims).Val(), why) },
	},
	"drop": {
		setup: func(s *store) []queue.Held { // a second push, whose claim was reaped once
			held := claimBoth(s)
			for _, h := range held {
				_, err := s.Commit(s.ctx, []queue.Commit{s.commitOf(queue.Claimed{ID: h.ID, Token: h.Token}, execution.Succeeded)})
				require.NoError(s.t, err)
				require.NoError(s.t, s.raw.LPush(s.ctx, s.Keys.Pending, h.ID).Err())
			}
			s.register("w-2-b")
			s.claim("w-2-b", 2)
			s.reap("w-2-b")
			held = nil
			for _, c := range s.claim("w-1-a", 2).Claimed {
				require.True(s.t, c.Missing)
				held = append(held, queue.Held{ID: c.ID, Token: c.Token})
			}
			return held
		},
		call:   func(s *store, held []queue.Held) error { return s.Drop(s.ctx, held) },
		breaks: func(k queue.Keys) []string { return []string{k.Claims, k.Executions, k.Cancels} },
		after: func(s *store, why string) {
			require.Zero(s.t, s.raw.Exists(s.ctx, s.Keys.Claims, s.Keys.Attempts, s.Keys.Recoveries).Val(), why)
		},
	},
	"cancel": {
		setup: func(s *store) []queue.Held { s.submit("a", "b"); return nil },
		call: func(s *store, _ []queue.Held) error {
			_, err := s.cancel("a")
			return err
		},
		breaks: func(k queue.Keys) []string {
			return []string{k.Results, k.Claims, k.Executions, k.Pending, k.Handoff, k.Scheduled, k.Attempts, k.Recoveries, k.Cancels, k.Ended}
		},
		after: func(s *store, why string) { require.Equal(s.t, []string{"b"}, s.pending(), why) },
	},
}

func claimBoth(s *store) []queue.Held {
	s.submit("a", "b")
	var held []queue.Held
	for _, c := range s.claim("w-1-a", 2).Claimed {
		held = append(held, queue.Held{ID: c.ID, Token: c.Token})
	}
	return held
}

func (s *store) reap(incarnation string) {
	s.t.Helper()
	_, err := s.Reap(s.ctx, incarnation, time.Hour, true, true)
	require.NoError(s.t, err)
}

func (s *store) cancel(id string) (queue.CancelOutcome, error) {
	result := &execution.Result{ID: id, Status: execution.Cancelled, Err: &execution.Error{Type: execution.TypeCancelled}}
	return s.Cancel(s.ctx, id, "request", result, time.Minute)
}

// Lua has no rollback. Wherever a key of the wrong type cuts a script off, no execution is lost and none gets two results; and
// once the key is mended the same call completes what was begun.
func TestEveryPrefixIsSafe(t *testing.T) {
	t.Parallel()
	for name, v := range verbs {
		for _, key := range v.breaks(queue.NewKeys("", "")) {
			t.Run(name+"/"+key[len(":{}:"):], func(t *testing.T) {
				suite(t, func(s *store) { v.try(s, s.Keys.Results[:len(s.Keys.Results)-len("results")]+key[len(":{}:"):]) })
			})
		}
	}
}

// try has the verb called with the key broken, then mended.
func (v verb) try(s *store, key string) {
	s.t.Helper()
	held := v.setup(s)
	submitted := slices.Sorted(maps.Keys(s.raw.HGetAll(s.ctx, s.Keys.Executions).Val()))
	var failed error
	s.broken(key, func() { failed = v.call(s, held) })
	why := fmt.Sprintf("%s with a broken %s said %v", s.t.Name(), key, failed)
	if failed != nil {
		require.ErrorIs(s.t, failed, queue.ErrRefused, why)
	}
	for _, id := range submitted {
		s.requireSomewhere(id, why)
	}
	if err := v.call(s, held); failed != nil {
		require.NoError(s.t, err, why)
	}
	if v.after != nil {
		v.after(s, why)
	}
	s.requireEnds([]string{"a", "b"}, why)
}

// What is written last is what others go by: an incarnation is registered once its hash is there, and forgotten once all of it is
// gone, so that one that was cut off half-way is found silent and reaped.
func TestRegistrationIsWrittenLast(t *testing.T) {
	suite(t, func(s *store) {
		registered := func(incarnation string) bool { return s.raw.ZScore(s.ctx, s.Keys.Workers, incarnation).Err() == nil }
		newcomer := queue.Registration{Incarnation: "w-2-b", Lease: time.Hour}
		s.broken(s.Keys.Worker("w-2-b"), func() { require.ErrorIs(s.t, s.Register(s.ctx, newcomer), queue.ErrRefused) })
		require.False(s.t, registered("w-2-b"))
		require.NoError(s.t, s.Register(s.ctx, newcomer))
		require.True(s.t, registered("w-2-b"))
		s.broken(s.Keys.Intents, func() { require.ErrorIs(s.t, s.Unregister(s.ctx, "w-2-b"), queue.ErrRefused) })
		require.True(s.t, registered("w-2-b"))
		require.NoError(s.t, s.Unregister(s.ctx, "w-2-b"))
		require.False(s.t, registered("w-2-b"))
	})
}

// A heartbeat that fails half-way has renewed the lease, and an incident that does has been counted.
func TestHeartbeatAndIncidentCutShort(t *testing.T) {
	suite(t, func(s *store) {
		beat := queue.Beat{Incarnation: "w-1-a", Lease: time.Hour, Fields: map[string]string{"x": "1"}}
		require.NoError(s.t, s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "w-1-a", Score: 1000}).Err()) // silent since 1970
		s.broken(s.Keys.Handoff, func() {
			_, err := s.Heartbeat(s.ctx, beat)
			require.ErrorIs(s.t, err, queue.ErrRefused)
		})
		require.Greater(s.t, s.raw.ZScore(s.ctx, s.Keys.Workers, "w-1-a").Val(), 1000.)
		_, err := s.Heartbeat(s.ctx, beat)
		require.NoError(s.t, err)
		incident := queue.Incident{ID: "a", Workflow: "w", What: "lost", Window: time.Hour, Threshold: 1}
		s.broken(s.Keys.Quarantine, func() {
			_, err := s.Incident(s.ctx, incident)
			require.ErrorIs(s.t, err, queue.ErrRefused)
		})
		quarantined, err := s.Incident(s.ctx, incident)
		require.NoError(s.t, err)
		require.True(s.t, quarantined)
	})
}
