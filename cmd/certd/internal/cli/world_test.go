package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
	"certd.internal/state"
)

// living is a fleet in memory with the real loop and the real journal, so that
// what is shown is what certd reports. It lives in a synctest bubble, from
// Mon 2 Nov 2026 on.
type living struct {
	scripted // what the screens do not ask for
	t        testing.TB
	dir      string
	keys     *memory.Keys
	clusters map[string]*memory.Cluster
	policy   rotation.FleetPolicy
	journal  *state.Journal
	loop     *rotation.Reconciler
	stop     context.CancelFunc
	done     chan error
	started  time.Time
}

// meshOf is what runs in each cluster.
type meshOf struct {
	identity int // replicas of linkerd-identity
	pods     int // meshed pods beside the control plane's
	webhooks bool
}

func newLiving(t testing.TB, mesh meshOf, names ...string) *living {
	t.Helper()
	w := &living{t: t, dir: inMemory(t), keys: memory.NewKeys(), clusters: map[string]*memory.Cluster{},
		policy: rotation.FleetPolicy{Fleet: "acme-mesh", KeyPrefix: "acme-mesh", Trust: rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: hour, RenewBefore: 730 * day, Renews: true}}}
	daily := schedule(t, "0 3 * * *")
	for _, name := range names {
		tier, _, _ := strings.Cut(name, "-")
		p := rotation.Policy{Cluster: name, Labels: map[string]string{"tier": tier}, Groups: []string{tier}, Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local",
			LeafLifetime: day, ClockSkew: 20 * time.Second, Repair: 12 * hour,
			Issuer: rotation.RenewalPolicy{Lifetime: 7 * day, RenewBefore: 84 * hour, Backdate: 10 * time.Minute, Schedule: daily, Spread: 30 * time.Minute}}
		if mesh.webhooks {
			hooks := schedule(t, "30 3 * * *")
			p.Webhooks = rotation.WebhookPolicy{Specs: rotation.LinkerdWebhooks(), Settle: 30 * time.Second, Projection: 3 * time.Minute, ProbeEvery: 5 * time.Minute,
				Leaf: rotation.RenewalPolicy{Lifetime: 30 * day, RenewBefore: 15 * day, Backdate: 10 * time.Minute, Schedule: hooks, Spread: 30 * time.Minute},
				CA:   rotation.RenewalPolicy{Lifetime: 730 * day, RenewBefore: 180 * day, Backdate: hour, Schedule: hooks, Spread: 30 * time.Minute}}
		}
		w.policy.Clusters = append(w.policy.Clusters, p)
		c := memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true, Replicas: mesh.identity, Proxies: mesh.pods,
			Lag: 40 * time.Second, APILag: 10 * time.Second, Webhooks: p.Webhooks.Specs, Seed: 7})
		for _, spec := range p.Webhooks.Specs {
			if !strings.Contains(spec.Name, "jaeger") {
				spec.Namespace = "linkerd"
				if strings.HasPrefix(spec.Name, "tap") {
					spec.Namespace = "linkerd-viz"
				}
				c.InstallWebhook(spec, memory.WebhookInstall{Writer: "helm", Ignore: spec.Check == rotation.CheckInjected})
			}
		}
		w.clusters[name] = c
	}
	return w
}

func schedule(t testing.TB, spec string) rotation.Schedule {
	t.Helper()
	s, err := rotation.ParseSchedule(spec, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func inMemory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "certd-screens-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *living) open() *state.Journal {
	w.t.Helper()
	j, err := state.Open(w.dir, state.Options{Fleet: "acme-mesh", NoSync: true, Reserve: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// ceremony makes the next anchor: the first as `certd init` does.
func (w *living) ceremony() {
	w.t.Helper()
	j := w.open()
	defer j.Close()
	if _, _, err := (rotation.Ceremony{Journal: j, Creator: w.keys, Signer: w.keys, Policy: w.policy, Actor: "dana@cli", Reason: "certd init", Say: func(string, ...any) {}}).Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *living) start() {
	w.t.Helper()
	w.journal = w.open()
	clusters := map[string]rotation.Cluster{}
	for name, c := range w.clusters {
		clusters[name] = c
	}
	var err error
	w.loop, err = rotation.NewReconciler(rotation.Options{Journal: w.journal, Keys: w.keys, WebhookKeys: w.keys, Policy: w.policy, Clusters: clusters, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Resync: 2 * time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.done, w.started = stop, make(chan error, 1), time.Now().UTC().Truncate(time.Second)
	go func() { w.done <- w.loop.Run(ctx) }()
}

func (w *living) end() {
	w.t.Helper()
	w.stop()
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
	if err := w.journal.Close(); err != nil {
		w.t.Error(err)
	}
	w.loop = nil
}

// Status is as the daemon has it, or the journal where none runs.
func (w *living) Status(context.Context) (st rotation.FleetStatus, err error) {
	if w.loop == nil {
		j := w.open()
		defer j.Close()
		anchors, err := j.Anchors()
		if err != nil {
			return st, err
		}
		records, err := j.Clusters()
		if err != nil {
			return st, err
		}
		st = rotation.JournalStatus(rotation.Fleet{Policy: w.policy, Anchors: anchors, Epoch: j.Epoch()}, records, time.Now().UTC())
	} else {
		st = w.loop.Status()
		st.Daemon.StartedAt, st.Daemon.PID, st.Daemon.StoreBytes, st.Daemon.ConfigFile = w.started, 812, 256<<10, "/etc/certd/certd.yaml"
	}
	st.Version = "1.0.0"
	st = tame(w.t, st)
	if st.Daemon != nil {
		at := st.ObservedAt.Add(-20 * time.Second)
		st.Daemon.LastCycleAt = &at
	}
	return st, nil
}

// Plan is likewise.
func (w *living) Plan(ctx context.Context, until time.Time, ifStopped bool) (rotation.Plan, error) {
	if w.loop != nil {
		return tame(w.t, w.loop.Plan(until, ifStopped)), nil
	}
	st, err := w.Status(ctx)
	return rotation.Project(st, w.policy, time.Now().UTC(), until, ifStopped), err
}

// in runs a command line about this fleet in this process. A width makes it a
// terminal.
func (w *living) in(width int, env map[string]string, args ...string) (code int, out string) {
	w.t.Helper()
	var b strings.Builder
	environment := map[string]string{"TZ": "Europe/Berlin", "LANG": "C.UTF-8", "NO_COLOR": "1"}
	for k, v := range env {
		environment[k] = v
	}
	a := &App{Stdin: strings.NewReader(""), Stdout: &b, Stderr: &b, Getenv: func(k string) string { return environment[k] }, Now: func() time.Time { return time.Now().Truncate(time.Minute) }, Width: width, Terminal: width > 0,
		Socket: func(string) (string, error) { return "/nonexistent/certd.sock", nil },
		Local: func(context.Context, string, bool) (api.Service, string, func() error, error) {
			note := ""
			if w.loop == nil {
				note = journalNote
			}
			return w, note, func() error { return nil }, nil
		}}
	code = a.run(w.t.Context(), args)
	return code, b.String()
}

// tame replaces what is another at each run: digests and serial numbers by numbers
// in the order in which they stand, and seconds, since two clusters whose turn is
// at one instant come in any order, by whole minutes.
func tame[T any](t testing.TB, doc T) (tamed T) {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	text = regexp.MustCompile(`\b[0-9a-f]{32,64}\b`).ReplaceAllFunc(text, func(hex []byte) []byte {
		name, known := names[string(hex)]
		if !known {
			name = fmt.Sprintf("%04x%0*x", 0xa000+len(names), len(hex)-4, len(names))
			names[string(hex)] = name
		}
		return []byte(name)
	})
	text = regexp.MustCompile(`(T\d\d:\d\d:)\d\d(\.\d+)?Z"`).ReplaceAll(text, []byte(`${1}00Z"`))
	text = regexp.MustCompile(`\b(\d+m) \d+s\b`).ReplaceAll(text, []byte("$1"))
	if err := json.Unmarshal(text, &tamed); err != nil {
		t.Fatal(err)
	}
	return tamed
}
