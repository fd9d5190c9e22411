package simulate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/kube/payload"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// A hard life is one in which everything goes wrong that may: calls fail before and after
// they took effect, clusters and keys are away, certd dies at any effect and any record,
// the journal is lost, hands and charts overwrite what is certd's, replicas miss what they
// should load, people press buttons. Whatever happens, certd breaks nothing by what it
// writes, and nothing ends for want of a renewal, for outages stay within what the policy
// allows for.
type hard struct {
	*world
	t        testing.TB
	seed     uint64
	chance   *rand.Rand // of the world; each backend has its own
	over     bool       // it is calm again
	lost     bool       // the journal was, once: it cannot account for what came before
	copies   string     // the folder of a saved copy of it
	saved    time.Time  // when that was made; zero: there is none
	changes  int
	attended bool // somebody looks after the change that is under way
	deaths   int
	haste    int // how many times as dense as usual is what goes wrong, and how much shorter; 0: it is usual
	// Effects so far, and at which of them certd dies; nil: chance decides.
	effects   int
	fatal     []int
	plan      *plan // instead of chance; nil: there is none
	faults    faults
	clocks    clocks
	ways      map[string]*mortalCluster // to each cluster
	impostors int                       // how many clusters have answered that are not the fleet's
	ill       map[string]*illness       // by key
	took      bool                      // the write that the last intent was for, whatever certd was told of it
	epochs    map[string]uint64
	certs     map[string]int // how many are in the issuer, by cluster
	first     string         // whose issuer has first given up the second in this change, "": none has; and when
	firstAt   time.Time
	without   map[string]bool // clusters that a change goes on without, by a person's word
	keyless   bool            // the clusters came with an anchor whose key certd does not have
	torn      bool            // two certds have each had a change of their own, in this one
	turns     int             // how often a change may yet be turned around; negative: it does not matter
	approvals approvals
	membership
	trace []string // the last of what happened
	sum   hash.Hash
	bad   []string
}

// died is what a process that is killed leaves on the stack.
type died struct{}

func (h *hard) say(format string, args ...any) {
	line := h.now.Format(time.DateTime) + " " + fmt.Sprintf(format, args...)
	fmt.Fprintln(h.sum, line)
	h.trace = append(h.trace, line)
	if len(h.trace) > 400 {
		h.trace = h.trace[200:]
	}
}

func (h *hard) wrong(format string, args ...any) {
	h.bad = append(h.bad, h.now.Format(time.DateTime)+" "+fmt.Sprintf(format, args...))
}

// mayDie is called before and after each effect of certd's.
func (h *hard) mayDie() {
	if h.secondActs() {
		return
	}
	h.effects++
	if h.plan != nil {
		if _, now := h.plan.strikes(dies); now {
			h.deaths++
			panic(died{})
		}
		return
	}
	if h.fatal != nil && slices.Contains(h.fatal, h.effects) || h.fatal == nil && !h.over && h.chance.IntN(deadly) == 0 && h.faults.strike(deaths) {
		h.deaths++
		panic(died{})
	}
}

// deadly is one in how many effects kills.
const deadly = 400

type mortalJournal struct {
	rotation.Journal
	h *hard
}

func (j mortalJournal) Begin(in rotation.Intent) (uint64, error) {
	j.h.mayDie()
	if err := j.h.plan.diskFull(); err != nil {
		return 0, err
	}
	j.h.took = false
	id, err := j.Journal.Begin(in)
	j.h.approvals.intends(id, in)
	j.h.mayDie()
	return id, err
}

func (j mortalJournal) Finish(id uint64, out rotation.Outcome) error {
	j.h.mayDie()
	if err := j.h.plan.diskFull(); err != nil {
		return err
	}
	j.h.dated(out)
	if out.Result == rotation.Failed && j.h.took {
		j.h.wrong("the journal is told that intent %d came to nothing (%s), and the object was written", id, out.Detail)
	}
	was, _ := j.Journal.Change()
	err := j.Journal.Finish(id, out)
	if err == nil {
		j.h.notes(id, was, out)
	}
	j.h.mayDie()
	return err
}

type mortalCluster struct {
	*memory.Cluster
	h     *hard
	name  string
	posed pose // what answers instead; 0: nothing does
}

// written has certd write, and notes whether that took effect.
func (c mortalCluster) written(what string, write func() (string, error)) (string, error) {
	writes := func() (n int) {
		for _, w := range c.Writes() {
			n += w
		}
		return n
	}
	defer c.effect(what)()
	before := writes()
	revision, err := write()
	c.h.took = writes() > before
	return revision, err
}

func (c mortalCluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	return c.written(rotation.BundleObject, func() (string, error) { return c.Cluster.WriteBundle(ctx, w) })
}

func (c mortalCluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	return c.written(rotation.IssuerObject, func() (string, error) { return c.Cluster.WriteIssuer(ctx, w) })
}

func (c mortalCluster) WriteWebhook(ctx context.Context, w rotation.WebhookWrite) (string, error) {
	return c.written(w.Spec.Secret, func() (string, error) { return c.Cluster.WriteWebhook(ctx, w) })
}

func (c mortalCluster) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	return c.written(w.Object.String(), func() (string, error) { return c.Cluster.WriteCABundle(ctx, w) })
}

func (h *hard) init(t testing.TB, seed uint64) {
	h.t, h.seed, h.chance, h.epochs, h.sum, h.ways = t, seed, rand.New(rand.NewPCG(seed, 0)), map[string]uint64{}, sha256.New(), map[string]*mortalCluster{}
	h.ill, h.faults.only, h.copies = map[string]*illness{}, chosen(), t.TempDir()
	h.certs, h.without, h.turns = map[string]int{}, map[string]bool{}, -1
	h.apart, h.came = map[string]*memory.Mesh{}, map[string]*origin{}
}

func newHard(t testing.TB, seed uint64) *hard {
	h := &hard{}
	h.init(t, seed)
	p := slow(t, "a", "b", "c", "d", "e")
	lifetime := []time.Duration{30 * day, 90 * day, 180 * day, 365 * day}[seed%4]
	for i := range p.Clusters {
		c := &p.Clusters[i]
		c.Issuer.Lifetime, c.Issuer.RenewBefore = lifetime, lifetime/2
		c.Webhooks.Leaf.Lifetime, c.Webhooks.Leaf.RenewBefore = lifetime, lifetime/2
		c.Webhooks.ProbeEvery = 30 * day
		if i >= 2 {
			c.Webhooks.Specs = nil
		}
	}
	p.Trust.Restarts = seed%3 != 0
	h.needApproval(&p)
	h.comesLate(p)
	h.enter(p)
	return h
}

// enter makes the world of a fleet, and has certd take part in it.
func (h *hard) enter(p rotation.FleetPolicy) {
	w, err := newWorld(h.t.Context(), p, begin, h.seed, func(a rotation.Attempt) {
		who := "certd"
		if h.secondActs() {
			who = "the other certd"
		}
		h.say("%s: %s %s %s %t", who, a.Cluster, a.Step, a.Object, a.Err == nil)
	}, h.trying)
	if err != nil {
		h.t.Fatal(err)
	}
	if h.keyless {
		o := newOrigin(h.t, w.now)
		for _, p := range w.policy.Clusters {
			h.come(w, p, o)
			h.serve(w, p)
		}
	}
	h.takePart(w)
}

// takePart begins certd's life in a world, in which it may die from the first moment on.
func (h *hard) takePart(w *world) {
	h.world, h.whole = w, w.policy
	clear(h.ways)
	w.journalOf = func(j rotation.Journal) rotation.Journal { return mortalJournal{j, h} }
	w.clusterOf = func(name string, c *memory.Cluster) rotation.Cluster {
		if h.ways[name] == nil {
			h.ways[name] = &mortalCluster{Cluster: c, h: h, name: name}
		}
		return h.ways[name]
	}
	for _, c := range w.clusters {
		c.Entitle()
	}
	w.mesh.Entitle(h.clockError())
	if h.late != "" {
		h.policy.Clusters = slices.DeleteFunc(slices.Clone(h.whole.Clusters), func(p rotation.Policy) bool { return p.Cluster == h.late })
		h.link(h.late, false)
	}
	h.survive(func() {
		if err := w.begin(); err != nil {
			h.t.Fatal(err)
		}
	})
}

func (h *hard) anyCluster() (string, *memory.Cluster) {
	all := h.policy.Clusters
	if !h.taken {
		all = slices.DeleteFunc(slices.Clone(all), func(p rotation.Policy) bool { return p.Cluster == h.late })
	}
	name := all[h.chance.IntN(len(all))].Cluster
	return name, h.clusters[name]
}

// afflict begins all that may go wrong.
func (h *hard) afflict() {
	share := []float64{0, 0.001, 0.01, 0.1}[h.chance.IntN(4)]
	if !h.faults.strike(faultyCalls) {
		share = 0
	}
	for i, p := range h.whole.Clusters {
		chance := rand.New(rand.NewPCG(h.seed, uint64(10+i)))
		h.clusters[p.Cluster].SetFaults(func(call memory.Call) memory.ClusterFault {
			if h.away[p.Cluster].After(h.now) {
				return memory.ClusterFault{Err: rotation.ErrUnavailable}
			}
			switch n := chance.Float64(); {
			case h.over || n >= share:
				return memory.ClusterFault{}
			case n < share/3:
				return memory.ClusterFault{Err: rotation.ErrUnavailable}
			case n < share*2/3:
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true}
			default:
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Delay: time.Duration(chance.IntN(15)) * time.Second}
			}
		})
	}
	vault := rand.New(rand.NewPCG(h.seed, 9))
	h.keys.SetFaults(func(call memory.KeyCall, name string) memory.KeyFault {
		if d := h.midst(); d > 0 {
			return memory.KeyFault{Delay: d}
		}
		if err := h.isIll(call, name); err != nil {
			return memory.KeyFault{Err: err}
		}
		switch n := vault.Float64(); {
		case h.away["vault"].After(h.now):
			return memory.KeyFault{Err: rotation.ErrUnavailable}
		case h.over || n >= share:
			return memory.KeyFault{}
		case n < share/2:
			return memory.KeyFault{Err: rotation.ErrOutcomeUnknown, Lost: true}
		}
		return memory.KeyFault{Err: rotation.ErrUnavailable}
	})
	// What the policy allows for, several at once included.
	longest := h.policy.Clusters[0].Issuer.RenewBefore / 10 / time.Duration(max(1, h.haste))
	h.sometimes("away", 40*day, func() {
		what := "vault"
		if h.chance.IntN(6) > 0 {
			what, _ = h.anyCluster()
		}
		d := time.Duration(h.chance.Float64() * float64(longest))
		h.say("%s is away for %s", what, d)
		h.away[what] = h.now.Add(d)
	})
	h.sometimes("off", 60*day, func() {
		if h.loop == nil {
			return
		}
		d := time.Duration(h.chance.Float64() * float64(longest))
		if h.chance.IntN(4) == 0 {
			d = time.Minute
		}
		h.die("certd is off for %s", d)
		h.at(h.now.Add(d), h.rise)
	})
	h.sometimes("lost", 400*day, func() {
		if h.loop == nil || !h.wouldBeFound() {
			return
		}
		h.die("the journal is lost")
		if err := os.RemoveAll(h.dir); err != nil {
			h.t.Fatal(err)
		}
		if err := os.MkdirAll(h.dir, 0o700); err != nil {
			h.t.Fatal(err)
		}
		h.lost, h.approvals.other = true, true
		h.at(h.now.Add(time.Minute), h.rise)
	})
	h.sometimes("hands", 30*day, func() {
		name, c := h.anyCluster()
		object := []string{rotation.BundleObject, rotation.IssuerObject}[h.chance.IntN(2)]
		if h.chance.IntN(3) == 0 && !(h.came[name] != nil && object == rotation.IssuerObject) { // nobody could make another
			h.say("%s: %s is deleted", name, object)
			c.Delete(object)
			return
		}
		if c.Data(object) == nil {
			return
		}
		h.say("%s: the marks of %s are taken", name, object)
		c.Edit(object, "kubectl-edit", func(_ map[string][]byte, marks *rotation.Marks) { marks.Keep, marks.Label = false, false })
	})
	hooked := slices.DeleteFunc(slices.Clone(h.policy.Clusters), func(p rotation.Policy) bool { return p.Webhooks.Specs == nil })
	h.sometimes("webhooks", 60*day, func() {
		if len(hooked) == 0 {
			return
		}
		name := hooked[h.chance.IntN(len(hooked))].Cluster
		specs := slices.DeleteFunc(rotation.LinkerdWebhooks(), func(s rotation.WebhookSpec) bool { return !ownPart(s) })
		spec := specs[h.chance.IntN(len(specs))]
		switch h.chance.IntN(4) {
		case 0:
			h.say("%s: a pod of %s misses the next certificate", name, spec.Name)
			h.clusters[name].MissNext(spec.Name, h.chance.IntN(replicas))
		case 1:
			h.say("%s: the caBundle of %s is reset", name, spec.Name)
			h.clusters[name].SetCABundle(spec.Objects[0], "helm", nil)
		case 2:
			h.say("%s: the Secret of %s is deleted", name, spec.Name)
			h.clusters[name].Delete(spec.Secret)
		default:
			h.say("%s: a pod of %s is replaced", name, spec.Name)
			h.clusters[name].RestartPod(spec.Name, h.chance.IntN(replicas))
		}
	})
	h.sometimes("cluster", 15*day, func() {
		name, c := h.anyCluster()
		replica := h.chance.IntN(replicas)
		switch h.chance.IntN(4) {
		case 0:
			h.say("%s: replica %d misses the next issuer", name, replica)
			c.MissIdentity(replica)
		case 1:
			h.say("%s: replica %d is replaced, and starts with what is old", name, replica)
			c.RestartIdentityReplica(replica, true)
		case 2:
			app := fmt.Sprintf("app-%d", h.chance.IntN(pods/3))
			h.say("%s: %s is deployed", name, app)
			c.RollOut(app)
		default:
			skew := time.Duration((h.chance.Float64()*1.8 - 0.9) * float64(h.clockError()))
			h.say("%s: its clock is off by %s", name, skew)
			c.SetClockSkew(skew)
		}
	})
	h.sometimes("asked", 90*day, func() {
		if h.deaf() {
			return
		}
		name, _ := h.anyCluster()
		target := []rotation.Target{rotation.TargetIssuer, rotation.TargetIssuer, rotation.TargetWebhooks, rotation.TargetWebhookCA}[h.chance.IntN(4)]
		h.say("%s: somebody asks for a new %s", name, target)
		h.loop.Rotate(target, []string{name}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
	})
	h.sometimes("change", 200*day, h.beginChange)
	h.sometimes("steer", 20*day, h.steer)
	h.afflictClocks(longest)
	h.afflictAddresses(longest)
	h.afflictKeys(longest)
	h.afflictJournals(longest)
	if h.haste == 0 {
		h.afflictMembership()
	}
	h.sometimes("upgrade", 100*day, func() {
		name, c := h.anyCluster()
		if c.Data(rotation.BundleObject) == nil || c.Data(rotation.IssuerObject) == nil {
			return // a rollout leaves the old pods until new ones have started
		}
		leaf := h.policy.Clusters[0].LeafLifetime * time.Duration(1+h.chance.IntN(3))
		h.say("%s: Linkerd is upgraded, and leaves live for %s", name, leaf)
		c.SetLeaves(leaf)
	})
}

func (h *hard) die(format string, args ...any) {
	h.say(format, args...)
	if err := h.stop(); err != nil {
		h.wrong("the journal is not closed: %v", err)
	}
}

func (h *hard) rise() {
	if h.loop != nil {
		return
	}
	h.say("certd starts")
	if err := h.open(); err != nil {
		h.wrong("the journal is not opened: %v", err)
		return
	}
	h.remembered()
	switch err := h.begin(); {
	case errors.Is(err, state.ErrFull): // who watches over it starts it again
		h.die("certd does not start: %v", err)
		h.at(h.now.Add(5*time.Second), h.rise)
	case err != nil:
		h.wrong("certd does not start: %v", err)
	}
}

func (h *hard) beginChange() {
	if h.deaf() || !h.idle() {
		return
	}
	h.say("the trust anchor is to be changed")
	next, adopts := h.loop.MovesTo()
	who, err := h.somebody(), h.loop.CheckChange()
	if err == nil && (!adopts || next.Certificate == nil) {
		next, err = (rotation.Ceremony{Journal: h.journal, Creator: h.keys, Signer: h.keys, Policy: h.policy, Actor: who, Reason: "drill", Say: func(string, ...any) {}}).Next(h.ctx)
	}
	if err == nil {
		err = h.loop.BeginChange(next, who, "drill", false)
	}
	if err == nil && next.Certificate.NotBefore.After(h.now.Add(h.mayDiffer())) {
		h.wrong("anchor %s is not valid before %s", next.ID, next.Certificate.NotBefore)
	}
	h.say("it begins: %t", err == nil)
	if err == nil {
		h.changes++
		h.first = ""
		h.stirAll()
	}
}

// leaveBehind has a cluster be away for hours of a change, and somebody go on without it.
func (h *hard) leaveBehind() {
	switch {
	case h.over:
		return
	case h.loop == nil || h.idle():
		h.at(h.now.Add(5*time.Minute), h.leaveBehind)
		return
	}
	name, _ := h.anyCluster()
	d := time.Hour + time.Duration(h.chance.Float64()*float64(5*time.Hour))
	h.say("%s is away for %s", name, d)
	h.away[name] = h.now.Add(d)
	h.at(h.now.Add(time.Duration(h.chance.IntN(30))*time.Minute), func() {
		if h.over || h.loop == nil || h.idle() || !h.away[name].After(h.now) {
			return
		}
		h.goWithout(name)
	})
}

func (h *hard) goWithout(name string) {
	_, err := h.loop.SteerChange(rotation.ChangeAdvance, []string{name}, "lee@cli", "drill")
	h.say("somebody goes on without %s: %t", name, err == nil)
	if err == nil {
		h.without[name] = true
		h.stirAll()
	}
}

func (h *hard) stirAll() {
	for _, p := range h.policy.Clusters {
		h.stir(p.Cluster)
	}
}

// attend has somebody look, about every three hours, or ten minutes in haste, for as long as the
// trust anchor is being changed, at what the findings ask for.
func (h *hard) attend() {
	if h.attended || h.over || h.deaf() || h.idle() {
		return
	}
	h.attended = true
	every := 3 * time.Hour
	if h.haste > 0 {
		every = 10 * time.Minute
	}
	h.at(h.now.Add(time.Duration(h.chance.ExpFloat64()*float64(every))), func() {
		h.attended = false
		h.obey()
	})
}

// obey restarts what the findings ask for, one at a time.
func (h *hard) obey() {
	if h.deaf() || h.idle() {
		return
	}
	for _, c := range h.loop.Status().Clusters {
		if c.Proxies == nil {
			continue
		}
		for _, o := range c.Proxies.Restart {
			if o.Namespace == "app" {
				h.say("%s: somebody restarts %s", c.Name, o.Name)
				h.clusters[c.Name].RollOut(o.Name)
				h.stir(c.Name)
				return
			}
		}
	}
}

func (h *hard) steer() {
	if h.deaf() || h.idle() {
		return
	}
	order := []rotation.ChangeOrder{rotation.ChangeHold, rotation.ChangeResume, rotation.ChangeResume, rotation.ChangeResume, rotation.ChangeRollback}[h.chance.IntN(5)]
	switch {
	case order != rotation.ChangeRollback:
	case h.turns == 0:
		order = rotation.ChangeResume
	default:
		h.turns--
	}
	_, err := h.loop.SteerChange(order, nil, h.somebody(), "drill")
	h.say("somebody says %s: %t", order, err == nil)
	if err == nil && order == rotation.ChangeRollback {
		h.first = ""
	}
	h.stirAll()
}

// step turns the world.
func (h *hard) step(until time.Time) {
	h.survive(func() { h.turn(until) })
	if err := h.restless(); err != nil {
		h.wrong("%v", err)
		h.now = later(h.now, until) // or it would take for ever
	}
}

// survive does what certd may die in.
func (h *hard) survive(do func()) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
			h.die("certd is killed")
			h.at(h.now.Add(5*time.Second), h.rise)
		}
	}()
	do()
}

// look judges what came of it.
func (h *hard) look() {
	h.attend()
	h.approve()
	h.linkThoseAtHome()
	h.judgeMeshes()
	if (len(h.without) > 0 || h.torn) && h.loop != nil && h.other == nil && h.idle() {
		clear(h.without)
		h.torn = false
	}
	for _, p := range h.whole.Clusters {
		for _, v := range h.clusters[p.Cluster].ForgetViolations() {
			if v.By == memory.ByCertd || v.By == memory.ByTime {
				h.wrong("%s", v)
			}
		}
	}
}

// judgeMeshes judges what has come of calls between workloads.
func (h *hard) judgeMeshes() {
	for _, m := range h.meshes() {
		for _, v := range m.ForgetViolations() {
			// Whoever goes on without a cluster is told that it is cut off for a while.
			if v.By == memory.ByCertd && v.Between && len(h.without) > 0 {
				continue
			}
			if v.By == memory.ByCertd || v.By == memory.ByTime {
				h.wrong("%s", v)
			}
		}
	}
}

// aheadOfTheFirst judges an issuer that has given up its second certificate: one cluster goes
// ahead with it, and no other follows before leaves of its new issuer could have lived out
// their lives.
func (h *hard) aheadOfTheFirst(name string) {
	chain, err := pki.ReadCertificates(h.clusters[name].Data(rotation.IssuerObject)[payload.TLSCert])
	if err != nil || len(chain) == 0 {
		return // it is gone, or damaged; what it was, it is to be again
	}
	if h.certs[name] > 1 && len(chain) == 1 {
		if h.first == "" {
			h.first, h.firstAt = name, h.now
		}
		if ahead := h.now.Sub(h.firstAt); name != h.first && ahead < h.policy.Clusters[0].LeafLifetime && len(h.without) == 0 && !h.torn {
			h.wrong("the issuer of %s is under one anchor alone, %s after that of %s, the first", name, ahead, h.first)
		}
	}
	h.certs[name] = len(chain)
}

// writes is told of each change: the epoch in an object never goes back.
func (h *hard) writes(name string) {
	h.aheadOfTheFirst(name)
	o, err := h.clusters[name].Observe(h.ctx)
	if err != nil {
		return
	}
	for object, s := range map[string]rotation.ObjectState{rotation.BundleObject: o.Bundle, rotation.IssuerObject: o.Issuer} {
		key := name + "/" + object
		if s.Exists && s.Marks.Epoch < h.epochs[key] {
			h.wrong("%s was written by epoch %d after %d", key, s.Marks.Epoch, h.epochs[key])
		}
		if s.Exists {
			h.epochs[key] = s.Marks.Epoch
		} else {
			delete(h.epochs, key)
		}
	}
}

// calm ends all that goes wrong; what is left to do is done.
func (h *hard) calm() {
	h.over = true
	clear(h.away)
	clear(h.ill)
	for _, p := range h.whole.Clusters {
		h.unmask(p.Cluster)
	}
	h.machine.ahead, h.machine.still, h.clocks.next = 0, time.Time{}, nil
	h.say("it is calm")
	if h.other != nil {
		h.part(h.seed%2 == 0)
		h.advance(h.now.Add(10 * time.Second)) // nobody is begun anew within the second
	}
	h.rise()
	for _, p := range h.whole.Clusters {
		h.clusters[p.Cluster].SetClockSkew(0)
		if p.Cluster != h.late || h.came[h.late] != nil || h.taken {
			h.configure(p.Cluster)
		}
	}
	for range 60 {
		h.startLast()
		h.stirAll()
		if h.idle() {
			if h.late != "" && h.watched(h.late) {
				_ = h.adopt(h.late) // it is tried again
			}
			if _, adopts := h.loop.MovesTo(); adopts { // it was turned around
				h.beginChange()
			}
		} else {
			if r := h.loop.Status().Trust.Rotation; r.Held {
				_, err := h.loop.SteerChange(rotation.ChangeResume, nil, "lee@cli", "it is calm")
				h.say("it goes on: %t", err == nil)
			}
			if a := h.loop.Status().Trust.Rotation.Approval; a != nil && a.By == "" {
				for _, who := range people {
					h.approves(known(who), a.Of)
				}
			}
		}
		for until := h.now.Add(12 * time.Hour); h.now.Before(until); {
			h.step(until)
			h.look()
			h.obey()
		}
		if h.idle() && h.loop.Status().State == rotation.StateOK {
			break
		}
	}
	st := h.loop.Status()
	if st.State != rotation.StateOK {
		h.wrong("in the end it is %s: %+v", st.State, st.Findings)
		for _, c := range st.Clusters {
			for _, f := range c.Findings {
				h.wrong("%s: %s: %s", c.Name, f.ID, f.Message)
			}
		}
	}
	if !h.idle() {
		h.wrong("in the end the trust anchor is being changed: %+v", st.Trust.Rotation)
	}
	h.leftBehind()
	anchors, err := h.journal.Anchors()
	if err != nil {
		h.wrong("%v", err)
	}
	for _, p := range h.policy.Clusters {
		o, err := h.clusters[p.Cluster].Observe(h.ctx)
		if err != nil {
			h.wrong("%v", err)
			continue
		}
		certs, err := h.journal.Certificates(p.Cluster, 1, time.Time{})
		if err != nil {
			h.wrong("%v", err)
		}
		for _, v := range rotation.Violations(rotation.Fleet{Policy: h.policy, Anchors: anchors, Epoch: h.journal.Epoch()}, rotation.View{Policy: p, Observed: &o, Certificates: certs}, h.now) {
			h.wrong("in the end %s does not hold in %s: %s", v.Promise, v.Cluster, v.Message)
		}
	}
}

// leftBehind judges what a calm world is left with.
func (h *hard) leftBehind() {
	pending, err := h.journal.Pending()
	// Whether a key was made is looked at when it is wanted next.
	pending = slices.DeleteFunc(pending, func(p rotation.PendingIntent) bool { return p.Step == rotation.StepKey })
	if err != nil || len(pending) > 0 {
		h.wrong("open intents in a calm world: %+v, %v", pending, err)
	}
	if r, err := h.journal.Verify(); err != nil || r.BadSeq != 0 {
		h.wrong("the chain does not hold: %+v, %v", r, err)
	}
	for _, m := range h.meshes() {
		for _, r := range m.Broken() {
			h.wrong("in the end %s", r)
		}
	}
	if !h.lost {
		h.accounted()
	}
}

// accounted: each signature that was given is in the journal (I7).
func (h *hard) accounted() {
	entries, err := h.journal.Entries(state.Filter{})
	if err != nil {
		h.wrong("%v", err)
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.Intent.Digest] = true
	}
	for _, s := range h.keys.Signatures() {
		if h.now.Sub(s.At) < 390*day && !known[s.Digest] { // older entries are dropped
			h.wrong("a signature of %s is in no journal", s.At.Format(time.DateTime))
		}
	}
}

// settle has certd begin in peace.
func (h *hard) settle() {
	h.over = true
	for until := h.now.Add(2 * time.Hour); h.now.Before(until); {
		h.turn(until)
	}
	h.over = false
	h.look()
	h.bad = slices.DeleteFunc(h.bad, func(s string) bool { return strings.Contains(s, "no endpoints available") })
	for _, p := range h.whole.Clusters {
		h.clusters[p.Cluster].Notify(func() { h.writes(p.Cluster) })
	}
}

// live goes through a hard life and returns what its log comes to.
func live(t testing.TB, seed uint64, length time.Duration) *hard {
	h := newHard(t, seed)
	defer h.close()
	h.settle()
	h.afflict()
	for until := h.now.Add(length); h.now.Before(until) && len(h.bad) == 0; {
		h.step(until)
		h.look()
	}
	if len(h.bad) == 0 {
		h.calm()
	}
	return h
}

func (h *hard) report(t testing.TB) {
	t.Helper()
	if len(h.bad) == 0 {
		return
	}
	for _, b := range h.bad[:min(len(h.bad), 10)] {
		t.Errorf("seed %d: %s", h.seed, b)
	}
	t.Logf("what happened before:\n%s", strings.Join(h.trace[max(0, len(h.trace)-60):], "\n"))
	t.Logf("again: %sCERTD_SEEDS=%d:%d go test -count=1 -run %s ./cmd/certd/internal/simulate", h.faults.command(), h.seed, h.seed+1, t.Name())
}

// Line R1: years of five clusters with six workloads each in which everything goes wrong.
func TestHardLives(t *testing.T) {
	const years = 2
	// Little is kept, so that the garbage collector would come round all the time.
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	run := scoreboard.Start(t, "R1", 6)
	for seed := range run.Seeds() {
		h := shrunkLife(t, func() *hard { return live(t, seed, years*365*day) })
		h.report(t)
		run.Add("simulated years", uint64(h.now.Sub(begin)/(365*day)))
		run.Add("changes of the trust anchor", uint64(h.changes))
		run.Add("approved", uint64(h.approvals.given))
		run.Add("meshes brought home", uint64(h.homes))
		run.Add("times killed", uint64(h.deaths))
		run.Add("signatures", uint64(len(h.keys.Signatures())))
		t.Logf("seed %d, %d changes, %d approved, %d brought home, killed %d times, %d signatures, %s", seed, h.changes, h.approvals.given, h.homes, h.deaths, len(h.keys.Signatures()), hex.EncodeToString(h.sum.Sum(nil))[:12])
		if t.Failed() {
			break
		}
	}
}

// A seed is a life: what happens in it happens again, to the word.
func TestAHardLifeCanBeHadAgain(t *testing.T) {
	for seed := range uint64(2) {
		a, b := live(t, 100+seed, 120*day), live(t, 100+seed, 120*day)
		if x, y := hex.EncodeToString(a.sum.Sum(nil)), hex.EncodeToString(b.sum.Sum(nil)); x != y {
			i := 0
			for i < len(a.trace) && i < len(b.trace) && a.trace[i] == b.trace[i] {
				i++
			}
			t.Errorf("seed %d: two lives differ, first in\n%s\n%s", 100+seed, strings.Join(a.trace[i:min(len(a.trace), i+2)], "\n"), strings.Join(b.trace[i:min(len(b.trace), i+2)], "\n"))
		}
	}
}
