package redistest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// commandTimeout bounds Exec, and everything that the clients made here do.
const commandTimeout = 10 * time.Second

// A Server is one test's view of a Redis. Its methods belong to the test's goroutine, except Exec and URL, which may be
// called from anywhere.
type Server struct {
	Addr   string // host:port
	Prefix string // no other test of this process has it: begin keys and channels with it on a shared server
	Real   bool   // a redis-server, not miniredis

	tb      testing.TB
	mini    *miniredis.Miniredis
	process *process // of a server that belongs to this test alone
}

var prefixes atomic.Int64

func newServer(tb testing.TB, addr string) *Server {
	return &Server{Addr: addr, Prefix: fmt.Sprintf("t%d", prefixes.Add(1)), tb: tb}
}

// Mini starts a miniredis that ends with the test. TIME and stream IDs are the wall clock's, in scripts as well, and keys
// and hash fields expire by it. Its FastForward expires keys ahead of time, but does not move TIME.
func Mini(tb testing.TB) *Server {
	tb.Helper()
	mini := miniredis.NewMiniRedis()
	if err := mini.StartAddr("127.0.0.1:0"); err != nil {
		tb.Fatalf("redistest: miniredis: %v", err)
	}
	tb.Cleanup(mini.Close)
	mini.ClockTTL(true)
	s := newServer(tb, mini.Addr())
	s.mini = mini
	return s
}

// Each runs a test against miniredis, and against the shared redis-server where there is one, as two parallel subtests.
func Each(t *testing.T, test func(t *testing.T, s *Server)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, Mini(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, Shared(t))
	})
}

// URL is the server's address as clients want it in their configuration.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Miniredis is what is behind Mini, for its SetError, FastForward and Dump; nil for a real server.
func (s *Server) Miniredis() *miniredis.Miniredis { return s.mini }

// Client returns a client that never retries, so that a test sees what happened to each command. It is closed at the
// test's end.
func (s *Server) Client() *redis.Client {
	client := newClient(s.Addr)
	s.tb.Cleanup(func() { client.Close() })
	return client
}

// Exec runs one command on a connection of its own: Exec("CONFIG", "SET", "maxmemory", "1mb").
func (s *Server) Exec(args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	client := newClient(s.Addr)
	defer client.Close()
	return client.Do(ctx, args...).Result()
}

func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:            addr,
		MaxRetries:      -1,
		DialTimeout:     commandTimeout,
		DialerRetries:   1,
		ReadTimeout:     commandTimeout,
		WriteTimeout:    commandTimeout,
		DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	})
}
