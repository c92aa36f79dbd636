package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/queue"
)

// lone is what a worker that waited may find, with "a" in hand-off unless it is taken from there.
var lone = map[string]func(s *store){
	"one":         func(*store) {},
	"nothing":     func(s *store) { s.raw.Del(s.ctx, s.Keys.Handoff) },
	"one of many": func(s *store) { s.submit("b", "c") },
	"two handed":  func(s *store) { s.raw.LPush(s.ctx, s.Keys.Handoff, "b") },
	"the same twice": func(s *store) {
		s.raw.LPush(s.ctx, s.Keys.Handoff, "a")
	},
	"held already":          func(s *store) { s.raw.HSet(s.ctx, s.Keys.Claims, "a", "w-2-b:1:1") },
	"no context":            func(s *store) { s.raw.HDel(s.ctx, s.Keys.Executions, "a") },
	"at the limit":          func(s *store) { s.raw.HSet(s.ctx, s.Keys.Executions, "a", strings.Repeat("x", 2000)) },
	"above it":              func(s *store) { s.raw.HSet(s.ctx, s.Keys.Executions, "a", strings.Repeat("x", 2001)) },
	"joined":                func(s *store) { s.raw.HSet(s.ctx, s.Keys.Executions, "a", strings.Repeat("x y", 341)) },
	"not joined":            func(s *store) { s.raw.HSet(s.ctx, s.Keys.Executions, "a", strings.Repeat("x y", 342)) },
	"empty":                 func(s *store) { s.raw.HSet(s.ctx, s.Keys.Executions, "a", "") },
	"modules":               func(s *store) { s.raw.Set(s.ctx, s.Keys.ModulesVersion, "7", 0) },
	"a version with spaces": func(s *store) { s.raw.Set(s.ctx, s.Keys.ModulesVersion, "7 8 9", 0) },
	"a long version":        func(s *store) { s.raw.Set(s.ctx, s.Keys.ModulesVersion, strings.Repeat("7", 255), 0) },
	"a version too long":    func(s *store) { s.raw.Set(s.ctx, s.Keys.ModulesVersion, strings.Repeat("7", 256), 0) },
	"an ID with spaces":     handed("b c d"),
	"a long ID":             handed(strings.Repeat("i", 255)),
	"an ID too long":        handed(strings.Repeat("i", 256)),
	"attempts": func(s *store) {
		s.raw.HSet(s.ctx, s.Keys.Attempts, "a", 2)
		s.raw.HSet(s.ctx, s.Keys.Recoveries, "a", 1)
	},
	"attempts of others": func(s *store) {
		s.raw.HSet(s.ctx, s.Keys.Attempts, "z", 2)
	},
	"nothing but attempts of others": func(s *store) {
		s.raw.Del(s.ctx, s.Keys.Handoff)
		s.raw.HSet(s.ctx, s.Keys.Attempts, "z", 2)
	},
	"cancel": func(s *store) { s.raw.HSet(s.ctx, s.Keys.Cancels, "a", "{}") },
	"due":    func(s *store) { s.raw.ZAdd(s.ctx, s.Keys.Scheduled, redis.Z{Member: "b", Score: 1}) },
	"only due": func(s *store) {
		s.raw.ZAdd(s.ctx, s.Keys.Scheduled, redis.Z{Member: "b", Score: 1})
		s.raw.Del(s.ctx, s.Keys.Handoff)
	},
	"fenced":    func(s *store) { s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "w-1-a", Score: 0}) },
	"leaving":   func(s *store) { s.raw.ZAdd(s.ctx, s.Keys.Workers, redis.Z{Member: "w-1-a", Score: -1}) },
	"unknown":   func(s *store) { s.raw.ZRem(s.ctx, s.Keys.Workers, "w-1-a") },
	"overtaken": func(s *store) { s.raw.HSet(s.ctx, s.Keys.Worker("w-1-a"), "claim_fence", "99") },
	"after it":  func(s *store) { s.raw.HSet(s.ctx, s.Keys.Worker("w-1-a"), "claim_fence", "0") },
}

// handed puts another ID in the place of "a".
func handed(id string) func(s *store) {
	return func(s *store) {
		s.raw.Del(s.ctx, s.Keys.Handoff)
		s.raw.HSet(s.ctx, s.Keys.Executions, id, "{}")
		s.raw.LPush(s.ctx, s.Keys.Handoff, id)
	}
}

// seen is what a claim said and left behind.
type seen struct {
	err     string
	claimed []queue.Claimed
	version string
	more    bool
	dropped int
	lists   [][]string
	claims  map[string]string
}

// observe claims in one of two ways, with "a" handed off and found as the case wants it.
func observe(s *store, found func(*store), waiting bool) seen {
	s.t.Helper()
	s.submit("a")
	s.raw.LMove(s.ctx, s.Keys.Pending, s.Keys.Handoff, "RIGHT", "LEFT")
	found(s)
	claim := queue.Claim{Incarnation: "w-1-a", Seq: 5, Want: 4, MaxContextBytes: 2000}
	var reply *queue.ClaimReply
	var err error
	if waiting {
		w := s.NewWaker()
		defer w.Close()
		reply, err = w.Claim(claim, 10*time.Millisecond)
	} else {
		s.raw.LMove(s.ctx, s.Keys.Pending, s.Keys.Handoff, "RIGHT", "LEFT") // as the waker's pop does
		reply, err = s.Claim(s.ctx, claim)
	}
	out := seen{claims: s.raw.HGetAll(s.ctx, s.Keys.Claims).Val()}
	for _, list := range []string{s.Keys.Handoff, s.Keys.Pending} {
		out.lists = append(out.lists, s.raw.LRange(s.ctx, list, 0, -1).Val())
	}
	if err != nil {
		out.err = err.Error()[strings.LastIndex(err.Error(), ":"):]
		return out
	}
	for _, c := range reply.Claimed {
		require.InDelta(s.t, time.Now().UnixMilli(), c.ClaimedMS, 60_000)
		c.ClaimedMS = 0
		out.claimed = append(out.claimed, c)
	}
	if len(reply.Claimed) > 0 { // else nobody asks
		out.version = reply.ModulesVersion
	}
	out.more, out.dropped = reply.More, reply.Duplicates
	return out
}

// forget deletes every key of the queue, and registers its worker again.
func (s *store) forget() {
	s.t.Helper()
	keys, err := s.raw.Keys(s.ctx, strings.TrimSuffix(s.Keys.Pending, "pending")+"*").Result()
	require.NoError(s.t, err)
	require.NoError(s.t, s.raw.Del(s.ctx, keys...).Err())
	s.register("w-1-a")
}

// The short way that the claim of an idle worker takes (lone.lua) says and leaves behind what the long one would, whatever there is.
func TestClaimOfOneThatWaited(t *testing.T) {
	t.Parallel()
	for name, found := range lone {
		t.Run(name, func(t *testing.T) {
			suite(t, func(s *store) {
				long := observe(s, found, false)
				s.forget()
				require.Equal(s.t, long, observe(s, found, true))
			})
		})
	}
}
