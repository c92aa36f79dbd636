package main

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// An execution's whole story, as inspect, top and stacks tell it.
func TestInspectTopAndStacks(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server).with("BOBBIN_LEASE=1s")
		s.ok("modules", "push", workflows(t, testModules))
		unknown := s.do("", "inspect", "nobody")
		require.Equal(t, execution.ExitFailure, unknown.code)
		require.Contains(t, unknown.out, "unknown")

		s.ok("submit", "sleep.star", "--params", `{"seconds":60}`, "--id", "first")
		second := strings.TrimSpace(s.ok("submit", "echo.star", "--params", `{"params":7}`))
		require.Contains(t, s.ok("inspect", "first"), "pending at position 1 of 2")
		require.Contains(t, s.ok("inspect", second), "pending at position 2 of 2")
		require.Contains(t, s.ok("top", "--once"), "no workers are registered")

		w := s.worker("BOBBIN_CONCURRENCY=1")
		require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "first"), "running on ") }, patience, pollEvery)
		view := s.ok("top", "--once")
		require.Contains(t, view, "pending 1 (the oldest waits ")
		require.Regexp(t, `first  sleep\.star  for \d`, view)
		stacks := s.ok("stacks", "--all")
		require.Contains(t, stacks, "execution first, workflow sleep.star, running for ")
		require.Contains(t, stacks, "in main\n    def main(seconds): sleep(seconds)\n")
		require.NotContains(t, stacks, "goroutine")
		s.ok("cancel", "first")
		require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "first"), "ended: cancelled") }, patience, pollEvery)
		require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", second), "ended: succeeded") }, patience, pollEvery)
		told := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(s.ok("inspect", second, "--json")), &told))
		require.Equal(t, "ended", told["state"])
		require.Equal(t, map[string]any{"params": 7.0}, told["result"].(map[string]any)["result"])
		require.Contains(t, s.ok("top", "--once"), "ran p50 ")
		require.Contains(t, s.do("", "top").err, "needs a terminal")

		s.ok("submit", "sleep.star", "--params", `{"seconds":60}`, "--id", "orphan")
		require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "orphan"), "running on ") }, patience, pollEvery)
		w.signal(syscall.SIGKILL)
		require.Eventually(t, func() bool { return strings.Contains(s.ok("inspect", "orphan"), "last heard of ") }, patience, pollEvery)
	})
}

// Where an execution is now comes first, whatever its ID was before.
func TestInspectTellsNowFromBefore(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		s.ok("modules", "push", workflows(t, testModules))
		w := s.worker()
		s.ok("submit", "echo.star", "--id", "again", "--wait")
		require.Contains(t, s.ok("inspect", "again"), "ended: succeeded")
		s.ok("submit", "sleep.star", "--params", `{"seconds":60}`, "--id", "again")
		require.Eventually(t, func() bool {
			return strings.Contains(s.ok("inspect", "again"), "state       running on ")
		}, patience, pollEvery)
		require.Contains(t, s.ok("inspect", "again"), "earlier     the ID ended before: succeeded ")
		told := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(s.ok("inspect", "again", "--json")), &told))
		require.Equal(t, "running", told["state"])
		s.ok("cancel", "again")

		s.do("", "submit", "fail.star", "--id", "corpse", "--wait")
		require.Contains(t, s.ok("inspect", "corpse"), "bobbin dead retry corpse runs it again")
		require.Regexp(t, `corpse +fail\.star +failed +StarlarkError: .*on purpose`, s.ok("dead", "list"))
		listed := results(t, s.ok("dead", "list", "--json"))
		require.JSONEq(t, `{"workflow":"fail.star","params":{}}`, listed[0]["context"].(string))
		w.signal(syscall.SIGTERM)
		require.Zero(t, w.exits())
		require.Equal(t, "corpse\n", s.ok("dead", "retry", "corpse"))
		require.Contains(t, s.ok("inspect", "corpse"), "pending at position 1 of 1")
		require.Contains(t, s.do("", "dead", "retry", "corpse").err, "is not in dead")
		require.Contains(t, s.ok("status"), "0 dead")

		ctx, rdb := t.Context(), server.Client()
		require.NoError(t, rdb.HSet(ctx, server.Prefix+":{default}:executions", "lone", `{"workflow":"echo.star"}`).Err())
		require.Contains(t, s.ok("inspect", "lone"), "not queued: ")
		require.NoError(t, rdb.LPush(ctx, server.Prefix+":{default}:pending", "bare").Err())
		require.Contains(t, s.ok("inspect", "bare"), "context     none: it is rejected")
		require.NoError(t, rdb.XAdd(ctx, &redis.XAddArgs{Stream: server.Prefix + ":{default}:logs:lone",
			Values: map[string]any{"at_ms": 1, "level": "INFO", "line": "\x1b[2Jgone"}}).Err())
		require.Contains(t, s.ok("inspect", "lone"), `\u001b[2Jgone`)
	})
}

func TestQuarantineThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server).with("BOBBIN_LEASE=1s")
		s.ok("modules", "push", workflows(t, testModules))
		s.worker()
		require.Contains(t, s.do("", "quarantine", "list").err, "no workflow is in quarantine")
		for _, bad := range []string{"", "a b\n"} {
			r := s.do("", "quarantine", "add", bad)
			require.Equal(t, execution.ExitUsage, r.code)
			require.Contains(t, r.err, "workflow")
		}
		require.Contains(t, s.do("", "quarantine", "add", "ecoh.star").err, `no module "ecoh.star" is published`)
		s.ok("quarantine", "remove", "ecoh.star")
		s.ok("quarantine", "add", "echo.star", "--why", "it is too loud")
		require.Contains(t, s.ok("quarantine", "list"), "it is too loud")
		require.Eventually(t, func() bool {
			r := s.do("", "submit", "echo.star", "--wait")
			return strings.Contains(r.out, "WorkflowQuarantined")
		}, patience, pollEvery)
		s.ok("quarantine", "remove", "echo.star")
		require.Contains(t, s.do("", "quarantine", "remove", "echo.star").err, "is not in quarantine")
		require.Eventually(t, func() bool { return s.do("", "submit", "echo.star", "--wait").code == 0 }, patience, pollEvery)
	})
}

var servedAt = regexp.MustCompile(`metrics and health.*address=(\S+)`)

// What a worker serves on its address, through its life: ready, paused, and handed over to its replacement.
func TestMetricsAndHealthThroughTheBinary(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, server *redistest.Server) {
		s := setup(t, server)
		s.ok("modules", "push", workflows(t, testModules))
		w := s.worker("BOBBIN_HTTP_ADDR=127.0.0.1:0")
		w.says("metrics and health")
		base := "http://" + servedAt.FindStringSubmatch(w.log.String())[1]
		get := func(path string) (int, string) {
			response, err := http.Get(base + path)
			if err != nil {
				return 0, err.Error()
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			return response.StatusCode, string(body)
		}
		s.ok("submit", "echo.star", "--wait")
		s.do("", "submit", "fail.star", "--wait")
		_, text := get("/metrics")
		for _, line := range []string{
			`bobbin_executions_total{Q,runner="starlark",status="succeeded"} 1`, `bobbin_executions_total{Q,runner="starlark",status="failed"} 1`,
			`bobbin_queue_wait_seconds_count{Q} 2`, `bobbin_results_unread{Q} 2`, `bobbin_pending{Q} 0`, `bobbin_worker_state{Q,state="ACTIVE"} 1`,
		} {
			require.Contains(t, text, strings.Replace(line, "Q", `prefix="`+server.Prefix+`",queue="default"`, 1)+"\n")
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			code, text := get(path)
			require.Equal(t, http.StatusOK, code, text)
		}
		require.Contains(t, s.ok("pause", "--all"), "pause accepted, now ACTIVE (paused)")
		code, why := get("/readyz")
		require.Equal(t, http.StatusServiceUnavailable, code)
		require.Contains(t, why, "paused")
		code, _ = get("/healthz")
		require.Equal(t, http.StatusOK, code)
		bad := s.with("BOBBIN_HTTP_ADDR=300.0.0.1:80").do("", "worker")
		require.NotZero(t, bad.code)
		require.Contains(t, bad.err, "BOBBIN_HTTP_ADDR")
	})
}

// While Redis is away the client library writes nothing by itself: a command says it once, a worker in its log.
func TestRedisAwayIsSaidOnce(t *testing.T) {
	t.Parallel()
	s := (&shell{t, []string{asBobbin + "=1", "BOBBIN_PYTHON_WARM=0"}}).with("BOBBIN_REDIS_URL=redis://127.0.0.1:1/0", "BOBBIN_LOG_FORMAT=json")
	status := s.do("", "status")
	require.Equal(t, execution.ExitFailure, status.code)
	require.Equal(t, 1, strings.Count(status.err, "\n"), status.err)
	worker := s.start("worker")
	worker.says("redis does not answer yet")
	for line := range strings.Lines(worker.log.String()) {
		require.True(t, json.Valid([]byte(line)), line)
	}
}

// Of an execution that its worker does not list, inspect says what can be known.
func TestInspectSaysWhatIsKnownOfAClaim(t *testing.T) {
	t.Parallel()
	at := &queue.Whereabouts{NowMS: 5000, Token: "vm-a:1:1", Incarnation: "vm-a", Context: `{"workflow":"echo.star"}`}
	worker := func(runs ...consumer.Run) []queue.Worker {
		document, err := json.Marshal(runs)
		require.NoError(t, err)
		return []queue.Worker{{Incarnation: "vm-a", HeartbeatMS: 4000, Fields: map[string]string{"executions": string(document), "state": "ACTIVE", "lease_ms": "9000"}}}
	}
	require.Equal(t, "claimed by vm-a, since when is not known: it was not running at that worker's last heartbeat, 1s ago", tell("x", at, worker()).sentence())
	full := slices.Repeat([]consumer.Run{{ID: "other", SinceMS: 3000}}, consumer.MaxRuns)
	require.Contains(t, tell("x", at, worker(full...)).sentence(), "not among the 20 that run there longest, which began before 1970-01-01 00:00:03.000Z")
	require.Contains(t, tell("x", at, nil).sentence(), "since when is not known, which is not registered")
	require.Equal(t, "running on vm-a since 1970-01-01 00:00:03.000Z, for 2s", tell("other", at, worker(full...)).sentence())
}
