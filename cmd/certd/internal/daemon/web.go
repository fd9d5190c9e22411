package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"time"

	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/cmd/certd/internal/web"
	"certd.internal/cmd/certd/internal/web/page"
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
			log.Info("metrics and probes are left out", "why", err)
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
func (s *running) web(log *slog.Logger, counts *metrics.Recorder, revision string) *web.Server {
	journal := web.Check{Name: "journal", Ask: func(context.Context) error { _, err := s.lastSeq(); return err }}
	source := metrics.Source{Status: s.report, Recorder: counts, Version: s.version, Revision: revision, GoVersion: runtime.Version()}
	if s.vault != nil {
		source.TokenExpires = s.vault.TokenExpires
	}
	return web.NewServer(web.Options{
		Status:  s.Status,
		Bundle:  s.bundlePEM,
		Metrics: metrics.Handler(source, slog.NewLogLogger(log.Handler(), slog.LevelError)),
		Live:    []web.Check{{Name: "loop", Ask: s.loopBeats}, journal},
		Ready:   []web.Check{{Name: "config", Ask: s.configLoaded}, journal, {Name: "socket", Ask: s.socketAnswers}, {Name: "alone", Ask: s.alone}},
		Page:    page.New(page.Options{Source: s, Zone: time.Local, Runbook: func(f rotation.Finding) string { return f.Runbook }, Log: log}),
		Log:     log,
	})
}

// askVaultEvery is how often Vault is asked for its health, which it answers to
// anybody and writes to no audit log.
const askVaultEvery = time.Minute

// watchVault tells whether Vault answers and is unsealed, until ctx ends: certd itself may
// have no reason to ask it anything for hours.
func watchVault(ctx context.Context, health func(context.Context) (vault.Health, error), told func(error)) {
	tick := time.NewTicker(askVaultEvery)
	defer tick.Stop()
	for {
		h, err := health(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil && h.Sealed {
			err = errSealed
		}
		told(err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var errSealed = errors.New("nothing can be signed: Vault is sealed, or not initialised; certificates in use stay good until they end; unseal it (vault operator unseal)")

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
