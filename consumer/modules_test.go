package consumer_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/internal/redistest"
	"github.com/bobbin-run/bobbin/runner"
)

// reader is a runner whose executions return the source of their module. Each tells that it began, waits to be let in, and tells that it
// has an answer.
type reader struct{ began, enter, answered chan struct{} }

func newReader(f *fleet) *reader {
	r := &reader{make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1)}
	f.options.ScriptRunners = map[string]func(consumer.Modules) runner.Runner{".x": func(m consumer.Modules) runner.Runner {
		return runner.Func(func(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
			r.began <- struct{}{}
			<-r.enter
			_, sources, err := m.Snapshot(ctx, call.ModulesVersion)
			r.answered <- struct{}{}
			if err != nil {
				return nil, &execution.Error{Type: execution.TypeModuleUnavailable, Message: err.Error()}
			}
			return json.RawMessage(sources[call.Workflow]), nil
		})
	}}
	return r
}

// An execution whose modules cannot be read because Redis does not answer has done nothing wrong: it waits, and then runs.
func TestModulesAreAwaited(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]string{"a server that loads": "LOADING Redis is loading the dataset in memory", "one that is full": "OOM command not allowed"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Mini(t)
			f := setup(t, server, nil)
			r := newReader(f)
			_, err := f.queue.PushModules(t.Context(), map[string]string{"w.x": "42"})
			require.NoError(t, err)
			w := f.start()
			f.submit("a", `{"workflow":"w.x"}`)
			<-r.began
			server.Miniredis().SetError(said)
			close(r.enter)
			f.until("the worker notices", func() bool { return !w.Ready() })
			server.Miniredis().SetError("")
			require.JSONEq(t, "42", string(f.result("a").Value))
		})
	}
}

// What will never be modules is not waited for.
func TestModulesThatAreNone(t *testing.T) {
	each(t, nil, func(t *testing.T, f *fleet) {
		close(newReader(f).enter)
		require.NoError(t, f.raw.Set(t.Context(), f.queue.Keys.Modules, "in the way", 0).Err())
		f.start()
		f.submit("a", `{"workflow":"w.x"}`)
		require.Equal(t, execution.TypeModuleUnavailable, f.result("a").Err.Type)
	})
}

// An execution that waits for modules still has its timeout.
func TestWaitingForModulesEndsWithTheExecution(t *testing.T) {
	t.Parallel()
	server := redistest.Mini(t)
	f := setup(t, server, nil)
	r := newReader(f)
	f.start()
	f.submit("a", `{"workflow":"w.x","timeout_seconds":0.2}`)
	<-r.began
	server.Miniredis().SetError("LOADING Redis is loading the dataset in memory")
	close(r.enter)
	<-r.answered
	server.Miniredis().SetError("")
	require.Equal(t, execution.TimedOut, f.result("a").Status)
}
