package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

// failsOnce waits on the stage, fails the first time, and succeeds the second.
func (s *stage) failsOnce(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	if call.Attempt > 1 {
		return nil, nil
	}
	if value, err := s.hold(ctx, call); err != nil {
		return value, err
	}
	return nil, errors.New("the first time")
}

const onceMore = `{"workflow":"fails once","retry":{"max_attempts":2,"initial_backoff_seconds":0.01}}`

// Hundreds that are to be tried again at the same time go back in one exchange: on a slow link one exchange each would never end
// within its deadline.
func TestManyRetriesOnASlowLink(t *testing.T) {
	t.Parallel()
	const n = 300
	s := newStage()
	s.begun = make(chan string, n)
	mux := s.mux()
	mux.Handle("fails once", runner.Func(s.failsOnce))
	f, proxy := behindProxy(t, mux)
	f.options.Concurrency, f.options.Lease = n, time.Minute
	for i := range n {
		f.submit(fmt.Sprint("x", i), onceMore)
	}
	f.start()
	for range n {
		s.awaitBegun(t)
	}
	proxy.Delay(40 * time.Millisecond)
	close(s.open)
	f.until("every result", func() bool { f.readAll(); return len(f.results) == n })
	for _, results := range f.results {
		require.Equal(t, execution.Succeeded, results[0].Status)
		require.Equal(t, 2, results[0].Attempt)
	}
}

// A retry that Redis does not take waits, and holds nothing else back.
func TestARefusedRetryHoldsNothingBack(t *testing.T) {
	onStage(t, func(t *testing.T, f *fleet, s *stage) {
		mux := s.mux()
		mux.Handle("fails once", runner.Func(s.failsOnce))
		f.options.Runner, f.options.Concurrency = mux, 8
		for i := range 4 {
			f.submit(fmt.Sprint("again", i), onceMore)
			f.submit(fmt.Sprint("good", i), `{"workflow":"hold"}`)
		}
		f.start()
		for range 8 {
			s.awaitBegun(t)
		}
		ctx, k := context.Background(), f.queue.Keys
		require.NoError(t, f.raw.Set(ctx, k.Scheduled, "in the way", 0).Err())
		close(s.open)
		for i := range 4 {
			require.Equal(t, execution.Succeeded, f.result(fmt.Sprint("good", i)).Status)
		}
		require.EqualValues(t, 4, f.size(k.Claims))
		require.NoError(t, f.raw.Del(ctx, k.Scheduled).Err())
		for i := range 4 {
			require.Equal(t, execution.Succeeded, f.result(fmt.Sprint("again", i)).Status)
		}
		f.requireNothingLeft()
	})
}
