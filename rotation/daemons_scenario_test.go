package rotation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// daemons are certds with a state directory and a clock each, over the same fleet.
// What they write is noted in the order in which it came to the clusters.
type daemons struct {
	t     *testing.T
	both  [2]*daemon
	mu    sync.Mutex
	wrote []landed
}

type landed struct {
	cluster, object string
	by              *daemon
	epoch           uint64
	at              time.Time
}

// daemon can be stopped as by SIGSTOP, be cut off, and have its clock set.
type daemon struct {
	*world
	of   *daemons
	name string
	runs bool

	mu     sync.Mutex
	ahead  time.Duration
	goesOn chan struct{}   // closed when it does; nil: it is not stopped
	beyond map[string]bool // clusters, and "mirror", that it cannot reach
}

func (d *daemon) locked(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
}

func (d *daemon) stopNow() { d.locked(func() { d.goesOn = make(chan struct{}) }) }

func (d *daemon) goOn() {
	d.locked(func() {
		if d.goesOn != nil {
			close(d.goesOn)
			d.goesOn = nil
		}
	})
}

// gate keeps a stopped daemon where it is.
func (d *daemon) gate() {
	var wait chan struct{}
	d.locked(func() { wait = d.goesOn })
	if wait != nil {
		<-wait
	}
}

// way is what lies between the daemon and a cluster or the mirror. What a stopped
// daemon had sent still arrives when it goes on, whatever its time-out was: the worst that
// a network may do.
func (d *daemon) way(ctx context.Context, to string) (context.Context, error) {
	var cut, held bool
	d.locked(func() { held = d.goesOn != nil })
	d.gate()
	d.locked(func() { cut = d.beyond[to] })
	if cut {
		return ctx, fmt.Errorf("%s is cut off from %s: %w", d.name, to, rotation.ErrUnavailable)
	}
	if held {
		ctx = context.WithoutCancel(ctx)
	}
	return ctx, nil
}

// journalOf is the daemon's: who is stopped records nothing.
type journalOf struct {
	rotation.Journal
	d *daemon
}

func (j journalOf) Begin(in rotation.Intent) (uint64, error) { j.d.gate(); return j.Journal.Begin(in) }
func (j journalOf) Finish(id uint64, out rotation.Outcome) error {
	j.d.gate()
	return j.Journal.Finish(id, out)
}
func (j journalOf) SaveCluster(c rotation.ClusterRecord) error {
	j.d.gate()
	return j.Journal.SaveCluster(c)
}

// mirrorOf is the one mirror, as the daemon reaches it.
type mirrorOf struct {
	rotation.Mirror
	d *daemon
}

func (m mirrorOf) Load(ctx context.Context) ([]byte, uint64, error) {
	ctx, err := m.d.way(ctx, "mirror")
	if err != nil {
		return nil, 0, err
	}
	defer m.d.gate()
	return m.Mirror.Load(ctx)
}

func (m mirrorOf) Version(ctx context.Context) (uint64, error) {
	ctx, err := m.d.way(ctx, "mirror")
	if err != nil {
		return 0, err
	}
	defer m.d.gate()
	return m.Mirror.Version(ctx)
}

func (m mirrorOf) Save(ctx context.Context, doc []byte, was uint64) (uint64, error) {
	ctx, err := m.d.way(ctx, "mirror")
	if err != nil {
		return 0, err
	}
	defer m.d.gate()
	return m.Mirror.Save(ctx, doc, was)
}

// clusterOf is a cluster, as the daemon reaches it and by its clock.
type clusterOf struct {
	*memory.Cluster
	d    *daemon
	name string
}

func (c clusterOf) Observe(ctx context.Context) (o rotation.Observation, err error) {
	if ctx, err = c.d.way(ctx, c.name); err != nil {
		return o, err
	}
	defer c.d.gate()
	o, err = c.Cluster.Observe(ctx)
	c.d.locked(func() {
		o.At = o.At.Add(c.d.ahead)
		o.ClockSkew -= c.d.ahead
		if o.Identity != nil {
			for i := range o.Identity.Replicas {
				o.Identity.Replicas[i].At = o.Identity.Replicas[i].At.Add(c.d.ahead)
			}
		}
	})
	return o, err
}

func (c clusterOf) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	ctx, err := c.d.way(ctx, c.name)
	if err != nil {
		return last, err
	}
	defer c.d.gate()
	o, err := c.Cluster.Reread(ctx, last, object)
	c.d.locked(func() { o.ClockSkew -= c.d.ahead })
	return o, err
}

func (c clusterOf) CountProxies(ctx context.Context) (p rotation.Proxies) {
	ctx, err := c.d.way(ctx, c.name)
	if err != nil {
		return rotation.Proxies{Err: err}
	}
	defer c.d.gate()
	p = c.Cluster.CountProxies(ctx)
	c.d.locked(func() { p.At = p.At.Add(c.d.ahead) })
	return p
}

func (c clusterOf) CreateNamespace(ctx context.Context) error {
	ctx, err := c.d.way(ctx, c.name)
	if err != nil {
		return err
	}
	defer c.d.gate()
	return c.Cluster.CreateNamespace(ctx)
}

func (c clusterOf) write(ctx context.Context, object, was string, epoch uint64, do func(context.Context) (string, error)) (string, error) {
	ctx, err := c.d.way(ctx, c.name)
	if err != nil {
		return "", err
	}
	defer c.d.gate()
	c.d.of.mu.Lock() // who comes first is noted first
	defer c.d.of.mu.Unlock()
	revision, err := do(ctx)
	if err == nil && revision != was {
		c.d.of.wrote = append(c.d.of.wrote, landed{c.name, object, c.d, epoch, time.Now()})
	}
	return revision, err
}

func (c clusterOf) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	return c.write(ctx, rotation.BundleObject, w.Revision, w.Epoch, func(ctx context.Context) (string, error) { return c.Cluster.WriteBundle(ctx, w) })
}

func (c clusterOf) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	return c.write(ctx, rotation.IssuerObject, w.Revision, w.Epoch, func(ctx context.Context) (string, error) { return c.Cluster.WriteIssuer(ctx, w) })
}

func newDaemons(t *testing.T) *daemons {
	all := &daemons{t: t}
	w := newWorld(t, "east", "north", "west")
	schedule, err := rotation.ParseSchedule("*/5 * * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.policy.Clusters {
		p := &w.policy.Clusters[i]
		p.LeafLifetime, p.ClockSkew, p.ClockError, p.Repair = 2*time.Minute, time.Second, time.Second, time.Minute
		p.Issuer = rotation.RenewalPolicy{Lifetime: 40 * time.Minute, RenewBefore: 20 * time.Minute, Backdate: time.Minute, Schedule: schedule, EveryFiring: true, Spread: 20 * time.Second}
		w.clusters[p.Cluster] = memory.NewCluster(memory.ClusterConfig{Name: p.Cluster, Namespace: "linkerd", TrustDomain: "cluster.local", Replicas: 2, Lag: 10 * time.Second, Proxies: 6, LeafLifetime: 2 * time.Minute, LeafSkew: time.Second})
	}
	w.ceremony()
	mirror := &memory.Mirror{}
	for i, name := range []string{"a", "b"} {
		mine := *w
		d := &daemon{world: &mine, of: all, name: name, beyond: map[string]bool{}}
		if i > 0 {
			d.dir = journalDir(t)
		}
		d.wrap = func(j rotation.Journal) rotation.Journal { return journalOf{j, d} }
		d.mirror = mirrorOf{mirror, d}
		d.through = func(name string, c *memory.Cluster) rotation.Cluster { return clusterOf{c, d, name} }
		d.now = func() time.Time {
			d.mu.Lock()
			defer d.mu.Unlock()
			return time.Now().Add(d.ahead)
		}
		all.both[i] = d
	}
	return all
}

// anew starts a daemon, as its supervisor would: one that runs is ended first.
func (d *daemon) anew() {
	d.goOn()
	synctest.Wait()
	if d.runs {
		d.end()
	}
	d.start()
	d.runs = true
}

// Two daemons that can do all that is to be done, for more than an hour in which one or the
// other is stopped and goes on, is cut off, and has its clock set: no write of the
// one lands after a write of the other that started later, and nothing is rotated
// twice for one reason. Epochs in the objects and the mirror both see to that: it holds
// without either, and not without both.
func TestTwoDaemonsForAnHour(t *testing.T) {
	t.Parallel()
	seeds := uint64(20)
	if raced {
		seeds = 3
	}
	handed := 0
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { handed += twoDaemons(t, seed) })
		})
	}
	if handed < int(seeds)*3 {
		t.Errorf("objects passed from one daemon to the other only %d times", handed)
	}
}

func twoDaemons(t *testing.T, seed uint64) (handed int) {
	all := newDaemons(t)
	chance := rand.New(rand.NewPCG(seed, 1))
	leader, other := all.both[0], all.both[1]
	leader.anew()
	time.Sleep(5 * time.Minute)
	mesh := memory.NewMesh(leader.clusters["east"], leader.clusters["north"], leader.clusters["west"])
	began := time.Now()
	var did []string
	trouble := map[string]func(d *daemon){
		"nothing": func(*daemon) {},
		"stopped": func(d *daemon) { d.stopNow() },
		"cut off from the mirror": func(d *daemon) {
			d.locked(func() { d.beyond["mirror"] = true })
		},
		"cut off from two clusters": func(d *daemon) {
			d.locked(func() { d.beyond["east"], d.beyond["west"] = true, true })
		},
		"cut off from all": func(d *daemon) {
			d.locked(func() {
				d.beyond["east"], d.beyond["north"], d.beyond["west"], d.beyond["mirror"] = true, true, true, true
			})
		},
		"an hour ahead": func(d *daemon) { d.locked(func() { d.ahead = time.Hour }) },
		"a day behind":  func(d *daemon) { d.locked(func() { d.ahead = -day }) },
	}
	names := []string{"nothing", "stopped", "stopped", "cut off from the mirror", "cut off from two clusters", "cut off from all", "an hour ahead", "a day behind"}
	heal := func(d *daemon) {
		d.locked(func() { clear(d.beyond); d.ahead = 0 })
		d.goOn()
	}
	for time.Since(began) < 70*time.Minute {
		name := names[chance.IntN(len(names))]
		did = append(did, fmt.Sprintf("%s: %s %s", time.Since(began).Round(time.Second), leader.name, name))
		// Close to a firing is where it matters.
		time.Sleep(time.Until(time.Now().Truncate(5 * time.Minute).Add(5*time.Minute - 2*time.Second)))
		time.Sleep(time.Duration(chance.IntN(40000)) * time.Millisecond)
		trouble[name](leader)
		time.Sleep(time.Duration(chance.IntN(40000)) * time.Millisecond)
		other.anew()
		time.Sleep(time.Duration(chance.IntN(400)) * time.Second)
		heal(leader)
		time.Sleep(time.Duration(chance.IntN(200)) * time.Second)
		leader, other = other, leader
	}
	time.Sleep(6 * time.Minute)
	if f := leader.loop.Status().Findings; len(f) > 0 {
		t.Errorf("the one that started last says %+v", f)
	}
	if other.runs {
		if _, ok := other.fleetFinding("SecondDaemon"); !ok {
			t.Error("the other one does not know that it was deposed")
		}
	}
	leader.holds("in the end")
	for _, v := range mesh.Violations() {
		t.Errorf("%s", v)
	}

	// Who wrote after whom.
	last := map[string]landed{}
	for _, l := range all.wrote {
		key := l.cluster + "/" + l.object
		was, ok := last[key]
		if ok && l.epoch < was.epoch {
			t.Errorf("%s: %s wrote %s with epoch %d after %s had with %d", l.at.Format(time.TimeOnly), l.by.name, key, l.epoch, was.by.name, was.epoch)
		}
		if ok && was.by != l.by {
			handed++
		}
		last[key] = l
	}
	// Both journals together: each signature once, each firing once.
	leader.end()
	other.end()
	reasons, signed := map[string]int{}, []string{}
	for _, d := range all.both {
		j, err := state.Open(d.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := j.Entries(state.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Intent.Digest != "" {
				signed = append(signed, e.Intent.Digest)
			}
			if e.Intent.Step == rotation.StepIssuer && e.Result == rotation.OK && strings.Contains(e.Intent.Reason, "fired at") {
				reasons[e.Intent.Cluster+": "+e.Intent.Reason]++
			}
		}
		pending, err := j.Pending()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pending {
			signed = append(signed, p.Digest)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	for reason, n := range reasons {
		if n > 1 {
			t.Errorf("rotated %d times: %s", n, reason)
		}
	}
	for _, s := range leader.keys.Signatures() {
		if n := len(slices.DeleteFunc(slices.Clone(signed), func(d string) bool { return d != s.Digest })); n != 1 {
			t.Errorf("signature %s of %s is in the journals %d times", s.Digest[:8], s.At.Format(time.TimeOnly), n)
		}
	}
	if len(reasons) < 3*10 {
		t.Errorf("only %d firings were followed in three clusters", len(reasons))
	}
	if t.Failed() {
		t.Logf("what happened:\n%s", strings.Join(did, "\n"))
	}
	t.Logf("%d writes, %d passed an object to the other daemon; %d firings followed, %d signatures", len(all.wrote), handed, len(reasons), len(signed))
	return handed
}
