package rotation

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

const (
	// trailFor is for how long a bundle that was replaced is remembered: longer
	// than any census counts that could show pods created with it.
	trailFor  = 3 * time.Hour
	trailMost = 64 // bundles, and issuers, of one cluster
)

// Trail is what looks at a cluster have shown since certd started and what may
// still be in effect there: bundles that pods may have been created with, and
// issuers whose leaves may live. It is in memory alone; after a start it begins
// with what the journal has delivered, and with less certainty.
type Trail struct {
	Since   time.Time // the first look; zero: there was none
	Bundles []PastBundle
	Issuers []PastIssuer
}

// PastBundle is a bundle that was seen in the ConfigMap.
type PastBundle struct {
	Text  []byte
	Until time.Time // the first look that no longer showed it; zero: it is there
}

// PastIssuer is an issuer file that linkerd-identity had, or may have had, to
// sign with.
type PastIssuer struct {
	ID     string            // tells files apart
	Facts  *pki.IssuerFacts  // nil: the journal alone knows of it
	Record CertificateRecord // where Facts is nil
	// Replaced is the first look that no longer showed it in the Secret, or when
	// certd had delivered the next one; zero: it is there.
	Replaced time.Time
	// Used is the last moment at which a replica of linkerd-identity may have
	// signed with it. Open: one may do so still.
	Used time.Time
	Open bool
	// Alike: the file that took its place begins with the same certificate, so
	// that the metric of linkerd-identity does not tell them apart.
	Alike bool
	// Turned is when an issuer was delivered after it whose first certificate is
	// under another anchor; zero: none was, or Facts is not nil.
	Turned time.Time
}

func (p PastIssuer) notAfter() time.Time {
	if p.Facts == nil {
		return p.Record.NotAfter
	}
	return p.Facts.Chain[0].NotAfter
}

func (p PastIssuer) serial() string {
	if p.Facts == nil {
		return p.Record.Serial
	}
	return pki.Serial(p.Facts.Chain[0])
}

// fileID tells issuer files apart: also those that share a first certificate.
func fileID(f pki.IssuerFacts) string {
	var id []string
	for _, c := range f.Chain {
		id = append(id, pki.Fingerprint(c))
	}
	return strings.Join(id, " ")
}

// after is the trail once a look that ended at now has shown o. What it held
// before stays as it is: views have it.
func (t Trail) after(o *Observation, p Policy, delivered []CertificateRecord, now time.Time) Trail {
	next := Trail{Since: t.Since}
	past := slices.Clone(t.Issuers)
	if next.Since.IsZero() {
		next.Since = now
		past = fromJournal(o, delivered, now)
	}
	next.bundles(t.Bundles, o, now)
	next.issuers(past, o, p, now)
	return next
}

// fromJournal are the issuers whose leaves may live on from before the start.
// That one was delivered, not right after it, whose first certificate is under
// another anchor shows that no replica signed with it any more: before trust
// turns, they all start anew, after there are two certificates for them to load.
func fromJournal(o *Observation, delivered []CertificateRecord, now time.Time) (past []PastIssuer) {
	here := o.serial()
	replaced, turned := now, map[string]time.Time{}
	for _, r := range delivered { // the newest first
		if r.DeliveredAt.IsZero() {
			continue
		}
		if r.Serial != here && r.NotAfter.After(now) {
			f := PastIssuer{ID: r.Serial, Record: r, Replaced: replaced, Used: now, Open: true}
			for anchor, at := range turned {
				if anchor != r.Anchor && at.After(replaced) && at.Before(f.Used) {
					f.Used, f.Turned, f.Open = at, at, false
				}
			}
			past = append(past, f)
		}
		replaced, turned[r.Anchor] = r.DeliveredAt, r.DeliveredAt
	}
	return past
}

func (t *Trail) bundles(past []PastBundle, o *Observation, now time.Time) {
	shown := false
	for _, b := range past {
		switch {
		case !b.Until.IsZero():
		case o.Bundle.Exists && bytes.Equal(b.Text, o.BundleText):
			shown = true
		default:
			b.Until = now
		}
		if b.Until.IsZero() || now.Sub(b.Until) < trailFor {
			t.Bundles = append(t.Bundles, b)
		}
	}
	if !shown && o.Bundle.Exists {
		t.Bundles = append([]PastBundle{{Text: o.BundleText}}, t.Bundles...)
	}
	t.Bundles = t.Bundles[:min(len(t.Bundles), trailMost)]
}

func (t *Trail) issuers(past []PastIssuer, o *Observation, p Policy, now time.Time) {
	shown := false
	usable := o.Issuer.Exists && o.IssuerFacts.Problem == "" && len(o.IssuerFacts.Chain) > 0
	for _, f := range past {
		switch {
		case usable && f.Facts != nil && f.ID == fileID(o.IssuerFacts):
			shown, f.Replaced, f.Open, f.Alike = true, time.Time{}, true, false
		case f.Replaced.IsZero():
			f.Replaced = now
			f.Alike = usable && f.Facts != nil && f.Facts.Chain[0].Equal(o.IssuerFacts.Chain[0])
		}
		inUse, excluded := o.signsWith(f, p)
		if f.Open = f.Open || inUse; f.Open {
			f.Used = now
		}
		// A replica that starts within that time may still be shown the old files.
		if excluded && !f.Replaced.IsZero() && !now.Before(f.Replaced.Add(projectionOf(p))) {
			f.Open = false
		}
		if f.notAfter().After(now) {
			t.Issuers = append(t.Issuers, f)
		}
	}
	if !shown && usable {
		facts := o.IssuerFacts
		t.Issuers = append([]PastIssuer{{ID: fileID(facts), Facts: &facts, Used: now, Open: true}}, t.Issuers...)
	}
	t.Issuers = t.Issuers[:min(len(t.Issuers), trailMost)]
}

// signsWith says whether a replica of linkerd-identity is seen to use an issuer,
// and whether none can: each is seen to use another, or started when there was
// nothing to load but a later one.
func (o *Observation) signsWith(f PastIssuer, p Policy) (inUse, excluded bool) {
	if !o.runsIdentity() {
		return false, true
	}
	excluded = len(o.Identity.Replicas) > 0
	for _, r := range o.Identity.Replicas {
		switch {
		case !f.Alike && sameEnd(r.NotAfter, f.notAfter()):
			inUse, excluded = true, false
		case (f.Alike || r.NotAfter.IsZero()) && (f.Replaced.IsZero() || r.Started.Before(f.Replaced.Add(projectionOf(p)))):
			excluded = false
		}
	}
	return inUse, excluded
}
