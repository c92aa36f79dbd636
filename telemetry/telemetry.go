// Package telemetry is what a worker shows to monitoring: Prometheus metrics, /healthz and /readyz on one address, and
// OpenTelemetry spans. Names follow Prometheus's conventions (prometheus.io/docs/practices/naming), and no label takes a value
// that users choose, so that cardinality is bounded.
package telemetry

import (
	"context"
	"path"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/queue"
)

// Subject is the worker that is looked at.
type Subject interface {
	Condition() consumer.Condition
	Depths(ctx context.Context) (*queue.Depths, int64, error)
	Turns(ctx context.Context) error
	NotReady() string
}

// Metrics counts what happens in a worker. It is a [consumer.Observer].
type Metrics struct {
	registry   *prometheus.Registry
	ours       prometheus.Registerer // the registry, with the queue as a label of everything
	executions *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	wait       prometheus.Histogram
	recovered  *prometheus.CounterVec
	errors     *prometheus.CounterVec
}

// From a hundred microseconds to an hour.
var buckets = []float64{0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

// runners are the languages that runnerOf knows.
var runners = []string{"go", "starlark", "python", "node"}

// New returns metrics of a worker on a queue. version is that of the program. Prefix and queue are labels of every metric of
// ours, so that one Prometheus may look at many queues.
func New(version, prefix, queue string) *Metrics {
	registry := prometheus.NewRegistry()
	m := &Metrics{
		registry: registry,
		ours:     prometheus.WrapRegistererWith(prometheus.Labels{"prefix": prefix, "queue": queue}, registry),
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bobbin_executions_total", Help: "Executions whose result this worker wrote.",
		}, []string{"status", "runner"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bobbin_execution_duration_seconds", Help: "How long executions ran.", Buckets: buckets,
		}, []string{"runner"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bobbin_queue_wait_seconds", Buckets: buckets,
			Help: "How long executions waited from submission to claim; only of those whose ID is a UUID of version 7, which says when.",
		}),
		recovered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bobbin_claims_recovered_total", Help: "Executions that this worker took over, by how it knew.",
		}, []string{"cause"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bobbin_redis_errors_total", Help: "Operations on Redis that failed and were tried again.",
		}, []string{"kind"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bobbin_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.ours.MustRegister(m.executions, m.duration, m.wait, m.recovered, m.errors, build)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.begin()
	return m
}

// begin makes every counter known from the start: one that appears with its first event shows no increase for it.
func (m *Metrics) begin() {
	for _, runner := range runners {
		for _, status := range execution.Statuses {
			m.executions.WithLabelValues(string(status), runner)
		}
	}
	for _, cause := range []string{"lease", "process_gone", "lost_reply"} {
		m.recovered.WithLabelValues(cause)
	}
	for _, kind := range []string{"refused", "timeout", "unreachable"} {
		m.errors.WithLabelValues(kind)
	}
}

// Executed counts a result.
func (m *Metrics) Executed(r execution.Result) {
	runner := runnerOf(r.Workflow)
	m.executions.WithLabelValues(string(r.Status), runner).Inc()
	if r.StartedMS > 0 {
		m.duration.WithLabelValues(runner).Observe(r.Duration.Seconds())
	}
	if id, err := uuid.Parse(r.ID); err == nil && id.Version() == 7 && r.ClaimedMS > 0 {
		seconds, nanos := id.Time().UnixTime()
		m.wait.Observe(max(time.UnixMilli(r.ClaimedMS).Sub(time.Unix(seconds, nanos)).Seconds(), 0))
	}
}

// runnerOf is the language of a workflow.
func runnerOf(workflow string) string {
	switch path.Ext(workflow) {
	case ".star":
		return "starlark"
	case ".py":
		return "python"
	case ".mjs":
		return "node"
	default:
		return "go"
	}
}

// Recovered counts executions that were taken over.
func (m *Metrics) Recovered(cause string, n int) { m.recovered.WithLabelValues(cause).Add(float64(n)) }

// RedisError counts a failed operation.
func (m *Metrics) RedisError(kind string) { m.errors.WithLabelValues(kind).Inc() }

// gauges reads what is so at the moment of a scrape.
type gauges struct {
	worker Subject

	mu     sync.Mutex
	asked  time.Time
	depths *queue.Depths
	unread int64
}

var (
	descState       = prometheus.NewDesc("bobbin_worker_state", "1 for the state that the worker is in.", []string{"state"}, nil)
	descReady       = prometheus.NewDesc("bobbin_ready", "1 when the worker is one to count on.", nil, nil)
	descRunning     = prometheus.NewDesc("bobbin_running", "Executions that this worker has claimed and that have not ended.", nil, nil)
	descStuck       = prometheus.NewDesc("bobbin_stuck", "Executions of this worker that ignore their cancellation.", nil, nil)
	descConcurrency = prometheus.NewDesc("bobbin_concurrency", "Executions that this worker runs at the same time.", nil, nil)
	descPending     = prometheus.NewDesc("bobbin_pending", "Executions of the queue that wait; the same on every worker.", nil, nil)
	descInFlight    = prometheus.NewDesc("bobbin_in_flight", "Executions of the queue that are claimed; the same on every worker.", nil, nil)
	descScheduled   = prometheus.NewDesc("bobbin_scheduled", "Executions of the queue that wait for their next attempt; the same on every worker.", nil, nil)
	descDead        = prometheus.NewDesc("bobbin_dead", "Failed executions that are kept; the same on every worker.", nil, nil)
	descUnread      = prometheus.NewDesc("bobbin_results_unread", "Results that a consumer group has not acknowledged, or all where there are none; too many rather than too few where Redis does not know; the same on every worker.", nil, nil)
)

// Describe names the gauges.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descState, descReady, descRunning, descStuck, descConcurrency, descPending, descInFlight, descScheduled, descDead, descUnread,
	} {
		out <- d
	}
}

// Collect reads the gauges. What Redis does not tell within two seconds is left out.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	c := g.worker.Condition()
	for _, state := range execution.States {
		gauge(descState, number(state == c.State), string(state))
	}
	gauge(descReady, number(g.worker.NotReady() == ""))
	gauge(descRunning, float64(c.Running))
	gauge(descStuck, float64(c.Stuck))
	gauge(descConcurrency, float64(c.Concurrency))
	if depths, unread := g.queue(); depths != nil {
		gauge(descPending, float64(depths.Pending+depths.Handoff))
		gauge(descInFlight, float64(depths.Claimed))
		gauge(descScheduled, float64(depths.Scheduled))
		gauge(descDead, float64(depths.Dead))
		gauge(descUnread, float64(unread))
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// queue asks Redis, at most once a second however many scrape.
func (g *gauges) queue() (*queue.Depths, int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.asked) < time.Second {
		return g.depths, g.unread
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	depths, unread, err := g.worker.Depths(ctx)
	if err != nil {
		depths = nil
	}
	g.asked, g.depths, g.unread = time.Now(), depths, unread
	return depths, unread
}
