package queue

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

// What a busy minute opened is closed, but for one connection and what waits for an answer; and the pool that they were in notices
// before it sends anything over them, also where it cannot look into the socket, as with TLS.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	server := redistest.Real(t)
	for _, sealed := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "sealed"}[sealed]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			o := &redis.Options{Addr: server.Addr, ClientName: name, DialTimeout: dialTimeout}
			tune(o)
			if sealed {
				dial := redis.NewDialer(o)
				o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := dial(ctx, network, addr)
					return struct{ net.Conn }{conn}, err
				}
			}
			var pool connections
			pool.of(o)
			rdb := redis.NewClient(o)
			defer func() { _ = rdb.Close() }()
			clients := func() int {
				return strings.Count(server.Client().ClientList(context.Background()).Val(), " name="+name+" ")
			}
			busy := func() {
				var some []*redis.Conn
				for range 5 {
					conn := rdb.Conn()
					require.NoError(t, conn.Ping(ctx).Err())
					some = append(some, conn)
				}
				for _, conn := range some {
					require.NoError(t, conn.Close())
				}
			}
			waiting := rdb.Conn()
			require.NoError(t, waiting.Ping(ctx).Err())
			popped := make(chan error, 1)
			go func() { popped <- waiting.BLPop(ctx, time.Minute, server.Prefix+name).Err() }()
			require.Eventually(t, func() bool {
				return strings.Contains(server.Client().ClientList(context.Background()).Val(), "cmd=blpop")
			}, 20*time.Second, time.Millisecond)
			busy()
			pool.closeIdle(time.Hour)
			require.Equal(t, 6, clients(), "none was idle for so long")
			pool.closeIdle(0)
			require.Eventually(t, func() bool { return clients() == 2 }, 20*time.Second, time.Millisecond)
			busy()
			require.Equal(t, 6, clients())
			require.NoError(t, server.Client().RPush(ctx, server.Prefix+name, "x").Err())
			require.NoError(t, <-popped)
			require.NoError(t, waiting.Close())
		})
	}
}
