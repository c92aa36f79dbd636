package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/queue"
)

// A worker that gives way to its Redis notices like any other that the server closed a connection, before it sends something over it:
// where it does not, a Redis that was restarted is an error of the next command.
func TestGivingWayNoticesClosedConnections(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	q, err := queue.Open(queue.Options{URL: server.URL(), Prefix: server.Prefix, GiveWay: true})
	require.NoError(t, err)
	defer func() { _ = q.Close() }()
	require.NoError(t, q.Ping(t.Context()))
	raw := server.Client()
	require.NoError(t, raw.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes").Err())
	require.NoError(t, q.Ping(t.Context()))
}
