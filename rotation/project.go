package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// mostItems bounds a projection: a minutely schedule over years is no plan
// that anybody reads.
const mostItems = 10_000

// Plan lists what the loop will do until then, from what it last saw, by the
// same decisions and dates that it acts on.
func (r *Reconciler) Plan(until time.Time, ifStopped bool) Plan {
	return Project(r.Status(), r.fleet().Policy, wall(), until, ifStopped)
}

// Project derives a plan from a status: the steps to be done now, then each
// issuer's renewals, as if each succeeded at its time.
func Project(s FleetStatus, p FleetPolicy, now, until time.Time, ifStopped bool) Plan {
	plan := Plan{APIVersion: APIVersion, Kind: "Plan", Fleet: s.Fleet, ObservedAt: s.ObservedAt, Until: until, Items: []PlanItem{}, Findings: []Finding{}}
	plan.Findings = append(plan.Findings, s.Findings...)
	for _, c := range s.Clusters {
		for _, found := range c.Findings {
			found.Message = c.Name + ": " + found.Message
			plan.Findings = append(plan.Findings, found)
		}
		i := slices.IndexFunc(p.Clusters, func(cp Policy) bool { return cp.Cluster == c.Name })
		if i < 0 || c.Mode != string(Managed) {
			continue
		}
		if c.NextStep != nil {
			plan.Items = append(plan.Items, *c.NextStep)
		}
		items := renewals(c, p.Clusters[i], s.Trust.Active, now, until)
		if c.NextStep != nil && signsIssuer(c.NextStep.Step) && len(items) > 0 && !items[0].Due.After(now) {
			items = items[1:] // the same step
		}
		plan.Items = append(plan.Items, items...)
		plan.Items = append(plan.Items, webhookRenewals(c, p.Clusters[i], now, until)...)
		if ifStopped {
			plan.Breaks = append(plan.Breaks, c.webhookBreaks(now)...)
		}
		if ifStopped && c.Issuer != nil && c.Issuer.Delivered != nil {
			end := c.Issuer.Delivered.NotAfter
			if l := c.Issuer.Loaded; l != nil && l.NotAfter != nil && l.NotAfter.Before(end) {
				end = *l.NotAfter
			}
			plan.Breaks = append(plan.Breaks, Break{Cluster: c.Name, Kind: "issuer", Name: IssuerObject, At: end})
		}
	}
	if a := s.Trust.Active; a != nil && ifStopped {
		plan.Breaks = append(plan.Breaks, Break{Kind: "anchor", Name: a.ID, At: a.NotAfter})
	}
	slices.SortStableFunc(plan.Items, func(a, b PlanItem) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Cluster, b.Cluster)) })
	slices.SortStableFunc(plan.Breaks, func(a, b Break) int { return a.At.Compare(b.At) })
	plan.Items = plan.Items[:min(len(plan.Items), mostItems)]
	return plan
}

// renewals lists the coming issuers of one cluster.
func renewals(c ClusterStatus, p Policy, anchor *AnchorStatus, now, until time.Time) []PlanItem {
	if c.Issuer == nil || c.Issuer.Delivered == nil || anchor == nil {
		return nil
	}
	return series(PlanItem{Cluster: c.Name, Step: StepIssuer}, p.Issuer, c.Issuer.NextRun, c.Issuer.MustRenewBy, c.Issuer.Delivered.NotAfter, anchor.NotAfter, now, until)
}

// webhookRenewals lists the coming serving certificates of one cluster, and the
// CAs over them.
func webhookRenewals(c ClusterStatus, p Policy, now, until time.Time) (items []PlanItem) {
	if c.WebhookCA == nil {
		return nil
	}
	never := until.Add(time.Hour) // a webhook CA is renewed in time for what is under it
	if !slices.ContainsFunc(c.Webhooks, func(w WebhookStatus) bool { return w.Mode == string(Managed) }) {
		return nil
	}
	items = series(PlanItem{Cluster: c.Name, Step: StepWebhookCA}, p.Webhooks.CA, c.WebhookCA.NextRun, c.WebhookCA.MustRenewBy, c.WebhookCA.NotAfter, never.Add(p.Webhooks.CA.Lifetime), now, until)
	for _, w := range c.Webhooks {
		if w.Delivered == nil || w.Mode != string(Managed) {
			continue
		}
		next := series(PlanItem{Cluster: c.Name, Step: StepWebhook, Webhook: w.Name}, p.Webhooks.Leaf, w.NextRun, w.MustRenewBy, w.Delivered.NotAfter, never.Add(p.Webhooks.Leaf.Lifetime), now, until)
		if n := c.NextStep; n != nil && n.Webhook == w.Name && n.Step == StepWebhook && len(next) > 0 && !next[0].Due.After(now) {
			next = next[1:] // the same step
		}
		items = append(items, next...)
	}
	return items
}

// series lists what comes of one kind, as if each succeeded at its time, until
// one would outlive what it is under.
func series(like PlanItem, p RenewalPolicy, nextRun, mustRenewBy *time.Time, notAfter, parentEnds, now, until time.Time) (items []PlanItem) {
	if nextRun == nil || mustRenewBy == nil {
		return nil
	}
	at, must := *nextRun, *mustRenewBy
	floor := notAfter.Sub(must) // may be larger than the policy's, by what was seen in the cluster
	for len(items) < mostItems && !at.After(until) {
		item := like
		item.Due, item.Reason = at, fmt.Sprintf("schedule %q; the floor is %s", p.Schedule, clock(must))
		at = latest(at, now.Truncate(time.Second))
		item.At, item.Undo = at, undo(like.Step)
		items = append(items, item)
		end := at.Add(p.Lifetime - p.Backdate - time.Second)
		if end.After(parentEnds) {
			break // what comes then depends on a new parent
		}
		dates := p.Dates(like.Cluster, at, end, floor)
		if !dates.NextRun.After(at) {
			break
		}
		at, must = dates.NextRun, dates.MustRenewBy
	}
	return items
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
