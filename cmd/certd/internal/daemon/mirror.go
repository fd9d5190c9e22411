package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// takeOver makes this daemon the mirror's, and gives a journal that is new what
// the mirror has. A mirror that does not answer keeps certd from nothing: it is
// asked again, and meanwhile what runs in the clusters is learnt from them. Nil:
// none is configured.
func (d Daemon) takeOver(ctx context.Context, f *fleet, c *config.Config, log *slog.Logger) *rotation.Fence {
	if c.Keys.Vault == nil || c.Keys.Vault.Mirror == nil {
		return nil
	}
	m := c.Keys.Vault.Mirror
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	fence := rotation.NewFence(f.vault.Mirror(m.Mount, m.Path), f.journal, f.keys, f.webhookKeys, c.Name, fmt.Sprintf("%s, pid %d", host, os.Getpid()))
	recovered, err := fence.TakeOver(ctx)
	switch {
	case err != nil:
		log.Warn("mirror not taken over; it is asked again", "mount", m.Mount, "path", m.Path, "err", err)
	case recovered > 0:
		log.Warn("the journal was new, and was rebuilt from the mirror", "mount", m.Mount, "path", m.Path, "records", recovered)
	default:
		log.Info("mirror taken over", "mount", m.Mount, "path", m.Path)
	}
	return fence
}

// alone says that no other daemon has taken this one's place.
func (s *running) alone(context.Context) error {
	if s.fence == nil {
		return nil
	}
	return s.fence.Lost()
}
