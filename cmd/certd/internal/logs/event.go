package logs

import (
	"context"
	"log/slog"
	"strings"
)

// EventKey is the attribute that names what happened, in a word that never
// changes: to filter and to count by.
const EventKey = "event"

// Word of an event: messages are fixed phrases, and what comes before the first
// punctuation mark is what happened.
func Event(message string) string {
	phrase := message
	if i := strings.IndexAny(phrase, ":;,("); i > 0 {
		phrase = phrase[:i]
	}
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(phrase) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			if gap && b.Len() > 0 {
				b.WriteByte('_')
			}
			gap = false
			b.WriteRune(r)
			continue
		}
		gap = gap || r != '\'' && r != '’'
	}
	return b.String()
}

// Events returns a handler that adds the event to each record, unless it has one.
func Events(next slog.Handler) slog.Handler { return events{next, false} }

type events struct {
	next slog.Handler
	has  bool
}

func (e events) Enabled(ctx context.Context, l slog.Level) bool { return e.next.Enabled(ctx, l) }

func (e events) Handle(ctx context.Context, r slog.Record) error {
	has := e.has
	r.Attrs(func(a slog.Attr) bool {
		has = has || a.Key == EventKey
		return !has
	})
	if !has {
		r = r.Clone()
		r.AddAttrs(slog.String(EventKey, Event(r.Message)))
	}
	return e.next.Handle(ctx, r)
}

func (e events) WithAttrs(attrs []slog.Attr) slog.Handler {
	has := e.has
	for _, a := range attrs {
		has = has || a.Key == EventKey
	}
	return events{e.next.WithAttrs(attrs), has}
}

func (e events) WithGroup(name string) slog.Handler { return events{e.next.WithGroup(name), e.has} }
