package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/pool"
)

// All timeouts share one timer: each passes when it should, in whichever order they were begun, and whatever ended before.
func TestEveryTimeoutPassesOnTime(t *testing.T) {
	untilCancelled := job(func(ctx context.Context) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	bubble(t, func(t *testing.T) {
		b := setup(t, 8)
		timeouts := []time.Duration{5 * time.Second, 2 * time.Second, 9 * time.Second, 2 * time.Second}
		b.submit("ends", time.Second, returns("1")) // the first for which the timer is set is long gone when it rings
		b.submit("never", 0, func(ctx context.Context) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		for i, timeout := range timeouts {
			b.submit(fmt.Sprint(i), timeout, untilCancelled)
		}
		advance(3 * time.Second)
		b.submit("4", time.Second, untilCancelled) // before that for which the timer is set
		advance(time.Hour)
		for i, timeout := range append(timeouts, time.Second) {
			o := b.only(fmt.Sprint(i))
			require.Equal(t, execution.TimedOut, o.Status)
			require.Equal(t, timeout, o.Finished.Sub(o.Started))
		}
		b.none("never")
		b.submit("5", time.Second, untilCancelled) // after a rest
		advance(time.Second)
		require.Equal(t, execution.TimedOut, b.only("5").Status)
		b.CancelAll(pool.ErrShutdown)
	})
}

// A pool that was told to end still ends what it runs in time, however many there are.
func TestTimeoutsPassWhileThePoolEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := setup(t, 3)
		for i := range 3 {
			b.submit(fmt.Sprint(i), time.Duration(i+1)*time.Second, func(ctx context.Context) (json.RawMessage, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			})
		}
		b.stop() // returns when all have ended
		for i := range 3 {
			require.Equal(t, execution.TimedOut, b.only(fmt.Sprint(i)).Status)
		}
	})
}
