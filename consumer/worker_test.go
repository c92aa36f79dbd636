package consumer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
)

type pair struct {
	A, B int
}

func handlers() *runner.Mux {
	mux := runner.NewMux()
	runner.Handle(mux, "add", func(_ context.Context, p pair) (int, error) { return p.A + p.B, nil })
	runner.Handle(mux, "fail", func(context.Context, struct{}) (any, error) { return nil, errors.New("no luck") })
	runner.Handle(mux, "panic", func(context.Context, struct{}) (any, error) { panic("oh no") })
	runner.Handle(mux, "channel", func(context.Context, struct{}) (any, error) { return make(chan int), nil })
	runner.Handle(mux, "large", func(context.Context, struct{}) (any, error) { return strings.Repeat("x", 2<<20), nil })
	runner.Handle(mux, "wait", func(ctx context.Context, _ struct{}) (any, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	runner.Handle(mux, "log", func(ctx context.Context, _ struct{}) (any, error) {
		runner.CallFrom(ctx).Logger().Info("hello from inside", "n", 7)
		return nil, nil
	})
	return mux
}

func TestProcessesRealExecutionContext(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		f.start()
		f.submit("7f3a", `{"workflow":"add","function":"main","params":{"A":2,"B":40},"timeout_seconds":30,
			"group":"g","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","meta":{"tenant":"acme","big":12345678901234567890,"empty":[]}}`)
		r := f.result("7f3a")
		require.Equal(t, execution.Succeeded, r.Status)
		require.Equal(t, "42", string(r.Value))
		require.Equal(t, "add", r.Workflow)
		require.Equal(t, 1, r.Attempt)
		require.JSONEq(t, `{"tenant":"acme","big":12345678901234567890,"empty":[]}`, string(r.Meta))
		f.until("everything but the result is gone", func() bool {
			n, err := f.raw.Exists(context.Background(), f.queue.Keys.Executions, f.queue.Keys.Claims).Result()
			return err == nil && n == 0
		})
		f.requireNothingLeft()
	})
}

// An orchestrator in any language reads the stream with one command and sees the fields of docs/protocol.md, all strings.
func TestResultsReturnedToOrchestrator(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		w := f.start()
		f.submit("ok", `{"workflow":"add","params":{"A":1,"B":2},"reply_ttl_seconds":60}`)
		f.submit("bad", `{"workflow":"fail"}`)
		f.result("ok")
		f.result("bad")
		messages, err := f.raw.XRange(context.Background(), f.queue.Keys.Results, "-", "+").Result()
		require.NoError(t, err)
		fields := map[string]map[string]any{}
		for _, m := range messages {
			fields[m.Values["execution_id"].(string)] = m.Values
		}
		ok, bad := fields["ok"], fields["bad"]
		for _, name := range []string{"execution_id", "workflow", "worker", "attempt", "status", "claimed_at_ms", "started_at_ms", "finished_at_ms", "duration_us", "meta"} {
			require.Contains(t, ok, name)
			require.Contains(t, bad, name)
		}
		require.Equal(t, "3", ok["result"])
		require.Equal(t, w.Incarnation(), ok["worker"])
		require.Equal(t, "failed", bad["status"])
		require.Equal(t, "HandlerError", bad["error_type"])
		require.Equal(t, "no luck", bad["error"])
		require.NotContains(t, bad, "result")

		reply, err := f.raw.BLPop(context.Background(), patience, f.queue.Keys.Reply("ok")).Result()
		require.NoError(t, err)
		var document map[string]any
		require.NoError(t, json.Unmarshal([]byte(reply[1]), &document))
		require.Equal(t, "succeeded", document["status"])
		require.EqualValues(t, 3, document["result"])
	})
}

// What a handler does to the call that it was given is its own business: the result says what was submitted.
func TestWhatAHandlerWritesToItsCallIsNotInTheResult(t *testing.T) {
	scribbler := func() *runner.Mux {
		mux := runner.NewMux()
		mux.Handle("scribble", runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
			*call = runner.Call{ID: "other", Workflow: "other", Meta: json.RawMessage(`{"other":1}`), Attempt: 7}
			return nil, nil
		}))
		return mux
	}
	each(t, scribbler, func(t *testing.T, f *fleet) {
		f.start()
		f.submit("mine", `{"workflow":"scribble","meta":{"tenant":"acme"}}`)
		r := f.result("mine")
		require.Equal(t, []any{"scribble", 1, `{"tenant":"acme"}`}, []any{r.Workflow, r.Attempt, string(r.Meta)})
	})
}

func TestEveryEndIsOneResult(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		f.start()
		for id, c := range map[string]struct {
			document  string
			status    execution.Status
			kind, say string
		}{
			"timeout":                {`{"workflow":"wait","timeout_seconds":0.05}`, execution.TimedOut, "ExecutionTimeout", "50ms"},
			"panic":                  {`{"workflow":"panic"}`, execution.Failed, "Panic", "oh no"},
			"channel":                {`{"workflow":"channel"}`, execution.Failed, "InvalidResult", "chan int"},
			"large":                  {`{"workflow":"large"}`, execution.Failed, "ResultTooLarge", "1048576"},
			"unknown":                {`{"workflow":"nobody"}`, execution.Rejected, "WorkflowNotFound", "nobody"},
			"misspelt":               {`{"workflow":"add","params":{"C":1}}`, execution.Failed, "InvalidParams", `"C"`},
			"not-json":               {`{"workflow":`, execution.Rejected, "InvalidContext", "not JSON"},
			"no-object":              {`[1]`, execution.Rejected, "InvalidContext", "object"},
			"field":                  {`{"workflow":"add","retries":3}`, execution.Rejected, "InvalidContext", `"retries"`},
			"type":                   {`{"workflow":"add","params":[]}`, execution.Rejected, "InvalidContext", `"params"`},
			"too-large":              {`{"workflow":"add","params":{"A":"` + strings.Repeat("x", 1<<20) + `"}}`, execution.Rejected, "InvalidContext", "1048576"},
			"empty":                  {``, execution.Rejected, "InvalidContext", "not JSON"},
			"sp ace":                 {`{"workflow":"add"}`, execution.Rejected, "InvalidExecutionID", "byte 2"},
			"nul\x00\r\n":            {`{"workflow":"add"}`, execution.Rejected, "InvalidExecutionID", "byte 3"},
			strings.Repeat("i", 300): {`{"workflow":"add"}`, execution.Rejected, "InvalidExecutionID", "300 bytes"},
		} {
			f.submit(id, c.document)
			r := f.result(id)
			require.Equal(t, c.status, r.Status, id)
			require.Equal(t, c.kind, r.Err.Type, id)
			require.Contains(t, r.Err.Message, c.say, id)
		}
		require.Contains(t, f.result("panic").Err.Traceback, "worker_test.go")

		require.NoError(t, f.raw.LPush(context.Background(), f.queue.Keys.Pending, "no-context").Err())
		require.Contains(t, f.result("no-context").Err.Message, "context is missing")
		f.until("all is gone", func() bool { return f.queue != nil && f.size(f.queue.Keys.Claims) == 0 })
		f.requireNothingLeft()
	})
}

func (f *fleet) size(hash string) int64 {
	n, err := f.raw.HLen(context.Background(), hash).Result()
	require.NoError(f.t, err)
	return n
}

func TestThousandsOnSeveralWorkers(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		const n = 3000
		for range 3 {
			f.start()
		}
		batch := make([]queue.Submission, n)
		for i := range batch {
			batch[i] = queue.Submission{ID: execution.ID(fmt.Sprintf("e%d", i)), Context: fmt.Appendf(nil, `{"workflow":"add","params":{"A":%d,"B":1}}`, i)}
		}
		require.NoError(t, f.queue.Submit(context.Background(), batch...))
		f.until("every result", func() bool { f.readAll(); return len(f.results) == n })
		for i := range n {
			require.Equal(t, fmt.Sprint(i+1), string(f.results[fmt.Sprintf("e%d", i)][0].Value))
		}
		f.until("all is committed", func() bool { return f.size(f.queue.Keys.Claims) == 0 })
		f.requireNothingLeft()
	})
}

func TestRetriesWithPauseAndThenFails(t *testing.T) {
	var mu sync.Mutex
	runs := map[string]int{}
	mux := func() *runner.Mux {
		m := runner.NewMux()
		m.Handle("flaky", runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
			mu.Lock()
			defer mu.Unlock()
			runs[string(call.ID)]++
			if call.Attempt < 3 {
				return nil, fmt.Errorf("attempt %d", call.Attempt)
			}
			return json.RawMessage(`"at last"`), nil
		}))
		return m
	}
	each(t, mux, func(t *testing.T, f *fleet) {
		f.start()
		good, bad := "good-"+f.unique, "bad-"+f.unique // both servers' tests share runs
		f.submit(good, `{"workflow":"flaky","retry":{"max_attempts":3,"initial_backoff_seconds":0.01,"max_backoff_seconds":0.02}}`)
		f.submit(bad, `{"workflow":"flaky","retry":{"max_attempts":2,"initial_backoff_seconds":0.01}}`)
		r := f.result(good)
		require.Equal(t, execution.Succeeded, r.Status)
		require.Equal(t, 3, r.Attempt)
		r = f.result(bad)
		require.Equal(t, execution.Failed, r.Status)
		require.Equal(t, "attempt 2", r.Err.Message)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, 3, runs[good])
		require.Equal(t, 2, runs[bad])
		f.until("the failed one is kept in dead", func() bool {
			n, err := f.raw.XLen(context.Background(), f.queue.Keys.Dead).Result()
			return err == nil && n == 1
		})
		f.requireNothingLeft()
	})
}

func TestLogLinesGoToTheExecutionsStream(t *testing.T) {
	each(t, handlers, func(t *testing.T, f *fleet) {
		f.start()
		f.submit("chatty", `{"workflow":"log"}`)
		f.result("chatty")
		f.until("the log line", func() bool {
			lines, err := f.raw.XRange(context.Background(), f.queue.Keys.Logs("chatty"), "-", "+").Result()
			return err == nil && len(lines) == 1 && strings.HasPrefix(lines[0].Values["line"].(string), "hello from inside n=7")
		})
		ttl, err := f.raw.PTTL(context.Background(), f.queue.Keys.Logs("chatty")).Result()
		require.NoError(t, err)
		require.Positive(t, ttl)
	})
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := &fleet{}
	_, err := newWorker(f.options)
	require.ErrorContains(t, err, "Runner is nil")
	f.options.Runner = runner.NewMux()
	f.options.Lease = -time.Second
	_, err = newWorker(f.options)
	require.ErrorContains(t, err, "Lease")
	f.options.Lease, f.options.RedisURL = 0, "http://secret@nowhere"
	_, err = newWorker(f.options)
	require.ErrorContains(t, err, "redis://")
	require.NotContains(t, err.Error(), "secret")
}

// Results that wait for company are written though nothing ends any more: what comes after them runs for long.
func TestResultsDoNotWaitForWhatRunsForLong(t *testing.T) {
	const short = 300
	each(t, func() *runner.Mux {
		var begun atomic.Int64
		mux := runner.NewMux()
		mux.Handle("work", runner.Func(func(ctx context.Context, _ *runner.Call) (json.RawMessage, error) {
			if begun.Add(1) > short {
				<-ctx.Done()
			}
			for begin := time.Now(); time.Since(begin) < 50*time.Microsecond; { // computes
				runtime.KeepAlive(begin)
			}
			return nil, context.Cause(ctx)
		}))
		return mux
	}, func(t *testing.T, f *fleet) {
		f.submitMany(1000, "x", `{"workflow":"work"}`)
		f.start()
		f.until("what was short is written", func() bool {
			return f.raw.XLen(context.Background(), f.queue.Keys.Results).Val() == short
		})
	})
}
