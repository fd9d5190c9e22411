package logs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
)

// Recent keeps the last lines of a log in memory, as JSON, for a support bundle.
type Recent struct {
	limit int

	mu    sync.Mutex
	lines [][]byte
	size  int
}

// NewRecent keeps so many bytes.
func NewRecent(limit int) *Recent { return &Recent{limit: limit} }

// Lines are what is kept, the oldest first.
func (r *Recent) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := make([]string, len(r.lines))
	for i, l := range r.lines {
		lines[i] = string(l)
	}
	return lines
}

// Write implements io.Writer for a handler that writes a line at a time.
func (r *Recent) Write(line []byte) (int, error) {
	kept := bytes.TrimRight(bytes.Clone(line), "\n")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines, r.size = append(r.lines, kept), r.size+len(kept)
	drop := 0
	for r.size > r.limit && drop < len(r.lines) {
		r.size -= len(r.lines[drop])
		drop++
	}
	clear(r.lines[:drop])
	r.lines = r.lines[drop:] // append moves what is left, once in a while
	return len(line), nil
}

// Handler writes to next, and keeps what it writes.
func (r *Recent) Handler(next slog.Handler) slog.Handler {
	// The level is next's to decide.
	return both{next, slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.Level(-1000)})}
}

type both struct{ first, second slog.Handler }

func (b both) Enabled(ctx context.Context, l slog.Level) bool { return b.first.Enabled(ctx, l) }

func (b both) Handle(ctx context.Context, r slog.Record) error {
	return errors.Join(b.first.Handle(ctx, r.Clone()), b.second.Handle(ctx, r))
}

func (b both) WithAttrs(attrs []slog.Attr) slog.Handler {
	return both{b.first.WithAttrs(attrs), b.second.WithAttrs(attrs)}
}

func (b both) WithGroup(name string) slog.Handler {
	return both{b.first.WithGroup(name), b.second.WithGroup(name)}
}
