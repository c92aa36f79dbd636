package queue

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Waker blocks on a connection of its own until something is pending, and claims it. One goroutine calls [Waker.Claim] and
// [Waker.Close]; any may call [Waker.Interrupt].
type Waker struct {
	q    *Queue
	conn *redis.Conn  // nil until used, and after an error
	id   atomic.Int64 // Redis's name for conn; 0: unknown
}

// uninterruptible is the longest that a Claim blocks on a server without CLIENT UNBLOCK.
const uninterruptible = 250 * time.Millisecond

// Along is a heartbeat that goes with a claim.
type Along struct {
	Beat  Beat
	Pulse *Pulse // that was answered to it; nil: it is not known to have happened
}

// NewWaker returns a waker. It connects when first used.
func (q *Queue) NewWaker() *Waker { return &Waker{q: q} }

// Claim blocks until an ID is pending, moves it to hand-off, and claims; or claims after timeout (at most [MaxBlock], and less on a
// server without CLIENT UNBLOCK) or after [Waker.Interrupt], when most likely nothing is there. Both are one exchange: what a push
// brings is in the worker's hands after the round trip that any answer takes. Which ID was moved does not matter: whoever claims
// next takes it from hand-off. Errors are those of [Queue.Claim].
//
// A heartbeat that goes along happens after the claim, so that nobody waits for it before the claim is made.
//
// There is no context: cancelling one does not interrupt a blocked pop, it only forgets what the pop brings.
func (w *Waker) Claim(c Claim, timeout time.Duration) (*ClaimReply, error) {
	timeout = min(max(timeout, 10*time.Millisecond), MaxBlock)
	ctx, cancel := context.WithTimeout(context.Background(), timeout+ioTimeout)
	defer cancel()
	w.connect(ctx)
	timeout = min(timeout, w.MaxBlock())
	keys, args := w.q.claimCall(c, -c.Want)
	var pop, claim, beat *redis.Cmd
	// The error is that of either command.
	_, _ = w.conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		// Not BLMove: go-redis rounds its timeout to whole seconds.
		pop = p.Do(ctx, "blmove", w.q.Keys.Pending, w.q.Keys.Handoff, "right", "left", fmt.Sprintf("%.3f", timeout.Seconds()))
		claim = p.EvalSha(ctx, claimScript.Hash(), keys, args...)
		if c.Along != nil {
			keys, args := w.q.beatCall(c.Along.Beat)
			beat = p.EvalSha(ctx, heartbeatScript.Hash(), keys, args...)
		}
		return nil
	})
	if beat != nil && beat.Err() == nil {
		c.Along.Pulse, _ = pulse(beat.Val()) // from what is none: none
	}
	return w.claimed(ctx, c, pop, claim)
}

// claimed is what a pop and its claim brought.
func (w *Waker) claimed(ctx context.Context, c Claim, pop, claim *redis.Cmd) (*ClaimReply, error) {
	raw, err := claim.Result()
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		return w.q.Claim(ctx, c)
	}
	if err != nil {
		return nil, w.failed("claim", err)
	}
	reply, err := c.reply(raw)
	if err == nil && len(reply.Claimed) == 0 && pop.Err() != nil && !errors.Is(pop.Err(), redis.Nil) {
		return nil, w.failed("wake", pop.Err()) // a pop that is refused does not block
	}
	return reply, err
}

// failed closes the connection: after an error it is not known what is still on its way over it.
func (w *Waker) failed(operation string, err error) error {
	w.Close()
	return wrap(operation, err)
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

// MaxBlock is the longest that a Claim blocks: what cannot be interrupted must not keep a drain waiting. It is less, too, while there is
// no connection.
func (w *Waker) MaxBlock() time.Duration {
	if w.id.Load() == 0 {
		return uninterruptible
	}
	return MaxBlock
}

// Interrupt ends a blocked Claim at once, where Redis can do that (CLIENT UNBLOCK); elsewhere it ends at its timeout. Should
// an ID arrive in the same moment, Claim still claims it.
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
