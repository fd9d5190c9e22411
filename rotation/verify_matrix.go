package rotation

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// censusCounts is how old a census may be and still stand for the pods there
// are. Those that were created since hold a bundle that the trail knows.
const censusCounts = 2 * time.Hour

// leaves are those of one issuer that may live in a cluster.
type leaves struct {
	PastIssuer
	name string
	// until is when the last of them has ended; zero: more are made.
	until time.Time
	// sure: they are there by what was seen. Else they only may be.
	sure bool
}

// holders are pods of a cluster that hold one bundle, or would if they were
// created now.
type holders struct {
	bundle int // index into pairing.bundles
	who    string
	pods   int
	sure   bool // likewise
}

// side is a cluster in the matrix.
type side struct {
	ClusterEvidence
	leaves  []leaves
	holders []holders
	// What keeps its leaves, or its pods, from being known in whole; "": nothing.
	blindLeaves, blindPods string
	// ended says of pods that refuse their own linkerd-identity that what they
	// present has ended; until then it may be in blindLeaves.
	ended    string
	evidence time.Time // the oldest that its part rests on
}

// pairing makes the matrix. Many clusters have the same bundles: each is held
// against an issuer once.
type pairing struct {
	*judgement
	sides    []side
	bundles  []pki.Bundle
	byDigest map[string]int
	verdicts map[meeting]met
}

// meeting is an issuer's leaves before those who trust a bundle.
type meeting struct{ side, leaves, bundle int }

type met struct {
	err   error
	until time.Time // where err is nil
}

// matrix judges every ordered pair of clusters by what may be live in the one
// and held in the other. A refusal that rests on what was seen is a refusal;
// one that rests on what only may be makes the pair unknown, as does whatever
// could not be seen.
func (j *judgement) matrix() {
	p := &pairing{judgement: j, byDigest: map[string]int{}, verdicts: map[meeting]met{}}
	for _, c := range j.Clusters {
		p.sides = append(p.sides, p.side(c))
	}
	for i := range p.sides {
		p.stuck(i)
	}
	sum := &j.doc.Pairs
	for peer := range p.sides {
		for verifier := range p.sides {
			v := p.pair(peer, verifier)
			j.doc.Matrix = append(j.doc.Matrix, v)
			sum.Total++
			switch v.State {
			case PairRefused:
				sum.Refused++
			case PairUnknown:
				sum.Unknown++
			default:
				sum.Accepted++
				if v.Until != nil && (sum.Until == nil || v.Until.Before(*sum.Until)) {
					sum.Until, sum.First = v.Until, &PairRef{v.Peer, v.Verifier}
				}
			}
		}
	}
}

// stuck finds pods that refuse leaves of their own cluster: they get no
// certificate any more, and when the one they have has ended, all others refuse
// them, too.
func (p *pairing) stuck(i int) {
	s := &p.sides[i]
	for k, l := range s.leaves {
		for _, h := range s.holders {
			if !l.sure || !h.sure || h.pods == 0 || p.meet(i, k, h.bundle).err == nil {
				continue
			}
			who := h.who + " can get no certificate, since linkerd-identity there is refused"
			if l.until.IsZero() && l.Facts != nil && p.At.After(deliveredAt(l.Facts.Chain[0], s.View).Add(projectionOf(s.Policy)+s.drain())) {
				s.ended = cmp.Or(s.ended, who+": the last has ended")
			} else {
				s.blindLeaves = cmp.Or(s.blindLeaves, who+" or was lately: the last may have ended")
			}
		}
	}
}

func (p *pairing) side(c ClusterEvidence) side {
	s := side{ClusterEvidence: c}
	if unseen := c.unseen(p.Asked, p.At); unseen != "" {
		s.blindLeaves, s.blindPods = unseen, unseen
	}
	if c.Observed == nil {
		return s
	}
	s.evidence = c.Observed.At
	p.present(&s)
	p.hold(&s)
	if s.blindLeaves == "" && s.blindPods != "" { // who refuses his own linkerd-identity, presents what has ended
		s.blindLeaves = s.blindPods
	}
	return s
}

// present finds the issuers whose leaves may live in a cluster: the one in its
// Secret, what its linkerd-identity is or may be seen to use, and what it used
// until a drain ago.
func (p *pairing) present(s *side) {
	blind := func(format string, args ...any) {
		s.blindLeaves = cmp.Or(s.blindLeaves, s.Policy.Cluster+": "+fmt.Sprintf(format, args...))
	}
	o, drain, shown := s.Observed, s.drain(), projectionOf(s.Policy)
	lives := drain - 2*cmp.Or(s.Policy.ClockError, MaxClockSkew) // by clocks that agree
	for _, f := range s.Trail.Issuers {
		l := leaves{PastIssuer: f, name: p.issuerName(s.ClusterEvidence, f), sure: true}
		inUse, _ := o.signsWith(f, s.Policy)
		switch {
		case f.Replaced.IsZero():
		case f.Facts == nil && p.outlived(s.View, f, drain):
			continue
		case f.Open && inUse:
		case f.Open:
			l.sure = p.At.Before(f.Replaced.Add(shown + lives))
		default:
			l.until = earlier(f.Used.Add(drain), f.notAfter())
			l.sure = p.At.Before(f.Replaced.Add(shown+lives)) || f.Facts != nil && p.At.Before(f.Used.Add(lives))
			if p.At.After(l.until) {
				continue
			}
		}
		s.leaves = append(s.leaves, l)
	}
	switch {
	case o.Issuer.Exists && o.IssuerFacts.Problem != "":
		blind("its issuer cannot serve: %s", o.IssuerFacts.Problem)
	case !o.Issuer.Exists:
		blind("it has no issuer")
	}
	if o.runsIdentity() && len(o.Identity.Replicas) == 0 {
		blind("no replica of linkerd-identity runs, so that leaves end without being renewed")
	}
}

// outlived says whether it is proved, by the change of the trust anchor that is
// under way or has ended, that no leaf of an issuer from before the start lives:
// the stages after the first begin when every leaf verifies under both anchors,
// and an anchor is retired when no leaf needs it.
func (p *pairing) outlived(v View, f PastIssuer, drain time.Duration) bool {
	retired := func(id string) bool {
		a := p.Fleet.anchor(id)
		return id == "" || a != nil && !a.RetiredAt.IsZero() && f.Replaced.Before(a.RetiredAt)
	}
	if f.Record.Anchor != "" && retired(f.Record.Anchor) && retired(f.Record.Second) {
		return true
	}
	c := p.Fleet.Change
	_, _, takesPart, err := p.Fleet.sides(v)
	switch {
	case err != nil || !takesPart || c.Compromised || c.excepts(v.Policy.Cluster) || f.Record.Second != "":
		return false
	case !f.Turned.IsZero() && f.Turned.Sub(f.Replaced) >= drain:
		return true // of the change that was turned around since
	}
	return c.Stage != StageBridge && f.Replaced.Before(c.StageAt)
}

// hold finds the bundles that pods of a cluster may hold: what each was seen to
// in the census, what is published, and what was when pods may have been created
// that the census did not see.
func (p *pairing) hold(s *side) {
	blind := func(format string, args ...any) {
		s.blindPods = cmp.Or(s.blindPods, s.Policy.Cluster+": "+fmt.Sprintf(format, args...))
	}
	o, c, shown := s.Observed, s.Proxies, projectionOf(s.Policy)
	pods := o.Version != "" // else it is a folder
	if have, err := pki.ReadBundle(o.BundleText); o.Bundle.Exists && err == nil {
		s.holders = append(s.holders, holders{bundle: p.intern(have), who: "what " + s.Policy.Cluster + " publishes", sure: true})
	} else if o.Bundle.Exists {
		blind("its bundle cannot be read: %v", err)
	} else if c.Total() == 0 {
		blind("it has no bundle")
	}
	if !pods {
		return
	}
	for _, set := range c.Sets {
		s.holders = append(s.holders, holders{bundle: p.intern(set.Anchors), pods: set.Pods, sure: true,
			who: fmt.Sprintf("%s of %s (%s)", podCount(set.Pods, "pod"), s.Policy.Cluster, namesOf(set.Owners, 3))})
	}
	earlierPods := c.earlier()
	switch {
	case c.At.IsZero():
		blind("its meshed pods have not been counted")
		return
	case c.Err != nil:
		blind("its meshed pods could not be counted in whole: %v", c.Err)
	case c.Unread > earlierPods:
		blind("of %d of %d meshed pods it could not be seen what they trust: %s", c.Unread-earlierPods, c.Total(), strings.Join(c.Odd, "; "))
	case p.At.Sub(c.At) > censusCounts:
		blind("its meshed pods were last counted %s ago", short(p.At.Sub(c.At)))
	}
	s.evidence = earlier(s.evidence, c.At)
	since := c.At.Add(-shown) // what was shown to pods that were created after the census
	for _, b := range s.Trail.Bundles {
		if b.Until.IsZero() || b.Until.Before(since) && earlierPods == 0 {
			continue
		}
		was, err := pki.ReadBundle(b.Text)
		if err != nil {
			continue // no pod starts with it
		}
		s.holders = append(s.holders, holders{bundle: p.intern(was), who: fmt.Sprintf("pods of %s that were created before its bundle was changed %s ago", s.Policy.Cluster, short(p.At.Sub(b.Until)))})
	}
	if since.Before(s.Trail.Since) && o.BundleWrittenAt.After(since) && o.BundleWrittenAt.Before(s.Trail.Since) {
		blind("its bundle was changed %s ago, just before certd started, and what it was is not known", short(p.At.Sub(o.BundleWrittenAt)))
	}
	if earlierPods == 0 {
		return
	}
	for _, b := range p.published(s.View) {
		s.holders = append(s.holders, holders{bundle: p.intern(b), pods: earlierPods,
			who: fmt.Sprintf("%s of %s that read the bundle before it was changed", podCount(earlierPods, "control plane pod"), s.Policy.Cluster)})
	}
}

// podCount is "1 pod", "2 pods".
func podCount(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// published are the bundles that certd gives out now and has given out since the
// change of the trust anchor began, and what a cluster came with.
func (p *pairing) published(v View) (all []pki.Bundle) {
	add := func(b pki.Bundle, err error) {
		if err == nil && !b.IsZero() {
			all = append(all, b)
		}
	}
	if len(v.Record.AdoptedBundle) > 0 {
		add(pki.ReadBundle(v.Record.AdoptedBundle))
	}
	from, to, takesPart, err := p.Fleet.sides(v)
	switch {
	case err != nil:
	case takesPart:
		add(p.Fleet.with(v, from))
		add(p.Fleet.with(v, from, to))
		add(p.Fleet.with(v, to))
	case !p.Fleet.stays(v):
		add(p.Fleet.BundleOf(v))
	}
	return all
}

func (p *pairing) intern(b pki.Bundle) int {
	digest := b.SHA256()
	i, known := p.byDigest[digest]
	if !known {
		i = len(p.bundles)
		p.bundles = append(p.bundles, b)
		p.byDigest[digest] = i
	}
	return i
}

func (p *pairing) issuerName(c ClusterEvidence, f PastIssuer) string {
	var under []string
	if f.Facts == nil {
		for _, id := range []string{f.Record.Anchor, f.Record.Second} {
			if id != "" {
				under = append(under, id)
			}
		}
	} else {
		for _, crt := range f.Facts.Chain {
			name := fmt.Sprintf("%q", crt.Issuer.CommonName)
			if a := p.Fleet.anchorOf(crt); a != nil {
				name = a.ID
			}
			if !slices.Contains(under, name) {
				under = append(under, name)
			}
		}
	}
	serial := f.serial()
	return fmt.Sprintf("issuer %s of %s (under %s)", serial[:min(8, len(serial))], c.Policy.Cluster, cmp.Or(strings.Join(under, " and "), "an anchor that is not known"))
}

// meet says what those who hold a bundle make of leaves.
func (p *pairing) meet(side, leaves, bundle int) met {
	k := meeting{side, leaves, bundle}
	m, ok := p.verdicts[k]
	if ok {
		return m
	}
	l, b := p.sides[side].leaves[leaves], p.bundles[bundle]
	if l.Facts == nil {
		m = p.byRecord(l.Record, b)
	} else if m.err = l.Facts.Verify(b, p.At); m.err == nil {
		m.until = verifiesUntil(*l.Facts, b, p.At)
	}
	p.verdicts[k] = m
	return m
}

// verifiesUntil is the last moment at which leaves that verify at a time go on to
// do so.
func verifiesUntil(f pki.IssuerFacts, b pki.Bundle, at time.Time) time.Time {
	var ends []time.Time
	for _, c := range slices.Concat(f.Chain, b.Anchors()) {
		if !c.NotAfter.Before(at) {
			ends = append(ends, c.NotAfter) // it still belongs to the validity
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for _, end := range ends {
		if f.Verify(b, end.Add(time.Second)) != nil {
			return end
		}
	}
	return at // nothing ends: there is no such chain
}

// byRecord judges leaves of an issuer that the journal alone knows, by whose
// signature is over it: signatures were verified when they were made.
func (p *pairing) byRecord(r CertificateRecord, b pki.Bundle) met {
	found := errors.New("no anchor in the bundle signed the issuer")
	for _, c := range b.Anchors() {
		over := r.Anchor == "" && r.AKI != "" && pki.SKI(c) == r.AKI
		for _, id := range []string{r.Anchor, r.Second} {
			a := p.Fleet.anchor(id)
			over = over || a != nil && bytes.Equal(a.Certificate.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) && bytes.Equal(a.Certificate.RawSubject, c.RawSubject)
		}
		switch {
		case !over:
		case p.At.After(c.NotAfter) || p.At.Before(c.NotBefore):
			found = fmt.Errorf("anchor %q is not valid now by Go's rules", c.Subject.CommonName)
		default:
			return met{until: earlier(r.NotAfter, c.NotAfter)}
		}
	}
	return met{err: found}
}

// pair judges leaves of one cluster in the pods of another.
func (p *pairing) pair(peer, verifier int) PairVerdict {
	a, b := &p.sides[peer], &p.sides[verifier]
	v := PairVerdict{Peer: a.Policy.Cluster, Verifier: b.Policy.Cluster, State: PairAccepted, Pods: b.Proxies.Total() - b.Proxies.Unread, UnreadPods: b.Proxies.Unread}
	if !a.evidence.IsZero() && !b.evidence.IsZero() {
		v.EvidenceAt = wholeSecond(earlier(a.evidence, b.evidence))
	}
	var refused, unknown string
	var refusing []int // holders, each once
	lasting, over := false, time.Time{}
	for i := range a.leaves {
		l := &a.leaves[i]
		for k := range b.holders {
			h := &b.holders[k]
			m := p.meet(peer, i, h.bundle)
			switch {
			case m.err == nil && (l.until.IsZero() || m.until.Before(l.until)):
				if v.Until == nil || m.until.Before(*v.Until) {
					end := m.until.UTC()
					v.Until = &end
				}
			case m.err == nil:
			case l.sure && h.sure:
				refused = cmp.Or(refused, fmt.Sprintf("leaves of %s are refused where %s is trusted, by %s: %v", l.name, p.Fleet.named(p.bundles[h.bundle], b.Policy), h.who, m.err))
				if !slices.Contains(refusing, k) {
					refusing = append(refusing, k)
				}
				lasting = lasting || l.until.IsZero()
				if l.until.After(over) {
					over = l.until
				}
			default:
				unknown = cmp.Or(unknown, fmt.Sprintf("leaves of %s may be there, and would be refused where %s is or may be trusted, by %s", l.name, p.Fleet.named(p.bundles[h.bundle], b.Policy), h.who))
			}
		}
	}
	if refused == "" && a.ended != "" {
		refused, lasting = a.ended, true
	}
	unknown = cmp.Or(unknown, a.blindLeaves, b.blindPods)
	if unknown == "" && (len(a.leaves) == 0 || len(b.holders) == 0) {
		unknown = "nothing is known to be presented, or to be trusted"
	}
	switch {
	case refused != "":
		v.State, v.Why, v.Until, v.Pods = PairRefused, refused, nil, 0
		for _, k := range refusing {
			v.Pods += b.holders[k].pods
		}
		if !lasting {
			v.Until = wholeSecond(over)
		}
	case unknown != "":
		v.State, v.Why = PairUnknown, unknown
	default:
		v.Why = p.accepting(a, b)
	}
	return v
}

// accepting says what is accepted by whom.
func (p *pairing) accepting(a, b *side) string {
	var names []string
	for _, l := range a.leaves {
		if l.until.IsZero() {
			names = append(names, l.name)
		}
	}
	var sets []string
	for _, h := range b.holders {
		if set := "{" + p.Fleet.named(p.bundles[h.bundle], b.Policy) + "}"; !slices.Contains(sets, set) {
			sets = append(sets, set)
		}
	}
	why := fmt.Sprintf("leaves of %s verify under %s", strings.Join(names, "; of "), strings.Join(sets, ", "))
	if earlier := len(a.leaves) - len(names); earlier > 0 {
		why += fmt.Sprintf(", and so do those of %d earlier issuers", earlier)
	}
	return why
}
