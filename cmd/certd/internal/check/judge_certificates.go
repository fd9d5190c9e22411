package check

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// anchorText is a text with trust anchors that somebody reads: linkerd-identity and
// new pods the ConfigMap, `linkerd check` the Secret's ca.crt under scheme
// kubernetes.io/tls, and else what Linkerd was installed with (linkerd2,
// pkg/healthcheck/healthcheck.go).
type anchorText struct {
	where string
	text  []byte
}

// anchorTexts are those of a cluster that are there.
func (c Cluster) anchorTexts() (all []anchorText) {
	o := c.Observed
	if o.Bundle.Exists {
		all = append(all, anchorText{where: "ConfigMap " + rotation.BundleObject, text: o.BundleText})
	}
	if o.Issuer.Exists && len(o.IssuerFacts.CABundle) > 0 {
		all = append(all, anchorText{where: "ca.crt of Secret " + rotation.IssuerObject, text: o.IssuerFacts.CABundle})
	}
	if !c.kubernetesTLS() && c.Kube != nil && c.Kube.Linkerd.Anchors != "" {
		all = append(all, anchorText{where: "identityTrustAnchorsPEM of ConfigMap linkerd-config", text: []byte(c.Kube.Linkerd.Anchors)})
	}
	return all
}

// eachAnchor judges every trust anchor of a cluster, wherever it stands.
func (j *judgement) eachAnchor(judge func(c Cluster, where string, a *x509.Certificate) *verdict) []verdict {
	return j.each(func(c Cluster) (all []verdict) {
		seen := map[string]bool{}
		for _, t := range c.anchorTexts() {
			anchors, err := pki.ReadAsLinkerd(t.text)
			if err != nil {
				continue // anchors-readable tells
			}
			for _, a := range anchors {
				if sum := pki.Fingerprint(a); !seen[sum] {
					seen[sum] = true
					if v := judge(c, t.where, a); v != nil {
						all = append(all, *v)
					}
				}
			}
		}
		if len(seen) > 0 && len(all) == 0 {
			return holds("")
		}
		return all
	})
}

func named(a *x509.Certificate) string {
	if a.Subject.CommonName != "" {
		return fmt.Sprintf("%q", a.Subject.CommonName)
	}
	return pki.Fingerprint(a)[:16]
}

func (j *judgement) anchorsReadable() []verdict {
	return j.each(func(c Cluster) (all []verdict) {
		texts := c.anchorTexts()
		for _, t := range texts {
			certs, err := pki.ReadAsLinkerd(t.text)
			every, _ := pki.ReadCertificates(t.text)
			hint := "certd puts it right within seconds where it looks after the cluster; else write blocks only, one newline after each"
			switch {
			case err != nil:
				all = append(all, verdict{result: Error, say: fmt.Sprintf("%s: Linkerd cannot read it: %v", t.where, err), hint: hint})
			case len(every) != len(certs):
				all = append(all, verdict{result: Error, say: fmt.Sprintf("%s: it has %d certificates, and Linkerd stops reading after %d", t.where, len(every), len(certs)), hint: hint})
			}
		}
		if len(texts) > 0 && len(all) == 0 {
			return holds("")
		}
		return all
	})
}

func (j *judgement) anchorsAlgorithm() []verdict {
	return j.eachAnchor(func(_ Cluster, where string, a *x509.Certificate) *verdict {
		if err := pki.CheckAnchorAlgorithm(a); err != nil {
			return &verdict{result: Error, say: fmt.Sprintf("%s in %s: %v", named(a), where, err), hint: "certd trust rotate"}
		}
		return nil
	})
}

func (j *judgement) anchorsValid() []verdict {
	return j.eachAnchor(func(_ Cluster, where string, a *x509.Certificate) *verdict {
		switch {
		case j.Now.Before(a.NotBefore):
			return &verdict{result: Error, say: fmt.Sprintf("%s in %s is not valid before %s", named(a), where, clockOf(a.NotBefore)), hint: "check the clocks"}
		case j.Now.After(a.NotAfter):
			return &verdict{result: Error, runbook: "AnchorExpired", say: fmt.Sprintf("%s in %s ended at %s: linkerd-identity signs nothing under it, and `linkerd check` fails for each", named(a), where, clockOf(a.NotAfter)), hint: "certd trust renew, or certd trust rotate; take it out if nothing needs it any more"}
		}
		return nil
	})
}

func (j *judgement) anchors60Days() []verdict {
	return j.eachAnchor(func(c Cluster, where string, a *x509.Certificate) *verdict {
		rest := a.NotAfter.Sub(j.Now)
		partner := slices.ContainsFunc(c.Policy.Foreign, func(f rotation.ForeignAnchor) bool { return f.Certificate.Equal(a) })
		if c.Policy.Directory || partner || rest >= linkerdWarns || rest <= 0 {
			return nil
		}
		return &verdict{result: Warning, runbook: "AnchorExpiring", say: fmt.Sprintf("%s in %s ends in %s, and `linkerd check` warns", named(a), where, left(rest)), hint: "certd trust renew, or certd trust rotate"}
	})
}

func (j *judgement) foreignAnchors() []verdict {
	var all []verdict
	for _, c := range j.Clusters {
		for _, a := range c.Policy.Foreign {
			rest := a.Certificate.NotAfter.Sub(j.Now)
			v := verdict{cluster: c.name(), result: Success, runbook: "ForeignAnchorExpiring", hint: "ask them for the next one, and put it into foreignAnchors"}
			switch {
			case rest <= 0:
				v.result, v.runbook, v.say = Error, "ForeignAnchorExpired", fmt.Sprintf("the anchor of %s has ended", a.Name)
			case rest < linkerdWarns:
				v.result, v.say = Warning, fmt.Sprintf("the anchor of %s ends in %s", a.Name, left(rest))
			}
			j.settled(c.name(), "ForeignAnchorExpiring", "ForeignAnchorExpired")
			all = append(all, v)
		}
	}
	return all
}

func (j *judgement) proxies() (all []verdict) {
	for _, c := range j.Clusters {
		p := c.Proxies
		switch {
		case c.Policy.Directory || p.At.IsZero():
		case p.Err != nil:
			all = append(all, verdict{cluster: c.name(), result: Unknown, ignored: errors.Is(p.Err, rotation.ErrDenied), say: "they were not counted: " + p.Err.Error(), hint: "kubectl apply -f deploy/rbac/certd-proxies.yaml"})
		case p.Unread > 0:
			all = append(all, verdict{cluster: c.name(), result: Unknown, say: fmt.Sprintf("what %s trust could not be made out: %s", plural(p.Unread, "pod"), listed(p.Odd, 2)), hint: "certd status " + c.name()})
		case p.Total() > 0:
			all = append(all, held(c.name(), "%s", plural(p.Total(), "pod")))
		}
	}
	return all
}

// proxiesText is for pods that trust what they should in other words: with an anchor's
// former dates, or from before the bundle was written anew. They work, and
// `linkerd check` warns of them.
func (j *judgement) proxiesText() (all []verdict) {
	for _, c := range j.Clusters {
		if c.Observed == nil || c.Proxies.At.IsZero() || c.Proxies.Err != nil {
			continue // proxies-bundle tells
		}
		bundle, err := pki.ReadBundle(c.Observed.BundleText)
		if err != nil {
			continue // anchors-readable tells
		}
		want, seen, others := pki.TextSHA256(c.Observed.BundleText), false, 0
		for _, s := range c.Proxies.Sets {
			for sum, pods := range s.Texts {
				if seen = true; sum != want && s.Anchors.Trusts(bundle) {
					others += pods
				}
			}
		}
		switch {
		case others > 0:
			all = append(all, verdict{cluster: c.name(), result: Warning, say: fmt.Sprintf("%s of before the bundle was last written: they trust the same keys and work, and `linkerd check --proxy` warns until they are created anew", plural(others, "pod")),
				hint: "nothing, or restart them when it suits"})
		case seen:
			all = append(all, held(c.name(), ""))
		}
	}
	return all
}

// issuers judges those that are there, by findings alone.
func (j *judgement) issuers() []verdict {
	return j.each(func(c Cluster) []verdict {
		if !c.Observed.Issuer.Exists {
			return nil
		}
		return holds("")
	})
}

func (j *judgement) issuerUsable() []verdict {
	return j.each(func(c Cluster) []verdict {
		o := c.Observed
		const hint = "certd puts it right within seconds where it looks after the cluster; certd history --cluster "
		switch f := j.finding(c.name(), "IssuerUnusable", "IssuerLost"); {
		case f != nil: // it says more
			return nil
		case !o.Issuer.Exists && (j.Pre || j.Fleet.Active() == nil):
			return nil
		case !o.Issuer.Exists:
			return []verdict{{result: Error, say: "there is no Secret " + rotation.IssuerObject, hint: hint + c.name()}}
		case o.IssuerFacts.Problem != "":
			return []verdict{{result: Error, say: o.IssuerFacts.Problem, hint: hint + c.name()}}
		case len(o.IssuerFacts.CABundle) == 0 && c.kubernetesTLS():
			return []verdict{{result: Error, say: "ca.crt is missing, which `linkerd check` and `linkerd upgrade` want", hint: hint + c.name()}}
		}
		return holds("")
	})
}

// kubernetesTLS says whether Linkerd reads the issuer by the names of
// kubernetes.io/tls.
func (c Cluster) kubernetesTLS() bool {
	return c.Observed.Identity == nil || c.Observed.Identity.Scheme != pki.SchemeLinkerd
}

// eachIssuer judges issuers that can be read.
func (j *judgement) eachIssuer(judge func(c Cluster, issuer *x509.Certificate) *verdict) []verdict {
	return j.each(func(c Cluster) []verdict {
		chain := c.Observed.IssuerFacts.Chain
		if !c.Observed.Issuer.Exists || len(chain) == 0 {
			return nil
		}
		if v := judge(c, chain[0]); v != nil {
			return []verdict{*v}
		}
		return holds("")
	})
}

func (j *judgement) issuerAlgorithm() []verdict {
	return j.eachIssuer(func(c Cluster, issuer *x509.Certificate) *verdict {
		if err := pki.CheckIssuerAlgorithm(issuer); err != nil {
			return &verdict{result: Error, say: err.Error(), hint: "certd adopt " + c.name() + " --dry-run"}
		}
		return nil
	})
}

func (j *judgement) issuerValid() []verdict {
	return j.eachIssuer(func(c Cluster, issuer *x509.Certificate) *verdict {
		switch {
		case j.Now.Before(issuer.NotBefore):
			return &verdict{result: Error, say: "it is not valid before " + clockOf(issuer.NotBefore), hint: "check the clocks"}
		case !j.Now.After(issuer.NotAfter):
		case j.finding(c.name(), "IssuerExpired") == nil:
			return &verdict{result: Error, runbook: "IssuerExpired", say: "it ended at " + clockOf(issuer.NotAfter) + ", and every workload certificate with it", hint: "certd rotate issuer " + c.name()}
		}
		return nil
	})
}

func (j *judgement) issuer60Days() []verdict {
	return j.eachIssuer(func(c Cluster, issuer *x509.Certificate) *verdict {
		rest := issuer.NotAfter.Sub(j.Now)
		byPolicy := c.Policy.Issuer.RenewBefore < linkerdWarns && !j.watches(c)
		if c.Policy.Directory || byPolicy || rest >= linkerdWarns || rest <= 0 {
			return nil
		}
		return &verdict{result: Warning, say: fmt.Sprintf("it ends in %s, and `linkerd check` warns", left(rest)), hint: "certd plan"}
	})
}

// watches says whether a cluster has trust material that certd did not make, and
// does not change.
func (j *judgement) watches(c Cluster) bool {
	return rotation.Decide(j.Fleet, c.View, j.Now).Mode == rotation.Watched
}

// issuerUnderAnchor asks what `linkerd check` asks, of the anchors that it takes,
// and beyond that whether leaves verify under each text that somebody reads.
func (j *judgement) issuerUnderAnchor() []verdict {
	return j.each(func(c Cluster) (all []verdict) {
		facts := c.Observed.IssuerFacts
		if !c.Observed.Issuer.Exists || len(facts.Chain) == 0 || j.finding(c.name(), "IssuerUnusable") != nil {
			return nil
		}
		for _, t := range c.anchorTexts() {
			anchors, err := pki.ReadAsLinkerd(t.text)
			if err != nil {
				continue
			}
			if err := pki.VerifyIssuer(facts.Chain, anchors, j.Now); err != nil {
				all = append(all, verdict{result: Error, say: fmt.Sprintf("linkerd-identity and `linkerd check` refuse it by the anchors in %s: %v", t.where, err), hint: "certd verify"})
				continue
			}
			bundle, err := pki.ReadBundle(t.text)
			if err == nil && facts.Problem == "" {
				err = facts.Verify(bundle, j.Now)
			}
			if err != nil {
				all = append(all, verdict{result: Error, say: fmt.Sprintf("by the anchors in %s: %v", t.where, err), hint: "certd verify"})
			}
		}
		if len(all) == 0 && len(c.anchorTexts()) > 0 {
			return holds("")
		}
		return all
	})
}

func (j *judgement) issuerLoaded() []verdict {
	return j.each(func(c Cluster) []verdict {
		if !c.Observed.Issuer.Exists || c.Observed.Identity == nil || !c.Observed.Identity.Deployed {
			return nil // nothing runs that could load it
		}
		return holds("")
	})
}

// webhooks judges those that are installed, by findings alone.
func (j *judgement) webhooks() []verdict {
	return j.each(func(c Cluster) []verdict {
		if len(c.Observed.Installed()) == 0 {
			return nil
		}
		return holds("")
	})
}

func (j *judgement) webhooksSeen() []verdict {
	return j.each(func(c Cluster) []verdict {
		if len(c.Policy.Webhooks.Specs) == 0 {
			return nil
		}
		j.settled(c.name(), "WebhookUnseen")
		var all []verdict
		for _, w := range c.Observed.Webhooks {
			if w.Err != nil {
				all = append(all, verdict{result: Unknown, runbook: "WebhookUnseen", say: w.Spec.Name + ": " + w.Err.Error()})
			}
		}
		if len(all) == 0 {
			return holds("%d installed", len(c.Observed.Installed()))
		}
		return all
	})
}

func (j *judgement) webhooksRenewer() []verdict {
	return j.eachWebhook(func(c Cluster, w rotation.Webhook) []verdict {
		if w.Renewer == "" || j.finding(c.name(), "WebhookManagedElsewhere") != nil {
			return nil
		}
		return []verdict{{result: Warning, runbook: "WebhookManagedElsewhere", say: fmt.Sprintf("%s: %s issues into Secret %s/%s", w.Spec.Name, w.Renewer, w.Spec.Namespace, w.Spec.Secret), hint: "delete it, or set webhooks.manage: none"}}
	})
}

// eachWebhook judges those that are installed and could be seen.
func (j *judgement) eachWebhook(judge func(c Cluster, w rotation.Webhook) []verdict) []verdict {
	return j.each(func(c Cluster) (all []verdict) {
		seen := 0
		for _, w := range c.Observed.Webhooks {
			if w.Err == nil && len(w.Objects) > 0 {
				seen++
				all = append(all, judge(c, w)...)
			}
		}
		if seen > 0 && len(all) == 0 {
			return holds("")
		}
		return all
	})
}

// webhookCertificates asks what `linkerd check` asks of webhooks and tap, and of
// all others, too: certificates in caBundles are valid, and so is what is in the
// Secret, under each of them and for the name that is called (linkerd2,
// pkg/healthcheck/healthcheck.go, viz/pkg/healthcheck/healthcheck.go).
func (j *judgement) webhookCertificates() []verdict {
	return j.eachWebhook(func(c Cluster, w rotation.Webhook) (all []verdict) {
		if j.Pre && !w.Secret.Exists {
			return nil
		}
		bad := func(format string, args ...any) {
			all = append(all, verdict{result: Error, say: w.Spec.Name + ": " + fmt.Sprintf(format, args...), hint: "certd rotate webhooks " + c.name()})
		}
		secret := fmt.Sprintf("Secret %s/%s", w.Spec.Namespace, w.Spec.Secret)
		if j.finding(c.name(), "WebhookUnusable", "WebhookUntrusted", "WebhookExpired") != nil {
			return nil // it says which, and what is done
		}
		if w.Facts.Problem != "" {
			bad("%s: %s", secret, w.Facts.Problem)
			return all
		}
		name := ""
		if len(w.Spec.DNSNames) > 0 {
			name = w.Spec.DNSNames[0]
		}
		for _, o := range w.Objects {
			for _, ca := range o.CABundle.Certificates() {
				if why := outside(ca, j.Now); why != "" {
					bad("%s in the caBundle of %s %s", named(ca), o.Ref, why)
				}
			}
			if err := o.CABundle.Verify(w.Facts.Chain, name, j.Now); err != nil {
				bad("%s is refused by the caBundle of %s: %v", secret, o.Ref, err)
			}
		}
		return all
	})
}

// outside says that a certificate is not valid at a time, "" if it is.
func outside(c *x509.Certificate, at time.Time) string {
	switch {
	case at.Before(c.NotBefore):
		return "is not valid before " + clockOf(c.NotBefore)
	case at.After(c.NotAfter):
		return "ended at " + clockOf(c.NotAfter)
	}
	return ""
}

func (j *judgement) webhook60Days() []verdict {
	return j.eachWebhook(func(c Cluster, w rotation.Webhook) []verdict {
		if c.Policy.Webhooks.Leaf.RenewBefore < linkerdWarns && w.Secret.Marks.Fleet != "" {
			return nil // by policy, and warned of there
		}
		var short []string
		for _, crt := range w.Facts.Chain {
			if rest := crt.NotAfter.Sub(j.Now); rest > 0 && rest < linkerdWarns {
				short = append(short, left(rest))
			}
		}
		if len(short) == 0 {
			return nil
		}
		return []verdict{{result: Warning, say: fmt.Sprintf("%s: it ends in %s, and `linkerd check` warns", w.Spec.Name, strings.Join(short, ", ")), hint: "certd plan"}}
	})
}

// bundlesAgree holds the bundles of clusters that certd looks after against each
// other, partner meshes left out.
func (j *judgement) bundlesAgree() []verdict {
	type seen struct {
		cluster string
		bundle  pki.Bundle
	}
	var all []seen
	var unseen []string
	for _, c := range j.Clusters {
		switch {
		case c.Err != nil || c.Observed == nil:
			unseen = append(unseen, c.name())
			continue
		case !c.Observed.Bundle.Exists || c.Record.Adopted != "" || j.watches(c):
			continue
		}
		read, err := pki.ReadBundle(c.Observed.BundleText)
		if err != nil {
			continue // anchors-readable tells
		}
		own := slices.DeleteFunc(read.Anchors(), func(a *x509.Certificate) bool {
			return slices.ContainsFunc(c.Policy.Foreign, func(f rotation.ForeignAnchor) bool { return f.Certificate.Equal(a) })
		})
		if b, err := pki.NewBundle(own...); err == nil {
			all = append(all, seen{c.name(), b})
		}
	}
	if len(all)+len(unseen) < 2 {
		return nil
	}
	var out []verdict
	for _, s := range all[min(1, len(all)):] {
		if !s.bundle.Trusts(all[0].bundle) && j.Fleet.Change == nil {
			out = append(out, verdict{result: Error, say: fmt.Sprintf("%s and %s trust different anchors", all[0].cluster, s.cluster), hint: "certd verify"})
		}
	}
	if len(unseen) > 0 {
		out = append(out, verdict{result: Unknown, say: "not seen: " + listed(unseen, 3), follows: clusterReachable})
	}
	switch {
	case len(out) > 0:
		return out
	case j.Fleet.Change != nil:
		return holds("they may differ while the trust anchor is changed")
	}
	return holds("")
}

// pairs is promise I1 of `certd verify`.
func (j *judgement) pairs() []verdict {
	if j.Trust == nil {
		if len(j.Clusters) == 0 {
			return nil
		}
		return []verdict{{result: Unknown, say: j.Unjudged, hint: "certd verify"}}
	}
	out := verdict{result: Success, hint: "certd verify"}
	switch j.Trust.State {
	case rotation.StateCritical:
		out.result = Error
	case rotation.StateWarning:
		out.result = Warning
	case rotation.StateUnknown:
		out.result = Unknown
	default:
		return holds("%d of %d pairs", j.Pairs.Accepted, j.Pairs.Total)
	}
	out.say = listed(append(slices.Clone(j.Trust.Evidence), j.Trust.Unseen...), 4)
	if out.result == Unknown {
		out.say = listed(j.Trust.Unseen, 4)
		if out.ignored = j.uncounted(); out.ignored {
			out.follows = "proxies-bundle"
		}
	}
	return []verdict{out}
}

// uncounted says whether all that keeps pairs from being known is that certd is not
// given the right to count pods.
func (j *judgement) uncounted() bool {
	return !slices.ContainsFunc(j.Trust.Unseen, func(line string) bool {
		return !slices.ContainsFunc(j.Clusters, func(c Cluster) bool {
			return errors.Is(c.Proxies.Err, rotation.ErrDenied) && strings.HasPrefix(line, c.name()+": its meshed pods could not be counted")
		})
	})
}
