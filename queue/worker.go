package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bobbin-run/bobbin/internal/failpoint"
)

// Registration is what a worker says of itself. Fields are in docs/protocol.md.
type Registration struct {
	Incarnation string
	Lease       time.Duration
	Fields      map[string]string // constant for the life of the incarnation
}

// staleAfter is how long a registration's hash outlives its last heartbeat: long enough to be read while the incarnation is
// reaped.
func staleAfter(lease time.Duration) int64 { return (10*lease + time.Minute).Milliseconds() }

// Register makes an incarnation known, so that it may claim. It is safe to repeat. [ErrNotRegistered] means that this
// incarnation was declared dead already and must not be used again.
func (q *Queue) Register(ctx context.Context, r Registration) error {
	args := []any{r.Incarnation, staleAfter(r.Lease), "lease_ms", r.Lease.Milliseconds()}
	for name, value := range r.Fields {
		args = append(args, name, value)
	}
	_, err := q.run(ctx, "register", registerScript, []string{q.Keys.Workers, q.Keys.Worker(r.Incarnation)}, args...)
	return err
}

// Beat is one heartbeat.
type Beat struct {
	Incarnation string
	Lease       time.Duration
	MayReap     bool
	Whole       bool              // Fields are all there are, and make a registration that is gone whole again
	Fields      map[string]string // of the registration: those that changed since the last heartbeat that was answered
}

// Pulse is what a heartbeat brings back.
type Pulse struct {
	NowMS   int64             // Redis's clock
	Intent  string            // the stored command for this incarnation, or empty
	Handoff int               // IDs in hand-off
	Cancels map[string]string // execution ID → request, for executions that this incarnation holds
	Silent  []string          // incarnations that this worker is to reap now
	Results int64             // the length of results, read or not

	Quarantined []string // workflows that are refused
	Forgotten   bool     // the registration is gone, evicted or deleted: the next beat is to be Whole
}

// Heartbeat renews an incarnation's lease. [ErrNotRegistered] means that it lost it and must fence itself. It is safe to
// repeat.
func (q *Queue) Heartbeat(ctx context.Context, b Beat) (*Pulse, error) {
	keys, args := q.beatCall(b)
	raw, err := q.run(ctx, "heartbeat", heartbeatScript, keys, args...)
	if err != nil {
		return nil, err
	}
	return pulse(raw)
}

// beatCall is a call of heartbeat.lua.
func (q *Queue) beatCall(b Beat) (keys []string, args []any) {
	k := q.Keys
	args = []any{b.Incarnation, staleAfter(b.Lease), b.Lease.Milliseconds(), bit(b.MayReap), max(b.Lease.Milliseconds()/3, 1), bit(b.Whole)}
	if b.Whole {
		args = append(args, "lease_ms", b.Lease.Milliseconds())
	}
	for name, value := range b.Fields {
		args = append(args, name, value)
	}
	return []string{
		k.Workers, k.Worker(b.Incarnation), k.Intents, k.Cancels, k.Claims, k.Executions, k.Handoff, k.Reaper, k.Results, k.Quarantine,
	}, args
}

// pulse decodes what heartbeat.lua returns.
func pulse(raw any) (*Pulse, error) {
	values, ok := raw.([]any)
	if !ok || len(values) != 8 {
		return nil, fmt.Errorf("heartbeat: unexpected reply %T", raw)
	}
	p := &Pulse{
		NowMS: number(values[0]), Intent: text(values[1]), Handoff: int(number(values[2])), Silent: texts(values[4]),
		Results: number(values[5]), Quarantined: texts(values[6]), Forgotten: number(values[7]) == 0,
		Cancels: map[string]string{},
	}
	for asked := texts(values[3]); len(asked) >= 2; asked = asked[2:] {
		p.Cancels[asked[0]] = asked[1]
	}
	return p, nil
}

func bit(set bool) int {
	if set {
		return 1
	}
	return 0
}

// ClearIntent removes the stored command of an incarnation that obeyed it, unless a newer one replaced it.
func (q *Queue) ClearIntent(ctx context.Context, incarnation, intent string) error {
	current, err := q.rdb.HGet(ctx, q.Keys.Intents, incarnation).Result()
	if errors.Is(err, redis.Nil) || (err == nil && current != intent) {
		return nil
	}
	if err != nil {
		return wrap("clear intent", err)
	}
	return wrap("clear intent", q.rdb.HDel(ctx, q.Keys.Intents, incarnation).Err())
}

// Reaped says what [Queue.Reap] did.
type Reaped struct {
	Moved []string // the IDs that went back to pending
	Alive bool     // it was heard of within its lease after all; nothing was moved
}

// Reap takes back everything an incarnation holds, if it has been silent for longer than the lease. With certain, silence
// is not asked for: the caller knows that its process is gone. With counted, each execution is charged a recovery and an
// attempt; a worker that takes leave of its own incarnation does not count. It is safe to repeat, also by several workers
// at once, and to break off: the incarnation stays fenced, and whoever reaps it next goes on.
func (q *Queue) Reap(ctx context.Context, incarnation string, lease time.Duration, certain, counted bool) (*Reaped, error) {
	k, silence, score := q.Keys, lease.Milliseconds(), 0
	if certain {
		silence = 0
	}
	if !counted {
		score = -1 // whoever has to go on with this does not count either
	}
	raw, err := q.run(ctx, "fence", fenceScript, []string{k.Workers, k.Worker(incarnation)}, incarnation, silence, score)
	if err != nil || number(raw) == 0 {
		return &Reaped{Alive: err == nil}, err
	}
	failpoint.Hit("reap-fenced")
	reaped := &Reaped{}
	count := 0
	if counted {
		count = 1
	}
	err = q.scanClaims(ctx, incarnation, func(pairs []string) error {
		args := []any{incarnation, count}
		for i := 0; i < len(pairs); i += 2 {
			args = append(args, pairs[i])
		}
		raw, err := q.run(ctx, "reap", reapScript, []string{k.Workers, k.Claims, k.Pending, k.Attempts, k.Recoveries}, args...)
		failpoint.Hit("reap-moved")
		reaped.Moved = append(reaped.Moved, texts(raw)...)
		return err
	})
	if err != nil {
		return reaped, err
	}
	failpoint.Hit("reap-before-unregister")
	return reaped, q.Unregister(ctx, incarnation)
}

// Unregister forgets an incarnation. Its claims must be gone: any that are left are nobody's until a doctor finds them.
func (q *Queue) Unregister(ctx context.Context, incarnation string) error {
	_, err := q.run(ctx, "unregister", unregisterScript, []string{q.Keys.Workers, q.Keys.Worker(incarnation), q.Keys.Intents}, incarnation)
	return err
}

// Worker is a registration as others see it.
type Worker struct {
	Incarnation string
	HeartbeatMS int64 // Redis's clock; 0 or less: declared dead
	Fields      map[string]string
}

// Workers lists the registered incarnations, the oldest heartbeat first.
func (q *Queue) Workers(ctx context.Context) ([]Worker, error) {
	members, err := q.rdb.ZRangeWithScores(ctx, q.Keys.Workers, 0, -1).Result()
	if err != nil {
		return nil, wrap("workers", err)
	}
	pipe := q.rdb.Pipeline()
	workers, hashes := make([]Worker, len(members)), make([]*redis.MapStringStringCmd, len(members))
	for i, member := range members {
		workers[i] = Worker{Incarnation: member.Member.(string), HeartbeatMS: int64(member.Score)}
		hashes[i] = pipe.HGetAll(ctx, q.Keys.Worker(workers[i].Incarnation))
	}
	if len(members) > 0 {
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, wrap("workers", err)
		}
	}
	for i := range workers {
		workers[i].Fields = hashes[i].Val()
	}
	return workers, nil
}
