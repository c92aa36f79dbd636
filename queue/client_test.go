package queue_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// More pops block than a client has connections, and the other commands have theirs still.
func TestBlockedPopsStarveNobody(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Real(t))
	var stopped atomic.Bool
	var blocking sync.WaitGroup
	for range 40 {
		blocking.Go(func() {
			w := s.NewWaker()
			defer w.Close()
			for !stopped.Load() {
				// Where no connection is left, it is an error.
				_, _ = w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: 1, MaxContextBytes: 10}, queue.MaxBlock)
			}
		})
	}
	defer blocking.Wait()
	defer stopped.Store(true)
	require.Eventually(t, func() bool {
		info, err := s.raw.InfoMap(s.ctx, "clients").Result()
		return err == nil && info["Clients"]["blocked_clients"] >= "16"
	}, patience, 10*time.Millisecond, "the pops block")
	require.NoError(t, s.Ping(s.ctx))
	s.submit("1")
}

// silence is a server that takes connections and says nothing, and a queue on it.
func silence(t *testing.T) (net.Listener, *queue.Queue) {
	t.Helper()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	q, err := queue.Open(queue.Options{URL: "redis://" + silent.Addr().String()})
	require.NoError(t, err)
	return silent, q
}

// A server that takes the connection and says nothing, as one behind a broken network does, is an error of the command.
func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	_, q := silence(t)
	defer func() { _ = q.Close() }()
	w := q.NewWaker()
	defer w.Close()
	failed := make(chan error, 2)
	go func() { failed <- q.Ping(context.Background()) }()
	go func() {
		_, err := w.Claim(queue.Claim{Incarnation: "w-1-a", Seq: 1, Want: 1, MaxContextBytes: 10}, time.Second)
		failed <- err
	}()
	for range 2 {
		select {
		case err := <-failed:
			require.Error(t, err)
		case <-time.After(patience):
			t.Fatal("a command still waits for an answer")
		}
	}
}
