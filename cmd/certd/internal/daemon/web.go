package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/web"
	"certd.internal/rotation"
)

const (
	// devListen is where `run --dev` answers over HTTP if nobody else does.
	devListen = "127.0.0.1:9843"
	// stuckAfter is for how long the loop may not come round before a restart is
	// the better guess: it comes round every 20 seconds, without waiting for any
	// cluster, for Vault or the disk.
	stuckAfter = 2 * time.Minute
)

// listen opens server.listen; there is no listener where that is left out. With
// --dev it is not left out by leaving it out, and yields to who is there already.
func (d Daemon) listen(c *config.Config, dev bool, log *slog.Logger) (net.Listener, string, error) {
	address := c.Server.Listen
	if dev && address == "" {
		l, err := web.Listen(devListen)
		if errors.Is(err, api.ErrNotNow) {
			log.Info("probes are left out", "why", err)
			return nil, "", nil
		}
		return listening(l, err)
	}
	if address == "" {
		return nil, "", nil
	}
	return listening(web.Listen(address))
}

func listening(l net.Listener, err error) (net.Listener, string, error) {
	if err != nil {
		return nil, "", err
	}
	return l, l.Addr().String(), nil
}

// web is what a running daemon shows over HTTP.
func (s *running) web(log *slog.Logger) *web.Server {
	journal := web.Check{Name: "journal", Ask: func(context.Context) error { _, err := s.lastSeq(); return err }}
	return web.NewServer(web.Options{
		Status: s.Status,
		Bundle: s.bundlePEM,
		Live:   []web.Check{{Name: "loop", Ask: s.loopBeats}, journal},
		Ready:  []web.Check{{Name: "config", Ask: s.configLoaded}, journal, {Name: "socket", Ask: s.socketAnswers}},
		Log:    log,
	})
}

func (s *running) bundlePEM(context.Context) ([]byte, error) {
	known, err := s.known()
	if err != nil {
		return nil, err
	}
	bundle, err := known.Bundle()
	if err != nil {
		return nil, fmt.Errorf("the trust anchors that the journal knows form no bundle: %w", err)
	}
	return bundle.PEM(), nil
}

func (s *running) loopBeats(context.Context) error {
	if since := time.Since(s.reconciler.Beat()); since > stuckAfter {
		return fmt.Errorf("the loop has not come round for %s", rotation.FormatDuration(since))
	}
	return nil
}

// configLoaded says that the daemon goes by a configuration that was read whole.
// One that a reload refused is a finding, and none that a restart would mend.
func (s *running) configLoaded(context.Context) error {
	if s.configFile() == "" {
		return errors.New("no configuration is loaded")
	}
	return nil
}

func (s *running) socketAnswers(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", s.current().Server.Socket)
	if err != nil {
		return fmt.Errorf("connect to the admin socket: %w; restart certd if its file was removed", err)
	}
	return conn.Close()
}
