package simulate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// world is a fleet with the certd that looks after it.
type world struct {
	kernel
	*daemon
	other    *daemon // that somebody has begun beside it; nil: nobody has
	acting   *daemon // whose turn it is; nil: nobody's
	ctx      context.Context
	policy   rotation.FleetPolicy
	keys     *memory.Keys
	clusters map[string]*memory.Cluster
	mesh     *memory.Mesh
	looks    map[string]*looks
	away     map[string]time.Time // until when what cannot be reached

	// What stands between certd and its journal and clusters; nil: nothing.
	journalOf func(rotation.Journal) rotation.Journal
	clusterOf func(name string, c *memory.Cluster) rotation.Cluster

	tried  func(rotation.Attempt)
	trying func(context.Context, rotation.Attempt) (context.Context, func(error))
	log    *slog.Logger

	minute time.Time // since when turns are counted
	turns  int
}

// daemon is a certd, with the directory of its journal and the host that it runs on.
type daemon struct {
	in      *kernel
	machine machine
	dir     string
	journal *state.Journal // nil while certd is off
	loop    *rotation.Reconciler
}

// machine is what has certd's clock.
type machine struct {
	ahead time.Duration // how much later it is by its clock than it is
	slept time.Duration // altogether, and its monotonic clock stood still
	still time.Time     // until when certd does nothing: it is stopped, or the host sleeps
}

// clock is the machine's, which may be wrong.
func (d *daemon) clock() time.Time { return d.in.now.Add(d.machine.ahead) }

// monotonic is the machine's, too, and nobody sets it.
func (d *daemon) monotonic() time.Time { return d.in.now.Add(-d.machine.slept) }

// deaf says whether certd hears nobody.
func (d *daemon) deaf() bool { return d.loop == nil || d.machine.still.After(d.in.now) }

// running are the certds that hear, the first one first.
func (w *world) running() (all []*daemon) {
	for _, d := range []*daemon{w.daemon, w.other} {
		if d != nil && !d.deaf() {
			all = append(all, d)
		}
	}
	return all
}

// What a simulated cluster is like, where the configuration does not tell.
const (
	replicas = 3 // of linkerd-identity, and of each webhook
	pods     = 18
	lag      = 90 * time.Second // until the last kubelet shows a change
	apiLag   = 20 * time.Second // until the second API server goes by a new caBundle
)

// newWorld is the fleet before certd is started for the first time (begin), but for the
// trust anchor, which is made at from.
func newWorld(ctx context.Context, p rotation.FleetPolicy, from time.Time, seed uint64, tried func(rotation.Attempt), trying func(context.Context, rotation.Attempt) (context.Context, func(error))) (*world, error) {
	w := &world{kernel: kernel{now: from}, ctx: ctx, policy: p, clusters: map[string]*memory.Cluster{}, looks: map[string]*looks{}, away: map[string]time.Time{}, tried: tried, trying: trying, log: slog.New(slog.DiscardHandler)}
	w.daemon = &daemon{in: &w.kernel}
	w.keys = memory.NewKeysAt(w)
	var meshed []*memory.Cluster
	for i, c := range p.Clusters {
		cfg := memory.ClusterConfig{Name: c.Cluster, Revision: uint64(i) * 1_000_000_000, Namespace: c.Namespace, TrustDomain: c.TrustDomain, Target: c.Cluster, Existing: true, Lag: lag, APILag: apiLag, Seed: seed, Clock: w}
		if !c.Directory {
			cfg.Replicas, cfg.Proxies, cfg.LeafLifetime, cfg.LeafSkew, cfg.Webhooks = replicas, pods, c.LeafLifetime, c.ClockSkew, c.Webhooks.Specs
		}
		cluster := memory.NewCluster(cfg)
		w.looks[c.Cluster] = &looks{}
		cluster.Notify(func() { w.stir(c.Cluster) })
		for _, spec := range cfg.Webhooks {
			if !ownPart(spec) {
				continue
			}
			install := memory.WebhookInstall{Ignore: spec.Check == rotation.CheckInjected}
			if spec.Name == "policy-validator" {
				install.Reload = memory.ReloadReread
			}
			cluster.InstallWebhook(spec, install)
		}
		w.clusters[c.Cluster] = cluster
		if !c.Directory {
			meshed = append(meshed, cluster)
		}
	}
	w.mesh = memory.NewMesh(meshed...)
	var err error
	if w.dir, err = os.MkdirTemp(inMemory(), "certd-simulation-"); err != nil {
		return nil, fmt.Errorf("make a directory for the simulated journal: %w", err)
	}
	if err := w.open(); err != nil {
		return nil, err
	}
	made := rotation.Ceremony{Journal: w.journal, Creator: w.keys, Signer: w.keys, Policy: p, Actor: "simulation", Reason: "certd init", Say: func(string, ...any) {}}
	if _, _, err := made.Run(ctx); err != nil {
		return nil, fmt.Errorf("make the simulated trust anchor: %w", err)
	}
	return w, nil
}

// ownPart says whether a webhook belongs to every Linkerd control plane.
func ownPart(spec rotation.WebhookSpec) bool {
	return spec.Name == "proxy-injector" || spec.Name == "sp-validator" || spec.Name == "policy-validator"
}

// inMemory is a directory without a disk, "" where there is none: what a disk does to the
// journal is no part of the simulation.
func inMemory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// open opens the journal.
func (w *world) open() error { return w.daemon.open(w.policy.Fleet) }

func (d *daemon) open(fleet string) (err error) {
	d.journal, err = state.Open(d.dir, state.Options{Fleet: fleet, NoSync: true, Reserve: -1, Now: d.clock})
	return err
}

// begin has certd start, with the journal open.
func (w *world) begin() error { return w.start(w.daemon) }

// backends are the clusters, as certd reaches them.
func (w *world) backends() map[string]rotation.Cluster {
	clusters := map[string]rotation.Cluster{}
	for name, c := range w.clusters {
		clusters[name] = c
		if w.clusterOf != nil {
			clusters[name] = w.clusterOf(name, c)
		}
	}
	return clusters
}

func (w *world) start(d *daemon) (err error) {
	var journal rotation.Journal = d.journal
	if w.journalOf != nil {
		journal = w.journalOf(journal)
	}
	for _, p := range w.policy.Clusters {
		w.stir(p.Cluster)
	}
	d.loop, err = rotation.NewReconciler(rotation.Options{Journal: journal, Keys: w.keys, Policy: w.policy, Clusters: w.backends(), Log: w.log, AtOnce: max(1, len(w.clusters)), Resync: seldom, Tried: w.tried, Trying: w.trying, Monotonic: d.monotonic})
	return err
}

// stop ends certd, as a host that is switched off does.
func (d *daemon) stop() error {
	if d.journal == nil {
		return nil
	}
	err := d.journal.Close()
	d.journal, d.loop, d.machine.still = nil, nil, time.Time{}
	return err
}

func (w *world) close() (err error) {
	for _, d := range []*daemon{w.daemon, w.other} {
		if d != nil {
			err = errors.Join(err, d.stop(), os.RemoveAll(d.dir))
		}
	}
	return err
}

// A daemon looks at each cluster every minute, and nothing comes of it where nothing
// happens: here the looks become rarer, the longer nothing has happened there.
type looks struct{ stirred, next time.Time }

const (
	often  = time.Minute
	seldom = 30 * 24 * time.Hour
)

// stir notes that something has happened in a cluster that certd can see.
func (w *world) stir(cluster string) {
	l := w.looks[cluster]
	l.stirred, l.next = w.now, w.now.Add(often)
	for _, d := range []*daemon{w.daemon, w.other} {
		if d != nil && d.loop != nil {
			d.loop.Look(cluster)
		}
	}
}

// back is when what is away can be reached again.
func (w *world) back(cluster string) time.Time {
	return w.away[cmp.Or(cluster, Vault)].Add(w.acting.machine.ahead)
}

// pause is how long nobody looks at a cluster in which nothing has happened for so long:
// as long again, and three times that once all that takes minutes is over. While the trust
// anchor is being changed, what one cluster waits for is seen in another: no more than an hour.
func (w *world) pause(quiet time.Duration) time.Duration {
	if quiet > 15*time.Minute {
		quiet *= 3
	}
	if slices.ContainsFunc(w.running(), func(d *daemon) bool { return !d.idle() }) {
		quiet = min(quiet, time.Hour)
	}
	return min(max(often, quiet), seldom)
}

// idle says whether the trust anchor is not being changed, while certd runs.
func (d *daemon) idle() bool {
	_, err := d.loop.CanSteer(rotation.ChangeHold, nil)
	return errors.Is(err, rotation.ErrNotNow)
}

// turn lets certd do what is due, and time pass until it has something to do again, or
// something happens in the world, or until.
func (w *world) turn(until time.Time) {
	if w.now.Sub(w.minute) >= time.Minute {
		w.minute, w.turns = w.now, 0
	}
	w.turns++
	next := until
	if w.machine.still.After(w.now) {
		next = earlier(next, w.machine.still)
	}
	if all := w.running(); len(all) > 0 {
		for _, p := range w.policy.Clusters {
			if l := w.looks[p.Cluster]; !l.next.After(w.now) {
				for _, d := range all {
					d.loop.Look(p.Cluster)
				}
				l.next = w.now.Add(w.pause(w.now.Sub(l.stirred)))
			}
		}
		for _, d := range all {
			next = earlier(next, w.turnOf(d))
		}
		for _, p := range w.policy.Clusters {
			next = earlier(next, w.looks[p.Cluster].next)
		}
	}
	if at := w.next(); !at.IsZero() {
		next = earlier(next, at)
	}
	w.advance(later(next, w.now.Add(time.Millisecond)))
}

// turnOf lets one certd do what is due, and returns when it has something to do again.
func (w *world) turnOf(d *daemon) time.Time {
	if d.loop == nil { // it was ended, meanwhile
		return w.now
	}
	w.acting = d
	defer func() { w.acting = nil }()
	return d.loop.Turn(w.ctx, w.back).Add(-d.machine.ahead)
}

// restless says whether certd does not come to rest: whoever has nothing to do sleeps until
// there is something.
func (w *world) restless() error {
	const most = 1000 // turns in a minute
	if w.turns <= most {
		return nil
	}
	return fmt.Errorf("certd does not come to rest: more than %d turns in the minute from %s on", most, w.minute.Format(time.DateTime))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
