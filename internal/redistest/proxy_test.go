package redistest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestProxyChangesNothing(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, _ := setup(t, s)
		for _, protocol := range []int{2, 3} {
			client := redis.NewClient(&redis.Options{Addr: proxy.Addr, Protocol: protocol, MaxRetries: -1})
			t.Cleanup(func() { client.Close() })
			key := fmt.Sprintf("%s:%d", s.Prefix, protocol)
			for i := range 500 {
				value := strings.Repeat("x", i*10)
				_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
					pipe.HSet(ctx, key, "field", value)
					pipe.HGetAll(ctx, key)
					pipe.LPush(ctx, key+"l", i)
					return nil
				})
				require.NoError(t, err)
			}
			require.Equal(t, strings.Repeat("x", 4990), client.HGet(ctx, key, "field").Val())
			require.Len(t, client.LRange(ctx, key+"l", 0, -1).Val(), 500)
			replies, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Incr(ctx, key+"n")
				pipe.Incr(ctx, key+"n")
				return nil
			})
			require.NoError(t, err)
			require.EqualValues(t, 2, replies[1].(*redis.IntCmd).Val())
			require.ErrorIs(t, client.Get(ctx, key+"none").Err(), redis.Nil)
		}
		require.Equal(t, 1000, proxy.Count("HSET"))
		require.Empty(t, proxy.Fired())
	})
}

// TestProxyCarriesMoreThanItHolds: pipelines of which nobody reads the answers until all is written, and big values.
func TestProxyCarriesMoreThanItHolds(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		_, proxy, _ := setup(t, s)
		w := dial(t, proxy.Addr)
		const size, n = 8 << 20, 4
		w.send("SET " + s.Prefix + " " + strings.Repeat("x", size))
		require.Equal(t, "+OK", w.next())
		w.send("GET " + s.Prefix)
		_, err := io.CopyN(io.Discard, w.reader, int64(len("$8388608\r\n")+size+2))
		require.NoError(t, err)
		for range n {
			w.send("GET " + s.Prefix)
		}
		w.send("PING")
		for range n {
			require.NoError(t, copyFrame(io.Discard, w.reader))
		}
		require.Equal(t, "+PONG", w.next())
		w.send("DEL " + s.Prefix)
		require.Equal(t, ":1", w.next())
	})
}

func TestProxyPassesInlineCommands(t *testing.T) {
	t.Parallel()
	s := Shared(t)
	_, proxy, _ := setup(t, s)
	w := dial(t, proxy.Addr)
	_, err := io.WriteString(w, "ping\r\n\r\n*0\r\necho hello\r\n")
	require.NoError(t, err)
	require.Equal(t, "+PONG", w.next())
	require.Equal(t, "$5 hello", w.next())
	require.Equal(t, 2, proxy.Count("*"))
	require.NoError(t, w.CloseWrite())
	w.requireEOF()
}

func TestProxyClosesWhatIsNotRESP(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		_, proxy, _ := setup(t, s)
		w := dial(t, proxy.Addr)
		_, err := io.WriteString(w, "*x\r\n")
		require.NoError(t, err)
		w.requireEOF()
	})
}

func TestProxyBeforeADeadServer(t *testing.T) {
	t.Parallel()
	s := Real(t)
	ctx, proxy, client := setup(t, s)
	w := dial(t, proxy.Addr)
	w.send("PING")
	require.Equal(t, "+PONG", w.next())
	s.Kill()
	w.requireEOF()
	require.Error(t, client.Ping(ctx).Err())
	s.Start()
	require.NoError(t, client.Ping(ctx).Err())
}

func TestDropReply(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		lost := proxy.DropReply("INCR", 2)
		require.EqualValues(t, 1, client.Incr(ctx, s.Prefix).Val())
		require.False(t, lost.Fired())
		require.ErrorIs(t, client.Incr(ctx, s.Prefix).Err(), io.EOF)
		require.NoError(t, lost.Wait(ctx))
		require.True(t, lost.Fired())
		require.EqualValues(t, 3, client.Incr(ctx, s.Prefix).Val(), "the second one ran")
		require.Equal(t, []string{"drop-reply INCR"}, proxy.Fired())
		require.Equal(t, 3, proxy.Count("INCR"))
	})
}

func TestDropReplyInAPipeline(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		_, proxy, _ := setup(t, s)
		proxy.DropReply("INCR", 2)
		w := dial(t, proxy.Addr)
		w.send("INCR "+s.Prefix, "INCR "+s.Prefix, "INCR "+s.Prefix)
		require.Equal(t, ":1", w.next())
		w.requireEOF()
	})
}

func TestSwallowReply(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		lost := proxy.SwallowReply("INCR", 1)
		w := dial(t, proxy.Addr)
		w.send("PING", "INCR "+s.Prefix)
		require.Equal(t, "+PONG", w.next())
		require.NoError(t, lost.Wait(ctx))
		w.send("PING")
		w.requireSilent()
		require.EqualValues(t, 2, client.Incr(ctx, s.Prefix).Val())
		require.Equal(t, []string{"swallow-reply INCR"}, proxy.Fired())
	})
}

func TestDropRequest(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		proxy.DropRequest("INCR", 2)
		w := dial(t, proxy.Addr)
		w.send("INCR "+s.Prefix, "INCR "+s.Prefix, "INCR "+s.Prefix)
		require.Equal(t, ":1", w.next())
		w.requireEOF()
		require.Equal(t, []string{"drop-request INCR"}, proxy.Fired())
		require.EqualValues(t, 2, client.Incr(ctx, s.Prefix).Val(), "none after the first ran")
		proxy.DropRequest("INCR", 1)
		require.ErrorIs(t, client.Incr(ctx, s.Prefix).Err(), io.EOF)
		require.EqualValues(t, 3, client.Incr(ctx, s.Prefix).Val())
	})
}

func TestInjectError(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		injected := proxy.InjectError("INCR", 2, "READONLY You can't write against a read only replica.")
		w := dial(t, proxy.Addr)
		w.send("INCR "+s.Prefix, "INCR "+s.Prefix, "INCR "+s.Prefix)
		require.Equal(t, ":1", w.next())
		require.Equal(t, "-READONLY You can't write against a read only replica.", w.next())
		require.Equal(t, ":2", w.next())
		require.NoError(t, injected.Wait(ctx))

		proxy.InjectError("INCR", 1, "OOM command not allowed when used memory > 'maxmemory'.")
		_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Incr(ctx, s.Prefix)
			pipe.Incr(ctx, s.Prefix)
			return nil
		})
		require.ErrorContains(t, err, "EXECABORT")
		require.EqualValues(t, 3, client.Incr(ctx, s.Prefix).Val(), "the transaction was spoiled")
	})
}

func TestHoldRequest(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		fault, release := proxy.HoldRequest("SET", 1)
		w := dial(t, proxy.Addr)
		w.send("PING", "SET "+s.Prefix+" stale", "PING")
		require.Equal(t, "+PONG", w.next())
		w.requireEOF()
		require.NoError(t, fault.Wait(ctx))
		require.NoError(t, w.Close())

		require.NoError(t, client.Set(ctx, s.Prefix, "fresh", 0).Err())
		proxy.Cut()
		require.NoError(t, release())
		require.Equal(t, "stale", client.Get(ctx, s.Prefix).Val())
		require.Equal(t, []string{"hold-request SET", "cut", "release SET"}, proxy.Fired())
		require.ErrorIs(t, release(), errReleased)
	})
}

func TestReleaseOfNothing(t *testing.T) {
	t.Parallel()
	ctx, proxy, client := setup(t, Mini(t))
	_, release := proxy.HoldRequest("PING", 1)
	require.ErrorContains(t, release(), "no PING was held")
	require.ErrorIs(t, release(), errReleased)
	require.NoError(t, client.Ping(ctx).Err(), "nothing will be held")
}

func TestReleaseToADeadServer(t *testing.T) {
	t.Parallel()
	s := Real(t)
	ctx, proxy, client := setup(t, s)
	_, release := proxy.HoldRequest("INCR", 1)
	require.ErrorIs(t, client.Incr(ctx, "n").Err(), io.EOF)
	s.Kill()
	require.Error(t, release())
}

// TestHeldForever: a test may end without releasing.
func TestHeldForever(t *testing.T) {
	t.Parallel()
	ctx, proxy, client := setup(t, Mini(t))
	_, release := proxy.HoldRequest("INCR", 1)
	require.ErrorIs(t, client.Incr(ctx, "n").Err(), io.EOF)
	proxy.close()
	require.ErrorIs(t, release(), errGone)
}

func TestScriptsHaveNames(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		script := redis.NewScript(`return redis.call("INCR", KEYS[1]) -- ` + s.Prefix)
		proxy.Label(strings.ToUpper(script.Hash()), "claim")
		lost := proxy.DropReply("EVALSHA:claim", 2)
		require.EqualValues(t, 1, script.Run(ctx, client, []string{s.Prefix}).Val())
		require.ErrorIs(t, script.Run(ctx, client, []string{s.Prefix}).Err(), io.EOF)
		require.True(t, lost.Fired())
		require.EqualValues(t, 3, script.Run(ctx, client, []string{s.Prefix}).Val())
		for name, n := range map[string]int{
			"EVAL": 1, "EVAL:claim": 1, "EVALSHA:claim": 3, "EVALSHA:" + script.Hash(): 3, "claim": 4, "EVALSHA": 3,
		} {
			require.Equal(t, n, proxy.Count(name), name)
		}
		require.Equal(t, []string{"drop-reply EVALSHA:claim"}, proxy.Fired())
	})
}

func TestTwoFaultsForOneCommand(t *testing.T) {
	t.Parallel()
	ctx, proxy, client := setup(t, Mini(t))
	proxy.InjectError("PING", 1, "ONE")
	proxy.InjectError("PING", 1, "TWO")
	never := proxy.InjectError("PING", 3, "NEVER")
	require.True(t, never.Disarm())
	require.False(t, never.Disarm())
	require.EqualError(t, client.Ping(ctx).Err(), "ONE")
	require.EqualError(t, client.Ping(ctx).Err(), "TWO")
	require.NoError(t, client.Ping(ctx).Err())
	require.NoError(t, proxy.WaitFired(ctx, 2))

	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, proxy.WaitFired(ended, 3), context.Canceled)
	require.ErrorContains(t, never.Wait(ended), "inject-error PING")
}

func TestFaultsSayWhatIsWrongWithThem(t *testing.T) {
	t.Parallel()
	proxy := NewProxy(t, Mini(t).Addr)
	for _, c := range []struct {
		want string
		arm  func()
	}{
		{"drop-reply GET: nth is 1 for the next command, not 0", func() { proxy.DropReply("GET", 0) }},
		{`not "two\r\nlines"`, func() { proxy.InjectError("GET", 1, "two\r\nlines") }},
	} {
		require.Contains(t, failure(t, func(tb testing.TB) { proxy.tb = tb; c.arm() }), c.want)
	}
	proxy.tb = t
}

func TestCut(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		blocked := make(chan error, 1)
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() { blocked <- client.BLPop(ctx, 0, s.Prefix).Err() })
		require.Eventually(t, func() bool { return proxy.Count("BLPOP") == 1 }, deadline, time.Millisecond)
		proxy.Cut()
		err := <-blocked
		require.True(t, errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET), "%v", err)
		require.NoError(t, client.Ping(ctx).Err())
	})
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	ctx, proxy, client := setup(t, Mini(t))
	w := dial(t, proxy.Addr)
	w.send("PING")
	require.Equal(t, "+PONG", w.next())
	proxy.Refuse(true)
	require.Error(t, client.Ping(ctx).Err())
	require.Contains(t, proxy.Fired(), "refuse")
	w.send("PING")
	require.Equal(t, "+PONG", w.next(), "open connections live on")
	proxy.Refuse(false)
	require.NoError(t, client.Ping(ctx).Err())
}

func TestBlackHole(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		idle, busy := dial(t, proxy.Addr), dial(t, proxy.Addr)
		for _, w := range []*wire{idle, busy} {
			w.send("PING")
			require.Equal(t, "+PONG", w.next())
		}
		proxy.BlackHole(true)
		proxy.BlackHole(true)
		busy.send("INCR " + s.Prefix)
		busy.requireSilent()
		late := dial(t, proxy.Addr)
		late.send("PING")
		late.requireSilent()
		proxy.BlackHole(false)
		busy.send("PING")
		busy.requireSilent()
		idle.send("INCR " + s.Prefix)
		require.Equal(t, ":1", idle.next())
		require.NoError(t, client.Ping(ctx).Err())
		require.Equal(t, []string{"black-hole"}, proxy.Fired())
	})
}

// TestBlackHoleHidesTheEnd: what a server hands to a client that it cannot see leaving is lost.
func TestBlackHoleHidesTheEnd(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, _ := setup(t, s)
		direct := s.Client()
		w := dial(t, proxy.Addr)
		w.send("ECHO x", "BLPOP "+s.Prefix+" 0")
		require.Equal(t, "$1 x", w.next())
		require.Eventually(t, func() bool { return proxy.Count("BLPOP") == 1 }, deadline, time.Millisecond)
		w.send("ECHO y") // behind the BLPOP: once it is counted, the BLPOP is on its way
		require.Eventually(t, func() bool { return proxy.Count("ECHO") == 2 }, deadline, time.Millisecond)
		proxy.BlackHole(true)
		require.NoError(t, w.Close())
		require.NoError(t, direct.LPush(ctx, s.Prefix, "lost").Err())
		require.Eventually(t, func() bool { return direct.LLen(ctx, s.Prefix).Val() == 0 }, deadline, time.Millisecond)
		proxy.BlackHole(false)
		require.Eventually(t, func() bool { return proxy.Connections() == 0 }, deadline, time.Millisecond)
	})
}

func TestDelay(t *testing.T) {
	t.Parallel()
	ctx, proxy, client := setup(t, Mini(t))
	proxy.Delay(time.Millisecond)
	require.NoError(t, client.Ping(ctx).Err())
	proxy.Delay(time.Hour) // which the test's end does not wait for
	w := dial(t, proxy.Addr)
	w.send("PING")
	require.Eventually(t, func() bool { return proxy.Count("PING") == 2 }, deadline, time.Millisecond)
	w.requireSilent()
}

func TestRandomLoss(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		proxy.RandomLoss(1, 0.2)
		ran := 0
		for range 300 {
			if client.Incr(ctx, s.Prefix).Err() == nil {
				ran++
			}
		}
		proxy.RandomLoss(1, 0)
		require.NotZero(t, ran)
		fired := map[string]int{}
		for _, f := range proxy.Fired() {
			fired[f]++
		}
		require.NotZero(t, fired["drop-request INCR"])
		require.NotZero(t, fired["drop-reply INCR"])
		n, err := client.Get(ctx, s.Prefix).Int()
		require.NoError(t, err)
		require.Equal(t, ran+fired["drop-reply INCR"], n)
	})
}

// TestProxyUnderLoad: many clients, faults from everywhere, and in the end every answer was to its own question.
func TestProxyUnderLoad(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		var workers sync.WaitGroup
		for i := range 10 {
			workers.Go(func() {
				for j := range 100 {
					want := fmt.Sprintf("%d:%d", i, j)
					if got, err := client.Echo(ctx, want).Result(); err == nil && got != want {
						t.Errorf("asked to echo %s, got %s", want, got)
					}
					switch {
					case j%40 == i:
						proxy.Cut()
					case j%20 == i:
						proxy.DropReply("ECHO", 3)
					case j%25 == i:
						proxy.InjectError("ECHO", 2, "ERR injected")
					}
				}
			})
		}
		workers.Wait()
		require.NotEmpty(t, proxy.Fired())
	})
}

func TestProxyEndsWithItsTest(t *testing.T) {
	t.Parallel()
	var addr string
	t.Run("test", func(t *testing.T) {
		proxy := NewProxy(t, Mini(t).Addr)
		addr = proxy.Addr
		require.Equal(t, "redis://"+addr+"/0", proxy.URL())
		w := dial(t, addr)
		w.send("PING")
		require.Equal(t, "+PONG", w.next())
	})
	_, err := net.Dial("tcp", addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}
