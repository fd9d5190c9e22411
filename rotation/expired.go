package rotation

import (
	"crypto/x509"
	"fmt"
	"time"
)

// What has ended is mended like anything else, without a person: a new issuer is
// signed, a new certificate for a webhook, a new webhook CA, new dates for the
// trust anchor where trust.onDue is renew. Nothing asks whether the present state
// is a healthy one. What certd cannot do by itself, a finding names as a command.

// ended says whether the anchor's certificate has run out.
func (a *Anchor) ended(now time.Time) bool { return now.After(a.Certificate.NotAfter) }

// issuerEnded says whether what is in the Secret has run out. If nobody else wrote
// it, a new one is a renewal that is late, and no repair of what somebody did.
func issuerEnded(o *Observation, now time.Time) bool {
	return o.IssuerFacts.Problem == "" && len(o.IssuerFacts.Chain) > 0 && now.After(o.IssuerFacts.Chain[0].NotAfter)
}

// notServing tells why an issuer that certd manages does not verify: because it
// ended, because the trust anchor did, or for another reason.
func (d *Decision) notServing(f Fleet, v View, c *x509.Certificate, err error, now time.Time) {
	end, a := c.NotAfter, f.Active()
	anchor := a != nil && a.ended(now)
	switch {
	case !now.After(end) && !anchor:
		d.find(StateCritical, "IssuerUnusable", "the issuer does not verify: "+err.Error(), &end, "certd inspect "+v.Policy.Cluster+"/issuer")
	case !now.After(end):
		d.find(StateCritical, "IssuerUnusable", fmt.Sprintf("trust anchor %s, which the issuer is under, ended %s ago: linkerd-identity signs nothing any more", a.ID, short(now.Sub(a.Certificate.NotAfter))), &end, f.renewal())
	case anchor:
		d.find(StateCritical, "IssuerExpired", fmt.Sprintf("the issuer ended %s ago, and every workload certificate with it; trust anchor %s, which would sign a new one, has ended, too", short(now.Sub(end)), a.ID), &end, f.renewal())
	default:
		d.find(StateCritical, "IssuerExpired", fmt.Sprintf("the issuer ended %s ago, and every workload certificate with it; a new one is signed as soon as that is possible", short(now.Sub(end))), &end, "certd rotate issuer "+v.Policy.Cluster)
	}
}

// renewal is what to type for new dates of the trust anchor, also of one that is
// being changed, if its key is at hand.
func (f Fleet) renewal() string {
	if c := f.Change; c != nil && (f.anchor(c.From).keyless() || f.anchor(c.From) == nil || c.Compromised) {
		return "certd trust status"
	}
	return "certd trust renew"
}
