package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/pool"
)

// takes lasts that long.
func takes(d time.Duration) job {
	return func(context.Context) (json.RawMessage, error) { <-time.After(d); return nil, nil }
}

// warm runs short tasks until the pool has learnt what they take.
func warm(b *bench, d time.Duration) {
	for i := range 100 {
		b.submit(fmt.Sprint("warm", i), 0, takes(d))
		advance(d)
	}
}

func fill(b *bench, n int, j job) {
	for i := range n {
		b.Submit(pool.Task{ID: fmt.Sprint("fill", i), Job: j})
	}
	synctest.Wait()
}

// Claims come in batches: as long as more than half of what may wait does wait, there is room for nothing.
func TestRoomReturnsWhenHalfIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		warm(b, time.Millisecond)
		require.Equal(t, 11, b.Room(), "a slot, and 10 ms of 1 ms")
		fill(b, 11, takes(time.Millisecond))
		for ran := range 5 {
			require.Zero(t, b.Room(), "%d of 10 that waited have started", ran)
			advance(time.Millisecond)
		}
		require.Equal(t, 5, b.Room(), "half of them wait: the other half may be claimed at once")
	})
}

func TestRoomAheadIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 4)
		warm(b, 0)
		b.submit("fresh", 0, returns("1"))
		require.Equal(t, 4+pool.MaxAhead, b.Room())
		fill(b, b.Room(), listens)
		require.Zero(t, b.Room())
		require.Len(t, b.TakeBack(), pool.MaxAhead)
		require.Equal(t, 4, b.CancelAll(pool.ErrCancelled))
	})
}

// Whatever the average was, nothing is claimed behind tasks that turn out to be long.
func TestNothingIsClaimedAheadOfAStall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		warm(b, 100*time.Microsecond)
		fill(b, 10, listens) // two run, eight wait
		advance(pool.AheadWait)
		require.False(t, b.Stalled(), "not yet")
		require.Positive(t, b.Room(), "eight of many wait")
		advance(time.Nanosecond)
		require.True(t, b.Stalled())
		require.True(t, b.Waiting())
		require.Zero(t, b.Room())
		require.Len(t, b.TakeBack(), 8)
		require.False(t, b.Stalled(), "nothing waits any more")
		require.False(t, b.Waiting())
		require.Zero(t, b.Room(), "both slots are taken")
		b.CancelAll(pool.ErrCancelled)
	})
}

// A pool that was idle for long is not stalled by the first task it is given.
func TestIdleIsNotStalled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		warm(b, time.Millisecond)
		advance(time.Hour)
		require.Equal(t, 1, b.Room(), "how long the next will take is not known any more")
		b.submit("runs", 0, listens)
		b.submit("waits", 0, returns("1"))
		require.False(t, b.Stalled())
		require.Len(t, b.TakeBack(), 1)
		b.CancelAll(pool.ErrCancelled)
	})
}

// Where two do not fit into the wait, none is claimed ahead.
func TestRoomAheadEndsAtHalfTheWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for lasts, room := range map[time.Duration]int{pool.AheadWait / 2: 3, pool.AheadWait/2 + time.Nanosecond: 1} {
			b := setup(t, 1)
			warm(b, lasts)
			require.Equal(t, room, b.Room(), lasts)
		}
	})
}

// The wait of the first tasks counts from when they came, not from when something last ran.
func TestStallCountsFromSubmission(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := pool.New(pool.Options{Concurrency: 1, Done: func(pool.Outcome) {}}) // does not run
		p.Submit(pool.Task{ID: "a"})
		p.Submit(pool.Task{ID: "b"})
		require.False(t, p.Stalled())
		advance(pool.AheadWait + time.Nanosecond)
		require.True(t, p.Stalled())
		require.Len(t, p.TakeBack(), 2)
	})
}

// What was taken back leaves no trace: the slots go on, in order, however often it happens.
func TestSubmitAfterTakeBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 1)
		var order []string
		for round := range 3 * pool.MaxAhead / 100 {
			b.submit(fmt.Sprint("held", round), 0, listens)
			fill(b, 100, returns("1"))
			require.Len(t, b.TakeBack(), 100)
			for _, id := range []string{"a", "b", "c"} {
				b.Submit(pool.Task{ID: id, Job: job(func(context.Context) (json.RawMessage, error) {
					order = append(order, id)
					return nil, nil
				})})
			}
			b.CancelAll(pool.ErrCancelled)
			advance(time.Second)
			require.Equal(t, []string{"a", "b", "c"}, order)
			order = nil
		}
		require.Zero(t, b.Figures().Busy)
	})
}

// Every outcome says how many tasks waited behind full slots when it came, and how far apart outcomes come while there is something to
// run: pauses do not count.
func TestOutcomesSayWhatWaitsAndHowFast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 2)
		for range 2 {
			advance(time.Hour)
			warm(b, 4*time.Millisecond) // one at a time
		}
		b.submit("last", 0, takes(4*time.Millisecond))
		advance(time.Hour)
		require.Equal(t, 4*time.Millisecond, last(b, "last").Pace.Round(time.Millisecond))
		for i := range 60 { // two at once, that begin one after the other
			b.Submit(pool.Task{ID: fmt.Sprint("both", i), Job: takes(4 * time.Millisecond)})
			if i == 0 {
				advance(2 * time.Millisecond)
			}
		}
		require.Equal(t, 58, b.Backlog())
		advance(time.Second)
		require.Equal(t, 57, last(b, "both0").Backlog, "of 58, one has its slot next")
		require.Zero(t, last(b, "both59").Backlog)
		require.Equal(t, 2*time.Millisecond, last(b, "both59").Pace.Round(time.Millisecond))
	})
}

func last(b *bench, id string) pool.Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done[id][len(b.done[id])-1]
}
