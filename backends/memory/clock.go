package memory

import (
	"context"
	"time"
)

// Clock is a time that a world keeps. It is safe for concurrent use.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or when ctx ends. No lock of this package is held.
	Sleep(ctx context.Context, d time.Duration)
}

// machineClock is package time's, which testing/synctest may keep.
type machineClock struct{}

func (machineClock) Now() time.Time { return time.Now() }

func (machineClock) Sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// now is the time of a cluster's world.
func (c *Cluster) now() time.Time { return c.cfg.Clock.Now() }
