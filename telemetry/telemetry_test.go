package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/telemetry"
)

// subject is a worker in a chosen condition.
type subject struct {
	notReady string
	wedged   bool
	away     bool // Redis
}

func (s *subject) Condition() consumer.Condition {
	return consumer.Condition{State: execution.Draining, Concurrency: 4, Running: 3, Stuck: 1}
}

func (s *subject) Depths(context.Context) (*queue.Depths, int64, error) {
	if s.away {
		return nil, 0, errors.New("redis is away")
	}
	return &queue.Depths{Pending: 10, Handoff: 1, Claimed: 3, Scheduled: 2, Dead: 5}, 7, nil
}

func (s *subject) Turns(ctx context.Context) error {
	if s.wedged {
		<-ctx.Done()
		return errors.New("the worker's loop does not turn")
	}
	return nil
}

func (s *subject) NotReady() string { return s.notReady }

func setup(t *testing.T, s *subject) (*telemetry.Metrics, func(path string) (int, string)) {
	t.Helper()
	m := telemetry.New("1.2.3", "bobbin", "bills")
	server := httptest.NewServer(m.Handler(s))
	t.Cleanup(server.Close)
	return m, func(path string) (int, string) {
		response, err := http.Get(server.URL + path)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, get := setup(t, &subject{})
	now := time.Now().UnixMilli()
	for range 2 {
		m.Executed(execution.Result{ID: "x", Workflow: "a/b.py", Status: execution.Failed, ClaimedMS: now, StartedMS: now, Duration: 30 * time.Millisecond})
	}
	// An ID that says when it was made: 2026-11-24T00:00:00Z.
	m.Executed(execution.Result{ID: "01a20ad2-8800-7000-8000-000000000000", Workflow: "w", Status: execution.Succeeded, ClaimedMS: 0x01a20ad28800 + 2000, StartedMS: now})
	m.Recovered("lease", 3)
	m.RedisError("timeout")
	_, text := get("/metrics")
	for _, line := range []string{
		`bobbin_executions_total{Q,runner="python",status="failed"} 2`, `bobbin_executions_total{Q,runner="go",status="succeeded"} 1`,
		`bobbin_execution_duration_seconds_bucket{Q,runner="python",le="0.05"} 2`, `bobbin_execution_duration_seconds_bucket{Q,runner="python",le="0.025"} 0`,
		`bobbin_queue_wait_seconds_bucket{Q,le="2.5"} 1`, `bobbin_queue_wait_seconds_bucket{Q,le="1"} 0`,
		`bobbin_claims_recovered_total{cause="lease",Q} 3`, `bobbin_redis_errors_total{kind="timeout",Q} 1`,
		`bobbin_pending{Q} 11`, `bobbin_running{Q} 3`, `bobbin_stuck{Q} 1`, `bobbin_results_unread{Q} 7`, `bobbin_ready{Q} 1`,
		`bobbin_worker_state{Q,state="DRAINING"} 1`, `bobbin_worker_state{Q,state="ACTIVE"} 0`, `bobbin_build_info{Q,version="1.2.3"} 1`,
	} {
		require.Contains(t, text, strings.Replace(line, "Q", `prefix="bobbin",queue="bills"`, 1)+"\n")
	}
}

// A counter that appears with its first event shows no increase for it, and an alert on the first loss would be silent.
func TestCountersAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	_, get := setup(t, &subject{})
	_, text := get("/metrics")
	for _, workflow := range []string{"w", "w.star", "w.py", "w.mjs"} {
		m, after := setup(t, &subject{})
		for _, status := range execution.Statuses {
			m.Executed(execution.Result{ID: "x", Workflow: workflow, Status: status})
		}
		m.Recovered("lease", 1)
		m.RedisError("timeout")
		_, counted := after("/metrics")
		for series := range strings.Lines(counted) {
			name, _, _ := strings.Cut(series, "} ")
			if strings.HasPrefix(series, "bobbin_") {
				require.Contains(t, text, "\n"+name+"} ", series)
				require.Contains(t, name, `prefix="bobbin",queue="bills"`)
			}
		}
	}
	require.Equal(t, 4*len(execution.Statuses), strings.Count(text, "\nbobbin_executions_total{"))
}

func TestScrapeWithoutRedis(t *testing.T) {
	t.Parallel()
	_, get := setup(t, &subject{away: true})
	code, text := get("/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, `bobbin_running{prefix="bobbin",queue="bills"} 3`)
	require.NotContains(t, text, "bobbin_pending", "what is not known is left out")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	_, get := setup(t, &subject{})
	for _, path := range []string{"/healthz", "/readyz"} {
		code, text := get(path)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "ok\n", text)
	}
	_, get = setup(t, &subject{wedged: true, notReady: "the worker is paused"})
	code, text := get("/healthz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "does not turn")
	code, text = get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "paused")
}

// A span continues the trace of the execution's traceparent, what runs gets the span's own, and it is exported where the
// standard variables say.
func TestSpansContinueTheTrace(t *testing.T) {
	var mu sync.Mutex
	var got []*collector.ExportTraceServiceRequest
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request := &collector.ExportTraceServiceRequest{}
		if r.URL.Path == "/v1/traces" && proto.Unmarshal(body, request) == nil {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, request)
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_SERVICE_NAME", "my-workers")
	tracer, err := telemetry.NewTracer(t.Context(), "1.2.3", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	inner := ""
	traced := tracer.Trace(runner.Func(func(_ context.Context, call *runner.Call) (json.RawMessage, error) {
		inner = call.Traceparent
		return nil, errors.New("no luck")
	}))
	_, err = traced.Run(t.Context(), &runner.Call{ID: "x", Workflow: "w.py", Traceparent: parent, Attempt: 2})
	require.EqualError(t, err, "no luck")
	require.NoError(t, tracer.Close(t.Context()))
	require.Len(t, got, 1)
	spans := got[0].ResourceSpans[0].ScopeSpans[0].Spans
	require.Len(t, spans, 1)
	require.Equal(t, "execute w.py", spans[0].Name)
	require.Contains(t, inner, "00-0af7651916cd43dd8448eb211c80319c-")
	require.NotEqual(t, parent, inner)
	require.Contains(t, got[0].String(), "no luck")
	require.Contains(t, got[0].ResourceSpans[0].Resource.String(), "my-workers")
}

// The specification has values of any case, and a protocol that there is not is said and not passed over.
func TestStandardVariablesAreHeeded(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	tracer := func() (*telemetry.Tracer, string) {
		var said bytes.Buffer
		tracer, err := telemetry.NewTracer(t.Context(), "1.2.3", slog.New(slog.NewTextHandler(&said, nil)))
		require.NoError(t, err)
		require.NoError(t, tracer.Close(t.Context()))
		return tracer, said.String()
	}
	for _, value := range []string{"http/protobuf", ""} {
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", value)
		on, said := tracer()
		require.NotNil(t, on)
		require.Empty(t, said)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	on, said := tracer()
	require.NotNil(t, on)
	require.Contains(t, said, "http/protobuf alone")
	require.Contains(t, said, "asked_for=grpc")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
	_, said = tracer()
	require.Empty(t, said, "that of traces counts for traces")
	for variable, value := range map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "None"} {
		t.Setenv(variable, value)
		off, _ := tracer()
		require.Nil(t, off, variable)
		t.Setenv(variable, "")
	}
}
