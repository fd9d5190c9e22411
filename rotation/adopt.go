package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Adoption is what a cluster came with when certd took it over. It is kept until
// nothing of it is used any more.
type Adoption struct {
	Anchor string    // the generation that its issuer was under
	Issuer []byte    // tls.crt then
	Bundle []byte    // ca-bundle.crt then
	At     time.Time // when it was taken over
}

// broughtHome is what is kept of a cluster's once it has the fleet's anchor: somebody may depend
// on what else was in its bundle.
func (c ClusterRecord) broughtHome() *Adoption {
	return &Adoption{Bundle: c.AdoptedBundle, At: c.AdoptedAt}
}

// keyless says that certd does not have the anchor's key: it came with a mesh.
func (a *Anchor) keyless() bool { return a != nil && a.Key == "" }

// home is the anchor that a cluster came with, nil where certd made its trust.
func (f Fleet) home(v View) *Anchor {
	if v.Record.Adopted == "" {
		return nil
	}
	return f.anchor(v.Record.Adopted)
}

// stays says whether a cluster still has an anchor of its own: the one that it came
// with, whose key certd does not have, or the one that it was left behind with when
// the others were changed without it.
func (f Fleet) stays(v View) bool {
	home := f.home(v)
	return home != nil && home.keyless() == home.RetiredAt.IsZero()
}

// leftBehind says whether the others were changed without the cluster.
func (f Fleet) leftBehind(v View) bool { return f.stays(v) && !f.home(v).keyless() }

// keeps says whether a cluster still has an anchor whose key certd does not have.
func (f Fleet) keeps(v View) bool { return f.stays(v) && !f.leftBehind(v) }

// adoptedMark names in a cluster the anchor that it came with.
func (f Fleet) adoptedMark(v View) string {
	if !f.keeps(v) {
		return ""
	}
	return pki.Fingerprint(f.home(v).Certificate)
}

// relearn finds out what a cluster came with after the journal was lost: its mark
// names the anchor. Where that is nowhere to be seen any more, the cluster has left
// it behind.
func (r *Reconciler) relearn(m *member, o *Observation) (known bool) {
	if o.Bundle.Marks.Adopted == "" {
		return r.relearnHome(m, o)
	}
	f, v, now := r.fleet(), m.view(), r.wall()
	if v.Record.Adopted != "" {
		return true
	}
	var here []*x509.Certificate
	for _, text := range [][]byte{o.BundleText, o.IssuerFacts.CABundle} {
		if b, err := pki.ReadBundle(text); err == nil {
			here = append(here, b.Anchors()...)
		}
	}
	i := slices.IndexFunc(here, func(c *x509.Certificate) bool { return pki.Fingerprint(c) == o.Bundle.Marks.Adopted })
	if i < 0 {
		return true
	}
	home, seen := f.entered(here[i], now)
	if !seen {
		f.Anchors = append(slices.Clone(f.Anchors), home)
	}
	chain := f.owns(o.IssuerFacts.Chain)
	var before []*x509.Certificate
	var to *Anchor // that it was being brought to
	for _, by := range f.signersOf(o.IssuerFacts.Chain) {
		if !by.keyless() {
			to = by
		}
	}
	for _, c := range here {
		if by := f.anchorWith(c); by != nil && !by.keyless() {
			to = by
		} else if !slices.ContainsFunc(before, c.Equal) {
			before = append(before, c)
		}
	}
	if len(chain) == 0 || home.Key != "" {
		return true
	}
	text := o.BundleText
	if was, err := pki.NewBundle(before...); to != nil && err == nil {
		text = was.PEM()
	}
	a := Adopted{Cluster: m.name, Anchor: home, Known: seen, Issuer: chain[0], since: chain[0].NotBefore}
	ad := Adoption{Anchor: home.ID, Issuer: pki.EncodeCertificates(chain...), Bundle: text, At: now}
	err := r.recordAdoption(m, a, ad, "certd", "the journal knows it not, and the cluster's mark names the anchor that it came with")
	if err == nil && to != nil && f.Change == nil {
		r.renewing.Lock()
		err = r.resumeAdopting(*to, "the journal was lost, and "+m.name+" has both anchors", now)
		r.renewing.Unlock()
	}
	if err != nil {
		r.log.Error("not learnt what the cluster came with", "cluster", m.name, "err", err)
		r.Problem("JournalFailed", err)
	}
	return err == nil
}

// relearnHome finds out that a cluster has been brought to the fleet's anchor since the journal
// that was restored: its mark is gone, and nothing of what it came with, or was left behind with,
// is to be seen.
func (r *Reconciler) relearnHome(m *member, o *Observation) (known bool) {
	m.mu.Lock()
	came := m.record.Adopted != ""
	m.mu.Unlock()
	if !came || !r.fleet().broughtHome(m.view(), o) {
		return true
	}
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f, v := r.fleet(), m.view()
	if !f.broughtHome(v, o) {
		return true
	}
	home := f.home(v)
	in := Intent{Step: StepRecover, Cluster: m.name, Actor: "certd", Anchor: home.ID, Reason: "it has been brought to the fleet's anchor, and the journal is from before that"}
	out := Outcome{Result: OK, Left: map[string]Adoption{m.name: *v.Record.broughtHome()}}
	if f.leftBehind(v) {
		out.Left[m.name] = Adoption{}
	} else if !slices.ContainsFunc(slices.Collect(maps.Values(r.views())), func(o View) bool {
		return o.Policy.Cluster != m.name && f.stays(o) && f.home(o).ID == home.ID
	}) {
		gone := *home
		gone.RetiredAt = r.wall()
		out.Retired = []Anchor{gone}
	}
	if err := r.enter(in, out); err != nil {
		r.log.Error("journal not written", "cluster", m.name, "err", err)
		r.Problem("JournalFailed", err)
		return false
	}
	r.takeIn(out)
	r.lookAgain()
	return true
}

// broughtHome says whether a cluster shows nothing of the anchor that the journal takes it to have
// come with and kept, or to have been left behind with, but an issuer under another that is known.
// One that is being brought along from that comes to show nothing of it, too.
func (f Fleet) broughtHome(v View, o *Observation) bool {
	return (f.keeps(v) || f.leftBehind(v) && f.Change == nil) && o.Bundle.Exists && !slices.Contains(f.shownBy(o), f.home(v)) && len(f.signersOf(o.IssuerFacts.Chain)) > 0
}

// anchorWith is the generation that has the key of a certificate, nil if none has.
func (f Fleet) anchorWith(c *x509.Certificate) *Anchor {
	i := slices.IndexFunc(f.Anchors, func(a Anchor) bool { return a.Certificate != nil && sameKey(a.Certificate, c) })
	if i < 0 {
		return nil
	}
	return &f.Anchors[i]
}

// resumeAdopting begins anew a change that a lost journal no longer knows, or an older one not
// yet. The caller holds renewing.
func (r *Reconciler) resumeAdopting(to Anchor, why string, now time.Time) error {
	if r.fleet().Change != nil {
		return nil
	}
	return r.changeAnew(nil, to.ID, why, now)
}

// changeAnew begins a change once more, as each stage can be gone through again: from an anchor
// that was retired (nil: from what meshes came with). The caller holds renewing.
func (r *Reconciler) changeAnew(from *Anchor, to, why string, now time.Time) error {
	c := Change{To: to, Stage: StageBridge, Actor: "certd", Reason: why, StartedAt: now, StageAt: now}
	out := Outcome{Detail: "stage " + string(c.Stage), Change: &c}
	if from != nil {
		a := *from
		a.RetiredAt = time.Time{}
		c.From, out.Anchor = a.ID, &a
	}
	return r.putChange(Intent{Step: StepTrustChange, Actor: c.Actor, Reason: why, Anchor: to}, out)
}

// adopts says whether the change brings clusters that were taken over to the
// fleet's own anchor, each from what it came with.
func (c Change) adopts() bool { return c.From == "" || c.To == "" }

// sides are the anchors that a cluster is changed from and to. It takes no part
// where it has the fleet's anchor already, and those that were taken over are to
// follow.
func (f Fleet) sides(v View) (from, to *Anchor, takesPart bool, err error) {
	c := f.Change
	if c == nil {
		return nil, nil, false, nil
	}
	from, to = f.anchor(c.From), f.anchor(c.To)
	if c.adopts() {
		if !f.stays(v) || c.excepts(v.Policy.Cluster) {
			return nil, nil, false, nil
		}
		if home := f.home(v); c.From == "" {
			from = home
		} else {
			to = home
		}
	} else if f.stays(v) {
		return nil, nil, false, nil
	}
	if from == nil || to == nil {
		return nil, nil, false, fmt.Errorf("trust anchor %s is to be changed for %s, and one of them is not in the journal", c.from(), c.to())
	}
	return from, to, true, nil
}

// from and to name the two sides to people.
func (c Change) from() string { return cmp.Or(c.From, "what the meshes came with") }
func (c Change) to() string   { return cmp.Or(c.To, "what the meshes came with") }

// found says whether the issuer in the cluster is the one that it came with, to
// the byte of each certificate.
func (v View) found() bool {
	chain, _ := pki.ReadCertificates(v.Record.AdoptedIssuer)
	return len(chain) > 0 && slices.EqualFunc(chain, v.Observed.IssuerFacts.Chain, (*x509.Certificate).Equal)
}

// foundKey says whether the issuer's key is the one that the cluster came with.
func (v View) foundKey() bool {
	came, _ := pki.ReadCertificates(v.Record.AdoptedIssuer)
	chain := v.Observed.IssuerFacts.Chain
	return len(came) > 0 && len(chain) > 0 && bytes.Equal(came[0].RawSubjectPublicKeyInfo, chain[0].RawSubjectPublicKeyInfo)
}

// kept are anchors in a bundle that a cluster came with, and that nobody knows:
// somebody may depend on them, so they stay.
func (f Fleet) kept(v View) (others []*x509.Certificate) {
	if len(v.Record.AdoptedBundle) == 0 { // nearly always
		return nil
	}
	came, err := pki.ReadBundle(v.Record.AdoptedBundle)
	if err != nil {
		return nil
	}
	for _, c := range came.Anchors() {
		if f.anchorWith(c) == nil {
			others = append(others, c)
		}
	}
	return others
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// cameWith is the bundle that a cluster came with; zero where it came with none.
func (v View) cameWith() pki.Bundle {
	b, err := pki.AsWritten(v.Record.AdoptedBundle)
	if err != nil {
		return pki.Bundle{}
	}
	return b
}

// asWritten keeps the text of a bundle that somebody else has written, where it
// says what it should: each byte of a change would make every pod look stale.
func (v View) asWritten(want pki.Bundle) pki.Bundle {
	if v.Record.Adopted == "" || v.Observed == nil {
		return want
	}
	if have, err := pki.AsWritten(v.Observed.BundleText); err == nil && have.Equal(want) {
		return have
	}
	if came := v.cameWith(); came.Equal(want) {
		return came
	}
	return want
}

// stay is the goal of a cluster that has what it came with: that, and whatever
// its owners make of it as long as its issuer verifies.
func (g *goal) stay(v View, home *Anchor, now time.Time) {
	o := v.Observed
	g.signers, g.keepsKey = []*Anchor{home}, home.keyless()
	g.bundle = v.cameWith()
	if have, err := pki.AsWritten(o.BundleText); err == nil && o.Bundle.Exists && o.IssuerFacts.Problem == "" && o.IssuerFacts.Verify(have, now) == nil {
		g.bundle = have
		if !home.keyless() && !have.Covers(home.Certificate) { // it was brought along, as far as it shows: nothing is done until that is sure
			g.signers = g.at.order
		}
	}
	g.beside = g.bundle
}

// turning are the bundles of a cluster that is brought from what it came with to
// the fleet's anchor, or back: what it came with is taken as a whole, with anchors
// of other meshes of the fleet that are brought along at the same time.
func (f Fleet) turning(v View, from *Anchor, old, next pki.Bundle) (_, both, _ pki.Bundle, err error) {
	came := v.cameWith()
	if from.keyless() {
		old = came
	} else {
		next = came
	}
	both, err = pki.NewBundle(append(old.Anchors(), next.Anchors()...)...)
	return old, both, next, err
}

// judgeAdopted says what is to be known of a cluster that still has what it came
// with, and who else writes there.
func (d *Decision) judgeAdopted(f Fleet, v View, now time.Time) {
	home, o := f.home(v), v.Observed
	if f.leftBehind(v) {
		d.find(StateWarning, "LeftBehind", fmt.Sprintf("the trust anchor was changed without it, and it still has %s: its workloads and the others refuse each other until it has been brought along, which begins as soon as nothing else is changed", home.ID), nil, "certd trust status")
		return
	}
	if home == nil || !home.RetiredAt.IsZero() {
		return
	}
	for _, obj := range []struct {
		name string
		ObjectState
	}{{"ConfigMap " + BundleObject, o.Bundle}, {"Secret " + IssuerObject, o.Issuer}} {
		switch k := obj.Keeper; {
		case k != nil:
			d.find(StateWarning, "SecondWriter", fmt.Sprintf("%s is kept by %s, too, which may write it at any time: that is to end before the trust anchor can be changed", obj.name, k), nil, k.release(v.Policy.Namespace))
		case len(obj.Writers) > 0 && obj.Writers[0].At.After(v.Record.AdoptedAt):
			d.find(StateWarning, "SecondWriter", fmt.Sprintf("%s was written by %s at %s, after certd had taken it over", obj.name, obj.Writers[0].Name, clock(obj.Writers[0].At)), nil, "certd history --cluster "+v.Policy.Cluster)
		}
	}
	if !home.keyless() || d.Issuer == nil {
		return
	}
	end := d.Issuer.NotAfter
	if a := home.Certificate.NotAfter; a.Before(end) {
		end = a
	}
	severity, what := StateWarning, fmt.Sprintf("its issuer came with it, under trust anchor %s, whose key certd does not have: it ends in %s, and certd cannot renew it", home.ID, short(end.Sub(now)))
	if d.Issuer.Equal(home.Certificate) {
		severity, what = StateCritical, fmt.Sprintf("its trust anchor %s is its issuer, too: the anchor's key lies in the cluster, nothing can be renewed, and all ends in %s", home.ID, short(end.Sub(now)))
	}
	if end.Sub(now) < 60*24*time.Hour {
		severity = StateCritical
	}
	if f.Change != nil {
		severity = StateWarning
	}
	d.find(severity, "AnchorKeyElsewhere", what, &end, "certd trust rotate")
}

// Adopted is what taking a cluster over means.
type Adopted struct {
	Cluster string
	Anchor  Anchor // that the issuer is under
	Known   bool   // it is the fleet's own
	Issuer  *x509.Certificate
	Others  []*x509.Certificate // further anchors in the bundle
	Writes  []string            // what is written, in words
	Notes   []string            // what a person should know
	since   time.Time           // when the issuer was there
}

// Adopt takes over a cluster that has trust material which certd did not make.
// It keeps what is there. A dry run says what would be done.
func (r *Reconciler) Adopt(cluster, actor, reason string, dryRun bool) (Adopted, error) {
	r.renewing.Lock() // a change does not begin meanwhile
	defer r.renewing.Unlock()
	r.mu.Lock()
	m := r.members[cluster]
	r.mu.Unlock()
	if m == nil {
		return Adopted{}, fmt.Errorf("adopt %s: no cluster of this name is configured: %w", cluster, ErrUnsupported)
	}
	f, v, now := r.fleet(), m.view(), r.wall()
	v.SameTarget, _ = r.others(m, now)
	a, ad, err := f.adopt(v, now)
	if err != nil {
		return a, fmt.Errorf("adopt %s: %w", cluster, err)
	}
	if dryRun {
		return a, nil
	}
	return a, r.recordAdoption(m, a, ad, actor, reason)
}

// adoptConfigured takes over a cluster that the configuration says so of. What
// stands against it is told by the finding that it is watched only, and in the log.
func (r *Reconciler) adoptConfigured(m *member) (done bool) {
	_, err := r.Adopt(m.name, "certd", "adopt: true in the configuration", false)
	if err != nil {
		r.log.Warn("cluster not taken over", "cluster", m.name, "err", err)
	}
	return err == nil
}

// recordAdoption puts an adoption on disk and in effect.
func (r *Reconciler) recordAdoption(m *member, a Adopted, ad Adoption, actor, reason string) error {
	rec := certificateRecord(m.name, "issuer", a.Anchor.ID, a.Issuer, time.Time{})
	rec.DeliveredAt = a.since
	in := Intent{Step: StepAdopt, Cluster: m.name, Actor: actor, Reason: reason, Anchor: a.Anchor.ID, Serial: rec.Serial}
	out := Outcome{Result: OK, Detail: "anchor sha256 " + pki.Fingerprint(a.Anchor.Certificate), Certificate: &rec, Adopted: &ad, Enrolled: true}
	if !a.Known {
		out.Anchor = &a.Anchor
	}
	if err := r.enter(in, out); err != nil {
		return fmt.Errorf("record that %s is taken over: %w", m.name, err)
	}
	r.remember(m, in, out)
	m.mu.Lock()
	m.record.Target = m.observed.Target
	r.company.turned(m)
	m.mu.Unlock()
	r.log.Info("cluster taken over", "cluster", m.name, "anchor", a.Anchor.ID, "issuer_not_after", a.Issuer.NotAfter, "actor", actor)
	r.mu.Lock()
	m.changed()
	r.mu.Unlock()
	r.poke()
	return nil
}

// adopt works out what taking over means, or why it cannot be.
func (f Fleet) adopt(v View, now time.Time) (Adopted, Adoption, error) {
	a, o := Adopted{Cluster: v.Policy.Cluster}, v.Observed
	not := func(format string, args ...any) (Adopted, Adoption, error) {
		return a, Adoption{}, fmt.Errorf(format+": %w", append(args, ErrNotNow)...)
	}
	switch {
	case v.Err != nil:
		return not("it cannot be seen: %v", v.Err)
	case o == nil:
		return not("it has not been looked at yet; try again in a minute")
	case v.SameTarget != "":
		return not("it is the same cluster as %s", v.SameTarget)
	case f.Change != nil:
		return not("the trust anchor is being changed (stage %s); adopt it when that has ended (certd trust status)", f.Change.Stage)
	case v.Record.Enrolled && !v.Record.elsewhere(o, f.Policy.Fleet) || o.Bundle.Marks.Fleet == f.Policy.Fleet:
		return not("certd looks after it already")
	case o.Bundle.Marks.Fleet != "":
		return not("it bears the mark of another fleet, %q: two daemons on one cluster undo each other's work; take it out of the other's configuration, and remove the annotation certd.io/fleet", o.Bundle.Marks.Fleet)
	case !o.Bundle.Exists && !o.Issuer.Exists:
		return not("it is empty: certd enrols it by itself")
	case !o.Bundle.Exists:
		return not("it has an issuer, and no ConfigMap %s (Linkerd before 2.11?)", BundleObject)
	case !o.Issuer.Exists:
		return not("it has a trust bundle, and no Secret %s", IssuerObject)
	}
	bundle, err := pki.AsWritten(o.BundleText)
	if err != nil {
		return not("its bundle is not read alike by all who read it: %v", err)
	}
	if o.IssuerFacts.Problem != "" {
		return not("its issuer cannot serve: %s", o.IssuerFacts.Problem)
	}
	if err := o.IssuerFacts.Verify(bundle, now); err != nil {
		if ended := endedIn(o.IssuerFacts.Chain, bundle, now); ended != "" {
			return not("%s: nobody there has a certificate any more, and there is nothing left to keep. Delete both objects, and certd enrols the cluster anew at once (kubectl -n %s delete configmap/%s secret/%s); then restart the control plane (kubectl -n %s rollout restart deploy) and after it what certd status names",
				ended, v.Policy.Namespace, BundleObject, IssuerObject, v.Policy.Namespace)
		}
		return not("its issuer does not verify under its own bundle: %v", err)
	}
	a.Issuer = o.IssuerFacts.Chain[0]
	a.since = a.Issuer.NotBefore // or later; whoever has not loaded it since then is late
	root := rootOf(o.IssuerFacts.Chain, bundle)
	if root == nil {
		return not("none of the anchors in its bundle has signed its issuer")
	}
	a.Anchor, a.Known = f.entered(root, now)
	for _, c := range bundle.Anchors() {
		if !sameKey(c, root) {
			a.Others = append(a.Others, c)
		}
	}
	a.describe(v, now)
	return a, Adoption{Anchor: a.Anchor.ID, Issuer: pki.EncodeCertificates(o.IssuerFacts.Chain...), Bundle: o.BundleText, At: now}, nil
}

// endedIn says what of an issuer and its bundle has ended, "" if neither has.
func endedIn(chain []*x509.Certificate, b pki.Bundle, now time.Time) string {
	if end := chain[0].NotAfter; now.After(end) {
		return "its issuer ended " + short(now.Sub(end)) + " ago"
	}
	if root := rootOf(chain, b); root != nil && now.After(root.NotAfter) {
		return "its trust anchor ended " + short(now.Sub(root.NotAfter)) + " ago"
	}
	return ""
}

// rootOf is the anchor of a bundle that a chain leads to, nil if there is none.
func rootOf(chain []*x509.Certificate, b pki.Bundle) *x509.Certificate {
	for _, c := range chain {
		for _, a := range b.Anchors() {
			if c.Equal(a) || bytes.Equal(c.RawIssuer, a.RawSubject) && c.CheckSignatureFrom(a) == nil {
				return a
			}
		}
	}
	return nil
}

// entered returns the generation of an anchor that was found, one that certd has
// no key of if it is new.
func (f Fleet) entered(c *x509.Certificate, now time.Time) (a Anchor, known bool) {
	n := 1
	for _, a := range f.Anchors {
		if a.Certificate != nil && sameKey(a.Certificate, c) && a.RetiredAt.IsZero() {
			return a, true
		}
		if a.keyless() {
			n++
		}
	}
	return Anchor{ID: fmt.Sprintf("x%d", n), Certificate: c, CreatedAt: now}, false
}

// describe says in words what is written, and what a person should know.
func (a *Adopted) describe(v View, now time.Time) {
	o := v.Observed
	note := func(format string, args ...any) { a.Notes = append(a.Notes, fmt.Sprintf(format, args...)) }
	a.Writes = append(a.Writes, "ConfigMap "+BundleObject+": annotations and a label; its data stays as it is")
	if o.IssuerFacts.Readable {
		a.Writes = append(a.Writes, "Secret "+IssuerObject+": annotations and a label; its data stays as it is")
	} else {
		a.Writes = append(a.Writes, "Secret "+IssuerObject+": annotations and a label, and of tls.crt, tls.key and ca.crt what is missing, so that Linkerd can be upgraded to scheme kubernetes.io/tls; what is there stays as it is")
	}
	if slices.ContainsFunc(o.Webhooks, func(w Webhook) bool { return w.installed() }) {
		note("its webhooks get certificates under a CA of the cluster's own from now on (webhooks.manage: none keeps certd from it)")
	}
	left := min(a.Issuer.NotAfter.Sub(now), a.Anchor.Certificate.NotAfter.Sub(now))
	switch {
	case a.Known && !a.Anchor.keyless():
		note("its trust anchor is %s, the fleet's own: certd renews its issuer from now on", a.Anchor.ID)
	case a.Issuer.Equal(a.Anchor.Certificate):
		note("its issuer is its trust anchor: the anchor's key lies in the cluster, where whoever reads the Secret can make certificates for the whole mesh")
		note("nothing there can be renewed: everything ends in %s unless the trust anchor is changed before (certd trust rotate)", short(left))
	default:
		note("certd does not have the key of its trust anchor and cannot renew its issuer: that ends in %s unless the trust anchor is changed before (certd trust rotate), or somebody else renews it", short(left))
	}
	for _, c := range a.Others {
		if !slices.ContainsFunc(v.Policy.Foreign, func(p ForeignAnchor) bool { return sameKey(p.Certificate, c) }) {
			note("its bundle holds anchor %q besides, until %s; it stays there", c.Subject.CommonName, clock(c.NotAfter))
		}
	}
	for _, obj := range []struct {
		name string
		ObjectState
	}{{"ConfigMap " + BundleObject, o.Bundle}, {"Secret " + IssuerObject, o.Issuer}} {
		if k := obj.Keeper; k != nil {
			note("%s is kept by %s: before the trust anchor can be changed, %s", obj.name, k, k.release(v.Policy.Namespace))
		}
	}
	if home := a.Anchor; home.keyless() {
		if err := tryBridge(o.IssuerFacts, home.Certificate, now); err != nil {
			note("its issuer cannot be bridged to another trust anchor: %v", err)
		}
	}
}

// tryBridge proves with a throw-away anchor that leaves of an issuer can be made
// to verify under a further one.
func tryBridge(facts pki.IssuerFacts, home *x509.Certificate, now time.Time) error {
	key, err := pki.GenerateKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	trial, err := pki.SelfSignAnchor(now, pki.AnchorProfile{CommonName: "trial", Lifetime: 24 * 365 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		return err
	}
	second, err := secondCertificate(facts.Chain[0], trial, nil, now, key)
	if err != nil {
		return err
	}
	for _, anchor := range []*x509.Certificate{home, trial} {
		alone, err := pki.NewBundle(anchor)
		if err == nil {
			err = facts.With(append(slices.Clone(facts.Chain), second)...).Verify(alone, now)
		}
		if err != nil {
			return fmt.Errorf("with two certificates, under anchor %q alone: %w", anchor.Subject.CommonName, err)
		}
	}
	return nil
}

// Keeper is another program that is set up to write an object.
type Keeper struct {
	Kind      string // KeeperHelm, …; else the kind of the object's owner: "ExternalSecret"
	Name      string
	Namespace string
}

// The kinds of keepers.
const (
	KeeperHelm    = "Helm"
	KeeperCLI     = "linkerd upgrade"
	KeeperCert    = "cert-manager"
	KeeperBundle  = "trust-manager"
	KeeperArgo    = "Argo CD"
	KeeperFlux    = "Flux"
	KeeperUnseen  = "unseen" // whether there is one cannot be seen; Name says why
	keeperRelease = "certd export helm-values"

	KeeperClusterBundle = "trust-manager, by a ClusterBundle"
)

func (k Keeper) String() string {
	switch k.Kind {
	case KeeperHelm:
		return fmt.Sprintf("Helm (release %s)", k.Name)
	case KeeperCert:
		return fmt.Sprintf("cert-manager (Certificate %s)", k.Name)
	case KeeperBundle:
		return fmt.Sprintf("trust-manager (Bundle %s)", k.Name)
	case KeeperClusterBundle:
		return fmt.Sprintf("trust-manager (ClusterBundle %s)", k.Name)
	case KeeperArgo:
		return fmt.Sprintf("Argo CD (%s)", k.Name)
	case KeeperFlux:
		return fmt.Sprintf("Flux (Kustomization %s/%s)", k.Namespace, k.Name)
	case KeeperUnseen:
		return "nobody knows whom (" + k.Name + ")"
	case KeeperCLI:
		return "`" + k.Kind + "`, since Linkerd is installed without identity.externalCA"
	}
	return fmt.Sprintf("its owner, %s %s", k.Kind, k.Name)
}

// orphans has kubectl delete an owner and leave what it owns: cert-manager may be told to own
// its Secrets (enableCertificateOwnerRef), and the issuer's key is nowhere else.
const orphans = " --cascade=orphan"

// release is what to do so that it writes no more.
func (k Keeper) release(namespace string) string {
	name := k.Name
	if !plain(name) {
		name = "NAME"
	}
	switch k.Kind {
	case KeeperHelm, KeeperCLI:
		return "upgrade Linkerd with the values of " + keeperRelease
	case KeeperCert:
		return fmt.Sprintf("kubectl -n %s delete certificate %s%s && kubectl -n %s annotate secret %s cert-manager.io/certificate-name-", namespace, name, orphans, namespace, IssuerObject)
	case KeeperBundle:
		return fmt.Sprintf("kubectl delete bundles.trust.cert-manager.io %s%s && kubectl -n %s label configmap %s trust.cert-manager.io/bundle-", name, orphans, namespace, BundleObject)
	case KeeperClusterBundle:
		return fmt.Sprintf("kubectl delete clusterbundles.trust-manager.io %s%s && kubectl -n %s label configmap %s trust-manager.io/bundle- inject.trust-manager.io/bundle-name-", name, orphans, namespace, BundleObject)
	case KeeperArgo:
		return "take the object out of the application, with Prune=false before, so that it stays, and argocd.argoproj.io/tracking-id off it"
	case KeeperFlux:
		return "take the object out of the Kustomization, with prune disabled before, so that it stays, and kustomize.toolkit.fluxcd.io/name off it"
	case KeeperUnseen:
		return "let certd read ConfigMap linkerd-config: kubectl apply -f deploy/rbac/certd.yaml"
	}
	kind := strings.ToLower(k.Kind)
	if !plain(kind) {
		kind = "KIND"
	}
	return fmt.Sprintf("kubectl -n %s delete %s %s%s", namespace, kind, name, orphans)
}

// follow keeps up with the owners of a cluster that has what it came with: they
// may renew its issuer, also during a change, and before one change its bundle;
// certd goes on from there.
func (r *Reconciler) follow(m *member, f Fleet, v View, now time.Time) error {
	o, home := v.Observed, f.home(v)
	if !f.keeps(v) || o.IssuerFacts.Problem != "" || len(f.owns(o.IssuerFacts.Chain)) == 0 {
		return nil
	}
	ad := Adoption{Anchor: home.ID, Issuer: v.Record.AdoptedIssuer, Bundle: v.Record.AdoptedBundle, At: v.Record.AdoptedAt}
	under, err := pki.NewBundle(home.Certificate)
	what, by := "", o.Issuer.Writers
	switch {
	case err != nil:
		return fmt.Errorf("trust anchor %s: %w", home.ID, err)
	case f.renewed(v):
		what, ad.Issuer = "issuer", pki.EncodeCertificates(f.owns(o.IssuerFacts.Chain)...)
	case f.Change == nil && !bytes.Equal(o.BundleText, ad.Bundle):
		if under, err = pki.ReadBundle(o.BundleText); err != nil || !under.Covers(home.Certificate) {
			return nil //nolint:nilerr // it is no bundle to go on from, and is mended
		}
		what, ad.Bundle, by = "trust bundle", o.BundleText, o.Bundle.Writers
	default:
		return nil
	}
	if o.IssuerFacts.Verify(under, now) != nil {
		return nil // it is nothing to go on from; the decision says so
	}
	who := "somebody"
	if len(by) > 0 {
		who = by[0].Name
	}
	a := Adopted{Anchor: *home, Known: true, Issuer: f.owns(o.IssuerFacts.Chain)[0], since: now}
	return r.recordAdoption(m, a, ad, "certd", "the "+what+" was replaced by "+who)
}

// owns are the certificates of an issuer file that certd has not signed.
func (f Fleet) owns(chain []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(chain), func(c *x509.Certificate) bool {
		by := f.anchorOf(c)
		return by != nil && !by.keyless()
	})
}

// renewed says whether owners have put another issuer in the place of the one that
// the cluster came with, of the same key or of another.
func (f Fleet) renewed(v View) bool {
	came, _ := pki.ReadCertificates(v.Record.AdoptedIssuer)
	return !slices.EqualFunc(came, f.owns(v.Observed.IssuerFacts.Chain), (*x509.Certificate).Equal)
}

// unfitToMove says why a cluster that was taken over cannot be brought to another
// anchor as it is.
func unfitToMove(f Fleet, v View, now time.Time) string {
	o, home := v.Observed, f.home(v)
	for _, obj := range []ObjectState{o.Bundle, o.Issuer} {
		if k := obj.Keeper; k != nil {
			return fmt.Sprintf("%s would undo it; first %s", k, k.release(v.Policy.Namespace))
		}
	}
	chain := o.IssuerFacts.Chain
	if len(chain) == 0 {
		return "it has no issuer"
	}
	leaf, skew := observedLimits(o)
	end := chain[0].NotAfter
	if a := home.Certificate.NotAfter; a.Before(end) {
		end = a
	}
	if need, left := 6*v.drain()+v.Policy.Floor(leaf, skew), end.Sub(now); left < need {
		return fmt.Sprintf("its issuer ends in %s and cannot be renewed meanwhile, and a change takes up to 6 × %s and must end %s before that: give it an issuer that lives longer first",
			short(left), FormatDuration(v.drain()), FormatDuration(v.Policy.Floor(leaf, skew)))
	}
	if err := tryBridge(o.IssuerFacts, home.Certificate, now); err != nil {
		return "its issuer cannot be bridged to another trust anchor: " + err.Error()
	}
	if lacking := v.Proxies.lacking(home); lacking > 0 {
		return fmt.Sprintf("%d of %d meshed pods do not trust %s, which its issuer is under, and have to be restarted first", lacking, v.Proxies.Total(), home.ID)
	}
	return ""
}

// MovesTo says whether the next change brings clusters that were taken over to
// the fleet's own anchor, and which that is; without a certificate it is yet to
// be made.
func (r *Reconciler) MovesTo() (a Anchor, adopts bool) {
	f := r.fleet()
	if active := f.Active(); active != nil {
		a = *active
	}
	return a, r.anyStays(f)
}

// anyStays says whether there are clusters that came with an anchor and still have
// it.
func (r *Reconciler) anyStays(f Fleet) bool {
	for _, v := range r.views() {
		if f.keeps(v) {
			return true
		}
	}
	return false
}

// retired are the anchors that nothing is under any more when a change ends.
func (f Fleet) retired(views map[string]View, now time.Time) (gone []Anchor) {
	c := f.Change
	if !c.adopts() {
		a := *f.anchor(c.From)
		a.RetiredAt, a.Compromised = now, c.Compromised
		return []Anchor{a}
	}
	if c.Back { // the fleet's own anchor is there for the next try
		return nil
	}
	for name, v := range views {
		home := f.home(v)
		if !f.keeps(v) || f.without(name) || f.stillHome(home, views) || slices.ContainsFunc(gone, func(a Anchor) bool { return a.ID == home.ID }) {
			continue
		}
		a := *home
		a.RetiredAt = now
		gone = append(gone, a)
	}
	slices.SortFunc(gone, func(a, b Anchor) int { return strings.Compare(a.ID, b.ID) })
	return gone
}

// without says whether the change that is under way takes no account of a cluster: a person went
// on without it, or took it out of the configuration.
func (f Fleet) without(cluster string) bool {
	return f.Change.excepts(cluster) || !slices.ContainsFunc(f.Policy.Clusters, func(p Policy) bool { return p.Cluster == cluster })
}

// stillHome says whether a cluster that the change goes on without has it: meshes that are linked
// often came with one anchor.
func (f Fleet) stillHome(home *Anchor, views map[string]View) bool {
	for name, v := range views {
		if f.without(name) && f.stays(v) && f.home(v).ID == home.ID {
			return true
		}
	}
	return false
}

// left says what is to be remembered of clusters when a change ends: what those have
// that it went on without, and of those that were brought along nothing any more.
func (f Fleet) left(views map[string]View, progress map[string]Progress, now time.Time) map[string]Adoption {
	c, all := f.Change, map[string]Adoption{}
	for name, v := range views {
		pr, ok := progress[name]
		there := ok && pr.Change.sameStage(*c) && now.Sub(pr.At) <= evidenceAge
		switch from := f.anchor(c.From); {
		case f.leftBehind(v) && c.adopts() && !c.Back && there:
			all[name] = Adoption{}
		case c.adopts() && !c.Back && f.stays(v) && !f.without(name) && f.stillHome(f.home(v), views):
			all[name] = *v.Record.broughtHome()
		case c.adopts() || f.stays(v) || there || from == nil || v.neverOurs(f.Policy.Fleet):
		default:
			old, err := f.with(v, from)
			if err == nil {
				all[name] = Adoption{Anchor: from.ID, Bundle: old.PEM(), At: now}
			}
		}
	}
	return all
}

// neverOurs says whether all that was ever seen of a cluster is a mesh of another origin, which
// nobody has had taken over.
func (v View) neverOurs(fleet string) bool {
	o := v.Observed
	return !v.Record.Enrolled && o != nil && (o.Bundle.Exists || o.Issuer.Exists) && o.Bundle.Marks.Fleet != fleet && o.Issuer.Marks.Fleet != fleet
}

// welcome brings a cluster along that the others were changed without, now that it
// is back.
func (r *Reconciler) welcome(m *member) {
	f, v, now := r.fleet(), m.view(), r.wall()
	active := f.Active()
	if f.Change != nil || active == nil || v.Err != nil || v.Observed == nil || !f.leftBehind(v) || !r.renewing.TryLock() {
		return
	}
	defer r.renewing.Unlock()
	if f = r.fleet(); f.Change != nil {
		return
	}
	c := Change{To: active.ID, Stage: StageBridge, Actor: "certd", Reason: m.name + " is back", StartedAt: now, StageAt: now}
	for name, o := range r.views() {
		if name != m.name && f.stays(o) { // they have a turn of their own
			c.Without = append(c.Without, name)
		}
	}
	slices.Sort(c.Without)
	c.Behind = c.Without
	if err := r.putChange(Intent{Step: StepTrustChange, Actor: c.Actor, Reason: c.Reason, Anchor: c.To}, Outcome{Detail: "stage " + string(c.Stage), Change: &c}); err != nil {
		r.log.Error("journal not written", "err", err)
		r.Problem("JournalFailed", err)
	}
}

// errOtherKey: the key in the Secret is not the one that is to stay.
var errOtherKey = errors.New("the key in the Secret is not the one that the cluster came with")
