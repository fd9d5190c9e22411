package simulate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// faults are those of a hard life, by name: "away#3" is the third time that something is away.
// Each has a chance of its own, so that a life without one is else the same until certd
// does something else for it.
type faults struct {
	only    map[string]bool // those that strike; nil: all do
	struck  []string        // in order
	classes uint64
}

// Faults that are no more than a class.
const (
	faultyCalls = "calls"  // fail, or are answered late or not at all
	deaths      = "deaths" // of certd, at its effects
)

// onlyThese is the environment variable that names the faults of a life, "none" for none.
const onlyThese = "CERTD_FAULTS"

// chosen are those that it names, nil where it is not set.
func chosen() map[string]bool {
	text := os.Getenv(onlyThese)
	if text == "" {
		return nil
	}
	only := map[string]bool{}
	for _, name := range strings.Fields(text) {
		only[name] = true
	}
	return only
}

// command is how to have no other faults.
func (f faults) command() string {
	if f.only == nil {
		return ""
	}
	return fmt.Sprintf("%s=%q ", onlyThese, os.Getenv(onlyThese))
}

// shrunkLife goes through a life and, if it fails, again and again with fewer faults, and returns
// the one with the fewest that does. A life that is gone through with faults that were
// named stays as it is.
func shrunkLife(t testing.TB, live func() *hard) *hard {
	const most = 200 // lives
	h, n := live(), 0
	if len(h.bad) == 0 || h.faults.only != nil {
		return h
	}
	with := func(names []string) *hard {
		t.Setenv(onlyThese, strings.Join(append([]string{"none"}, names...), " "))
		return live()
	}
	names := least(h.faults.struck, func(names []string) bool {
		n++
		return n <= most && len(with(names).bad) > 0
	})
	if fewer := with(names); len(fewer.bad) > 0 {
		return fewer
	}
	t.Setenv(onlyThese, "")
	return h
}

// least leaves out what it takes not to fail: halves, quarters, and so on to one at a time.
func least[T any](all []T, fails func([]T) bool) []T {
	for size := (len(all) + 1) / 2; size > 0; size /= 2 {
		for i := 0; i < len(all); {
			if less := slices.Delete(slices.Clone(all), i, min(i+size, len(all))); fails(less) {
				all = less
			} else {
				i += size
			}
		}
	}
	return all
}

// strike says whether a fault does.
func (f *faults) strike(name string) bool {
	if f.only != nil && !f.only[name] {
		return false
	}
	if !slices.Contains(f.struck, name) {
		f.struck = append(f.struck, name)
	}
	return true
}

// sometimes has something happen again and again, about every so often.
func (h *hard) sometimes(what string, every time.Duration, do func()) {
	every /= time.Duration(max(1, h.haste))
	h.faults.classes++
	class, n := 1000*h.faults.classes, uint64(0)
	times := rand.New(rand.NewPCG(h.seed, class))
	next := func() time.Time { return h.now.Add(time.Duration(times.ExpFloat64() * float64(every))) }
	var again func()
	again = func() {
		if h.over {
			return
		}
		h.at(next(), again)
		n++
		if !h.faults.strike(fmt.Sprintf("%s#%d", what, n)) {
			return
		}
		usual := h.chance
		defer func() { h.chance = usual }()
		h.chance = rand.New(rand.NewPCG(h.seed, class+n))
		do()
	}
	h.at(next(), again)
}

// clocks are what goes wrong with certd's own.
type clocks struct {
	next  *clockFault   // in the midst of certd's calls; nil: none
	tried time.Duration // how wrong certd's clock was when it began its last step
	began time.Time     // when that was
}

// clockFault strikes after so many moments of certd's.
type clockFault struct {
	after int
	step  time.Duration // its clock is set wrong by that much
	wrong time.Duration // for so long
	still time.Duration // else it stands still for so long
	slept bool          // and so does its monotonic clock
}

// mayDiffer is how far certd's clock may be off when it signs or writes: what it lets a
// cluster's clock differ by, and what that is off itself.
func (h *hard) mayDiffer() time.Duration {
	return rotation.MaxClockSkew + h.clockError()*9/10 + time.Second
}

// clockError is how far the clocks of clusters may be off.
func (h *hard) clockError() time.Duration {
	return cmp.Or(h.policy.Clusters[0].ClockError, rotation.MaxClockSkew)
}

// afflictClocks has certd's clock be set wrong, by seconds to a day or by years, and set
// right again; its host sleep; and certd be stopped and go on. It happens at any time, or right
// in the midst of what certd does.
func (h *hard) afflictClocks(longest time.Duration) {
	h.sometimes("clock", 40*day, func() {
		f := clockFault{after: h.chance.IntN(40)}
		switch n := h.chance.IntN(8); {
		case n == 0:
			f.step = 10 * 365 * day
		case n < 5:
			f.step = time.Duration(math.Exp(h.chance.Float64()*math.Log(86400))) * time.Second
		default:
			f.slept = n < 7
			f.still = time.Duration(h.chance.Float64() * float64(longest))
			if h.chance.IntN(2) == 0 {
				f.still = time.Duration(h.chance.IntN(600)) * time.Second
			}
		}
		if h.chance.IntN(2) == 0 {
			f.step = -f.step
		}
		f.wrong = time.Duration(h.chance.Float64() * float64(longest))
		if h.chance.IntN(2) == 0 {
			f.wrong = time.Duration(h.chance.IntN(1200)) * time.Second
		}
		if h.chance.IntN(2) == 0 {
			h.say("something is to happen to certd's clock")
			h.clocks.next = &f
			return
		}
		if h.loop != nil {
			h.strikeClock(f)
		}
	})
}

// strikeClock returns for how long nothing goes on.
func (h *hard) strikeClock(f clockFault) time.Duration {
	switch {
	case f.step != 0:
		h.say("certd's clock is set wrong by %s", f.step)
		h.machine.ahead = f.step
		h.at(h.now.Add(f.wrong), func() {
			if h.machine.ahead != 0 {
				h.say("certd's clock is set right")
			}
			h.machine.ahead = 0
		})
		return 0
	case f.slept:
		h.say("certd's host sleeps for %s", f.still)
		h.machine.slept += f.still
	default:
		h.say("certd is stopped for %s", f.still)
	}
	h.machine.still = h.now.Add(f.still)
	return f.still
}

// midst is a moment in the midst of something that certd does.
func (h *hard) midst() time.Duration {
	f := h.clocks.next
	if f == nil || h.secondActs() {
		return 0
	}
	if f.after--; f.after >= 0 {
		return 0
	}
	h.clocks.next = nil
	return h.strikeClock(*f)
}

// pauseInMidst lets what goes on in the midst of certd's take its time.
func (h *hard) pauseInMidst() {
	if d := h.midst(); d > 0 {
		h.advance(h.now.Add(d))
	}
}

// trying is told of each step before it is begun.
func (h *hard) trying(ctx context.Context, _ rotation.Attempt) (context.Context, func(error)) {
	h.clocks.tried, h.clocks.began = h.ahead(), h.now
	return ctx, func(error) {}
}

// dated judges a signature: nothing is dated by a wrong clock.
func (h *hard) dated(out rotation.Outcome) {
	c := out.Certificate
	if h.plan != nil || c == nil || c.SignedAt.IsZero() || !c.DeliveredAt.IsZero() {
		return
	}
	if c.SignedAt.After(h.now.Add(h.mayDiffer())) || c.SignedAt.Before(h.clocks.began.Add(-h.mayDiffer())) {
		h.wrong("%s: a certificate (%s) was dated by a wrong clock: %s", c.Cluster, c.Kind, c.SignedAt.Format(time.DateTime))
	}
}

// effect is called before each of certd's on a cluster; what it returns, afterwards.
func (c mortalCluster) effect(what string) (ended func()) {
	c.h.mayDie()
	c.h.pauseInMidst()
	if c.h.plan == nil && c.h.clocks.tried.Abs() > c.h.mayDiffer() {
		c.h.wrong("%s: %s was written by a clock that is off by %s", c.name, what, c.h.clocks.tried)
	}
	if c.posed == withForeign || c.posed == withAnotherFleet {
		c.h.wrong("%s: %s was written to another cluster that answers at its address", c.name, what)
	}
	return func() {
		c.h.pauseInMidst()
		c.h.mayDie()
	}
}

// A pose is what answers at a cluster's address instead of it.
type pose int

const (
	withForeign      pose = 1 + iota // a cluster whose trust material nobody knows
	withAnotherFleet                 // one that another fleet's certd looks after
	withNothing                      // one in which there is nothing yet
	asAnother                        // another of the fleet's
	poses            = iota
)

var poseNames = map[pose]string{withForeign: "a cluster with foreign trust material", withAnotherFleet: "another fleet's cluster", withNothing: "an empty cluster", asAnother: "another of the fleet's clusters"}

// afflictAddresses has another cluster answer at the address of one, for a while.
func (h *hard) afflictAddresses(longest time.Duration) {
	h.sometimes("impostor", 150*day, func() {
		name, _ := h.anyCluster()
		other, _ := h.anyCluster()
		way, p := h.ways[name], pose(1+h.chance.IntN(poses))
		if way.posed != 0 || p == asAnother && other == name {
			return
		}
		d := time.Duration(h.chance.Float64() * float64(longest))
		if h.chance.IntN(2) == 0 {
			d = time.Duration(h.chance.IntN(1200)) * time.Second
		}
		h.say("%s: %s answers at its address for %s", name, poseNames[p], d)
		if way.posed = p; p == asAnother {
			way.Cluster = h.clusters[other]
		} else {
			way.Cluster = h.impostor(name, p)
		}
		h.stir(name)
		h.at(h.now.Add(d), func() { h.unmask(name) })
	})
}

// unmask has a cluster answer at its own address again.
func (h *hard) unmask(name string) {
	if way := h.ways[name]; way.posed != 0 {
		h.say("%s: it answers at its address again", name)
		way.Cluster, way.posed = h.clusters[name], 0
		h.stir(name)
	}
}

// impostor makes a cluster that is not the fleet's.
func (h *hard) impostor(name string, p pose) *memory.Cluster {
	policy := h.policy.Clusters[slices.IndexFunc(h.policy.Clusters, func(p rotation.Policy) bool { return p.Cluster == name })]
	h.impostors++ // each is another
	c := memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: policy.Namespace, TrustDomain: policy.TrustDomain, Target: fmt.Sprint("impostor-", h.impostors), Existing: true,
		Replicas: replicas, Proxies: pods, LeafLifetime: policy.LeafLifetime, LeafSkew: policy.ClockSkew, Lag: lag, Seed: h.seed,
		Webhooks: policy.Webhooks.Specs, APILag: apiLag, Revision: 1_000_000_000_000, Clock: h.world})
	if p == withNothing {
		return c
	}
	must := func(err error) {
		if err != nil {
			h.t.Fatal(err)
		}
	}
	root, err := pki.GenerateKey()
	must(err)
	anchor, err := pki.SelfSignAnchor(h.now, pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 3650 * day, Backdate: time.Hour}, root)
	must(err)
	bundle, err := pki.NewBundle(anchor)
	must(err)
	template, err := pki.NewIssuerTemplate(h.now, pki.IssuerProfile{Namespace: policy.Namespace, TrustDomain: policy.TrustDomain, Lifetime: 365 * day, Backdate: time.Hour}, anchor)
	must(err)
	key, err := pki.GenerateKey()
	must(err)
	issuer, err := pki.SignIssuer(template, anchor, key.PublicKey(), root)
	must(err)
	cred, err := pki.NewCredential(key, issuer)
	must(err)
	_, err = c.WriteBundle(h.ctx, rotation.BundleWrite{Fleet: "another", Epoch: 7, Bundle: bundle})
	must(err)
	_, err = c.WriteIssuer(h.ctx, rotation.IssuerWrite{Fleet: "another", Epoch: 7, Serial: pki.Serial(issuer), Credential: &cred, Bundle: bundle})
	must(err)
	if p == withForeign {
		for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
			c.Edit(object, "helm", func(_ map[string][]byte, marks *rotation.Marks) { *marks = rotation.Marks{} })
		}
	}
	return c
}

// Observe is by certd's clock, as the rest.
func (c mortalCluster) Observe(ctx context.Context) (rotation.Observation, error) {
	c.h.pauseInMidst()
	began := c.h.ahead()
	o, err := c.Cluster.Observe(ctx)
	c.h.pauseInMidst()
	o.At = o.At.Add(began)
	o.ClockSkew -= began
	if o.Identity != nil {
		for i := range o.Identity.Replicas {
			o.Identity.Replicas[i].At = o.Identity.Replicas[i].At.Add(began)
		}
	}
	return o, err
}

func (c mortalCluster) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	c.h.pauseInMidst()
	o, err := c.Cluster.Reread(ctx, last, object)
	if err == nil {
		o.ClockSkew -= c.h.ahead()
	}
	return o, err
}

func (c mortalCluster) CountProxies(ctx context.Context) rotation.Proxies {
	c.h.pauseInMidst()
	ahead := c.h.ahead()
	p := c.Cluster.CountProxies(ctx)
	if !p.At.IsZero() {
		p.At = p.At.Add(ahead)
	}
	c.h.pauseInMidst()
	return p
}

func (c mortalCluster) ProbeWebhooks(ctx context.Context, webhooks []rotation.WebhookSpec) map[string]rotation.WebhookEvidence {
	c.h.pauseInMidst()
	ahead := c.h.ahead()
	all := c.Cluster.ProbeWebhooks(ctx, webhooks)
	for name, e := range all {
		e.At = e.At.Add(ahead)
		for i := range e.Replicas {
			e.Replicas[i].At = e.Replicas[i].At.Add(ahead)
		}
		if !e.Check.At.IsZero() {
			e.Check.At = e.Check.At.Add(ahead)
		}
		all[name] = e
	}
	c.h.pauseInMidst()
	return all
}

// An illness is of a CA's key.
type illness struct {
	what  string
	since time.Time
}

// What a key may suffer from.
const (
	denied     = "may not be used" // a policy was changed
	exportable = "is exportable"
	deleted    = "is deleted"
	replaced   = "is another"
)

// afflictKeys has the key of a CA be what must not sign, or cannot, for a while.
func (h *hard) afflictKeys(longest time.Duration) {
	h.sometimes("key", 60*day, func() {
		if h.journal == nil {
			return
		}
		anchors, err := h.journal.Anchors()
		var keys []string
		for _, a := range anchors {
			keys = append(keys, a.Key, a.Key)
		}
		for _, p := range h.policy.Clusters {
			if err == nil {
				var cas []rotation.WebhookCA
				cas, err = h.journal.WebhookCAs(p.Cluster)
				for _, ca := range cas {
					keys = append(keys, ca.Key)
				}
			}
		}
		if err != nil {
			h.wrong("%v", err)
			return
		}
		keys = slices.DeleteFunc(keys, func(key string) bool { return key == "" })
		if len(keys) == 0 {
			return
		}
		key := keys[h.chance.IntN(len(keys))]
		d := time.Duration(h.chance.Float64() * float64(longest))
		d = min(d, 8*time.Hour) // it is tried every few minutes
		i := &illness{[]string{denied, exportable, deleted, replaced}[h.chance.IntN(4)], h.now}
		h.say("key %s %s for %s", key, i.what, d)
		h.ill[key] = i
		h.at(h.now.Add(d), func() {
			if h.ill[key] == i {
				h.say("key %s is well", key)
				delete(h.ill, key)
			}
		})
	})
}

// isIll is what the backend says of a key that is.
func (h *hard) isIll(call memory.KeyCall, key string) error {
	i := h.ill[key]
	if i == nil {
		return nil
	}
	if call == memory.CallCreateKey && i.what != denied {
		if i.what == deleted {
			h.wrong("key %s is made anew", key)
		}
		return nil // it says itself that there is one
	}
	open := call == memory.CallOpenKey
	switch i.what {
	case exportable:
		if open {
			return fmt.Errorf("exportable=true: %w", rotation.ErrKeyUnfit)
		}
		if call == memory.CallSign && i.since.Before(h.clocks.began) {
			h.wrong("key %s signs, and is exportable since %s", key, i.since.Format(time.DateTime))
		}
		return nil
	case deleted:
		if open {
			return rotation.ErrKeyNotFound
		}
		return fmt.Errorf("signing key not found: %w", rotation.ErrUnavailable)
	case replaced:
		return fmt.Errorf("its public key is not the one of the certificate: %w", rotation.ErrKeyUnfit)
	}
	return rotation.ErrDenied
}
