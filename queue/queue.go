// Package queue is everything that Bobbin says to Redis. Nothing above it knows a key or a command.
//
// The story of one execution, by verb: [Queue.Submit] stores its context and pushes its ID; [Waker.Claim] blocks until there is
// something; [Queue.Claim] takes IDs and writes who holds them; [Queue.Commit] writes the one result and forgets the rest.
// What can go wrong has its own verbs: [Queue.Release] gives back, [Queue.Retry] gives back for later, [Queue.Reap] takes from
// a dead worker, [Queue.Reconcile] finds what a lost reply claimed.
//
// Verbs that must be atomic are Lua scripts under lua/, one per verb. Each says which prefix of its writes is safe, because
// Lua has no rollback, and whether it may be repeated, because any reply can be lost.
//
// The clients never retry by themselves: go-redis would repeat a BLMOVE or a claim whose reply was lost and forget what the
// first one took. Callers repeat what is safe to repeat. All methods may be called by many goroutines at once.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout = 3 * time.Second
	ioTimeout   = 5 * time.Second
	// MaxBlock is the longest that a pop blocks: shutdown waits for it where CLIENT UNBLOCK does not help, and read timeouts
	// must stay above it.
	MaxBlock = 2 * time.Second
)

// Options say which queue on which Redis. The zero value is queue "default" under prefix "bobbin" on 127.0.0.1:6379.
type Options struct {
	URL    string // redis://, rediss:// or unix://
	Prefix string
	Queue  string
	// GiveWay is for a Redis on the same machine that is to answer soon: after each request the thread that sent it gives up its
	// processor to whoever waits there.
	GiveWay bool
}

// Queue speaks to one queue on one Redis. Make one with [Open], end it with [Queue.Close].
type Queue struct {
	Keys    Keys
	rdb     *redis.Client // scripts and plain commands
	blocked *redis.Client // blocking pops, which would starve the others of connections
	pubsub  *redis.Client // the subscription
	pool    connections   // of rdb
	sealed  bool          // they have TLS
	modules moduleCache
	ended   endedCache
}

// Open prepares the clients. It does not connect: a Redis that is away is an error of the first command, and mends itself
// when Redis is back. The error is about the URL alone, and never quotes its password.
func Open(o Options) (*Queue, error) {
	if o.URL == "" {
		o.URL = "redis://127.0.0.1:6379/0"
	}
	if o.Prefix == "" {
		o.Prefix = "bobbin"
	}
	if o.Queue == "" {
		o.Queue = "default"
	}
	base, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, errors.New("redis URL: expected redis://, rediss:// or unix://, with host, port and database number")
	}
	tune(base)
	if o.GiveWay {
		giveWay(base)
	}
	q := &Queue{Keys: NewKeys(o.Prefix, o.Queue), modules: moduleCache{turn: make(chan struct{}, 1)}, sealed: base.TLSConfig != nil}
	q.blocked, q.pubsub = redis.NewClient(clone(base)), redis.NewClient(clone(base))
	q.pool.of(base)
	q.rdb = redis.NewClient(base)
	return q, nil
}

// tune turns off what go-redis does by itself that loses or stalls work.
func tune(o *redis.Options) {
	o.MaxRetries = -1   // a repeated BLMOVE or claim forgets what the first one took
	o.DialerRetries = 1 // the default stalls for a hundred seconds behind a dial that hangs
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = dialTimeout, ioTimeout, ioTimeout, ioTimeout
	o.ContextTimeoutEnabled = true
	o.PoolSize = 16
	o.PipelinePoolSize = -1            // pipelines have connections of their own otherwise, with 256 KiB of buffers each
	o.WriteBufferSize = 64 << 10       // a commit of 512 is sent in one piece
	o.Protocol = cmp.Or(o.Protocol, 2) // RESP3 has every reply searched for push messages, of which none is subscribed to
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func clone(o *redis.Options) *redis.Options {
	c := *o
	return &c
}

// Close closes every connection. Calls under way return an error.
func (q *Queue) Close() error {
	return errors.Join(q.rdb.Close(), q.blocked.Close(), q.pubsub.Close())
}

// CloseIdle closes the connections that were not used for so long, except for the one that was used last, and those that wait in a
// blocking pop or a subscription.
func (q *Queue) CloseIdle(after time.Duration) { q.pool.closeIdle(after) }

// Sealed says that connections have TLS. That the server, or what is between, has closed one is then an error of the next command, and
// one that is used seldom is best used for nothing that matters.
func (q *Queue) Sealed() bool { return q.sealed }

// Ping asks Redis whether it answers.
func (q *Queue) Ping(ctx context.Context) error {
	return wrap("ping", q.rdb.Ping(ctx).Err())
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, classify(err))
}
