package telemetry

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/execution"
	"github.com/bobbin-run/bobbin/runner"
)

// Tracer makes a span of every execution. The zero of it, nil, makes none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// NewTracer returns a tracer that exports by OTLP over HTTP, as the standard OTEL_* variables say; nil where none of
// OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, or OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER turns it
// off. A protocol other than http/protobuf is warned of.
func NewTracer(ctx context.Context, version string, log *slog.Logger) (*Tracer, error) {
	endpoint := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") + os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if endpoint == "" || setTo("OTEL_SDK_DISABLED", "true") || setTo("OTEL_TRACES_EXPORTER", "none") {
		return nil, nil
	}
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), exportProtocol)
	if !strings.EqualFold(protocol, exportProtocol) {
		log.Warn("spans are exported by "+exportProtocol+" alone: the endpoint must be one for it, port 4318 of a collector and not 4317",
			"asked_for", protocol)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were not exported", "error", err) }))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "bobbin"), attribute.String("service.version", version)),
		resource.WithHost(), resource.WithProcessPID(), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return &Tracer{provider, provider.Tracer("github.com/bobbin-run/bobbin")}, nil
}

// exportProtocol is the one that the OpenTelemetry specification recommends.
const exportProtocol = "http/protobuf"

// setTo says whether a variable has a value, in whatever case: the specification has it so.
func setTo(variable, value string) bool {
	return strings.EqualFold(strings.TrimSpace(os.Getenv(variable)), value)
}

// Close exports what is left.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Trace makes a span of everything that the runner runs, continued from the context's traceparent. Go handlers find it in
// their context, other languages in the traceparent that they are given.
func (t *Tracer) Trace(r runner.Runner) runner.Runner {
	if t == nil {
		return r
	}
	return &traced{t, r}
}

// TraceAll does that for runners that are yet to be built.
func (t *Tracer) TraceAll(builders map[string]func(consumer.Modules) runner.Runner) map[string]func(consumer.Modules) runner.Runner {
	if t == nil {
		return builders
	}
	all := map[string]func(consumer.Modules) runner.Runner{}
	for suffix, build := range builders {
		all[suffix] = func(m consumer.Modules) runner.Runner { return t.Trace(build(m)) }
	}
	return all
}

// traced is a runner with a span around each run. What else the runner can do, it passes on.
type traced struct {
	t *Tracer
	runner.Runner
}

var carrier = propagation.TraceContext{}

// Run runs one execution in a span.
func (r *traced) Run(ctx context.Context, call *runner.Call) (json.RawMessage, error) {
	ctx = carrier.Extract(ctx, propagation.MapCarrier{"traceparent": call.Traceparent})
	ctx, span := r.t.tracer.Start(ctx, "execute "+call.Workflow, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("bobbin.execution_id", string(call.ID)), attribute.String("bobbin.workflow", call.Workflow),
		attribute.String("bobbin.function", call.Function), attribute.Int("bobbin.attempt", call.Attempt),
		attribute.String("bobbin.runner", runnerOf(call.Workflow)),
	))
	defer span.End()
	own, inner := propagation.MapCarrier{}, *call
	carrier.Inject(ctx, own)
	inner.Traceparent = own["traceparent"]
	value, err := r.Runner.Run(ctx, &inner)
	if failure := execution.AsError(err); failure != nil {
		span.SetStatus(codes.Error, failure.Message)
		span.SetAttributes(attribute.String("error.type", failure.Type))
	}
	return value, err
}

// Has passes on.
func (r *traced) Has(workflow string) bool {
	mux, ok := r.Runner.(interface{ Has(workflow string) bool })
	return ok && mux.Has(workflow)
}

// WarmUp passes on.
func (r *traced) WarmUp() {
	if warm, ok := r.Runner.(interface{ WarmUp() }); ok {
		warm.WarmUp()
	}
}

// Close passes on.
func (r *traced) Close() error {
	if closer, ok := r.Runner.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// Stack passes on.
func (r *traced) Stack(id string) string {
	if teller, ok := r.Runner.(interface{ Stack(id string) string }); ok {
		return teller.Stack(id)
	}
	return ""
}
