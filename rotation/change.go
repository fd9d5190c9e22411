package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Stage is where a change of the trust anchor stands. The fleet goes from one
// to the next when every cluster has what the stage is for. The words are part
// of the surface (`status -o json`).
type Stage string

// The stages, in order. The key and certificate of the new anchor are made
// before the first.
const (
	StageBridge  Stage = "bridge"  // issuers get a second certificate, so that who trusts either anchor accepts their leaves
	StageSpread  Stage = "spread"  // bundles turn from the old anchor to the new, linkerd-identity with them
	StageRestart Stage = "restart" // pods that hold anything but the new anchor are created anew
	StageFinish  Stage = "finish"  // issuers are under the new anchor alone
	StageRetire  Stage = "retire"  // it is proved once more that nothing needs the old anchor
)

// stages are all there are; the first of them is create, which takes no time.
var stages = []Stage{"create", StageBridge, StageSpread, StageRestart, StageFinish, StageRetire}

func (s Stage) number() int { return slices.Index(stages, s) + 1 }

// Change is a change of the trust anchor. Where each cluster stands is read
// from what is in it; this is what the fleet has agreed on.
type Change struct {
	From, To string // generation ids
	Stage    Stage  // "": it has ended
	Back     bool   // it was turned around: To was From before
	Held     bool   // by a person; nothing moves on
	// Compromised: From is not to be trusted any more, at whatever cost. Nobody
	// waits for leaves to end, and no bundle holds both.
	Compromised bool
	// Alone: From signs nothing any more, since it has ended or its key is gone.
	Alone bool
	// Manual: a stage that has come to its end waits for a person's word, which is
	// Proceed, before the next begins.
	Manual, Proceed bool
	// Without are clusters that nobody waits for while they are out of reach, but
	// before the old anchor is retired; Behind those that not even that waits for.
	Without []string
	Behind  []string
	// SeenTo are those whom the meshes talk to and certd does not look after, and of whom
	// a person has said that they trust both anchors. Others hold the change.
	SeenTo []string `json:",omitempty"`
	Actor  string
	// TurnedBy is who turned it around last; "": nobody has.
	TurnedBy string `json:",omitempty"`
	// Approval is there once a second person has approved that it ends.
	Approval  *Approval `json:",omitempty"`
	Reason    string
	StartedAt time.Time
	StageAt   time.Time // when the stage began
	First     string    // in StageFinish: the cluster that goes ahead
	CanaryAt  time.Time // when it was seen to be through; zero: it was not
	// ProvedAt is when every cluster was seen to have what the stage is for,
	// and the wait for the last leaf began that was made before; zero: not yet.
	ProvedAt time.Time
}

// Again is the change from its first stage on, with clusters wherever they are: issuers are
// to be signed under both anchors everywhere before anything else.
func (c Change) Again(now time.Time) Change {
	c.Stage, c.StageAt, c.CanaryAt, c.ProvedAt, c.Proceed, c.Approval = StageBridge, now, time.Time{}, time.Time{}, false, nil
	return c
}

// leading is the generation whose certificate comes first in the issuers.
func (c Change) leading() string {
	if c.Compromised {
		return c.To
	}
	if c.Stage == StageBridge || c.Stage == StageSpread {
		return c.From
	}
	return c.To
}

// excepts says whether nobody waits for a cluster that is out of reach.
func (c Change) excepts(cluster string) bool { return slices.Contains(c.Without, cluster) }

// goal is what a cluster is to have now.
type goal struct {
	at      position // where it stands; in a change alone
	bundle  pki.Bundle
	signers []*Anchor // of the certificates in the issuer file, in their order
	beside  pki.Bundle
	restart Action // rollout that is needed before it goes on; Step "": none
	// tolerated are sets of anchors beside bundle that pods may hold for now.
	tolerated []pki.Bundle
	keepsKey  bool   // the issuer's key stays the one that is there
	held      bool   // nothing that takes a restart is begun
	closed    string // why, where it is for the time of day; "": it is not
	why       string
	waits     string // what it takes to come to the end of the stage; "": it is there
	again     time.Time
}

// wait keeps the first reason.
func (g *goal) wait(format string, args ...any) {
	if g.waits == "" {
		g.waits = fmt.Sprintf(format, args...)
	}
}

func (g *goal) look(at time.Time) {
	if g.again.IsZero() || at.Before(g.again) {
		g.again = at
	}
}

// with makes a bundle of some generations, the partners' anchors, and those that
// came with the cluster and that nobody knows.
func (f Fleet) with(v View, anchors ...*Anchor) (pki.Bundle, error) {
	certs := f.kept(v)
	for _, a := range anchors {
		certs = append(certs, a.Certificate)
	}
	for _, a := range v.Policy.Foreign {
		certs = append(certs, a.Certificate)
	}
	return pki.NewBundle(certs...)
}

// goal works out what a cluster is to have. Without a change under way that is
// every anchor in use, and an issuer under the active one. During one it
// depends on the stage and on what is there, so that a cluster that comes late
// takes each step that the others took.
func (f Fleet) goal(v View, now time.Time) (g goal, err error) {
	from, to, takesPart, err := f.sides(v)
	if err != nil {
		return g, err
	}
	w := f.position(v, from, to)
	g.at = w
	switch {
	case !takesPart && f.stays(v):
		g.stay(v, f.home(v), now)
		return g, nil
	case !takesPart:
		if g.bundle, err = f.BundleOf(v); err == nil && f.Active() != nil {
			g.signers = []*Anchor{f.Active()}
		}
		g.bundle = v.asWritten(g.bundle)
		g.beside = g.bundle
		return g, err
	}
	g.keepsKey = f.stays(v) && f.home(v).keyless()
	old, err1 := f.with(v, from)
	both, err2 := f.with(v, from, to)
	next, err3 := f.with(v, to)
	if g.keepsKey {
		old, both, next, err = f.turning(v, from, old, next)
	}
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return g, err
	}
	c := f.Change
	g.held = c.Held
	if !c.Compromised {
		why, until := v.Policy.closed(now)
		g.closed, g.held = why, g.held || why != ""
		if !until.IsZero() {
			g.look(until)
		}
	}
	pause := f.paused(v.Policy.Cluster, now)
	g.held = g.held || pause != nil
	switch {
	case c.Compromised:
		g.keepsKey = false
		g.away(f, v, w, now, from, to, old, both, next)
	case c.Stage == StageBridge:
		alone := g.older(*c, v, w, from, to)
		g.bridge(w, from, to, old, both, next)
		if alone {
			g.signers = w.order
		}
		g.bridged(v, w, now)
	default:
		alone := g.older(*c, v, w, from, to)
		if why := v.Observed.unpublished(); why != "" && (w.hasFrom || !w.hasTo) { // it stays as the bridge has left it
			g.held = true
			g.wait("%s", why)
		}
		g.spread(f, v, w, now, from, to, old, both, next)
		if alone {
			g.signers = w.order
		}
	}
	// Whoever is made while it is under way would be refused as those are that were there
	// before. On the way back all of them are: they know that anchor.
	if g.waits == "" && !c.Compromised && !c.Back && (c.Stage == StageBridge || c.Stage == StageSpread || c.Stage == StageRestart) {
		var came []string
		for _, o := range f.newcomers(v) {
			came = append(came, o.text)
		}
		if len(came) > 0 {
			g.wait("%s: made since the change began, and not looked after by certd; see to it that they trust both anchors, then certd trust advance --outsiders", strings.Join(came, "; "))
		}
	}
	if (c.Stage == StageFinish || c.Stage == StageRetire) && g.waits == "" && !c.Compromised {
		g.finish(f, v, w, now, to)
	}
	if pause != nil && g.waits != "" {
		g.waits = pause.words() + ": " + pause.resume() + "; then: " + g.waits
	}
	g.bundle = v.asWritten(g.bundle)
	g.beside = both
	if len(g.signers) == 1 || c.Compromised {
		g.beside = g.bundle
	}
	return g, nil
}

// position is where a cluster stands, by what is in it.
type position struct {
	hasFrom, hasTo bool      // in its bundle
	order          []*Anchor // of the certificates in the issuer file
	first          *Anchor   // of the first of them or, where it is gone, of the last that was delivered
	since          time.Time // when the first issuer file with both, or with what is there now, was delivered
	orderSince     time.Time // the same of this order
	after          bool      // another issuer is known to have been there before since
	identity       bool      // linkerd-identity runs there
}

func (f Fleet) position(v View, from, to *Anchor) (w position) {
	o := v.Observed
	if have, err := o.readBundle(o.BundleText); err == nil && o.Bundle.Exists && from != nil {
		w.hasFrom, w.hasTo = have.Covers(from.Certificate), have.Covers(to.Certificate)
	}
	w.order = f.signersOf(o.IssuerFacts.Chain)
	w.identity = o.runsIdentity()
	w.since, w.orderSince = o.IssuerWrittenAt, o.IssuerWrittenAt
	if len(w.order) == 0 {
		if i := slices.IndexFunc(v.Certificates, func(r CertificateRecord) bool { return !r.DeliveredAt.IsZero() }); i >= 0 {
			w.first = f.anchor(v.Certificates[i].Anchor)
		}
		return w
	}
	w.first = w.order[0]
	first, second := w.order[0].ID, ""
	if len(w.order) > 1 {
		second = w.order[1].ID
	}
	sameOrder, there := true, o.serial()
	for _, r := range v.Certificates {
		if r.DeliveredAt.IsZero() {
			continue // it was signed, and is nowhere
		}
		// One that the journal has not, or has from earlier, was there in between: another
		// certd's, or one that somebody has put back.
		if w.after = r.DeliveredAt.Before(v.Record.TargetSince) || r.Serial != there; w.after {
			break
		}
		same := r.Anchor == first && r.Second == second
		turned := r.Anchor == second && r.Second == first
		if w.after = !same && !turned; w.after {
			break
		}
		w.since, there = r.DeliveredAt, r.Over
		if sameOrder = sameOrder && same; sameOrder {
			w.orderSince = r.DeliveredAt
		}
	}
	return w
}

// signersOf are the anchors that the certificates of an issuer file are under, in
// their order.
func (f Fleet) signersOf(chain []*x509.Certificate) (order []*Anchor) {
	for _, c := range chain {
		if a := f.anchorOf(c); a != nil && !slices.Contains(order, a) {
			order = append(order, a)
		}
	}
	return order
}

func (w position) dual() bool { return len(w.order) > 1 }

// bridge has issuers verify under both anchors. The bundle stays as it is, so
// that nothing has to be restarted for it.
func (g *goal) bridge(w position, from, to *Anchor, old, both, next pki.Bundle) {
	g.bundle, g.signers = old, []*Anchor{from, to}
	switch {
	// A bundle that is gone may have been either: who turns a change around finds clusters
	// on the far side. With both, nobody refuses a leaf that is still in use.
	case w.hasFrom == w.hasTo:
		g.bundle = both
		if w.first == to {
			g.signers = []*Anchor{to, from}
		}
	case w.hasTo:
		g.bundle, g.signers = next, []*Anchor{to, from}
	}
	g.tolerated = []pki.Bundle{old, both, next}
	g.why = "its leaves are to verify under " + to.ID + ", too"
}

// older holds a cluster before its issuer gets a second certificate that its pods may not
// accept, or as long as these were not counted since the change began: alone says that it
// is to stay without. One that has it by then is held at the bridge. On the way back
// nothing is held.
func (g *goal) older(c Change, v View, w position, from, to *Anchor) (alone bool) {
	p := v.Proxies
	why := p.older()
	one := len(w.order) == 1
	switch before := one && w.order[0] == from && !c.Back; {
	case before && why != "":
		g.wait("%s", why)
		return true
	case before && v.Observed.Version != "" && (p.At.Before(c.StartedAt) || p.Err != nil):
		g.wait("the meshed pods are to be counted: what their proxies accept depends on their version")
		return true
	case why == "":
	case one && c.Back && w.order[0] == to && p.lacking(to) == 0: // it never had another
		return true
	case !one && !c.Back && c.Stage == StageBridge:
		g.wait("%s", why)
	}
	return false
}

// away turns a cluster from an anchor that others may have the key of. Whoever
// trusts it can be deceived, so bundles turn at once, and workloads as soon as the
// pods that come back get a certificate. Until it is restarted, a pod refuses those
// that were, and they it, unless its issuer could be signed under both.
func (g *goal) away(f Fleet, v View, w position, now time.Time, from, to *Anchor, old, both, next pki.Bundle) {
	// Pods that are restarted before would come back with what they had.
	g.tolerated = []pki.Bundle{old, both, next}
	g.bundle, g.signers = next, []*Anchor{to, from}
	if f.Change.Stage != StageRestart || from.keyless() || f.Change.Alone {
		g.signers = []*Anchor{to}
	}
	g.why = fmt.Sprintf("%s counts as compromised: trust turns to %s at once", from.ID, to.ID)
	if w.hasFrom || !w.hasTo || len(w.order) == 0 || w.order[0] != to {
		g.wait("its bundle and its issuer are to turn to %s", to.ID)
		return
	}
	if g.outdated(v, w, now) {
		return
	}
	if !g.loaded(v, w.orderSince, now) {
		g.wait("each replica of linkerd-identity is to use the issuer under %s", to.ID)
		return
	}
	g.tolerated = nil
	g.restarted(f, v, now, next)
}

// shown is when everybody in the cluster sees the bundle that is there, by the cluster's
// clock. That it was written so long ago that nobody knows is long enough.
func shown(v View) time.Time {
	at := v.Observed.BundleWrittenAt
	if others := v.Observed.Bundle.Writers; at.IsZero() && len(others) > 0 { // who wrote it as certd would have
		at = others[0].At
	}
	if at.IsZero() {
		return at
	}
	return at.Add(projectionOf(v.Policy))
}

// spread turns a cluster from one anchor to the other. The order of the cases
// is the safety argument (I2): linkerd-identity loads the bundle when it
// starts, and refuses an issuer whose first certificate is not under it.
func (g *goal) spread(f Fleet, v View, w position, now time.Time, from, to *Anchor, old, both, next pki.Bundle) {
	c := f.Change
	g.bundle, g.signers, g.tolerated = both, []*Anchor{from, to}, []pki.Bundle{old, both, next}
	g.why = fmt.Sprintf("trust turns from %s to %s", from.ID, to.ID)
	first := w.first == to
	if g.closed != "" && (w.hasFrom || !w.hasTo) {
		g.wait("%s", g.closed)
	}
	switch {
	case !w.hasFrom && !w.hasTo:
		if first {
			g.signers = []*Anchor{to, from}
		}
		g.wait("it has no bundle that is known")
	case !w.hasTo:
		g.wait("its bundle is to hold both anchors")
		switch {
		case first:
			g.signers = []*Anchor{to, from} // the bundle was changed back by somebody: it is mended first
		case !w.dual():
			g.bundle = old
			g.wait("its issuer is to have two certificates")
		case g.held:
			g.bundle = old
		}
	case w.hasFrom && !first:
		g.wait("linkerd-identity is to start anew with both anchors")
		if old := g.outdated(v, w, now); old || g.held {
			return
		}
		g.signers = []*Anchor{to, from}
	case w.hasFrom:
		g.signers = []*Anchor{to, from}
		g.wait("each replica of linkerd-identity is to use the issuer under %s", to.ID)
		if g.held || len(w.order) == 0 || !g.proved(*c, v, w, now) {
			return
		}
		g.bundle = next
	default:
		g.bundle, g.signers = next, []*Anchor{to, from}
		if len(w.order) == 1 && w.order[0] == to && (c.Stage == StageFinish || c.Stage == StageRetire) {
			g.signers = []*Anchor{to}
		}
		g.outdated(v, w, now)
		if c.Stage != StageSpread {
			g.tolerated = nil
			g.restarted(f, v, now, next)
		}
	}
}

// outdated says whether a replica of linkerd-identity may have started with
// another bundle than the one that is there, and has it restarted.
func (g *goal) outdated(v View, w position, now time.Time) bool {
	if !w.identity {
		return false
	}
	from := shown(v)
	if at := from.Add(v.Observed.behind()); now.Before(at) {
		g.wait("the bundle is to reach every node, by %s", clock(at))
		g.look(at)
		return true
	}
	leaving, others := v.Observed.Identity.parted()
	for _, r := range others {
		if r.Started.Before(from) {
			g.restart = Action{Step: StepIdentityRestart, Object: identityOwner().String(), Why: fmt.Sprintf("%s started before the bundle with the new anchor had reached it", r.Pod)}
			g.wait("%s is to be replaced by one that knows the new bundle", r.Pod)
			return true
		}
	}
	for _, r := range leaving {
		if r.Started.Before(from) {
			g.wait("%s", v.untilGone(r, now))
			return true
		}
	}
	if len(others) == 0 {
		g.wait("no replica of linkerd-identity runs")
		return true
	}
	return false
}

// parted are the replicas that are being deleted, and the others.
func (id *Identity) parted() (leaving, others []Replica) {
	for _, r := range id.Replicas {
		if r.leaving() {
			leaving = append(leaving, r)
		} else {
			others = append(others, r)
		}
	}
	return leaving, others
}

// untilGone says what is waited for of a replica that is being deleted.
func (v View) untilGone(r Replica, now time.Time) string {
	text := r.Pod + " is being deleted, and may sign with what it has until it is gone"
	if now.Sub(r.GoneBy) < time.Minute {
		return text
	}
	text += ", which was to be by " + clock(r.GoneBy)
	if plain(r.Pod) {
		text += fmt.Sprintf("; if its node is lost for good: kubectl -n %s delete pod %s --force", v.Policy.Namespace, r.Pod)
	}
	return text
}

// proved says whether every replica of linkerd-identity uses the issuer with
// the first certificate that is there, and no leaf is left of one with fewer. The
// bridge was not left before each used two, but where nobody waited for the cluster, or
// it was not there: a replica that is slow may have gone on with one until it was
// replaced by one that knows both anchors, after which the order turned.
func (g *goal) proved(c Change, v View, w position, now time.Time) bool {
	two := w.since.Add(projectionOf(v.Policy))
	if c.excepts(v.Policy.Cluster) || w.since.After(c.StageAt) {
		two = w.orderSince
	}
	if at := two.Add(v.drain()); now.Before(at) {
		g.wait("leaves with one certificate live until %s", clock(at))
		g.look(at)
		return false
	}
	return g.loaded(v, w.orderSince, now)
}

// loaded says whether every replica has what was delivered at a time: by its
// metric, or because it started when there was nothing else to load.
func (g *goal) loaded(v View, delivered, now time.Time) bool {
	o := v.Observed
	if !o.runsIdentity() {
		return true
	}
	everywhere := delivered.Add(projectionOf(v.Policy))
	if now.Before(everywhere) {
		g.wait("the issuer is to reach every node, by %s", clock(everywhere))
		g.look(everywhere)
		return false
	}
	leaving, others := o.Identity.parted()
	if len(others) == 0 {
		g.wait("no replica of linkerd-identity runs")
		return false
	}
	for _, r := range slices.Concat(others, leaving) { // whom a restart helps, first
		switch {
		case !r.Started.Before(everywhere):
		case r.leaving():
			if g.keepsKey && v.sameEndBefore() || now.Sub(r.At) > evidenceAge || r.NotAfter.IsZero() || !v.deliveredSince(delivered, r.NotAfter) {
				g.wait("%s", v.untilGone(r, now))
				return false
			}
		case g.keepsKey && v.sameEndBefore(): // what it shows, it showed before
			g.restart = Action{Step: StepIdentityRestart, Object: identityOwner().String(), Why: fmt.Sprintf("whether %s uses the issuer with other certificates cannot be seen: the first of them is the one from before", r.Pod)}
			g.wait("%s is to start anew with the issuer", r.Pod)
			return false
		case r.NotAfter.IsZero() && now.After(everywhere.Add(loadGrace)):
			g.restart = Action{Step: StepIdentityRestart, Object: identityOwner().String(), Why: fmt.Sprintf("what issuer %s uses cannot be seen: %s", r.Pod, r.Evidence)}
			g.wait("what issuer %s uses cannot be seen: %s", r.Pod, r.Evidence)
			return false
		case now.Sub(r.At) > evidenceAge || r.NotAfter.IsZero() || !v.deliveredSince(delivered, r.NotAfter):
			g.wait("%s is to load the issuer", r.Pod)
			return false
		}
	}
	return true
}

// sameEndBefore says whether the first certificate in the issuer file came with the
// cluster: it was first in a file before, so that its end tells nothing.
func (v View) sameEndBefore() bool {
	came, _ := pki.ReadCertificates(v.Record.AdoptedIssuer)
	chain := v.Observed.IssuerFacts.Chain
	return len(came) > 0 && len(chain) > 0 && chain[0].Equal(came[0])
}

// deliveredSince says whether an issuer with that notAfter was delivered at a
// time or later.
func (v View) deliveredSince(at, notAfter time.Time) bool {
	if chain := v.Observed.IssuerFacts.Chain; len(chain) > 0 && sameEnd(chain[0].NotAfter, notAfter) {
		return true
	}
	return slices.ContainsFunc(v.Certificates, func(r CertificateRecord) bool {
		return !r.DeliveredAt.IsZero() && !r.DeliveredAt.Before(at) && sameEnd(r.NotAfter, notAfter)
	})
}

// drain is how long leaves may live on after every replica of linkerd-identity
// has turned to another issuer, by whatever it was told while they were signed.
func (v View) drain() time.Duration {
	var leaf, skew time.Duration
	if v.Observed != nil {
		leaf, skew = observedLimits(v.Observed)
	}
	for _, t := range v.Record.Terms {
		leaf, skew = max(leaf, t.Lifetime), max(skew, t.Skew)
	}
	return v.Policy.drain(leaf, skew)
}

// drain is how long leaves may live on that were signed by such terms, or those of the
// policy where these are longer: by the clocks of the replica and of whoever verifies.
func (p Policy) drain(leaf, skew time.Duration) time.Duration {
	return max(leaf, p.LeafLifetime) + 2*max(skew, p.ClockSkew) + 2*cmp.Or(p.ClockError, MaxClockSkew)
}

// restarted asks for pods that hold exactly the new anchor, Linkerd's own
// first: those certd restarts itself.
func (g *goal) restarted(f Fleet, v View, now time.Time, next pki.Bundle) {
	o, p := v.Observed, v.Proxies
	if o.Version == "" { // a folder
		return
	}
	from := shown(v).Add(o.behind())
	switch {
	case p.At.IsZero() || p.At.Before(from):
		g.wait("the meshed pods are to be counted")
	case p.Err != nil:
		g.wait("the meshed pods could not be counted: %v", p.Err)
	case p.Unread > p.earlier():
		g.wait("of %d meshed pods it could not be seen what they trust: %s", p.Unread, strings.Join(p.Odd, "; "))
	case now.Sub(p.At) > censusSoon:
		g.wait("the meshed pods are to be counted again")
	}
	stale, owners := p.stale(next)
	// Of what read the bundle before it was changed it is not known which it was.
	// It is, of whatever starts when every kubelet shows that.
	if earlier := p.earlier(); earlier > 0 && !now.Before(from) && now.Sub(o.BundleWrittenAt) > projectionOf(v.Policy)+o.behind() {
		stale, owners = stale+earlier, append(slices.Clone(owners), p.Earlier...)
	} else if earlier > 0 {
		g.wait("pods of the control plane are to be counted again")
	}
	if stale == 0 || p.Err != nil {
		return
	}
	if g.closed != "" {
		g.wait("%s; then %d of %d meshed pods are to be created anew: %s", g.closed, stale, p.Total(), namesOf(owners, 3))
		return
	}
	main := fmt.Sprintf("%d of %d meshed pods do not trust the new anchor alone: %s", stale, p.Total(), namesOf(owners, 3))
	g.wait("%s", main)
	for _, own := range owners {
		ref := ObjectRef{Kind: own.Kind, Name: own.Name}
		if own.Namespace != v.Policy.Namespace || own.Kind != "Deployment" || g.restart.Step != "" {
			continue
		}
		a := Action{Step: StepControlRestart, Object: ref.String(), owner: ref, Why: fmt.Sprintf("%d of its pods do not trust the new anchor alone", own.Pods)}
		if !v.countedSince(a.lane()) {
			g.wait("the pods of %s are to be counted again", ref)
			continue
		}
		g.restart = a
	}
	own := slices.ContainsFunc(owners, func(o ProxyOwner) bool { return o.Namespace == v.Policy.Namespace })
	if f.Policy.Trust.Restarts && (!own || f.Change.Compromised) && g.restart.Step == "" {
		g.nextWorkload(f, v, owners, next, f.Change.Compromised)
	}
	if held := v.heldBack(next); f.Policy.Trust.Restarts && g.waits == main {
		g.waits = strings.Join(append([]string{main}, held...), "; ")
	}
}

// heldBack says what stands against replacing pods one by one right now, a few of it.
func (v View) heldBack(want pki.Bundle) (all []string) {
	for object, pods := range v.Proxies.unsettled(want) {
		if pods > 0 {
			all = append(all, fmt.Sprintf("pods of %s that are being deleted, or not ready yet: %d", object, pods))
		}
	}
	for l, fl := range v.Failures {
		if l.step == StepPodEvict {
			all = append(all, fl.Err.Error())
		}
	}
	slices.Sort(all)
	return all[:min(len(all), 3)]
}

// nextWorkload picks the workload to be restarted now, Linkerd's extensions before
// the others. The first goes ahead alone; when its pods hold the new anchor, as many
// are under way as TrustPolicy.AtOnce says, so that those which do not come up again
// are few. Of those whose pods are replaced one by one, the next pod's turn comes
// when the one before it has a successor that is ready, and before another workload
// is begun. Those that could not be restarted are left to people. With atOnce none
// waits for another.
func (g *goal) nextWorkload(f Fleet, v View, owners []ProxyOwner, want pki.Bundle, atOnce bool) {
	rank := func(o ProxyOwner) int {
		if strings.HasPrefix(o.Namespace, "linkerd-") {
			return 0
		}
		return 1
	}
	owners = slices.Clone(owners)
	slices.SortFunc(owners, func(a, b ProxyOwner) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	var begun, next, failing Action
	underWay, unsettled := 0, v.Proxies.unsettled(want)
	stale := map[lane]bool{}
	for _, o := range owners {
		a, possible := o.restart(shown(v))
		l := a.lane()
		if !possible || stale[l] {
			continue
		}
		stale[l] = true
		switch done := v.restartedSince(l, a.since); {
		case done && a.Step == StepPodEvict && unsettled[l.object] == 0 && v.countedSince(l) && v.Failures[l] == nil: // the next of its pods
			if begun.Step == "" {
				begun = a
			}
		case a.Step == StepPodEvict && unsettled[l.object] > 0 && !atOnce: // also where it is not remembered who began it
			underWay++
		case v.Failures[l] != nil: // others come first
			if failing.Step == "" {
				failing = a
			}
		case done: // its pods are being replaced
			underWay++
		case next.Step == "":
			next = a
		}
	}
	most := 1
	for l := range v.Repairs {
		if l.step != StepWorkloadRestart && l.step != StepPodEvict || stale[l] || !v.restartedSince(l, shown(v)) || !v.countedSince(l) {
			continue
		}
		if l.step == StepPodEvict && unsettled[l.object] > 0 { // its last pod has no successor yet
			underWay++
			continue
		}
		most = max(1, f.Policy.Trust.AtOnce)
	}
	for _, a := range []Action{begun, next, failing} {
		if a.Step != "" && (atOnce || underWay < most) {
			g.restart = a
			return
		}
	}
}

// restart is what has an owner's pods created anew; possible says whether certd can.
// A restart counts that was made at since or later.
func (o ProxyOwner) restart(since time.Time) (a Action, possible bool) {
	a = Action{Step: StepWorkloadRestart, Object: o.object(), owner: ObjectRef{Kind: o.Kind, Name: o.Name}, namespace: o.Namespace, since: since,
		Why: fmt.Sprintf("%d of its pods do not trust the new anchor alone", o.Pods)}
	if o.Evicted() {
		a.Step = StepPodEvict
		return a, plain(o.Namespace) && plain(o.Name)
	}
	return a, RestartCommand(o) != ""
}

// restartsUnderWay says whether pods may be replaced now because certd asked for it.
func (v View) restartsUnderWay(now time.Time) bool {
	for l := range v.Repairs {
		if (l.step == StepWorkloadRestart || l.step == StepPodEvict || l.step == StepControlRestart) && v.restartedSince(l, now.Add(-rolloutTime)) {
			return true
		}
	}
	return false
}

// restartedSince says whether certd has restarted something, or found it restarted,
// at a time or later.
func (v View) restartedSince(l lane, since time.Time) bool {
	done := v.Repairs[l]
	return len(done) > 0 && !done[len(done)-1].Before(since)
}

// countedSince says whether the pods were counted after a restart was last made.
func (v View) countedSince(l lane) bool {
	done := v.Repairs[l]
	return len(done) == 0 || v.Proxies.At.After(done[len(done)-1])
}

// finish has the issuer be under the new anchor alone. The first cluster goes
// ahead; the others follow when that was good for as long as leaves live.
func (g *goal) finish(f Fleet, v View, w position, now time.Time, to *Anchor) {
	c := f.Change
	if c.Stage == StageFinish && !f.canary(v.Policy.Cluster) {
		switch at := c.CanaryAt.Add(v.drain()); {
		case c.CanaryAt.IsZero():
			g.wait("the first cluster goes ahead")
			return
		case now.Before(at):
			g.wait("the first cluster goes ahead until %s", clock(at))
			g.look(at)
			return
		}
	}
	if c.Held && w.dual() {
		return
	}
	g.signers, g.why = []*Anchor{to}, fmt.Sprintf("every pod trusts %s: the issuer needs no other anchor", to.ID)
	if w.dual() || len(w.order) == 0 || w.order[0] != to {
		g.wait("its issuer is to be under %s alone", to.ID)
		return
	}
	g.loaded(v, w.orderSince, now)
}

// canary says whether a cluster goes ahead of the others.
func (f Fleet) canary(cluster string) bool { return f.Change.First == cluster }

// first is the first cluster of the configuration that the change is about and that
// somebody waits for: it goes ahead; "" if there is none.
func (f Fleet) first(takesPart map[string]bool) string {
	for _, p := range f.Policy.Clusters {
		if takesPart[p.Cluster] && !f.Change.excepts(p.Cluster) {
			return p.Cluster
		}
	}
	return ""
}

// shortest is the signer that ends first, nil if there is none.
func (g goal) shortest() *Anchor {
	var first *Anchor
	for _, a := range g.signers {
		if first == nil || a.Certificate.NotAfter.Before(first.Certificate.NotAfter) {
			first = a
		}
	}
	return first
}

// signed says whether the issuer file is signed by these, in this order.
func (g goal) signed() bool { return slices.Equal(g.signers, g.at.order) }

// bridged judges what a cluster still needs in that stage: that its issuer is as
// it should be, and in use by every replica.
func (g *goal) bridged(v View, w position, now time.Time) {
	if !g.signed() {
		g.wait("its issuer is to have two certificates")
		return
	}
	if g.loaded(v, w.since, now) {
		return
	}
	g.wait("each replica of linkerd-identity is to use it")
}

// Progress is how far a cluster has come in the stage of a change.
type Progress struct {
	Change Change // as it was when this was found
	At     time.Time
	Waits  string // what keeps the cluster from the end of the stage; "": it is there
	Stale  int    // pods that do not trust the new anchor, where that is asked
	Alone  bool   // its issuer is under the new anchor alone
	// Late is since when its issuer has two certificates, where it had another before that and
	// the stage had begun: leaves of that may live. Zero: it is not late.
	Late time.Time
}

// lacking are the pods that an issuer under one anchor alone would cut off.
func (p Proxies) lacking(a *Anchor) (pods int) {
	for _, s := range p.Sets {
		if !s.Anchors.Covers(a.Certificate) {
			pods += s.Pods
		}
	}
	return pods
}

// nextStage says what becomes of the change by what is known of each cluster: it
// stays as it is, and waits for something, or (why is not "") it becomes next.
// longest is the longest drain of all clusters; takesPart says which the change is
// about.
func (f Fleet) nextStage(progress map[string]Progress, takesPart map[string]bool, longest time.Duration, now time.Time) (next Change, why string, waiting []string) {
	c := *f.Change
	next = c
	lacking, late, lateAt := []string{}, []string{}, time.Time{}
	canaryThere, canaryGone := false, false
	for _, p := range f.Policy.Clusters {
		name := p.Cluster
		pr, ok := progress[name]
		current := ok && pr.Change.sameStage(c) && now.Sub(pr.At) <= evidenceAge
		if current && pr.Stale > 0 && (c.Stage == StageFinish || c.Stage == StageRetire) {
			lacking = append(lacking, fmt.Sprintf("%s: %d", name, pr.Stale))
		}
		if current && f.canary(name) {
			canaryThere, canaryGone = pr.Waits == "", !pr.Alone
		}
		if current && !pr.Late.IsZero() && takesPart[name] && !c.excepts(name) {
			late, lateAt = append(late, fmt.Sprintf("%s: since %s", name, clock(pr.Late))), latest(lateAt, pr.Late)
		}
		switch {
		case !takesPart[name]: // it has what the change leads to, or waits for its own
		case c.excepts(name) && !current && (c.Stage != StageRetire || slices.Contains(c.Behind, name)) && !(c.Compromised && c.Stage == StageFinish): // one that is back is brought along
		case !current:
			waiting = append(waiting, name+": has not been seen, or is not managed, since the stage began")
		case pr.Waits != "":
			waiting = append(waiting, name+": "+pr.Waits)
		}
	}
	to := func(s Stage, reason string) (Change, string, []string) {
		approved := ""
		if a := c.Approval; a != nil && s == "" {
			approved = "; " + a.Actor + " has approved that it is retired"
		}
		next.Proceed, next.First, next.Approval = false, "", nil
		if s == StageFinish {
			next.First = f.first(takesPart)
		}
		next.Stage, next.StageAt, next.CanaryAt, next.ProvedAt = s, now, time.Time{}, time.Time{}
		return next, reason + approved, waiting
	}
	if len(lacking) > 0 && !c.Compromised { // whatever anybody holds back: they are cut off
		return to(StageRestart, "pods do not trust "+c.to()+" ("+strings.Join(lacking, ", ")+"): issuers are signed under both anchors again until they are created anew")
	}
	if c.Stage == StageSpread && len(late) > 0 && !c.Compromised { // no bundle is to lose the old anchor before they have ended
		return to(StageBridge, "leaves live that verify under "+c.from()+" alone, since the issuer had not two certificates before ("+strings.Join(late, ", ")+")")
	}
	if c.Stage == StageBridge && !c.ProvedAt.IsZero() && lateAt.After(c.ProvedAt) {
		next.ProvedAt = time.Time{}
		return next, "leaves live again that verify under " + c.from() + " alone (" + strings.Join(late, ", ") + ")", waiting
	}
	if c.Held {
		return c, "", append([]string{"certd trust resume"}, waiting...)
	}
	if first := f.first(takesPart); c.Stage == StageFinish && first != c.First && (c.First == "" || c.excepts(c.First)) {
		next.First = first
		return next, "the cluster that goes ahead is " + cmp.Or(first, "none"), waiting
	}
	if c.Stage == StageFinish && canaryGone && !c.CanaryAt.IsZero() && !c.Compromised {
		next.CanaryAt = time.Time{}
		return next, "the first cluster has not an issuer under " + c.to() + " alone any more", waiting
	}
	if c.Stage == StageFinish && canaryThere && c.CanaryAt.IsZero() && !c.Compromised {
		next.CanaryAt = now
		return next, "the first cluster has an issuer under " + c.to() + " alone", waiting
	}
	if len(waiting) > 0 {
		return c, "", waiting
	}
	all := "every cluster"
	if len(c.Without) > 0 {
		all += " but " + strings.Join(c.Without, ", ")
	}
	var words []string // of people, without which the stage does not end
	if c.Manual && !c.Proceed {
		words = append(words, "a person's word, since it was begun with --manual: certd trust advance")
	}
	if c.Stage == StageRetire && f.unapproved() {
		words = append(words, c.approvalWanted())
	}
	if end := c.ProvedAt.Add(longest); len(words) > 0 && (c.Stage == StageSpread || c.Stage == StageRestart || !c.ProvedAt.IsZero() && !now.Before(end)) {
		return c, "", words
	}
	switch c.Stage {
	case StageSpread:
		return to(StageRestart, all+" publishes "+c.to()+", and linkerd-identity goes by it")
	case StageRestart:
		return to(StageFinish, "every meshed pod trusts "+c.to()+" alone")
	case StageFinish:
		if c.Compromised { // that nobody trusts it any more is all that counts
			return to("", c.from()+" is trusted and used nowhere")
		}
	}
	if c.ProvedAt.IsZero() {
		next.ProvedAt = now
		return next, fmt.Sprintf("%s is there; the last leaf from before ends by %s", all, clock(now.Add(longest))), waiting
	}
	if end := c.ProvedAt.Add(longest); now.Before(end) {
		return c, "", []string{"leaves from before end by " + clock(end)}
	}
	switch c.Stage {
	case StageBridge:
		return to(StageSpread, "every leaf verifies under "+c.from()+" and under "+c.to())
	case StageFinish:
		return to(StageRetire, "nothing is signed under "+c.from()+" any more")
	}
	return to("", c.from()+" is trusted and used nowhere")
}

func (c Change) sameStage(o Change) bool {
	return c.From == o.From && c.To == o.To && c.Stage == o.Stage && c.StageAt.Equal(o.StageAt)
}

// changing is what a decision says about a change that is under way.
func (d *Decision) changing(f Fleet, v View, g goal, now time.Time) {
	if f.Change == nil {
		return
	}
	switch {
	case !bytes.Equal(v.Observed.BundleText, g.bundle.PEM()):
		g.wait("its bundle is to be changed")
	case !g.signed():
		g.wait("its issuer is to be signed by %s", namesOfAnchors(g.signers))
	}
	d.Progress = &Progress{Change: *f.Change, At: v.Observed.At, Waits: g.waits}
	if _, to, takesPart, err := f.sides(v); err == nil && takesPart {
		d.Progress.Alone = len(g.at.order) == 1 && g.at.order[0] == to
		if g.at.dual() && g.at.after && g.at.since.After(f.Change.StageAt) {
			d.Progress.Late = g.at.since
		}
		if !v.Proxies.At.IsZero() && v.Observed.Version != "" {
			d.Progress.Stale = v.Proxies.lacking(to)
		}
	}
	d.wakeAt(g.again)
	d.lookAt(now.Add(time.Minute))
}

func namesOfAnchors(anchors []*Anchor) string {
	var ids []string
	for _, a := range anchors {
		ids = append(ids, a.ID)
	}
	return strings.Join(ids, ", ")
}

// rotationStatus describes the change, or that there is none.
func (f Fleet) rotationStatus() *RotationStatus {
	if f.Change == nil {
		return &RotationStatus{Phase: "idle", Of: len(stages), SafeToStop: true, WaitingFor: []string{}}
	}
	s := f.Change.Status()
	s.Approval = f.approval()
	return &s
}

// Status describes a change that is under way. What it waits for, only the loop
// knows.
func (c Change) Status() RotationStatus {
	s := RotationStatus{Phase: string(c.Stage), Number: c.Stage.number(), Of: len(stages), SafeToStop: true, WaitingFor: []string{},
		Stage: string(c.Stage), From: c.From, To: c.To, Held: c.Held, Back: c.Back, Compromised: c.Compromised, Manual: c.Manual, Without: append([]string{}, c.Without...), Reason: c.Reason, Actor: c.Actor,
		StartedAt: wholeSecond(c.StartedAt), StageAt: wholeSecond(c.StageAt), ProvedAt: wholeSecond(c.ProvedAt),
		ProgressAt: wholeSecond(latest(c.StageAt, latest(c.CanaryAt, c.ProvedAt)))}
	if c.Back {
		s.Phase = "rollback"
	}
	if c.Approval != nil {
		s.Approval = Fleet{Change: &c}.approval()
	}
	return s
}
