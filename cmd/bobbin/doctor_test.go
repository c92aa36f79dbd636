package main

import (
	"context"
	"testing"

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

func TestDoctorSaysWhatCannotKeepThePromise(t *testing.T) {
	t.Parallel()
	s := setup(t, redistest.Real(t))
	r := s.do("", "doctor", "--json")
	require.Equal(t, execution.ExitFailure, r.code)
	require.Contains(t, r.out, "nothing is persisted")
}
