package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Waker blocks on a connection of its own until something is pending. One goroutine calls [Waker.Wake] and [Waker.Close]; any
// may call [Waker.Interrupt].
type Waker struct {
	q    *Queue
	conn *redis.Conn  // nil until used, and after an error
	id   atomic.Int64 // Redis's name for conn; 0: unknown
}

// uninterruptible is the longest that a Wake blocks on a server without CLIENT UNBLOCK.
const uninterruptible = 250 * time.Millisecond

// NewWaker returns a waker. It connects when first used.
func (q *Queue) NewWaker() *Waker { return &Waker{q: q} }

// Woken is what ended a [Waker.Wake].
type Woken int

// What a wake finds.
const (
	WokenByNothing Woken = iota // time passed, and a claim would find nothing: nothing is pending, in hand-off or scheduled
	WokenByID                   // an ID was moved to hand-off
	WokenByOther                // time passed, or somebody interrupted; a claim may find something
)

// Wake blocks until an ID is pending and moves it to hand-off, or until timeout (at most [MaxBlock], and less on a server
// without CLIENT UNBLOCK) has passed. Which ID it was does not matter: the next claim by anyone takes it from there. After an
// error it is not known whether an ID was moved, and it does not matter either.
//
// There is no context: cancelling one does not interrupt a blocked pop, it only forgets what the pop brings.
func (w *Waker) Wake(timeout time.Duration) (Woken, error) {
	timeout = min(max(timeout, 10*time.Millisecond), MaxBlock)
	ctx, cancel := context.WithTimeout(context.Background(), timeout+ioTimeout)
	defer cancel()
	w.connect(ctx)
	if w.id.Load() == 0 { // it cannot be interrupted, so it must not keep a drain waiting
		timeout = min(timeout, uninterruptible)
	}
	k := w.q.Keys
	var pop *redis.Cmd
	var there *redis.IntCmd
	// One exchange: Redis looks what is there when the pop has ended.
	_, err := w.conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		// Not BLMove: go-redis rounds its timeout to whole seconds.
		pop = p.Do(ctx, "blmove", k.Pending, k.Handoff, "right", "left", fmt.Sprintf("%.3f", timeout.Seconds()))
		there = p.Exists(ctx, k.Pending, k.Handoff, k.Scheduled)
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, redis.Nil):
		w.Close()
		return WokenByOther, wrap("wake", err)
	case pop.Err() == nil:
		return WokenByID, nil
	case there.Val() == 0:
		return WokenByNothing, nil
	default:
		return WokenByOther, nil
	}
}

func (w *Waker) connect(ctx context.Context) {
	if w.conn != nil {
		return
	}
	w.conn = w.q.blocked.Conn()
	if id, err := w.conn.ClientID(ctx).Result(); err == nil { // miniredis has no CLIENT ID: then Interrupt does nothing
		w.id.Store(id)
	}
}

// Interrupt ends a blocked Wake at once, where Redis can do that (CLIENT UNBLOCK); elsewhere it ends at its timeout. Should
// an ID arrive in the same moment, Wake still reports it.
func (w *Waker) Interrupt() {
	id := w.id.Load()
	if id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.q.rdb.ClientUnblock(ctx, id).Err() // only speed depends on it
}

// Close closes the connection.
func (w *Waker) Close() {
	w.id.Store(0)
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}
