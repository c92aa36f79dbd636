package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/runnertest"
)

func TestGoHandlersConform(t *testing.T) {
	t.Parallel()
	given := make(chan struct{})
	mux := runner.NewMux()
	handle := func(name string, fn func(ctx context.Context, call *runner.Call) (json.RawMessage, error)) {
		mux.Handle(name, runner.Func(fn))
	}
	handle("echo", func(_ context.Context, call *runner.Call) (json.RawMessage, error) { return call.Params, nil })
	handle("fail", func(context.Context, *runner.Call) (json.RawMessage, error) { panic(errors.New("deliberate")) })
	handle("plain", func(context.Context, *runner.Call) (json.RawMessage, error) { return nil, errors.New("deliberate") })
	handle("sleeper", func(ctx context.Context, _ *runner.Call) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	handle("stubborn", func(context.Context, *runner.Call) (json.RawMessage, error) {
		<-given
		return nil, nil
	})
	handle("huge", func(context.Context, *runner.Call) (json.RawMessage, error) {
		return json.Marshal(strings.Repeat("x", 2_000_000))
	})
	handle("lines", func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
		call.Logger().Info("a line of its own")
		return nil, nil
	})
	handle("flood", func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
		for range 5000 {
			call.Logger().Info("a line of the flood")
		}
		call.Logger().Info(strings.Repeat("x", 200_000))
		return json.RawMessage(`"dry"`), nil
	})
	var left sync.WaitGroup
	handle("leftover", func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
		left.Go(func() {
			for range 1000 {
				call.Logger().Info("left over")
				call.ReportProgress(1, 2, "left over")
			}
		})
		return nil, nil
	})
	runnertest.Run(t, runnertest.Subject{
		FailsToo: map[string]string{"plain": execution.TypeHandlerError},
		Handlers: mux, FailType: execution.TypePanic, FailShows: []string{"conformance_test.go"}, Stubborn: execution.Stuck,
	})
	close(given)
	left.Wait()
}
