package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"certd.internal/pki"
)

// ErrNoGain: a renewed anchor would not live noticeably longer.
var ErrNoGain = fmt.Errorf("nothing to gain: %w", ErrUnsupported)

// RenewAnchor gives the active trust anchor new dates: its key signs a new
// certificate of the same subject. Proxies trust the one as the other, and no
// pod has to be restarted for it; linkerd-identity is, in time (judgeDates).
func (r *Reconciler) RenewAnchor(ctx context.Context, actor, reason string) (Anchor, error) {
	begun := time.Now()
	ctx, ended := r.trying(ctx, Attempt{Step: StepTrustRenew, Actor: actor, Why: reason})
	a, err := r.renewAnchor(ctx, actor, reason)
	ended(err)
	if !errors.Is(err, ErrUnsupported) { // else there was nothing to try
		r.tried(Attempt{Step: StepTrustRenew, Object: a.ID, Actor: actor, Why: reason, Err: err, Took: time.Since(begun)})
	}
	return a, err
}

func (r *Reconciler) renewAnchor(ctx context.Context, actor, reason string) (Anchor, error) {
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f := r.fleet()
	active := f.Active()
	if active == nil {
		return Anchor{}, fmt.Errorf("renew the trust anchor: there is none yet; run certd init first: %w", ErrUnsupported)
	}
	if c := f.Change; c != nil {
		from := f.anchor(c.From)
		if from == nil || from.keyless() || c.Compromised || from.Certificate.NotAfter.Sub(r.wall()) > marginOfChange {
			return *active, fmt.Errorf("renew trust anchor %s: it is being changed for %s: %w", c.from(), c.to(), ErrUnsupported)
		}
		active = from // a change that was held for long must not be overtaken by its end
	}
	a, now, t := *active, r.wall(), f.Policy.Trust
	doing := fmt.Sprintf("renew trust anchor %s with its key %s", a.ID, a.Key)
	if gain := now.Add(t.Lifetime - t.Backdate).Sub(a.Certificate.NotAfter); gain < t.Lifetime/100 {
		return a, fmt.Errorf("%s: one made now would end %s after the one there is: %w", doing, short(max(gain, 0)), ErrNoGain)
	}
	key, err := r.signer.open(ctx, &a, now)
	if err != nil {
		return a, fmt.Errorf("%s: %w", doing, err)
	}
	k, ok := key.(DigestSigner)
	if !ok {
		return a, fmt.Errorf("%s: a CA of Vault's PKI engine is renewed there (vault write MOUNT/root/rotate/existing …), certd finds it: %w", doing, ErrUnsupported)
	}
	renewed, err := pki.RenewAnchor(now, a.Certificate, t.Lifetime, t.Backdate, &recordedSigner{ctx: ctx, journal: r.journal, key: k,
		intent: Intent{Step: StepSign, Actor: actor, Reason: "renewal of trust anchor " + a.ID + ": " + reason, Anchor: a.ID, Key: a.Key}})
	r.keyOutcome(*active, err)
	if err != nil {
		return a, fmt.Errorf("%s: %w", doing, err)
	}
	a.Formerly, a.Certificate = a.Certificate, renewed
	rec := certificateRecord("", "anchor", a.ID, renewed, now)
	rec.DeliveredAt = now
	in := Intent{Step: StepTrustRenew, Actor: actor, Reason: reason, Anchor: a.ID, Serial: rec.Serial, Key: a.Key}
	if err := r.enter(in, Outcome{Result: OK, Detail: "sha256 " + rec.SHA256, Anchor: &a, Certificate: &rec}); err != nil {
		return a, fmt.Errorf("%s: record it: %w", doing, err)
	}
	r.mu.Lock()
	r.rememberAnchor(a)
	r.mu.Unlock()
	r.log.InfoContext(ctx, "trust anchor renewed", "anchor", a.ID, "not_after", renewed.NotAfter, "serial", rec.Serial, "actor", actor)
	r.lookAgain()
	r.poke()
	return a, nil
}

// renewalDue says whether the anchor is to be renewed without being asked.
func (f Fleet) renewalDue(now time.Time) bool {
	a := f.Active()
	if a == nil || f.Change != nil || !f.Policy.Trust.Renews {
		return false
	}
	due := f.Policy.Trust.RenewBefore
	if f.paused("", now) != nil { // a pause puts it off, not for ever
		due /= 2
	}
	return a.Certificate.NotAfter.Sub(now) <= due
}

// renewIfDue renews the anchor when its time has come, as part of the daily
// care; what prevents it is reported and tried again.
func (r *Reconciler) renewIfDue(ctx context.Context) (again time.Duration) {
	f := r.fleet()
	if !f.renewalDue(r.wall()) {
		r.Solved("AnchorNotRenewed")
		return canaryEvery
	}
	left := f.Active().Certificate.NotAfter.Sub(r.wall())
	_, err := r.RenewAnchor(ctx, "certd", fmt.Sprintf("%s left, and trust.renewBefore is %s", short(left), FormatDuration(f.Policy.Trust.RenewBefore)))
	if err == nil {
		r.Solved("AnchorNotRenewed")
		return canaryEvery
	}
	r.Problem("AnchorNotRenewed", err)
	return min(canaryEvery, max(time.Minute, left/1000))
}

const (
	// restartIdentityFor is how long before the end of an anchor's former
	// certificate certd restarts a linkerd-identity that has loaded it: Go's
	// verifier, unlike the proxies', looks at an anchor's dates.
	restartIdentityFor = 90 * 24 * time.Hour
	// tellOfDates is how long before certd begins to tell of it.
	tellOfDates = 180 * 24 * time.Hour
)

// judgeDates finds replicas of linkerd-identity that may still have loaded an
// anchor's former certificate: those that started before the bundle with the
// renewed one can have reached them.
func (d *Decision) judgeDates(f Fleet, v View, now time.Time) (restart Action, due bool) {
	a, o := f.Active(), v.Observed
	if a == nil || f.stays(v) || a.Formerly == nil || o.Identity == nil || o.BundleWrittenAt.IsZero() {
		return Action{}, false
	}
	end := a.Formerly.NotAfter
	left := end.Sub(now)
	last := end // an anchor that ended long ago may have been renewed just now
	if begun := a.Certificate.NotBefore; begun.After(end) {
		last = begun
	}
	if left > tellOfDates || !now.Before(last.Add(tellOfDates)) {
		return Action{}, false
	}
	shown := o.BundleWrittenAt.Add(projectionOf(v.Policy))
	old := func(r Replica) bool { return !r.leaving() && r.Started.Before(shown) && !d.loadedSince(end, r, v) }
	i := slices.IndexFunc(o.Identity.Replicas, old)
	if i < 0 {
		return Action{}, false
	}
	r := o.Identity.Replicas[i]
	severity, what := StateWarning, fmt.Sprintf("will refuse its own issuer when the former certificate ends, in %s", short(left))
	why := fmt.Sprintf("%s has loaded a certificate of trust anchor %s that ends in %s; a renewed one is in the bundle", r.Pod, a.ID, short(left))
	if left < restartIdentityFor/6 {
		severity = StateCritical
	}
	if left <= 0 {
		what = fmt.Sprintf("refuses its own issuer since the former certificate ended, %s ago", short(-left))
		why = fmt.Sprintf("%s has loaded a certificate of trust anchor %s that ended %s ago; a renewed one is in the bundle", r.Pod, a.ID, short(-left))
	}
	d.find(severity, "IdentityTrustsOldDates", fmt.Sprintf("%s started before trust anchor %s was renewed, and %s", r.Pod, a.ID, what), &end,
		"kubectl -n "+v.Policy.Namespace+" rollout restart deploy/linkerd-identity")
	// A pod that starts while kubelets still show the former bundle would have to
	// be restarted once more. Where nothing is signed any more that is no loss.
	due = left < restartIdentityFor
	if at := shown.Add(o.behind()); now.Before(at) && (left > 0 || !r.Started.Before(o.BundleWrittenAt)) {
		d.wakeAt(at)
		due = false
	}
	return Action{Step: StepIdentityRestart, Object: identityOwner().String(), Deadline: end, Why: why}, due
}

// loadedSince says whether a replica of linkerd-identity is seen to use an issuer
// that was signed after a former certificate of its anchor had ended: with that
// one it could not have loaded it.
func (d *Decision) loadedSince(end time.Time, r Replica, v View) bool {
	return d.Issuer != nil && signedAt(d.Issuer, v).After(end) && sameEnd(r.NotAfter, d.Issuer.NotAfter)
}

// projectionOf is from a change of an object until every kubelet shows it.
func projectionOf(p Policy) time.Duration {
	return cmp.Or(p.Webhooks.Projection, 3*time.Minute)
}
