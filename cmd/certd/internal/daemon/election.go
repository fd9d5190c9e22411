package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"certd.internal/backends/kube"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/cmd/certd/internal/web"
	"certd.internal/rotation"
)

// takeOverWithin is for how long one that was elected tries to take the mirror over. Then
// it gives the Lease back: another one may reach what it does not.
const takeOverWithin = time.Minute

// election is one certd's part in electing the one that works.
type election struct {
	lease, identity string
	candidate       *kube.Candidate
	stop            context.CancelFunc
	lost            error // why it ended, once ended is closed; nil: it was told to
	ended           chan struct{}
}

// elect stands for election, and goes on doing so until resign is called or the lead was
// lost: that outlasts ctx, since what is in hand then still needs the Lease.
func (d Daemon) elect(ctx context.Context, c *config.Config, log *slog.Logger) (*election, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unnamed"
	}
	lc := kube.LeaseConfig{Namespace: c.Election.Namespace, Name: c.Election.Name, Identity: host + "_" + rand.Text()[:8],
		LeaseDuration: c.Election.LeaseDuration, RenewDeadline: c.Election.RenewDeadline, RetryPeriod: c.Election.RetryPeriod}
	lc.Access.InCluster = c.Election.Cluster == ""
	for _, cc := range c.Clusters {
		if cc.Policy.Cluster != c.Election.Cluster {
			continue
		}
		if lc.Access.InCluster = cc.InCluster; cc.Kubeconfig != nil {
			lc.Access.File, lc.Access.Context = cc.Kubeconfig.File, cc.Kubeconfig.Context
		}
	}
	candidate, err := kube.NewCandidate(lc, log)
	if err != nil {
		return nil, fmt.Errorf("leaderElection: %w", err)
	}
	e := &election{lease: lc.Namespace + "/" + lc.Name, identity: lc.Identity, candidate: candidate, ended: make(chan struct{})}
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(e.ended)
		e.lost = candidate.Run(ctx)
	}()
	return e, nil
}

// resign gives the Lease back. Nothing may be written after it.
func (e *election) resign() {
	e.stop()
	<-e.ended
}

// leading ends with the lead; its cause is then an error that wraps rotation.ErrNotLeader.
// Nil: there is one certd.
func (e *election) leading(ctx context.Context) context.Context {
	if e == nil {
		return ctx
	}
	ctx, lose := context.WithCancelCause(ctx)
	go func() {
		<-e.ended
		lose(e.lost)
	}()
	return ctx
}

// over is how Run ends where the lead was lost: as an error, so that whoever started
// certd starts it again, as one that stands by. Nothing of what it knew is kept that way:
// the other one may change all of it.
func (e *election) over(ctx context.Context) error {
	if e == nil || !errors.Is(context.Cause(ctx), rotation.ErrNotLeader) {
		return nil
	}
	return fmt.Errorf("certd stops, to be started again as a standby: %w: %w", context.Cause(ctx), api.ErrNotNow)
}

// status is how the election stands; leads says that this certd has begun to work.
func (e *election) status(leads bool) *rotation.ElectionStatus {
	if e == nil {
		return nil
	}
	st := &rotation.ElectionStatus{Role: rotation.RoleStandby, Lease: e.lease, Identity: e.identity}
	if leads && e.candidate.Leads() == nil {
		st.Role = rotation.RoleLeader
	}
	holder, since, err := e.candidate.Holder()
	if st.Holder = holder; holder != "" {
		at := since.Truncate(time.Second)
		st.Since = &at
	}
	if err != nil {
		st.Problem = err.Error()
	}
	return st
}

// standby answers for a certd that was not elected. It knows who was, and what it says of
// itself; what it knows of the fleet may be of long ago.
type standby struct {
	self     *running // its journal, configuration and log: it has no loop and no keys
	election *election
}

var _ api.Service = (*standby)(nil)

// Status implements api.Service.
func (s *standby) Status(context.Context) (rotation.FleetStatus, error) { return s.report(), nil }

func (s *standby) report() rotation.FleetStatus {
	c := s.self.current()
	return rotation.FleetStatus{APIVersion: rotation.APIVersion, Kind: "FleetStatus", Fleet: c.Name, ObservedAt: time.Now().UTC().Truncate(time.Second),
		State: rotation.StateUnknown, Source: "daemon", Version: s.self.version, Trust: rotation.TrustStatus{Others: []rotation.AnchorStatus{}},
		Clusters: []rotation.ClusterStatus{}, Findings: []rotation.Finding{}, Election: s.election.status(false),
		Daemon: &rotation.DaemonStatus{StartedAt: s.self.started, PID: os.Getpid(), Epoch: s.self.journal.Epoch(), StoreBytes: s.self.journal.Size(), ConfigFile: c.File}}
}

// refuse says whom to ask instead.
func (s *standby) refuse(what string) error {
	return fmt.Errorf("%s: %s: %w", what, s.election.status(false).Sentence(), api.ErrNotNow)
}

// Plan implements api.Service.
func (s *standby) Plan(context.Context, time.Time, bool) (rotation.Plan, error) {
	return rotation.Plan{}, s.refuse("plan")
}

// History implements api.Service: what this certd did while it led.
func (s *standby) History(ctx context.Context, q api.HistoryQuery) (rotation.HistoryList, error) {
	return s.self.History(ctx, q)
}

// Verify implements api.Service.
func (s *standby) Verify(ctx context.Context) (api.VerifyReport, error) { return s.self.Verify(ctx) }

// Verification implements api.Service.
func (s *standby) Verification(context.Context) (rotation.Verification, error) {
	return rotation.Verification{}, s.refuse("verify")
}

// Check implements api.Service.
func (s *standby) Check(context.Context, check.Select) (check.Report, error) {
	return check.Report{}, s.refuse("check")
}

// Export implements api.Service.
func (s *standby) Export(context.Context, string) (api.ClusterExport, error) {
	return api.ClusterExport{}, s.refuse("export")
}

// Trust implements api.Service.
func (s *standby) Trust(context.Context) (api.TrustList, error) {
	return api.TrustList{}, s.refuse("trust")
}

// RenewTrust implements api.Service.
func (s *standby) RenewTrust(context.Context, api.RenewRequest) (api.RenewReply, error) {
	return api.RenewReply{}, s.refuse("trust renew")
}

// ChangeTrust implements api.Service.
func (s *standby) ChangeTrust(_ context.Context, r api.ChangeRequest) (api.ChangeReply, error) {
	return api.ChangeReply{}, s.refuse("trust " + string(r.Order))
}

// Adopt implements api.Service.
func (s *standby) Adopt(context.Context, api.AdoptRequest) (api.AdoptReply, error) {
	return api.AdoptReply{}, s.refuse("adopt")
}

// Pause implements api.Service.
func (s *standby) Pause(context.Context, api.PauseRequest) (api.PauseReply, error) {
	return api.PauseReply{}, s.refuse("pause")
}

// Rotate implements api.Service.
func (s *standby) Rotate(context.Context, api.RotateRequest) (api.RotateReply, error) {
	return api.RotateReply{}, s.refuse("rotate")
}

// TestReceiver implements api.Service.
func (s *standby) TestReceiver(context.Context, api.ReceiverTest) (api.ReceiverTestReply, error) {
	return api.ReceiverTestReply{}, s.refuse("debug notify")
}

// LogLevel implements api.Service.
func (s *standby) LogLevel(ctx context.Context, r api.LogLevelRequest) (api.LogLevel, error) {
	return s.self.LogLevel(ctx, r)
}

// Diagnosis implements api.Service.
func (s *standby) Diagnosis(ctx context.Context) (api.Diagnosis, error) {
	return s.self.Diagnosis(ctx)
}

// Snapshot implements api.Service.
func (s *standby) Snapshot(ctx context.Context) (api.Snapshot, error) { return s.self.Snapshot(ctx) }

// Init implements api.Service.
func (s *standby) Init(context.Context, api.InitRequest) (api.InitReply, error) {
	return api.InitReply{}, s.refuse("init")
}

// web is what a standby shows over HTTP. It is ready: it does what it is there for, and a
// rolling update that waited for it to lead would wait for ever.
func (s *standby) web(log *slog.Logger, counts *metrics.Recorder, revision string) *web.Server {
	journal := web.Check{Name: "journal", Ask: s.alive}
	return web.NewServer(web.Options{
		Status:  s.Status,
		Bundle:  func(context.Context) ([]byte, error) { return nil, s.refuse("bundle.pem") },
		Metrics: metrics.Handler(metrics.Source{Status: s.report, Recorder: counts, Version: s.self.version, Revision: revision, GoVersion: runtime.Version()}, slog.NewLogLogger(log.Handler(), slog.LevelError)),
		Live:    []web.Check{journal},
		Ready:   []web.Check{{Name: "config", Ask: s.self.configLoaded}, journal, {Name: "socket", Ask: s.self.socketAnswers}},
		Page: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintln(w, "certd:", s.election.status(false).Sentence())
		}),
		Log: log,
	})
}

// alive says whether a restart would mend nothing.
func (s *standby) alive(context.Context) error {
	_, err := s.self.lastSeq()
	return err
}

// A kept listener is served on for a while, and by another server after that: closing it
// ends accepting alone, and who connects meanwhile waits.
type kept struct {
	net.Listener
	accept interface{ SetDeadline(time.Time) error }
}

func (k kept) Close() error { return k.accept.SetDeadline(time.Unix(1, 0)) }

// answer has a standby answer at the socket and, where it is not nil, the page, until
// what it returns is called. The listeners are left as they were.
func (s *standby) answer(ctx context.Context, socket *net.UnixListener, page net.Listener, counts *metrics.Recorder, revision string, m manager, log *slog.Logger) (done func() error) {
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 3)
	go func() { served <- api.NewServer(s, log).Serve(ctx, kept{socket, socket}) }()
	tcp, _ := page.(*net.TCPListener)
	go func() {
		if tcp == nil {
			served <- nil
			return
		}
		served <- s.web(log, counts, revision).Serve(ctx, kept{tcp, tcp})
	}()
	go func() {
		m.keep(ctx, fmt.Sprintf("fleet %s, standby of Lease %s", s.self.current().Name, s.election.lease), s.alive)
		served <- nil
	}()
	return func() error {
		cancel()
		err := errors.Join(<-served, <-served, <-served, socket.SetDeadline(time.Time{}))
		if tcp != nil {
			err = errors.Join(err, tcp.SetDeadline(time.Time{}))
		}
		return err
	}
}

// standBy waits until this certd is elected, or ctx ends, and returns the configuration
// as it is by then.
func (d Daemon) standBy(ctx context.Context, e *election, c *config.Config, hup <-chan os.Signal, log *slog.Logger) *config.Config {
	log.Info("certd stands by", "fleet", c.Name, "lease", e.lease, "identity", e.identity, "version", d.Version, "socket", c.Server.Socket, "config", c.File)
	tick := time.NewTicker(c.Election.RetryPeriod)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return c
		case <-e.ended:
			return c
		case <-hup:
			log.Info("the configuration is read again when this certd leads", "file", c.File)
		case <-tick.C:
			if holder, since, _ := e.candidate.Holder(); holder != last && holder != e.identity {
				log.Info("another certd leads", "holder", holder, "since", since)
				last = holder
			}
		case <-e.candidate.Elected():
			log.Warn("this certd leads from now on", "lease", e.lease, "identity", e.identity)
			now, err := d.Load(c.File)
			if err == nil {
				err = needsRestart(c, now)
			}
			if err != nil {
				log.Error("the configuration is not read again; the one from the start is in force", "file", c.File, "err", err)
				return c
			}
			return now
		}
	}
}
