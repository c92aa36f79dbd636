package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

func asError(t *testing.T, err error) *execution.Error {
	t.Helper()
	var e *execution.Error
	require.ErrorAs(t, err, &e)
	return e
}

// unwritable is a result that refuses to be written.
type unwritable struct{}

func (unwritable) MarshalJSON() ([]byte, error) { return nil, errNope }

func TestResultsThatDoNotMarshal(t *testing.T) {
	t.Parallel()
	mux := runner.NewMux()
	runner.Handle(mux, "chan", func(context.Context, struct{}) (chan int, error) { return make(chan int), nil })
	runner.Handle(mux, "func", func(context.Context, struct{}) (any, error) { return map[string]any{"f": func() {}}, nil })
	runner.Handle(mux, "own", func(context.Context, struct{}) (unwritable, error) { return unwritable{}, nil })
	for workflow, says := range map[string]string{"chan": "chan int", "func": "func()", "own": "nope"} {
		value, err := mux.Run(context.Background(), call(workflow, `{}`))
		require.Nil(t, value)
		e := asError(t, err)
		require.Equal(t, execution.TypeInvalidResult, e.Type)
		require.False(t, e.Rejected, "it ran")
		require.Contains(t, e.Message, fmt.Sprintf("%q", workflow))
		require.Contains(t, e.Message, says)
	}
}

func TestParamsThatDoNotFit(t *testing.T) {
	t.Parallel()
	mux, ran := runner.NewMux(), false
	runner.Handle(mux, "w", func(context.Context, order) (any, error) { ran = true; return nil, nil })
	for params, says := range map[string]string{
		`{"count":"two"}`: "count", `{"count":1.5}`: "1.5", `{"count":99999999999999999999}`: "count",
		`{"item":"tea","colour":1}`: `unknown field "colour"`, `[]`: "array", ``: "EOF", `{`: "EOF",
	} {
		_, err := mux.Run(context.Background(), call("w", params))
		e := asError(t, err)
		require.Equal(t, execution.TypeInvalidParams, e.Type, params)
		require.Contains(t, e.Message, says, params)
		require.Contains(t, e.Message, `params of "w"`)
	}
	require.False(t, ran)
}

func TestParamsOfOtherShapes(t *testing.T) {
	t.Parallel()
	mux := runner.NewMux()
	runner.Handle(mux, "any", func(_ context.Context, p any) (any, error) { return p, nil })
	runner.Handle(mux, "map", func(_ context.Context, p map[string]int) (map[string]int, error) { return p, nil })
	runner.Handle(mux, "raw", func(_ context.Context, p json.RawMessage) (json.RawMessage, error) { return p, nil })
	runner.Handle(mux, "pointer", func(_ context.Context, p *order) (int, error) { return p.Count, nil })
	runner.Handle(mux, "none", func(context.Context, order) (*order, error) { return nil, nil })
	for workflow, want := range map[string]string{"any": `{"count":2}`, "map": `{"count":2}`, "raw": `{"count":2}`, "pointer": `2`, "none": `null`} {
		value, err := mux.Run(context.Background(), call(workflow, `{"count":2}`))
		require.NoError(t, err)
		require.JSONEq(t, want, string(value), workflow)
	}
	value, err := mux.Run(context.Background(), call("raw", `{"n":12345678901234567890}`))
	require.NoError(t, err)
	require.Equal(t, `{"n":12345678901234567890}`, string(value), "no digit is lost")
}

// A handler gets the context and the call of its own execution, though many run at once.
func TestHandlersRunSideBySide(t *testing.T) {
	t.Parallel()
	mux := runner.NewMux()
	runner.Handle(mux, "who", func(ctx context.Context, p struct{ ID string }) (bool, error) {
		return string(runner.CallFrom(ctx).ID) == p.ID && context.Cause(ctx) == nil, nil
	})
	var running sync.WaitGroup
	for i := range 50 {
		running.Go(func() {
			c := call("who", fmt.Sprintf(`{"id":"%d"}`, i))
			c.ID = execution.ID(fmt.Sprint(i))
			value, err := mux.Run(context.Background(), c)
			if err != nil || string(value) != "true" {
				t.Errorf("%d: %s, %v", i, value, err)
			}
		})
	}
	running.Wait()
}

func TestHandlerHearsItsCancellation(t *testing.T) {
	t.Parallel()
	mux := runner.NewMux()
	runner.Handle(mux, "w", func(ctx context.Context, _ struct{}) (any, error) { <-ctx.Done(); return nil, context.Cause(ctx) })
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errNope)
	_, err := mux.Run(ctx, call("w", `{}`))
	require.ErrorIs(t, err, errNope)
}

func TestHandlersErrorPassesThrough(t *testing.T) {
	t.Parallel()
	mux, own := runner.NewMux(), &execution.Error{Type: "CardDeclined", Message: "m", Traceback: "t", Rejected: true}
	runner.Handle(mux, "w", func(context.Context, struct{}) (any, error) { return 1, own })
	value, err := mux.Run(context.Background(), call("w", `{}`))
	require.Nil(t, value)
	require.Same(t, own, asError(t, err))
}

func TestZeroMuxIsReady(t *testing.T) {
	t.Parallel()
	var mux runner.Mux
	require.Empty(t, mux.Names())
	_, err := mux.Run(context.Background(), call("w", `{}`))
	require.Equal(t, execution.TypeWorkflowNotFound, asError(t, err).Type)
	require.True(t, asError(t, err).Rejected)
	runner.Handle(&mux, "w", func(context.Context, struct{}) (int, error) { return 1, nil })
	value, err := mux.Run(context.Background(), call("w", `{}`))
	require.NoError(t, err)
	require.Equal(t, "1", string(value))
}

func TestRouterBySuffix(t *testing.T) {
	t.Parallel()
	says := func(text string) runner.Func {
		return func(context.Context, *runner.Call) (json.RawMessage, error) { return nil, errors.New(text) }
	}
	router := &runner.Router{Default: says("default"), BySuffix: map[string]runner.Runner{".star": says("star"), ".py": says("python")}}
	for workflow, want := range map[string]string{
		"a.star": "star", "a/b.c.py": "python", "a.star.py": "python", ".star": "star",
		"star": "default", "a.STAR": "default", "a.": "default", "a.star/b": "default", "": "default",
	} {
		_, err := router.Run(context.Background(), call(workflow, `{}`))
		require.EqualError(t, err, want, workflow)
	}
	router.Default = nil
	_, err := router.Run(context.Background(), call("a.star", `{}`))
	require.EqualError(t, err, "star", "suffixes need no default")
	_, err = router.Run(context.Background(), call("a.go", `{}`))
	require.ErrorContains(t, err, `workflow "a.go" not found`)
}

func TestLoggerIsOneOfItsOwn(t *testing.T) {
	t.Parallel()
	c := call("w", `{}`)
	require.False(t, c.Logger().Enabled(context.Background(), slog.LevelError), "without a log, lines are discarded")
}

func ExampleCallFrom() {
	mux := runner.NewMux()
	runner.Handle(mux, "charge", func(ctx context.Context, _ struct{}) (string, error) {
		call := runner.CallFrom(ctx)
		return fmt.Sprintf("idempotency key %s, attempt %d", call.ID, call.Attempt), nil
	})
	result, err := mux.Run(context.Background(), &runner.Call{ID: "7f3a", Attempt: 2, Workflow: "charge", Params: json.RawMessage(`{}`)})
	fmt.Println(string(result), err)
	// Output: "idempotency key 7f3a, attempt 2" <nil>
}

func ExampleRouter() {
	star := runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
		return json.Marshal("Starlark runs " + call.Workflow)
	})
	router := &runner.Router{Default: runner.NewMux(), BySuffix: map[string]runner.Runner{".star": star}}
	result, _ := router.Run(context.Background(), &runner.Call{Workflow: "billing/invoice.star"})
	fmt.Println(string(result))
	_, err := router.Run(context.Background(), &runner.Call{Workflow: "refund"})
	fmt.Println(err)
	// Output:
	// "Starlark runs billing/invoice.star"
	// workflow "refund" not found: no handler has that name; there are:
}
