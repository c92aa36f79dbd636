package queue

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"
)

// endedCache is what this process has read of ended: hashes of the IDs, in two generations, so that what is remembered stays
// bounded. It is empty until somebody asks, which takes an ID without a context.
type endedCache struct {
	mu            sync.Mutex
	last          string // the last entry that was read
	newer, before map[uint64]struct{}
}

// generation is how many IDs the newer generation holds before it becomes the older one: all that ended holds at the most. That is 2,000
// commits, and up to a hundred more, since Redis trims by whole nodes.
const generation = 2_100 * MaxBatch

var endedSeed = maphash.MakeSeed()

// EndedLately returns which of the IDs are among the executions that ended lately: the last 2,000 commits of the queue, each of one
// execution or of hundreds. An ID without a context that is among them was pushed twice. Cost: the first call in a process reads
// all of them, every further one what ended since.
func (q *Queue) EndedLately(ctx context.Context, ids []string) (map[string]bool, error) {
	c := &q.ended
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.readOn(ctx, q)
	found := map[string]bool{}
	for _, id := range ids {
		hash := maphash.String(endedSeed, id)
		_, newer := c.newer[hash]
		_, before := c.before[hash]
		if newer || before {
			found[id] = true
		}
	}
	return found, err
}

// readOn reads what was written to ended since the last time. The mutex is held.
func (c *endedCache) readOn(ctx context.Context, q *Queue) error {
	const page = 100
	for {
		from := "-"
		if c.last != "" {
			from = "(" + c.last
		}
		messages, err := q.rdb.XRangeN(ctx, q.Keys.Ended, from, "+", page).Result()
		if err != nil {
			return wrap("ended", err)
		}
		for _, m := range messages {
			for id := range strings.SplitSeq(text(m.Values["ids"]), " ") {
				c.add(id)
			}
			c.last = m.ID
		}
		if len(messages) < page {
			return nil
		}
	}
}

func (c *endedCache) add(id string) {
	if c.newer == nil || len(c.newer) >= generation {
		c.newer, c.before = map[uint64]struct{}{}, c.newer
	}
	c.newer[maphash.String(endedSeed, id)] = struct{}{}
}
