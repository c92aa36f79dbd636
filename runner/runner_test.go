package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

type order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

func call(workflow, params string) *runner.Call {
	return &runner.Call{ID: "7f3a", Attempt: 1, Workflow: workflow, Function: "main", Params: json.RawMessage(params)}
}

func setup() *runner.Mux {
	mux := runner.NewMux()
	runner.Handle(mux, "order", func(ctx context.Context, o order) (string, error) {
		return fmt.Sprint(runner.CallFrom(ctx).ID, " ", o.Count, " ", o.Item), nil
	})
	runner.Handle(mux, "nan", func(context.Context, struct{}) (float64, error) { return math.NaN(), nil })
	runner.Handle(mux, "fails", func(context.Context, struct{}) (any, error) { return nil, errNope })
	return mux
}

var errNope = errors.New("nope")

func TestHandleTypesParamsAndResults(t *testing.T) {
	t.Parallel()
	mux := setup()
	value, err := mux.Run(context.Background(), call("order", `{"item":"tea","count":2}`))
	require.NoError(t, err)
	require.Equal(t, `"7f3a 2 tea"`, string(value))
	for workflow, c := range map[string]struct{ params, kind, says string }{
		"order": {`{"thing":"tea"}`, execution.TypeInvalidParams, `"thing"`},
		"nan":   {`{}`, execution.TypeInvalidResult, "NaN"},
		"none":  {`{}`, execution.TypeWorkflowNotFound, "fails, nan, order"},
	} {
		_, err := mux.Run(context.Background(), call(workflow, c.params))
		var e *execution.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, c.kind, e.Type)
		require.Contains(t, e.Message, c.says)
	}
	_, err = mux.Run(context.Background(), call("order", `{"count":"two"}`))
	require.ErrorContains(t, err, "count")
	_, err = mux.Run(context.Background(), call("fails", `{}`))
	require.ErrorIs(t, err, errNope)
}

func TestRegisteringTwiceIsAMistakeInTheProgram(t *testing.T) {
	t.Parallel()
	mux := setup()
	require.Panics(t, func() { mux.Handle("order", runner.Func(nil)) })
	require.Panics(t, func() { mux.Handle("", runner.Func(nil)) })
	require.Panics(t, func() { mux.Handle("x", nil) })
	require.Equal(t, []string{"fails", "nan", "order"}, mux.Names())
}

func TestRouterPicksBySuffixAndExactNameFirst(t *testing.T) {
	t.Parallel()
	says := func(text string) runner.Func {
		return func(context.Context, *runner.Call) (json.RawMessage, error) { return json.RawMessage(text), nil }
	}
	mux := setup()
	mux.Handle("mine.star", says("go"))
	router := &runner.Router{Default: mux, BySuffix: map[string]runner.Runner{".star": says("star")}}
	for workflow, want := range map[string]string{"a/b.star": "star", "mine.star": "go"} {
		value, err := router.Run(context.Background(), call(workflow, "{}"))
		require.NoError(t, err)
		require.Equal(t, want, string(value))
	}
	for _, r := range []*runner.Router{router, {}} {
		_, err := r.Run(context.Background(), call("a.py", "{}"))
		var e *execution.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, execution.TypeWorkflowNotFound, e.Type)
		require.True(t, e.Rejected)
	}
}

func TestLoggerCarriesTheExecution(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := call("w", "{}")
	c.Logger().Info("nobody hears this")
	c.Log = slog.New(slog.NewTextHandler(&out, nil))
	c.Logger().Info("hello")
	require.Contains(t, out.String(), "execution_id=7f3a workflow=w")
	require.Nil(t, runner.CallFrom(context.Background()))
}

func ExampleHandle() {
	mux := runner.NewMux()
	runner.Handle(mux, "greet", func(_ context.Context, p struct{ Name string }) (string, error) {
		return "Hello, " + p.Name, nil
	})
	result, err := mux.Run(context.Background(), &runner.Call{Workflow: "greet", Params: json.RawMessage(`{"name":"Ada"}`)})
	fmt.Println(string(result), err)
	// Output: "Hello, Ada" <nil>
}
