package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

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
	m := telemetry.New("1.2.3")
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
		m.Executed(&execution.Result{ID: "x", Workflow: "a/b.py", Status: execution.Failed, ClaimedMS: now, StartedMS: now, Duration: 30 * time.Millisecond})
	}
	// An ID that says when it was made: 2026-11-24T00:00:00Z.
	m.Executed(&execution.Result{ID: "01a20ad2-8800-7000-8000-000000000000", Workflow: "w", Status: execution.Succeeded, ClaimedMS: 0x01a20ad28800 + 2000, StartedMS: now})
	m.Recovered("lease", 3)
	m.RedisError("timeout")
	_, text := get("/metrics")
	for _, line := range []string{
		`bobbin_executions_total{runner="python",status="failed"} 2`, `bobbin_executions_total{runner="go",status="succeeded"} 1`,
		`bobbin_execution_duration_seconds_bucket{runner="python",le="0.05"} 2`, `bobbin_execution_duration_seconds_bucket{runner="python",le="0.025"} 0`,
		`bobbin_queue_wait_seconds_bucket{le="2.5"} 1`, `bobbin_queue_wait_seconds_bucket{le="1"} 0`,
		`bobbin_claims_recovered_total{cause="lease"} 3`, `bobbin_redis_errors_total{kind="timeout"} 1`,
		`bobbin_pending 11`, `bobbin_running 3`, `bobbin_stuck 1`, `bobbin_results_unread 7`, `bobbin_ready 1`,
		`bobbin_worker_state{state="DRAINING"} 1`, `bobbin_worker_state{state="ACTIVE"} 0`, `bobbin_build_info{version="1.2.3"} 1`,
	} {
		require.Contains(t, text, line+"\n")
	}
}

func TestScrapeWithoutRedis(t *testing.T) {
	t.Parallel()
	_, get := setup(t, &subject{away: true})
	code, text := get("/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, "bobbin_running 3")
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

var (
	metricName = regexp.MustCompile(`\b(?:bobbin|process|go)_[a-z_]+\b`)
	quotedText = regexp.MustCompile(`"[^"]*"`)
	matcher    = regexp.MustCompile(`\b([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// Every query of the dashboard and of the alert rules asks for metrics, labels and label values that a worker really has, and
// every alert has its section in the runbook.
func TestDashboardAndAlertsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	m, get := setup(t, &subject{})
	for _, status := range execution.Statuses {
		m.Executed(&execution.Result{ID: "x", Workflow: "w.py", Status: status, StartedMS: 1})
	}
	_, text := get("/metrics")
	queries := append(dashboard(t), alerts(t)...)
	require.Greater(t, len(queries), 20)
	for _, query := range queries {
		names := metricName.FindAllString(quotedText.ReplaceAllString(query, ""), -1)
		require.NotEmpty(t, names, query)
		for _, name := range names {
			require.Regexp(t, `(?m)^`+name+`[ {]`, text, "%s asks for a metric that there is not", query)
		}
		for _, match := range matcher.FindAllStringSubmatch(query, -1) {
			if match[1] == "job" || match[1] == "instance" {
				continue // Prometheus's own
			}
			for value := range strings.SplitSeq(match[2], "|") {
				require.Contains(t, text, match[1]+`="`+value+`"`, query)
			}
		}
		for _, match := range grouping.FindAllStringSubmatch(query, -1) {
			for label := range strings.SplitSeq(match[1], ",") {
				if label = strings.TrimSpace(label); label != "instance" {
					require.Regexp(t, names[0]+`\{[^}]*`+label+`="`, text, query)
				}
			}
		}
	}
}

func dashboard(t *testing.T) (queries []string) {
	t.Helper()
	data, err := os.ReadFile("../deploy/grafana-dashboard.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(data, &board))
	for _, panel := range board.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			queries = append(queries, target.Expr)
		}
	}
	return queries
}

func alerts(t *testing.T) (queries []string) {
	t.Helper()
	data, err := os.ReadFile("../deploy/prometheus-alerts.yml")
	require.NoError(t, err)
	runbook, err := os.ReadFile("../docs/runbook.md")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(data, &rules))
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			queries = append(queries, rule.Expr)
			require.Equal(t, "docs/runbook.md#"+strings.ToLower(rule.Alert), rule.Annotations["runbook"])
			require.Contains(t, string(runbook), "\n### "+rule.Alert+"\n")
		}
	}
	return queries
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
