// Package logs is what the daemon's log has beside log/slog: a level that falls
// back by itself, the last lines kept in memory, a stable word for each event,
// and secrets taken out.
package logs

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// A Fuse is a level that can be changed for a while: nobody forgets to take it
// back. Its zero value is of no use; NewFuse makes one.
type Fuse struct {
	base slog.Leveler // what the configuration says

	mu    sync.Mutex
	level slog.Level
	until time.Time // zero: the base counts
	timer *time.Timer
}

// NewFuse returns a level that is base until it is set.
func NewFuse(base slog.Leveler) *Fuse { return &Fuse{base: base} }

// Level implements slog.Leveler.
func (f *Fuse) Level() slog.Level {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until.IsZero() {
		return f.base.Level()
	}
	return f.level
}

// Set has the level be another for so long; then back is called.
func (f *Fuse) Set(level slog.Level, d time.Duration, back func()) (until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
	f.level, f.until = level, time.Now().Add(d).Round(0)
	end := f.until
	f.timer = time.AfterFunc(d, func() {
		if f.blow(end) {
			back()
		}
	})
	return f.until
}

// blow ends what was set until end, unless something else was set since.
func (f *Fuse) blow(end time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.until.Equal(end) {
		return false
	}
	f.until = time.Time{}
	return true
}

// Reset takes Set back.
func (f *Fuse) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
	}
	f.until = time.Time{}
}

// State is the level now, what the configuration says, and until when they may
// differ: the zero time where the configuration counts.
func (f *Fuse) State() (now, configured slog.Level, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	configured = f.base.Level()
	if f.until.IsZero() {
		return configured, configured, time.Time{}
	}
	return f.level, configured, f.until
}

// ParseLevel reads one of the four words of log.level.
func ParseLevel(word string) (slog.Level, error) {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if Word(l) == word {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is no level; there are debug, info, warn, error", word)
}

// Word is a level as the configuration has it.
func Word(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}
