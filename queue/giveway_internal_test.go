package queue

import (
	"net"
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
	require.NoError(t, listener.Close())
	_, err = o.Dialer(t.Context(), "tcp", listener.Addr().String())
	require.Error(t, err)
}
