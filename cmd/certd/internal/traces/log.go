package traces

import (
	"context"
	"log/slog"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TraceKey is the attribute of log lines that belong to a trace that is sent.
const TraceKey = "trace_id"

// Log has the lines that a step logs bear the id of its trace.
func Log(next slog.Handler) slog.Handler { return identified{next} }

type identified struct{ slog.Handler }

func (h identified) Handle(ctx context.Context, r slog.Record) error {
	if c := trace.SpanContextFromContext(ctx); c.IsSampled() && c.HasTraceID() {
		r = r.Clone()
		r.AddAttrs(slog.String(TraceKey, c.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h identified) WithAttrs(attrs []slog.Attr) slog.Handler {
	return identified{h.Handler.WithAttrs(attrs)}
}

func (h identified) WithGroup(name string) slog.Handler { return identified{h.Handler.WithGroup(name)} }

// quiet is an exporter whose errors are logged here, now and then, and not by the
// SDK each time.
type quiet struct {
	sdktrace.SpanExporter
	about *complaints
}

func (q quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := q.SpanExporter.ExportSpans(ctx, spans); err != nil {
		q.about.Handle(err)
	}
	return nil
}

// complaints logs that spans are not taken: a collector that is away for a day is
// no reason for ten thousand lines.
type complaints struct {
	log   *slog.Logger
	clean func(string) string

	mu    sync.Mutex
	times int // since the last line
	last  time.Time
}

// Handle implements the SDK's ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times++
	if now := time.Now(); c.last.IsZero() || now.Sub(c.last) >= complainEvery {
		c.log.Warn("traces not sent", "err", c.clean(err.Error()), "times", c.times)
		c.times, c.last = 0, now
	}
}
