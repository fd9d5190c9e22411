package rotation

import (
	"context"
	"errors"
	"fmt"
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
	now := wall()
	next := now.Add(canaryEvery)
	f := r.fleet()
	if a := f.Active(); a != nil {
		last, err := r.journal.LastSigned(a.Key)
		switch {
		case err != nil:
			r.Problem("JournalFailed", err)
			next = now.Add(time.Minute)
		case now.Sub(last) >= canaryEvery:
			anchor := *a
			err := r.signer.canary(ctx, f.Policy.Fleet, &anchor, now)
			r.keyOutcome(anchor, err)
			if err != nil {
				r.mu.Lock()
				r.keyFails++
				next = now.Add(backoff(r.keyFails, canaryEvery))
				r.mu.Unlock()
				r.log.Error("the signing path does not work", "anchor", a.ID, "err", err)
			}
		default:
			next = last.Add(canaryEvery)
			if next.Sub(now) > canaryEvery {
				next = now.Add(canaryEvery)
			}
		}
	} else {
		next = now.Add(time.Minute)
	}
	next = earlier(next, now.Add(r.renewIfDue(ctx)))
	r.mu.Lock()
	prune := !now.Before(r.nextPrune) || r.nextPrune.Sub(now) > pruneEvery
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

// recoverAnchors learns the fleet's anchors from a bundle that bears its mark,
// after the journal was lost. A certificate alone is no proof, since anybody
// who may write to a cluster can put one there: the key backend must hold the
// key that belongs to it, under the name certd gives its keys.
func (r *Reconciler) recoverAnchors(ctx context.Context, cluster string, o *Observation) error {
	bundle, err := pki.ParseBundle(o.BundleText)
	if err != nil {
		return nil // damaged; another cluster may show it whole
	}
	f := r.fleet()
	for _, c := range bundle.Anchors() {
		n, key, err := findKey(ctx, r.signer.keys, c.PublicKey, func(n int) string { return anchorKeyName(f.Policy.KeyPrefix, n) })
		if err != nil {
			return fmt.Errorf("recover anchor %q seen in %s: %w", c.Subject.CommonName, cluster, err)
		}
		if key == nil {
			continue
		}
		a := Anchor{ID: generationID(n), Key: anchorKeyName(f.Policy.KeyPrefix, n), Backend: key.Info().Backend, Exportable: key.Info().Exportable, CheckedAt: wall(), Certificate: c, CreatedAt: c.NotBefore}
		rec := certificateRecord("", "anchor", a.ID, c, time.Time{})
		in := Intent{Step: StepRecover, Cluster: cluster, Actor: "certd", Reason: "the journal knows no anchor, and this cluster bears the fleet's mark", Anchor: a.ID, Serial: pki.Serial(c), Key: a.Key}
		if err := r.enter(in, Outcome{Result: OK, Anchor: &a, Certificate: &rec}); err != nil {
			return fmt.Errorf("record the recovery of anchor %s: %w", a.ID, err)
		}
		r.mu.Lock()
		r.rememberAnchor(a)
		r.mu.Unlock()
		r.lookAgain()
		r.poke()
		r.log.Warn("anchor recovered from a cluster", "anchor", a.ID, "cluster", cluster, "key", a.Key)
	}
	return nil
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
