package queue

import (
	"context"
	"net"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/internal/nice"
)

// giveWay makes the connections of a client to a Redis on this machine give way to it. Those with TLS do not.
func giveWay(o *redis.Options) {
	dial := redis.NewDialer(o)
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if s, ok := conn.(socket); ok && err == nil {
			return yielding{s}, nil
		}
		return conn, err
	}
}

// socket is a connection into which go-redis looks before it sends something: has the server closed it?
type socket interface {
	net.Conn
	syscall.Conn
}

// yielding is a connection that gives up the processor once a request is sent. Linux likes to wake Redis on the processor of the
// thread that has written to it, even where another one is idle, and there Redis waits until that thread has nothing else to do: after a
// commit, until the next pop is on its way.
type yielding struct{ socket }

func (y yielding) Write(request []byte) (int, error) {
	n, err := y.socket.Write(request)
	nice.Yield()
	return n, err
}
