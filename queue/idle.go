package queue

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// connections are those of a client, so that the ones that are not needed any more can be closed. go-redis closes a connection for being
// idle only when it is about to use it, and of those that are idle it uses the one that was used last: what a busy minute has opened
// stays for good. In a fleet these are thousands of the clients that Redis admits, and it looks after each of them every second.
type connections struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

// of makes a client that is still to be made have its connections here.
func (cs *connections) of(o *redis.Options) {
	dial := o.Dialer
	if dial == nil {
		dial = redis.NewDialer(o)
	}
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: conn, among: cs}
		c.used.Store(now())
		cs.mu.Lock()
		defer cs.mu.Unlock()
		if cs.open == nil {
			cs.open = map[*connection]struct{}{}
		}
		cs.open[c] = struct{}{}
		return c, nil
	}
}

// closeIdle closes those that were not used for so long, except for the one that was used last.
func (cs *connections) closeIdle(after time.Duration) {
	for _, c := range cs.idle(after) {
		_ = c.Close()
	}
}

// idle returns what closeIdle is to close. Nobody will use it: see [connection.SetDeadline].
func (cs *connections) idle(after time.Duration) (idle []*connection) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var last int64
	for c := range cs.open {
		last = max(last, c.used.Load())
	}
	for c := range cs.open {
		used := c.used.Load()
		if used < min(last, now()-int64(after)) && !c.asked.Load() && c.used.CompareAndSwap(used, over) {
			idle = append(idle, c)
		}
	}
	return idle
}

// connection is one that knows when it was used.
type connection struct {
	net.Conn
	among *connections
	used  atomic.Int64 // when it was: see now; or over
	asked atomic.Bool  // an answer is awaited
}

// over is when a connection was used that is to be used no more.
const over = 0

// now is in nanoseconds since this process began, above 0, and not moved by whoever sets the clock.
func now() int64 { return int64(time.Since(begun)) + 1 }

var begun = time.Now()

func (c *connection) use() {
	for used := c.used.Load(); used != over && !c.used.CompareAndSwap(used, now()); used = c.used.Load() {
	}
}

// SetDeadline is what go-redis calls when it takes a connection out of its pool, and then it asks for [connection.SyscallConn]: from
// here on the connection is either in use or refused there.
func (c *connection) SetDeadline(t time.Time) error {
	c.use()
	return c.Conn.SetDeadline(t)
}

// SyscallConn lets go-redis find out whether the connection is still open.
func (c *connection) SyscallConn() (syscall.RawConn, error) {
	if c.used.Load() == over {
		return nil, net.ErrClosed
	}
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return opaque{}, nil
}

func (c *connection) Write(b []byte) (int, error) {
	c.use()
	c.asked.Store(true)
	return c.Conn.Write(b)
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.use()
	c.asked.Store(false)
	return n, err
}

func (c *connection) Close() error {
	c.among.mu.Lock()
	delete(c.among.open, c)
	c.among.mu.Unlock()
	return c.Conn.Close()
}

// opaque stands for the socket of a connection with TLS, into which nobody may look: what waits there need not be for go-redis.
type opaque struct{}

func (opaque) Control(func(uintptr)) error    { return nil }
func (opaque) Read(func(uintptr) bool) error  { return nil }
func (opaque) Write(func(uintptr) bool) error { return nil }
