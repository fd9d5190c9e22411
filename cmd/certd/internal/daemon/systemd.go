package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// manager is whoever started certd and wants to be told how it is: systemd, for a unit of
// Type=notify (sd_notify(3)). Where nobody does, telling is nothing.
type manager struct {
	// tell sends one message; it waits for nobody.
	tell func(state string)
	// watch is how often at least it wants to hear of certd; 0: it does not.
	watch time.Duration
}

func (d Daemon) manager(log *slog.Logger) manager {
	if d.Getenv("NOTIFY_SOCKET") == "" {
		return manager{tell: func(string) {}}
	}
	watch, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog is not served", "err", err)
		watch = 0
	}
	return manager{watch: watch, tell: func(state string) {
		if _, err := sd.SdNotify(false, state); err != nil {
			log.Warn("systemd not told", "state", state, "err", err)
		}
	}}
}

// until tells that certd is ready, then twice in each of the watchdog's intervals that it
// lives, as long as alive says so, and at the end of ctx that it stops. alive may hang:
// that is no life. It is what /livez asks for, so that a daemon is restarted for the same
// reasons in a cluster and on a host.
func (m manager) until(ctx context.Context, status string, alive func(context.Context) error) {
	defer m.tell(sd.SdNotifyStopping)
	m.keep(ctx, status, alive)
}

// keep is until for a part of a daemon's life: its end is not told.
func (m manager) keep(ctx context.Context, status string, alive func(context.Context) error) {
	m.tell(sd.SdNotifyReady + "\nSTATUS=" + status)
	if m.watch == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(m.watch / 2)
	defer tick.Stop()
	answers := make(chan error, 1)
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answers:
			if asked = false; err == nil {
				m.tell(sd.SdNotifyWatchdog)
			}
		case <-tick.C:
			if !asked {
				asked = true
				go func() { answers <- alive(ctx) }()
			}
		}
	}
}

// reloads tells that the configuration is read anew, until what it returns is called.
func (m manager) reloads() (done func()) {
	m.tell(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
	return func() { m.tell(sd.SdNotifyReady) }
}

// alive says whether a restart would mend nothing.
func (s *running) alive(ctx context.Context) error {
	_, err := s.lastSeq()
	return errors.Join(s.loopBeats(ctx), err)
}
