package redistest

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRealKeepsWhatItIsToldToKeep(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		persistence Persistence
		kept        int64
	}{"none": {None, 0}, "everysec": {AOFEverySec, 1}, "always": {AOFAlways, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Real(t, WithPersistence(c.persistence))
			require.True(t, s.Real)
			for _, end := range []func(){s.Kill, s.Stop} {
				_, err := s.Exec("SET", "k", "v")
				require.NoError(t, err)
				end()
				_, err = s.Exec("PING")
				require.Error(t, err)
				s.Start()
				n, err := s.Exec("EXISTS", "k")
				require.NoError(t, err)
				require.Equal(t, c.kept, n)
			}
		})
	}
}

func TestRealTakesConfig(t *testing.T) {
	t.Parallel()
	s := Real(t, WithConfig("maxmemory", "123mb"), WithConfig("maxmemory-policy", "noeviction"))
	got, err := s.Exec("CONFIG", "GET", "maxmemory")
	require.NoError(t, err)
	require.Equal(t, map[any]any{"maxmemory": "128974848"}, got)
}

func TestRealWithPassword(t *testing.T) {
	t.Parallel()
	s := Real(t, WithConfig("requirepass", "secret"))
	_, err := s.Exec("PING")
	require.ErrorContains(t, err, "NOAUTH")
}

func TestRealSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	mustLookup(t)
	message := failure(t, func(tb testing.TB) { Real(tb, WithConfig("no-such-setting", "1")) })
	require.Contains(t, message, "no-such-setting")
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := Real(t)
	w := dial(t, s.Addr)
	s.Pause()
	w.send("PING")
	w.requireSilent()
	s.Resume()
	require.Equal(t, "+PONG", w.next())
	s.Pause() // a paused server ends with the test all the same
}

func TestStopOfAPausedServer(t *testing.T) {
	t.Parallel()
	s := Real(t)
	s.Pause()
	s.Stop()
	s.Stop()
	s.Kill()
	require.Contains(t, failure(t, func(tb testing.TB) { s.tb = tb; s.Pause() }), "does not run")
}

func TestStartOfARunningServer(t *testing.T) {
	t.Parallel()
	s := Real(t)
	require.Contains(t, failure(t, func(tb testing.TB) { s.tb = tb; s.Start() }), "runs")
}

func TestRestartOnATakenPort(t *testing.T) {
	t.Parallel()
	s := Real(t)
	s.Kill()
	listener, err := net.Listen("tcp", s.Addr)
	require.NoError(t, err)
	require.ErrorIs(t, s.process.start(), errPortTaken)
	require.NoError(t, listener.Close())
	s.Start()
}

func TestSharedServerIsNotEnded(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		for _, method := range []func(*Server){(*Server).Kill, (*Server).Stop, (*Server).Start, (*Server).Pause, (*Server).Resume} {
			message := failure(t, func(tb testing.TB) {
				view := *s
				view.tb = tb
				method(&view)
			})
			require.Contains(t, message, "server of the test's own")
		}
	})
}

func TestServersDoNotShareKeys(t *testing.T) {
	t.Parallel()
	a, b := Shared(t), Shared(t)
	require.Equal(t, a.Addr, b.Addr)
	require.NotEqual(t, a.Prefix, b.Prefix)
}

// TestClock: expiry and TIME follow the wall clock on both servers, inside scripts as well.
func TestClock(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, client := testContext(t), s.Client()
		key := s.Prefix + ":k"
		require.NoError(t, client.Set(ctx, key, "v", 20*time.Millisecond).Err())
		require.Eventually(t, func() bool { return client.Exists(ctx, key).Val() == 0 }, deadline, time.Millisecond)

		timeOf := func() int64 {
			parts, err := client.Eval(ctx, `return redis.call("TIME")`, nil).Int64Slice()
			require.NoError(t, err)
			return parts[0]*1_000_000 + parts[1]
		}
		first := timeOf()
		require.InDelta(t, time.Now().UnixMicro(), first, float64(deadline/time.Microsecond))
		require.Eventually(t, func() bool { return timeOf() > first }, deadline, time.Millisecond)
		require.Equal(t, s.Miniredis() == nil, s.Real)
	})
}

func TestClientNeverRetries(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		options, err := redis.ParseURL(s.URL())
		require.NoError(t, err)
		require.Equal(t, s.Addr, options.Addr)
		ctx, proxy, client := setup(t, s)
		proxy.DropReply("INCR", 1)
		require.Error(t, client.Incr(ctx, s.Prefix).Err())
		require.Equal(t, 1, proxy.Count("INCR"))
	})
}

func TestWithoutAServer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"real", "shared"} {
		out, err := child(t, name, "PATH=/nowhere", "BOBBIN_TEST_REDIS_SERVER=", "BOBBIN_REQUIRE_REDIS=").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- SKIP")
		require.Contains(t, string(out), "apt-get install redis-server")

		out, err = child(t, name, "BOBBIN_TEST_REDIS_SERVER=/nowhere/redis", "BOBBIN_REQUIRE_REDIS=1").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "--- FAIL")
		require.Contains(t, string(out), "apt-get install redis-server")
		require.Contains(t, string(out), "/nowhere/redis")
	}
}

func TestMainFailsThePackageForALeak(t *testing.T) {
	t.Parallel()
	out, err := child(t, "leak").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "goroutines are left")
}

func TestMainStopsTheSharedServer(t *testing.T) {
	t.Parallel()
	mustLookup(t)
	out, err := child(t, "shared").CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, addr, found := strings.Cut(string(out), "shared at ")
	require.True(t, found)
	requireGone(testContext(t), t, strings.Fields(addr)[0])

	out, err = child(t, "shared without Main").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "TestMain")
}

// TestOrphanDies: a server does not outlive a test process that had no time for a cleanup.
func TestOrphanDies(t *testing.T) {
	t.Parallel()
	mustLookup(t)
	cmd := child(t, "orphan")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	addr := ""
	for lines := bufio.NewScanner(stdout); addr == "" && lines.Scan(); {
		_, addr, _ = strings.Cut(lines.Text(), "orphan at ")
	}
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	requireGone(testContext(t), t, addr)
}

func requireGone(ctx context.Context, t *testing.T, addr string) {
	t.Helper()
	var dialer net.Dialer
	require.Eventually(t, func() bool {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, deadline, time.Millisecond)
}
