package queue

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	o := &redis.Options{DialTimeout: dialTimeout}
	giveWay(o)
	conn, err := o.Dialer(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	require.IsType(t, yielding{}, conn)
	require.NoError(t, conn.Close())
	_, err = o.Dialer(t.Context(), "unix", filepath.Join(t.TempDir(), "nobody")) // a port that was closed is another test's soon
	require.Error(t, err)
}
