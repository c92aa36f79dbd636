package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// stay is one execution as its result tells it: where, and when in Unix milliseconds of Redis's clock.
type stay struct {
	worker                     string
	claimed, started, finished int64
}

// Fairness submits n executions of 50 ms in bursts to two workers, and looks for any that waited in one worker while the other
// had a slot free.
func (l *Lab) Fairness(ctx context.Context, n, concurrency int) (r *Report, err error) {
	if err := l.Redis.flush(ctx); err != nil {
		return nil, err
	}
	for range 2 {
		c, err := l.start(ctx, fmt.Sprintf("BOBBIN_CONCURRENCY=%d", concurrency))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.stop()) }()
	}
	// Executions that do nothing first: the workers have learned to claim ahead, which is wrong for what follows.
	if _, err := l.drainBeside(ctx, n, 20_000); err != nil {
		return nil, err
	}
	if err := l.bursts(ctx, n, concurrency); err != nil {
		return nil, err
	}
	if err := errors.Join(l.awaitResults(ctx, int64(n)+20_000), l.checkResults(ctx)); err != nil {
		return nil, err
	}
	stays, err := l.stays(ctx, "sleep")
	if err != nil {
		return nil, err
	}
	longest, behind := int64(0), int64(0)
	for _, s := range stays {
		longest = max(longest, s.started-s.claimed)
		behind = max(behind, unfairWait(s, stays, concurrency))
	}
	r = &Report{Name: "fairness", About: fmt.Sprintf("%d executions of 50 ms in bursts, two workers of concurrency %d", n, concurrency)}
	r.add("longest wait from claim to start", float64(longest), "ms")
	r.below("… while the other worker had a free slot", float64(behind), "ms", 20)
	return r, nil
}

func (l *Lab) bursts(ctx context.Context, n, concurrency int) error {
	random := rand.New(rand.NewPCG(1, 2)) // the same bursts every time
	context := sleeping(50 * time.Millisecond)(0)
	for i := 0; i < n; {
		burst := min(1+random.IntN(3*concurrency), n-i)
		_, err := l.Redis.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range burst {
				p.HSet(ctx, keys.Executions, executionID(i), context)
				p.LPush(ctx, keys.Pending, executionID(i))
				i++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := pause(ctx, time.Duration(burst)*50*time.Millisecond/time.Duration(2*concurrency)); err != nil {
			return err
		}
	}
	return nil
}

// stays reads the results of one workflow.
func (l *Lab) stays(ctx context.Context, workflow string) ([]stay, error) {
	var all []stay
	for from := "-"; ; {
		page, err := l.Redis.Client.XRangeN(ctx, keys.Results, from, "+", 10_000).Result()
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			number := func(name string) int64 {
				text, _ := m.Values[name].(string)
				value, _ := strconv.ParseInt(text, 10, 64)
				return value
			}
			if m.Values["workflow"] == workflow {
				worker, _ := m.Values["worker"].(string)
				all = append(all, stay{worker, number("claimed_at_ms"), number("started_at_ms"), number("finished_at_ms")})
			}
		}
		if len(page) < 10_000 {
			return all, nil
		}
		from = "(" + page[len(page)-1].ID
	}
}

// unfairWait is how long an execution waited while the other worker ran fewer than it can, in one piece.
func unfairWait(s stay, all []stay, concurrency int) int64 {
	longest, run := int64(0), int64(0)
	for at := s.claimed; at < s.started; at++ {
		busy := 0
		for _, other := range all {
			if other.worker != s.worker && other.started <= at && at <= other.finished {
				busy++
			}
		}
		if run++; busy >= concurrency {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}
