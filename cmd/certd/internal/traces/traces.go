// Package traces tells an OpenTelemetry collector what certd does, step by step:
// one trace for each step, with what was asked of the key backend and of the
// cluster below it. Nothing is made, kept or sent unless the environment names a
// collector.
package traces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"certd.internal/cmd/certd/internal/logs"
	"certd.internal/rotation"
)

const (
	// flushFor bounds what is sent when certd stops.
	flushFor = 5 * time.Second
	// complainEvery lies between two lines about a collector that does not take
	// spans.
	complainEvery = 10 * time.Minute
	// longestText is how much of a reason or an error goes into a span, in bytes.
	longestText = 1024
)

// Traces makes spans. All of its methods may be called on nil: then there are none.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	clean    func(string) string
}

// Options are what Start takes from the daemon. Beside them the OpenTelemetry SDK
// reads its variables from the environment of the process.
type Options struct {
	Getenv         func(string) string
	Fleet, Version string
	Log            *slog.Logger
	// Scrubber takes secrets out of what is sent; it is asked for only if something is.
	Scrubber func() logs.Scrubber
}

// Start begins to send spans where OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
// OTEL_EXPORTER_OTLP_ENDPOINT says, by OTLP over HTTP. It returns nil if neither is
// set, if OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER turns traces off, and where the
// variables ask for what certd cannot do: that is logged, and keeps it from nothing
// else.
func Start(ctx context.Context, o Options) *Traces {
	to, err := collector(o.Getenv)
	if err != nil {
		o.Log.Warn("traces are off", "err", err)
		return nil
	}
	if to == "" {
		return nil
	}
	clean := cleaner(o)
	about := &complaints{log: o.Log, clean: clean}
	// What the SDK has to say of itself would go to standard error, in forms of its own.
	otel.SetLogger(logr.FromSlogHandler(o.Log.With(logs.EventKey, "opentelemetry").Handler()))
	otel.SetErrorHandler(about)
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		o.Log.Warn("traces are off", "err", clean(err.Error()))
		return nil
	}
	is, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "certd"), attribute.String("service.version", o.Version), attribute.String("certd.fleet", o.Fleet)),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES: the last word
	)
	if err != nil { // a part of it is there all the same
		about.Handle(fmt.Errorf("describe this certd: %w", err))
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(is), sdktrace.WithBatcher(quiet{exporter, about}))
	o.Log.Info("traces are sent", "to", to)
	return over(provider, o.Version, clean)
}

// over makes spans by a provider.
func over(p *sdktrace.TracerProvider, version string, clean func(string) string) *Traces {
	return &Traces{provider: p, tracer: p.Tracer("certd", trace.WithInstrumentationVersion(version)), clean: clean}
}

// collector is where spans go, as scheme and host; "": nowhere, and that is as it
// should be.
func collector(getenv func(string) string) (string, error) {
	first := func(names ...string) (name, value string) {
		for _, name := range names {
			if v := strings.TrimSpace(getenv(name)); v != "" {
				return name, v
			}
		}
		return "", ""
	}
	name, endpoint := first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	if endpoint == "" || strings.EqualFold(strings.TrimSpace(getenv("OTEL_SDK_DISABLED")), "true") {
		return "", nil
	}
	switch _, exporter := first("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		return "", nil
	default:
		return "", fmt.Errorf("OTEL_TRACES_EXPORTER=%s: certd sends traces by otlp alone", exporter)
	}
	if name, protocol := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); !slices.Contains([]string{"", "http/protobuf", "http/json"}, protocol) {
		return "", fmt.Errorf("%s=%s: certd sends traces by http/protobuf or http/json; collectors take that on port 4318", name, protocol)
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("%s is not http://HOST:PORT or https://HOST:PORT", name)
	}
	return u.Scheme + "://" + u.Host, nil
}

// cleaner takes secrets out, also those that the collector is sent as headers.
func cleaner(o Options) func(string) string {
	var secrets [][]byte
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"} {
		for header := range strings.SplitSeq(o.Getenv(name), ",") {
			_, value, _ := strings.Cut(header, "=")
			secrets = append(secrets, []byte(value))
			if plain, err := url.PathUnescape(value); err == nil {
				secrets = append(secrets, []byte(plain))
			}
		}
	}
	configured, headers := o.Scrubber(), logs.NewScrubber(secrets...)
	return func(s string) string { return headers.Clean(configured.Clean(s)) }
}

// Close sends what is left, within five seconds, and ends.
func (t *Traces) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushFor)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %s", t.clean(err.Error()))
	}
	return nil
}

// Step is the root of a trace: one step that is about to be tried. It fits
// rotation.Options' Trying.
func (t *Traces) Step(ctx context.Context, a rotation.Attempt) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	return t.begin(ctx, string(a.Step), trace.SpanKindInternal, trace.WithNewRoot(), t.texts(
		"certd.step", string(a.Step), "certd.cluster", a.Cluster, "certd.object", a.Object, "certd.webhook", a.Webhook,
		"certd.actor", a.Actor, "certd.reason", a.Why, "certd.writer", a.Writer))
}

// Notify is a trace of its own: one send of a number of notifications to a
// receiver of this name and kind.
func (t *Traces) Notify(ctx context.Context, receiver, kind string, ids []string) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	return t.begin(ctx, "notify", trace.SpanKindClient, trace.WithNewRoot(), t.texts("certd.receiver", receiver, "certd.receiver.kind", kind),
		trace.WithAttributes(attribute.StringSlice("certd.notifications", ids)))
}

// begin begins a span; what it returns ends it.
func (t *Traces) begin(ctx context.Context, name string, kind trace.SpanKind, o ...trace.SpanStartOption) (context.Context, func(error)) {
	ctx, span := t.tracer.Start(ctx, name, append(o, trace.WithSpanKind(kind))...)
	return ctx, func(err error) { t.end(span, err) }
}

// part begins a span below a step's; outside of steps there is none, for looks
// are many and tell nothing.
func (t *Traces) part(ctx context.Context, name string, pairs ...string) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(ctx) // one that does nothing
	}
	return t.tracer.Start(ctx, name, t.texts(pairs...), trace.WithSpanKind(trace.SpanKindClient))
}

func (t *Traces) end(span trace.Span, err error) {
	span.SetAttributes(attribute.String("certd.outcome", outcome(err)))
	if err != nil {
		span.SetStatus(codes.Error, t.text(err.Error()))
	}
	span.End()
}

// outcome is what came of something, in a word.
func outcome(err error) string {
	for _, is := range []struct {
		err  error
		word string
	}{
		{nil, "ok"},
		{rotation.ErrNotNow, "put off"},
		{rotation.ErrChanged, "changed meanwhile"},
		{rotation.ErrOutcomeUnknown, "unknown"},
		{rotation.ErrDenied, "denied"},
		{rotation.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, is.err) {
			return is.word
		}
	}
	return "failed"
}

// text is what may leave certd of a text.
func (t *Traces) text(s string) string {
	s = t.clean(s)
	if len(s) > longestText {
		s = strings.ToValidUTF8(s[:longestText], "") + "…"
	}
	return s
}

// texts are attributes, name after name; those without a value are left out.
func (t *Traces) texts(pairs ...string) trace.SpanStartEventOption {
	return trace.WithAttributes(t.attributes(pairs...)...)
}

func (t *Traces) attributes(pairs ...string) (all []attribute.KeyValue) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			all = append(all, attribute.String(pairs[i], t.text(pairs[i+1])))
		}
	}
	return all
}
