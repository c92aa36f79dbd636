package main

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

func TestDoctorFindsAndRepairs(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFEverySec))
	s, ctx, raw := setup(t, server), context.Background(), server.Client()
	k := queue.NewKeys(server.Prefix, "default")
	s.ok("modules", "push", workflows(t, testModules))
	require.Contains(t, s.ok("doctor"), "all is well")

	require.NoError(t, raw.HSet(ctx, k.Executions, "nowhere", `{"workflow":"echo.star"}`, "orphan", `{"workflow":"echo.star"}`, "fine", `{"workflow":"echo.star"}`).Err())
	require.NoError(t, raw.HSet(ctx, k.Claims, "orphan", "gone-1-abc:7:1").Err())
	require.NoError(t, raw.LPush(ctx, k.Pending, "fine", "fine").Err())
	require.NoError(t, raw.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	r := s.do("", "doctor")
	require.Equal(t, execution.ExitFailure, r.code)
	for _, line := range []string{
		"WRONG  executions: 1 have a context but are neither", `"nowhere"`, "WRONG  executions: 1 are claimed by a worker that is not registered",
		`"orphan"`, "WRONG  server: maxmemory-policy is allkeys-lru", "CONFIG SET maxmemory-policy noeviction",
	} {
		require.Contains(t, r.out, line)
	}
	require.NotContains(t, r.out, `WRONG  executions: 1 are in more`)

	require.NoError(t, raw.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err())
	require.Zero(t, s.do("", "doctor", "--repair").code)
	s.worker()
	require.Eventually(t, func() bool { return raw.XLen(ctx, k.Results).Val() >= 3 }, patience, pollEvery)
	require.Contains(t, s.ok("doctor"), "all is well")
}

// Executions of a worker that is gone, with no other to take them over, are not well; and what has a result is not run again.
func TestDoctorSeesSilenceAndResults(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFEverySec))
	s, ctx, raw := setup(t, server), context.Background(), server.Client()
	k := queue.NewKeys(server.Prefix, "default")
	require.NoError(t, raw.HSet(ctx, k.Executions, "held", "{}", "ended", "{}", "unpushed", "{}").Err())
	require.NoError(t, raw.HSet(ctx, k.Claims, "held", "gone-1-abc:7:1").Err())
	require.NoError(t, raw.ZAdd(ctx, k.Workers, redis.Z{Member: "gone-1-abc", Score: 1000}).Err())
	require.NoError(t, raw.XAdd(ctx, &redis.XAddArgs{Stream: k.Results, Values: []string{"execution_id", "ended", "status", "succeeded"}}).Err())
	r := s.do("", "doctor")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.out, "1 are claimed by gone-1-abc, which is silent for")
	require.Contains(t, r.out, "NOTE   executions: 1 have a result and a context, and are not pending")
	require.Contains(t, r.out, "1 have a context but are neither")
	require.Zero(t, s.do("", "doctor", "--repair").code)
	require.ElementsMatch(t, []string{"held", "unpushed"}, raw.LRange(ctx, k.Pending, 0, -1).Val())
	require.Equal(t, "1", raw.HGet(ctx, k.Recoveries, "held").Val())
	require.Zero(t, raw.HLen(ctx, k.Claims).Val()+raw.ZCard(ctx, k.Workers).Val())
}

func TestDoctorSaysWhatCannotKeepThePromise(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Real(t))
	r := s.do("", "doctor", "--json")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.out, "nothing is persisted")

	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFEverySec))
	s = setup(t, server)
	require.Contains(t, s.do("", "doctor").out, "all is well", "the first worker will see to it")
	workers := queue.NewKeys(server.Prefix, "default").Workers
	require.NoError(t, server.Client().ZAdd(t.Context(), workers, redis.Z{Member: "h-1-x", Score: 1}).Err())
	r = s.do("", "doctor")
	require.Zero(t, r.code, "a warning")
	require.Contains(t, r.out, "the append-only file was not written anew since Redis was started")
}

// A Redis that is full says so where people look, tells where an execution is, and passes commands on that it cannot store.
func TestFullRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	s, ctx, raw := setup(t, server), context.Background(), server.Client()
	s.ok("modules", "push", workflows(t, testModules))
	w := s.worker()
	s.ok("submit", "echo.star", "--params", `{"params":7}`, "--id", "before", "--wait")
	s.ok("submit", "sleep.star", "--params", `{"seconds":60}`, "--id", "runs")
	require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "runs"), "running on ") }, patience, pollEvery)
	require.NotContains(t, s.do("", "doctor").out, "memory is")
	limit := func(bytes int64) {
		require.NoError(t, raw.ConfigSet(ctx, "maxmemory", strconv.FormatInt(bytes, 10)).Err())
	}
	var used int64
	for line := range strings.Lines(raw.Info(ctx, "memory").Val()) {
		if value, found := strings.CutPrefix(line, "used_memory:"); found {
			used, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	limit(used + used/20)
	require.Contains(t, s.do("", "doctor").out, "NOTE   server: memory is nearly full: ")
	require.NotContains(t, s.ok("status"), "Redis writes nothing")
	limit(1)
	require.Contains(t, s.do("", "doctor").out, "WRONG  server: memory is full: ")
	require.Contains(t, s.ok("inspect", "before"), "ended: succeeded")
	r := s.do("", "cancel", "runs")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.err, `cancel was published: a worker that runs "runs" obeys`)
	w.says("command received command=cancel")
	r = s.do("", "drain", "--all")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.err, "drain was published: workers that listen obey")
	require.Contains(t, r.err, "OOM")
	require.NotContains(t, r.err, "script")
	w.says("worker state changed from=ACTIVE to=DRAINING")
	limit(0)
	require.Zero(t, w.exits())
	require.Contains(t, s.ok("inspect", "runs"), "ended: cancelled")
}

// Whatever it is for that Redis writes nothing, it is said where people look.
func TestRedisThatWritesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFEverySec))
	s, ctx, raw := setup(t, server), context.Background(), server.Client()
	require.Contains(t, s.ok("doctor"), "all is well")
	keys := raw.DBSize(ctx).Val()
	for refusal, condition := range map[string]struct{ begin, end []any }{
		"NOREPLICAS": {[]any{"config", "set", "min-replicas-to-write", 1}, []any{"config", "set", "min-replicas-to-write", 0}},
		"READONLY":   {[]any{"replicaof", "127.0.0.1", 1}, []any{"replicaof", "no", "one"}},
		"OOM":        {[]any{"config", "set", "maxmemory", 1}, []any{"config", "set", "maxmemory", 0}},
	} {
		require.NoError(t, raw.Do(ctx, condition.begin...).Err())
		r := s.do("", "doctor")
		require.Equal(t, execution.ExitFailure, r.code)
		require.Contains(t, r.out, "WRONG  server: nothing can be submitted, claimed or finished: "+refusal)
		require.Contains(t, s.ok("status"), "! Redis writes nothing, so that nothing is submitted, claimed or finished: "+refusal)
		require.Contains(t, s.ok("top", "--once"), "! Redis writes nothing, so that nothing is submitted, claimed or finished: "+refusal)
		require.NoError(t, raw.Do(ctx, condition.end...).Err())
	}
	require.NotContains(t, s.ok("status")+s.ok("top", "--once"), "Redis writes nothing")
	require.Equal(t, keys, raw.DBSize(ctx).Val(), "to ask writes nothing")
}
