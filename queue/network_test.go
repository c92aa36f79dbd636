package queue_test

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// unreachable returns an address that answers no attempt to connect, as a machine that is off does not: a listener that accepts
// nobody, with its backlog full.
func unreachable(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	dialer := net.Dialer{Timeout: 300 * time.Millisecond}
	for range 16 {
		conn, err := dialer.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Skip("this kernel accepts for a listener whose backlog is full")
	return ""
}

// A Redis that cannot be reached is an error of the command after one attempt of three seconds. go-redis would make five, of five
// seconds each.
func TestUnreachableServerIsGivenUp(t *testing.T) {
	t.Parallel()
	q, err := queue.Open(queue.Options{URL: "redis://" + unreachable(t)})
	require.NoError(t, err)
	defer func() { _ = q.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 11*time.Second) // two attempts are six seconds, and five are fifteen
	defer cancel()
	require.Error(t, q.Ping(ctx))
	require.NoError(t, ctx.Err(), "the attempt still goes on")
}

// go-redis rounds the timeout of its BLMove to whole seconds: a worker for which something is due in ten milliseconds would sleep for
// a hundred times as long.
func TestWakerBlocksForFractionsOfASecond(t *testing.T) {
	t.Parallel()
	redis := redistest.Mini(t)
	s := open(t, redis)
	var timeout atomic.Value
	redis.Miniredis().Server().SetPreHook(func(_ *server.Peer, cmd string, args ...string) bool {
		if cmd == "BLMOVE" {
			timeout.Store(args[len(args)-1])
		}
		return false
	})
	w := s.NewWaker()
	defer w.Close()
	require.Empty(t, ids(s.wake(w, 1, 10*time.Millisecond)))
	require.Equal(t, "0.010", timeout.Load())
}

// A server that forgot the scripts, as one does that was restarted or has taken over, is sent them again, by the waker too.
func TestWakerAfterScriptFlush(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Real(t))
	s.submit("1")
	w := s.NewWaker()
	defer w.Close()
	require.NoError(t, s.raw.ScriptFlush(s.ctx).Err())
	require.Equal(t, []string{"1"}, ids(s.wake(w, 1, 10*time.Millisecond)))
}

// While Redis is full the dead are still declared dead: what they hold goes on as soon as there is room.
func TestFenceWhileMemoryIsFull(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Real(t))
	s.submit("1")
	s.claim("w-1-a", 1)
	require.NoError(t, s.raw.ConfigSet(s.ctx, "maxmemory", "1").Err())
	_, err := s.Reap(s.ctx, "w-1-a", time.Hour, true, true)
	require.ErrorIs(t, err, queue.ErrRefused, "there is no room in pending")
	require.Zero(t, s.raw.ZScore(s.ctx, s.Keys.Workers, "w-1-a").Val(), "it is fenced")
	s.requireSomewhere("1", "full")
	require.NoError(t, s.raw.ConfigSet(s.ctx, "maxmemory", "0").Err())
	s.reap("w-1-a")
	s.requireEnds([]string{"1"}, "there is room again")
}

// Whoever waits for modules that another is reading leaves the line when it is cancelled, however long Redis is silent.
func TestCancelledWhileAnotherReadsTheModules(t *testing.T) {
	t.Parallel()
	silent, q := silence(t)
	first := make(chan error, 1)
	go func() { // awaited through first
		_, _, err := q.Snapshot(context.Background(), "1")
		first <- err
	}()
	conn, err := silent.Accept() // now it reads
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = q.Snapshot(ctx, "1")
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, first, "the one in front still reads")
	require.NoError(t, conn.Close())
	require.NoError(t, silent.Close())
	require.Error(t, <-first)
	require.NoError(t, q.Close())
}
