package rotation

import (
	"fmt"
	"slices"
	"time"

	"certd.internal/pki"
)

// webhookStatuses says what is known of a cluster's webhooks; not nil where some
// could run there.
func webhookStatuses(v View, d Decision) []WebhookStatus {
	if v.Observed == nil || v.Observed.Webhooks == nil {
		return nil
	}
	all := []WebhookStatus{}
	for _, wd := range d.Webhooks {
		all = append(all, wd.status(v.WebhookCAs))
	}
	return all
}

func (wd WebhookDecision) status(cas []WebhookCA) WebhookStatus {
	w := wd.Webhook
	s := WebhookStatus{Name: w.Spec.Name, Kind: kindWord(w.Objects[0].Ref.Kind), Namespace: w.Spec.Namespace, Secret: w.Spec.Secret, Mode: string(wd.Mode), Why: wd.Why,
		Ignored: w.ignores(), CABundle: CABundleStatus{Current: wd.Current, Accepts: len(wd.broken) == 0, CAs: []AnchorRef{}}}
	if c := wd.Leaf; c != nil {
		s.Delivered = &Delivered{Serial: pki.Serial(c), SHA256: pki.Fingerprint(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
		if wd.CA != nil {
			s.Delivered.Anchor = wd.CA.ID
		}
	}
	if l := wd.Served; l != nil {
		served := *l
		served.At = wholeSecond(*l.At)
		s.Served = &served
	}
	if c := wd.Check; c != nil {
		s.Check = &CheckStatus{State: c.State, Evidence: c.Evidence, At: wholeSecond(c.At)}
	}
	held := pki.CASet{}
	for _, o := range w.Objects {
		held = held.Union(o.CABundle)
	}
	if !held.IsZero() {
		s.CABundle.SHA256 = held.SHA256()
	}
	for _, c := range held.Certificates() {
		ref := AnchorRef{Subject: c.Subject.CommonName, SHA256: pki.Fingerprint(c), NotAfter: c.NotAfter}
		for _, ca := range cas {
			if ca.Certificate != nil && ca.Certificate.Equal(c) {
				ref.ID = ca.ID
			}
		}
		s.CABundle.CAs = append(s.CABundle.CAs, ref)
	}
	s.RenewAt, s.MustRenewBy, s.NextRun = wholeSecond(wd.Dates.RenewAt), wholeSecond(wd.Dates.MustRenewBy), wholeSecond(wd.Dates.NextRun)
	return s
}

func kindWord(kind string) string {
	switch kind {
	case KindMutating:
		return "mutating"
	case KindValidating:
		return "validating"
	}
	return "apiservice"
}

// webhookCAStatus is about the CA that signs now; nil while there is none.
func webhookCAStatus(v View, d Decision) *WebhookCAStatus {
	active := activeCA(v.WebhookCAs)
	if active == nil {
		return nil
	}
	dates := d.datesOf(v.Policy, *active)
	return &WebhookCAStatus{AnchorStatus: active.Status(), RenewAt: wholeSecond(dates.RenewAt), MustRenewBy: wholeSecond(dates.MustRenewBy), NextRun: wholeSecond(dates.NextRun)}
}

// UsableUntil is when the webhook stops: what a replica serves counts where it
// ends earlier than what lies in the Secret. Nil: not known.
func (s WebhookStatus) UsableUntil() *time.Time {
	if s.Delivered == nil {
		return nil
	}
	end := s.Delivered.NotAfter
	if s.Served != nil && s.Served.NotAfter != nil && s.Served.NotAfter.Before(end) {
		end = *s.Served.NotAfter
	}
	return &end
}

// webhookBreaks are what stops with each webhook of a cluster; at is when the
// status was made.
func (c ClusterStatus) webhookBreaks(at time.Time) (breaks []Break) {
	for _, w := range c.Webhooks {
		end := w.UsableUntil()
		if end == nil {
			continue
		}
		if !w.CABundle.Accepts && at.Before(*end) {
			end = &at // refused already, whatever its dates say
		}
		breaks = append(breaks, Break{Cluster: c.Name, Kind: "webhook", Name: w.Name, At: *end})
	}
	return breaks
}

// expireWebhooks judges recorded webhooks by the time it is now.
func (c *ClusterStatus) expireWebhooks(now time.Time) {
	for _, w := range c.Webhooks {
		end := w.UsableUntil()
		if end == nil {
			continue
		}
		told := func(id string) bool {
			return slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.ID == id && f.Deadline != nil && f.Deadline.Equal(*end) })
		}
		switch {
		case !now.Before(*end) && !told("WebhookExpired"):
			c.Findings = append(c.Findings, Finding{ID: "WebhookExpired", Severity: StateCritical, Message: fmt.Sprintf("the certificate of %s ended %s ago, if nobody renewed it since", w.Name, short(now.Sub(*end))), Deadline: end, Fix: "certd run"})
		case w.MustRenewBy != nil && now.After(*w.MustRenewBy) && now.Before(*end) && !told("WebhookOverdue"):
			c.Findings = append(c.Findings, Finding{ID: "WebhookOverdue", Severity: StateCritical, Message: fmt.Sprintf("the certificate of %s had to be renewed by %s and ends in %s", w.Name, clock(*w.MustRenewBy), short(end.Sub(now))), Deadline: end, Fix: "certd run"})
		}
	}
}
