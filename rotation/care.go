package rotation

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"certd.internal/pki"
)

// careDue says whether the journal and the keys are to be looked after now,
// and takes the task.
func (r *Reconciler) careDue(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A time further away than any that care sets is of a clock set back since.
	if r.caring || now.Before(r.nextCare) && r.nextCare.Sub(now) <= canaryEvery {
		return false
	}
	r.caring = true
	return true
}

// care proves once a day that the anchor's key can still sign, reads its flags
// on the way, and drops what the journal no longer needs.
func (r *Reconciler) care(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	now := r.wall()
	next := now.Add(canaryEvery)
	f := r.fleet()
	if a := f.Active(); a != nil {
		last, err := r.journal.LastSigned(a.Key)
		switch {
		case err != nil:
			r.Problem("JournalFailed", err)
			next = now.Add(time.Minute)
		case now.Sub(last).Abs() >= canaryEvery: // or in a time to come, by a clock set back since
			anchor := *a
			ctx, ended := r.trying(ctx, Attempt{Step: StepCanary, Object: a.ID, Actor: "certd", Why: canaryWhy})
			err := r.signer.canary(ctx, f.Policy.Fleet, &anchor, now)
			r.keyOutcome(anchor, err)
			if err != nil {
				r.mu.Lock()
				r.keyFails++
				pause := backoff(r.keyFails, canaryEvery)
				if next = now.Add(pause); r.keyFails >= evenTries {
					next = earlier(r.skip("", next, pause), now.Add(canaryEvery))
				}
				r.mu.Unlock()
				r.log.ErrorContext(ctx, "the signing path does not work", "anchor", a.ID, "err", err)
			}
			ended(err)
		default:
			next = last.Add(canaryEvery)
			if next.Sub(now) > canaryEvery {
				next = now.Add(canaryEvery)
			}
		}
	} else {
		next = now.Add(time.Minute)
	}
	unsure := r.clockUnsure()
	if unsure == "" {
		next = earlier(next, now.Add(r.renewIfDue(ctx)))
	} else { // a wrong date would last, and so would what is dropped by it
		next = earlier(next, now.Add(time.Minute))
	}
	r.mu.Lock()
	prune := unsure == "" && (!now.Before(r.nextPrune) || r.nextPrune.Sub(now) > pruneEvery)
	r.mu.Unlock()
	if prune {
		if err := r.journal.Prune(now.Add(-retention)); err != nil {
			r.log.Error("journal not pruned", "err", err)
			r.Problem("JournalFailed", fmt.Errorf("prune the journal: %w", err))
		}
	}
	r.mu.Lock()
	if prune {
		r.nextPrune = now.Add(pruneEvery)
	}
	r.nextCare, r.caring = next, false
	r.mu.Unlock()
}

// keyOutcome keeps the fleet's findings about the key backend in step with
// what the last use of a key showed.
func (r *Reconciler) keyOutcome(a Anchor, err error) {
	if err == nil {
		r.mu.Lock()
		r.rememberChecked(a)
		r.keyFails = 0
		r.mu.Unlock()
		r.Solved("KeysUnavailable", "KeysDenied", "KeyUnfit")
		return
	}
	switch {
	case errors.Is(err, ErrKeyUnfit), errors.Is(err, ErrKeyNotFound):
		r.Problem("KeyUnfit", err)
	case errors.Is(err, ErrDenied):
		r.Problem("KeysDenied", err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrOutcomeUnknown):
		r.Problem("KeysUnavailable", err)
	}
}

// KeysAnswer tells what the key backend says of itself, which is asked while certd has no reason
// to use a key, for hours at times; err is nil if it answers. That it answers is no proof that it
// signs, so this takes back what it said itself: what a use of a key showed, another use takes back.
func (r *Reconciler) KeysAnswer(err error) {
	r.mu.Lock()
	stands, there := r.findings["KeysUnavailable"]
	ours := !there || stands.Message == r.keysSaid
	if ours && err != nil {
		r.keysSaid = err.Error()
	}
	r.mu.Unlock()
	switch {
	case !ours:
	case err != nil:
		r.Problem("KeysUnavailable", err)
	case there:
		r.Solved("KeysUnavailable")
	}
}

// recoverAnchors learns the fleet's anchors from a bundle that bears its mark,
// after the journal was lost, or an older one was restored. A certificate alone is no
// proof, since anybody who may write to a cluster can put one there: the key backend must
// hold the key that belongs to it, under the name certd gives its keys.
func (r *Reconciler) recoverAnchors(ctx context.Context, m *member, strangers []*x509.Certificate) error {
	f := r.fleet()
	known := 0
	for _, a := range f.Anchors {
		known = max(known, generationOf(a.ID))
	}
	var found []Anchor
	for _, c := range strangers {
		n, key, err := findKey(ctx, r.signer.keys, c.PublicKey, known, func(n int) string { return anchorKeyName(f.Policy.KeyPrefix, n) })
		if err != nil {
			return fmt.Errorf("recover anchor %q seen in %s: %w", c.Subject.CommonName, m.name, err)
		}
		if key == nil && f.mayBeOurs(c, m.view()) {
			return fmt.Errorf("recover anchor %q, which the issuer in %s is under: the key backend does not have its key: %w", c.Subject.CommonName, m.name, ErrKeyNotFound)
		}
		if key == nil {
			r.mu.Lock()
			r.foreign[pki.Fingerprint(c)] = r.wall()
			r.mu.Unlock()
			continue
		}
		found = append(found, Anchor{ID: generationID(n), Key: anchorKeyName(f.Policy.KeyPrefix, n), Backend: key.Info().Backend, Exportable: key.Info().Exportable, CheckedAt: r.wall(), Certificate: c, CreatedAt: c.NotBefore})
	}
	slices.SortFunc(found, func(a, b Anchor) int { return generationOf(a.ID) - generationOf(b.ID) })
	for _, a := range found {
		if err := r.recoverAnchor(m, a); err != nil {
			return err
		}
	}
	return nil
}

// mayBeOurs says whether an anchor whose key is not there is none that anybody can have put into a
// bundle: the journal knows nothing of the cluster, whose issuer bears the fleet's mark and is
// under it first. Without it, linkerd-identity would not start.
func (f Fleet) mayBeOurs(c *x509.Certificate, v View) bool {
	o := v.Observed
	return len(v.Certificates) == 0 && o.Issuer.Marks.Fleet == f.Policy.Fleet && o.Bundle.Marks.Adopted != pki.Fingerprint(c) &&
		len(o.IssuerFacts.Chain) > 0 && o.IssuerFacts.Chain[0].CheckSignatureFrom(c) == nil
}

// recoverAnchor enters one, and what it tells of the change that is under way.
func (r *Reconciler) recoverAnchor(m *member, a Anchor) error {
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f := r.fleet()
	if f.anchor(a.ID) != nil {
		return nil // another cluster showed it at the same time
	}
	rec := certificateRecord("", "anchor", a.ID, a.Certificate, time.Time{})
	in := Intent{Step: StepRecover, Cluster: m.name, Actor: "certd", Reason: "the journal knows it not, and this cluster bears the fleet's mark", Anchor: a.ID, Serial: pki.Serial(a.Certificate), Key: a.Key}
	out, err := f.recovered(a, m.view(), r.wall())
	if err == nil {
		out.Result, out.Certificate = OK, &rec
		err = r.enter(in, out)
	}
	if err != nil {
		return fmt.Errorf("record the recovery of anchor %s: %w", a.ID, err)
	}
	r.takeIn(out)
	r.lookAgain()
	r.poke()
	r.log.Warn("anchor recovered from a cluster", "anchor", a.ID, "cluster", m.name, "key", a.Key, "forgotten", out.Forgotten)
	return nil
}

// recovered says what becomes of the fleet by an anchor that a cluster shows and the
// journal does not know. The newest anchor there is leads, and what a cluster shows beside
// it is what the fleet is changing from: nothing in the world says more of it than that, and
// every stage can be gone through again. Of a change that the journal knows, and the world
// does not, nothing is kept: an anchor is made only where no change is under way, so that one
// is over. What it was about, some cluster may show yet: it is forgotten, not retired.
func (f Fleet) recovered(a Anchor, v View, now time.Time) (out Outcome, err error) {
	out.Anchor = &a
	c, beside := f.Change, f.newestIn(v.Observed)
	change := func(x, y *Anchor) {
		if generationOf(x.ID) > generationOf(y.ID) {
			x, y = y, x
		}
		out.Change = &Change{From: x.ID, To: y.ID, Stage: StageBridge, Actor: "certd", Reason: "the journal was lost, and " + v.Policy.Cluster + " has both anchors", StartedAt: now, StageAt: now}
	}
	newer := func(x *Anchor) bool { return generationOf(a.ID) > generationOf(x.ID) }
	if c == nil {
		if active := f.Active(); active != nil {
			change(active, &a)
		}
		return out, nil
	}
	older, newest := f.anchor(cmp.Or(c.From, c.To)), f.anchor(cmp.Or(c.To, c.From)) // one, where meshes are brought to it or back
	if older == nil || newest == nil {
		return out, nil
	}
	if generationOf(older.ID) > generationOf(newest.ID) {
		older, newest = newest, older
	}
	switch {
	case newer(newest):
		if out.Change = (&Change{}); beside != nil {
			change(beside, &a)
		}
		for _, x := range slices.Compact([]*Anchor{older, newest}) {
			if x != beside {
				out.forget(*x, c, now)
			}
		}
	case newer(older) && beside == newest:
		change(&a, newest)
		out.forget(*older, c, now)
	default: // the others were changed without it
		gone := a
		gone.RetiredAt = now
		out.Anchor = &gone
		if beside != newest && v.Record.Adopted == "" {
			b, err := f.with(v, &a)
			if err != nil {
				return out, err
			}
			out.Left = map[string]Adoption{v.Policy.Cluster: {Anchor: a.ID, Bundle: b.PEM(), At: now}}
		}
	}
	return out, nil
}

// forget drops an anchor that no cluster that was looked at shows. One that others may have
// the key of is not to be learnt anew.
func (out *Outcome) forget(a Anchor, c *Change, now time.Time) {
	if c.Compromised && a.ID == c.From {
		a.RetiredAt, a.Compromised = now, true
		out.Retired = append(out.Retired, a)
		return
	}
	out.Forgotten = append(out.Forgotten, a.ID)
}

// newestIn is the newest of the fleet's own anchors that a cluster shows and that are in use; nil
// if it shows none.
func (f Fleet) newestIn(o *Observation) (newest *Anchor) {
	for _, a := range f.shownBy(o) {
		if a.RetiredAt.IsZero() && !a.keyless() && (newest == nil || generationOf(a.ID) > generationOf(newest.ID)) {
			newest = a
		}
	}
	return newest
}

// undoneFor is for how long an anchor that was retired is used again where another certd has gone
// back to it.
const undoneFor = 30 * 24 * time.Hour

// undone is the anchor that the fleet was changed from, and that a cluster's issuer is under again:
// pods may trust nothing else by now, so that it takes a change to lead it away. Nil if there is
// none, or it is to be led away at once, since others may have the key. Whoever may write to one
// cluster can put a certificate and marks there: what all clusters then trust again is no more
// than what was trusted until lately, and what has signed there.
func (f Fleet) undone(v View, o *Observation, now time.Time) (gone *Anchor) {
	if f.Change != nil || f.Active() == nil || f.stays(v) {
		return nil
	}
	for _, a := range f.signersOf(o.IssuerFacts.Chain) {
		if !a.RetiredAt.IsZero() && now.Sub(a.RetiredAt) < undoneFor && !a.keyless() && !a.Compromised && (gone == nil || generationOf(a.ID) > generationOf(gone.ID)) {
			gone = a
		}
	}
	return gone
}

// shownBy are the anchors that are known of those in a cluster's bundle, beside its issuer, and
// over it.
func (f Fleet) shownBy(o *Observation) []*Anchor {
	all := f.signersOf(o.IssuerFacts.Chain)
	for _, text := range [][]byte{o.BundleText, o.IssuerFacts.CABundle} {
		b, err := o.readBundle(text)
		if err != nil {
			continue
		}
		for _, c := range b.Anchors() {
			if a := f.anchorWith(c); a != nil {
				all = append(all, a)
			}
		}
	}
	return all
}

// AnchorsChanged has the loop read the anchors again, after a ceremony.
func (r *Reconciler) AnchorsChanged() error {
	anchors, err := r.journal.Anchors()
	if err != nil {
		return fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	r.mu.Lock()
	r.anchors, r.nextCare = anchors, time.Time{}
	r.mu.Unlock()
	r.lookAgain()
	r.poke()
	return nil
}
