package rotation

import (
	"fmt"
	"time"

	"certd.internal/pki"
)

// Violation is a promise that does not hold somewhere.
type Violation struct {
	Promise string // "I1", "I2", …
	Cluster string
	Message string
}

// Violations evaluates the promises that one look at a cluster can show, for a
// cluster that certd manages and that has been issued to. The simulation asks
// after every step.
//
// Of I1 it judges that leaves of the issuer in the cluster verify under the
// bundle in the cluster now and at the issuer's last second, by Go's rules and
// the proxies'; of I2 that linkerd-identity would load the one with the other;
// I4 is the floor.
func Violations(f Fleet, v View, now time.Time) []Violation {
	var out []Violation
	bad := func(promise, format string, args ...any) {
		out = append(out, Violation{promise, v.Policy.Cluster, fmt.Sprintf(format, args...)})
	}
	o := v.Observed
	if _, issued := v.delivered(); o == nil || !issued {
		return nil
	}
	if !o.Bundle.Exists || !o.Issuer.Exists {
		bad("I2", "bundle exists: %t, issuer exists: %t", o.Bundle.Exists, o.Issuer.Exists)
		return out
	}
	bundle, err := pki.ParseBundle(o.BundleText)
	if f.home(v) != nil { // somebody else may have written it
		bundle, err = pki.ReadBundle(o.BundleText)
	}
	if err != nil {
		bad("I2", "the bundle would stop linkerd-identity: %v", err)
		return out
	}
	if o.IssuerFacts.Problem != "" {
		bad("I2", "the issuer would stop linkerd-identity: %s", o.IssuerFacts.Problem)
		return out
	}
	issuer := o.IssuerFacts.Chain[0]
	if a := f.anchorOf(issuer); a != nil && !bundle.Covers(a.Certificate) {
		bad("I2", "linkerd-identity would refuse the issuer: its first certificate is under %s, which the bundle lacks", a.ID)
	}
	for _, at := range []time.Time{now, issuer.NotAfter} {
		if err := o.IssuerFacts.Verify(bundle, at); err != nil {
			bad("I1", "at %s leaves of the issuer do not verify under the cluster's own bundle: %v", at.Format(time.RFC3339), err)
		}
		for _, a := range f.Anchors {
			if a.Certificate == nil || !a.RetiredAt.IsZero() || a.keyless() || f.Change != nil || f.stays(v) {
				continue // what goes with what while it is changed takes a look at all clusters
			}
			if !bundle.Covers(a.Certificate) {
				bad("I1", "the bundle lacks anchor %s, which other clusters' leaves need", a.ID)
			}
		}
	}
	for _, w := range o.Webhooks {
		out = append(out, webhookViolations(f, v, w, now)...)
	}
	if f.stays(v) { // its issuer is not certd's to renew
		return out
	}
	leaf, skew := observedLimits(o)
	if left, floor := issuer.NotAfter.Sub(now), v.Policy.Floor(leaf, skew); left < floor {
		bad("I4", "the issuer has %s left, the floor is %s", short(left), short(floor))
	}
	return out
}

// webhookViolations judges, of a webhook that certd has issued to, that the
// certificate in its Secret is accepted under each caBundle now and at its last
// second (I5), and that it has its floor left (I4). What its replicas really
// serve takes a probe.
func webhookViolations(f Fleet, v View, w Webhook, now time.Time) (out []Violation) {
	bad := func(promise, format string, args ...any) {
		out = append(out, Violation{promise, v.Policy.Cluster, "webhook " + w.Spec.Name + ": " + fmt.Sprintf(format, args...)})
	}
	if w.Err != nil || !w.installed() || w.Secret.Marks.Fleet != f.Policy.Fleet {
		return nil
	}
	if w.Facts.Problem != "" {
		bad("I5", "its Secret cannot serve: %s", w.Facts.Problem)
		return out
	}
	leaf := w.Facts.Chain[0]
	for _, at := range []time.Time{now, leaf.NotAfter} {
		for _, o := range w.Objects {
			if err := verifies(o.CABundle, w.Spec, w.Facts.Chain, at); err != nil {
				bad("I5", "at %s its certificate is not accepted under the caBundle of %s: %v", at.Format(time.RFC3339), o.Ref, err)
			}
		}
	}
	if left, floor := leaf.NotAfter.Sub(now), v.Policy.WebhookFloor(); left < floor {
		bad("I4", "its certificate has %s left, the floor is %s", short(left), short(floor))
	}
	return out
}

// Regressions compares two looks at one cluster, the earlier one first, and
// returns where an older daemon wrote after a newer one (I8). An object that
// was gone in between does not count.
func Regressions(cluster string, before, after Observation) []Violation {
	var out []Violation
	for _, o := range []struct {
		name          string
		before, after ObjectState
	}{{BundleObject, before.Bundle, after.Bundle}, {IssuerObject, before.Issuer, after.Issuer}} {
		if o.before.Exists && o.after.Exists && o.before.Marks.Fleet == o.after.Marks.Fleet && o.after.Marks.Epoch < o.before.Marks.Epoch {
			out = append(out, Violation{"I8", cluster, fmt.Sprintf("%s was written by epoch %d after epoch %d", o.name, o.after.Marks.Epoch, o.before.Marks.Epoch)})
		}
	}
	return out
}
