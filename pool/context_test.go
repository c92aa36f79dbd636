package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What a job may ask its context for, before and after it is cancelled, and after the job has returned: whatever it asked before.
func TestTaskContextIsWhole(t *testing.T) {
	why := errors.New("because")
	ask := map[string]func(ctx context.Context){
		"nothing":  func(context.Context) {},
		"done":     func(ctx context.Context) { _ = ctx.Done() },
		"value":    func(ctx context.Context) { _ = ctx.Value("key") },
		"a child":  func(ctx context.Context) { _, cancel := context.WithCancel(ctx); cancel() },
		"its name": func(ctx context.Context) { _ = fmt.Sprint(ctx) },
	}
	for name, first := range ask {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, 1)
			called, leaked := make(chan string, 2), make(chan context.Context, 1)
			b.submit("x", time.Hour, func(ctx context.Context) (json.RawMessage, error) {
				first(ctx)
				leaked <- ctx
				require.NoError(t, ctx.Err(), name)
				require.NoError(t, context.Cause(ctx), name)
				until, ok := ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, time.Hour, time.Until(until))
				child, cancel := context.WithCancel(context.WithValue(ctx, ctxKey{}, 1))
				defer cancel()
				context.AfterFunc(ctx, func() { called <- "theirs" })
				ctx.(afterer).AfterFunc(func() { called <- "ours" })
				require.True(t, ctx.(afterer).AfterFunc(func() { called <- "stopped" })())
				b.CancelAll(why)
				<-child.Done()
				require.ErrorIs(t, ctx.Err(), context.Canceled)
				require.ErrorIs(t, context.Cause(child), why)
				return nil, context.Cause(ctx)
			})
			require.ErrorIs(t, b.only("x").Cause, why)
			require.ElementsMatch(t, []string{"ours", "theirs"}, []string{<-called, <-called})
			ctx := <-leaked
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), why, "what comes later changes nothing")
			stop := ctx.(afterer).AfterFunc(func() { called <- "late" })
			require.Equal(t, "late", <-called)
			require.False(t, stop())
		})
	}
}

type (
	ctxKey  struct{}
	afterer interface {
		AfterFunc(f func()) (stop func() bool)
	}
)

// Whoever keeps the context of a job that has returned finds it cancelled.
func TestTaskContextEndsWithItsTask(t *testing.T) {
	for _, asked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t, 1)
			leaked := make(chan context.Context, 1)
			b.submit("x", 0, func(ctx context.Context) (json.RawMessage, error) {
				if asked {
					_ = ctx.Done()
				}
				_, ok := ctx.Deadline()
				require.False(t, ok)
				leaked <- ctx
				return nil, nil
			})
			b.only("x")
			ctx := <-leaked
			<-ctx.Done()
			require.Equal(t, context.Canceled, ctx.Err())
			require.Equal(t, context.Canceled, context.Cause(ctx))
		})
	}
}
