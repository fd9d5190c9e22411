package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// takeOver makes this daemon the mirror's, and gives a journal that knows less what
// the mirror has. A mirror that does not answer keeps certd from nothing: it is
// asked again, and meanwhile what runs in the clusters is learnt from them. Nil:
// none is configured.
//
// One that was elected begins nothing before it has the mirror: what the one before it
// did is known there alone. It does not have it for ever to try.
func (d Daemon) takeOver(ctx context.Context, f *fleet, c *config.Config, e *election, log *slog.Logger) (*rotation.Fence, error) {
	if c.Keys.Vault == nil || c.Keys.Vault.Mirror == nil {
		return nil, nil
	}
	m := c.Keys.Vault.Mirror
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	fence := rotation.NewFence(f.vault.Mirror(m.Mount, m.Path), f.journal, f.keys, f.webhookKeys, c.Name, fmt.Sprintf("%s, pid %d", host, os.Getpid()))
	if e != nil {
		fence.Under(e.candidate.Leads)
	}
	begun := time.Now()
	for {
		recovered, err := fence.TakeOver(ctx)
		switch {
		case err == nil && recovered > 0 && f.journal.Created():
			log.Warn("the journal was new, and was rebuilt from the mirror", "mount", m.Mount, "path", m.Path, "records", recovered)
			return fence, nil
		case err == nil && recovered > 0:
			log.Warn("the journal was behind, and was brought up to the mirror", "mount", m.Mount, "path", m.Path, "records", recovered)
			return fence, nil
		case err == nil:
			log.Info("mirror taken over", "mount", m.Mount, "path", m.Path)
			return fence, nil
		case e == nil:
			log.Warn("mirror not taken over; it is asked again", "mount", m.Mount, "path", m.Path, "err", err)
			return fence, nil
		case ctx.Err() != nil || time.Since(begun) > takeOverWithin:
			return nil, asService(fmt.Errorf("elected, and nothing is begun without the mirror; the Lease is given back: %w", err))
		}
		log.Warn("mirror not taken over; nothing is begun before that", "mount", m.Mount, "path", m.Path, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(c.Election.RetryPeriod):
		}
	}
}

// alone says that no other daemon has taken this one's place.
func (s *running) alone(context.Context) error {
	if s.fence == nil {
		return nil
	}
	return s.fence.Lost()
}
