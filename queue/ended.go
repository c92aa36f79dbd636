package queue

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"
)

// endedCache is what this process has read of ended: hashes of the IDs, entry by entry, of as many entries as the stream has: 8 bytes
// for each. It is empty until somebody asks, which takes an ID without a context.
type endedCache struct {
	mu      sync.Mutex
	last    string     // the last entry that was read
	entries [][]uint64 // a ring
	oldest  int
}

// maxEnded is how many entries are remembered: the 2,000 that ended keeps, and as many more as Redis may leave, since it trims by whole
// nodes: of a hundred entries by default, of more where stream-node-max-entries says so.
const maxEnded = 3_100

var endedSeed = maphash.MakeSeed()

// EndedLately returns which of the IDs are among the executions that ended lately: the last 2,000 commits of the queue, each of one
// execution or of hundreds. An ID without a context that is among them was pushed twice. Cost: the first call in a process reads
// all of them, every further one what ended since; each looks through what was read, up to a million hashes, in a few milliseconds.
func (q *Queue) EndedLately(ctx context.Context, ids []string) (map[string]bool, error) {
	c := &q.ended
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.readOn(ctx, q)
	asked := make(map[uint64]string, len(ids))
	for _, id := range ids {
		asked[maphash.String(endedSeed, id)] = id
	}
	found := map[string]bool{}
	c.lookFor(asked, found)
	return found, err
}

// lookFor notes which of the hashes that are asked for are there.
func (c *endedCache) lookFor(asked map[uint64]string, found map[string]bool) {
	var maybe [1 << 10]uint64 // a bit for each hash, which spares nearly all the others a look into the map
	for hash := range asked {
		maybe[hash>>6%uint64(len(maybe))] |= 1 << (hash % 64)
	}
	for _, entry := range c.entries {
		for _, hash := range entry {
			if maybe[hash>>6%uint64(len(maybe))]&(1<<(hash%64)) == 0 {
				continue
			}
			if id, ok := asked[hash]; ok {
				found[id] = true
			}
		}
	}
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
			c.add(text(m.Values["ids"]))
			c.last = m.ID
		}
		if len(messages) < page {
			return nil
		}
	}
}

// add remembers an entry, in place of the oldest when there are enough.
func (c *endedCache) add(ids string) {
	entry := make([]uint64, 0, strings.Count(ids, " ")+1)
	for id := range strings.SplitSeq(ids, " ") {
		entry = append(entry, maphash.String(endedSeed, id))
	}
	if len(c.entries) < maxEnded {
		c.entries = append(c.entries, entry)
		return
	}
	c.entries[c.oldest] = entry
	c.oldest = (c.oldest + 1) % maxEnded
}
