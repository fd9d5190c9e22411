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
	return Project(r.Status(), r.fleet().Policy, r.wall(), until, ifStopped)
}

// Project derives a plan from a status: the steps to be done now, then each
// issuer's renewals, as if each succeeded at its time.
func Project(s FleetStatus, p FleetPolicy, now, until time.Time, ifStopped bool) Plan {
	plan := Plan{APIVersion: APIVersion, Kind: "Plan", Fleet: s.Fleet, ObservedAt: s.ObservedAt, Until: until, Items: []PlanItem{}, Findings: []Finding{}}
	plan.Findings = append(plan.Findings, s.Findings...)
	for _, c := range s.Clusters {
		for _, found := range c.Findings {
			found.Cluster = c.Name
			plan.Findings = append(plan.Findings, found)
		}
		i := slices.IndexFunc(p.Clusters, func(cp Policy) bool { return cp.Cluster == c.Name })
		if i < 0 || !c.Managed() {
			continue
		}
		if c.NextStep != nil {
			plan.Items = append(plan.Items, *c.NextStep)
		}
		items := renewals(c, p.Clusters[i], s.Trust.Active, now, until)
		plan.closest(c, p.Clusters[i], items)
		if c.NextStep != nil && signsIssuer(c.NextStep.Step) && len(items) > 0 && !items[0].Due.After(now) {
			items = items[1:] // the same step
		}
		hooks := webhookRenewals(c, p.Clusters[i], now, until)
		for _, list := range [][]PlanItem{items, hooks} {
			if len(list) > 0 && c.Pause != nil {
				list[0].Reason += "; the cluster is paused"
			}
		}
		plan.Items = append(plan.Items, items...)
		plan.closestHook(c, p.Clusters[i], hooks)
		plan.Items = append(plan.Items, hooks...)
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
	plan.restarts(p, now)
	slices.SortStableFunc(plan.Items, func(a, b PlanItem) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Cluster, b.Cluster)) })
	slices.SortStableFunc(plan.Breaks, func(a, b Break) int { return a.At.Compare(b.At) })
	plan.cutShort()
	return plan
}

// cutShort ends a plan where it does not list all: behind as many steps as one has, and where
// the steps of one kind in one cluster are as many.
func (plan *Plan) cutShort() {
	type kind struct {
		cluster, webhook string
		step             Step
	}
	listed := map[kind]int{}
	for i, item := range plan.Items {
		of := kind{item.Cluster, item.Webhook, item.Step}
		if listed[of]++; i == mostItems || listed[of] > mostItems {
			plan.Items, plan.Until, plan.Cut = plan.Items[:i], plan.Items[i-1].At, true
			return
		}
	}
}

// closest notes the least that an issuer has left when it is renewed.
func (plan *Plan) closest(c ClusterStatus, p Policy, items []PlanItem) {
	if c.Issuer == nil || c.Issuer.Delivered == nil {
		return
	}
	end := c.Issuer.Delivered.NotAfter
	for _, item := range items {
		plan.renewed(c.Name, "issuer", item.At, end)
		end = endOf(item, p.Issuer)
	}
}

// closestHook is likewise for the certificates of webhooks.
func (plan *Plan) closestHook(c ClusterStatus, p Policy, items []PlanItem) {
	ends := map[string]time.Time{}
	for _, w := range c.Webhooks {
		if w.Delivered != nil {
			ends[w.Name] = w.Delivered.NotAfter
		}
	}
	for _, item := range items {
		if end, known := ends[item.Webhook]; known && item.Step == StepWebhook {
			plan.renewed(c.Name, "webhook", item.At, end)
			ends[item.Webhook] = endOf(item, p.Webhooks.Leaf)
		}
	}
}

// endOf is when what a step makes ends.
func endOf(item PlanItem, p RenewalPolicy) time.Time {
	return item.At.Add(p.Lifetime - p.Backdate - time.Second)
}

func (plan *Plan) renewed(cluster, kind string, at, end time.Time) {
	this := LeastLeft{Cluster: cluster, Kind: kind, At: at, LeftSeconds: int64(end.Sub(at) / time.Second)}
	i := slices.IndexFunc(plan.Least, func(l LeastLeft) bool { return l.Kind == kind })
	switch {
	case i < 0:
		plan.Least = append(plan.Least, this)
	case this.LeftSeconds/60 < plan.Least[i].LeftSeconds/60: // which of two is seconds closer says nothing
		plan.Least[i] = this
	}
}

// restarts notes when workloads may be restarted, and when not.
func (plan *Plan) restarts(p FleetPolicy, now time.Time) {
	for _, c := range p.Clusters {
		for _, w := range c.Windows {
			opens := w.Opens.Next(now.Add(-w.For))
			if opens.IsZero() {
				continue
			}
			// Clusters may keep it in zones of their own.
			next := PlanWindow{Name: w.Name, OpensAt: opens.UTC(), ClosesAt: opens.Add(w.For).UTC()}
			i := slices.IndexFunc(plan.Windows, func(o PlanWindow) bool { return o.Name == next.Name && o.OpensAt.Equal(next.OpensAt) })
			if i < 0 {
				i, plan.Windows = len(plan.Windows), append(plan.Windows, next)
			}
			plan.Windows[i].Clusters++
		}
		for _, f := range c.Freezes {
			if !now.Before(f.To) {
				continue
			}
			this := PlanFreeze{Name: f.Name, Reason: f.Reason, From: f.From.UTC(), To: f.To.UTC()}
			i := slices.IndexFunc(plan.Freezes, func(o PlanFreeze) bool { return o.Name == this.Name && o.From.Equal(this.From) })
			if i < 0 {
				i, plan.Freezes = len(plan.Freezes), append(plan.Freezes, this)
			}
			plan.Freezes[i].Clusters++
		}
	}
	slices.SortStableFunc(plan.Windows, func(a, b PlanWindow) int { return a.OpensAt.Compare(b.OpensAt) })
	slices.SortStableFunc(plan.Freezes, func(a, b PlanFreeze) int { return a.From.Compare(b.From) })
}

// renewals lists the coming issuers of one cluster.
func renewals(c ClusterStatus, p Policy, anchor *AnchorStatus, now, until time.Time) []PlanItem {
	if c.Issuer == nil || c.Issuer.Delivered == nil || anchor == nil {
		return nil
	}
	return series(c.Pause, PlanItem{Cluster: c.Name, Step: StepIssuer}, p.Issuer, c.Issuer.NextRun, c.Issuer.MustRenewBy, c.Issuer.Delivered.NotAfter, anchor.NotAfter, now, until)
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
	items = series(c.Pause, PlanItem{Cluster: c.Name, Step: StepWebhookCA}, p.Webhooks.CA, c.WebhookCA.NextRun, c.WebhookCA.MustRenewBy, c.WebhookCA.NotAfter, never.Add(p.Webhooks.CA.Lifetime), now, until)
	for _, w := range c.Webhooks {
		if w.Delivered == nil || w.Mode != string(Managed) {
			continue
		}
		next := series(c.Pause, PlanItem{Cluster: c.Name, Step: StepWebhook, Webhook: w.Name}, p.Webhooks.Leaf, w.NextRun, w.MustRenewBy, w.Delivered.NotAfter, never.Add(p.Webhooks.Leaf.Lifetime), now, until)
		if n := c.NextStep; n != nil && n.Webhook == w.Name && n.Step == StepWebhook && len(next) > 0 && !next[0].Due.After(now) {
			next = next[1:] // the same step
		}
		items = append(items, next...)
	}
	return items
}

// series lists what comes of one kind, as if each succeeded at its time, until
// one would outlive what it is under.
func series(pause *PauseStatus, like PlanItem, p RenewalPolicy, nextRun, mustRenewBy *time.Time, notAfter, parentEnds, now, until time.Time) (items []PlanItem) {
	if nextRun == nil || mustRenewBy == nil {
		return nil
	}
	at, must := *nextRun, *mustRenewBy
	floor := notAfter.Sub(must) // may be larger than the policy's, by what was seen in the cluster
	// One more than are listed: then there are more.
	for len(items) <= mostItems && !at.After(until) {
		item := like
		item.Due, item.Reason = at, fmt.Sprintf("schedule %q; the floor is %s", p.Schedule, clock(must))
		at = latest(at, now.Truncate(time.Second))
		item.At, item.Undo = at, undo(like.Step)
		items = append(items, item)
		end := endOf(item, p)
		if end.After(parentEnds) {
			break // what comes then depends on a new parent
		}
		dates := p.Dates(like.Cluster, at, end, floor)
		if !dates.NextRun.After(at) {
			break
		}
		at, must = dates.NextRun, dates.MustRenewBy
		if pause != nil {
			at = *pause.putOff(&at, &must)
		}
	}
	return items
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
