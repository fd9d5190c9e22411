package rotation

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Status is the fleet as the loop last saw it. It asks nobody.
func (r *Reconciler) Status() FleetStatus {
	now := r.wall()
	f := r.fleet()
	s := newFleetStatus(f, now, "daemon")
	r.mu.Lock()
	s.Findings = append(s.Findings, slices.SortedFunc(maps.Values(r.findings), func(a, b Finding) int { return cmp.Compare(a.ID, b.ID) })...)
	members, next := make([]*member, 0, len(r.members)), make([]time.Time, 0, len(r.members))
	for _, p := range r.policy.Clusters {
		m := r.members[p.Cluster]
		members, next = append(members, m), append(next, m.next)
	}
	if f.Change != nil {
		s.Trust.Rotation.WaitingFor = append(s.Trust.Rotation.WaitingFor, r.waiting...)
		f.wantApproval(&s, r.wanted)
		s.Trust.Rotation.ProgressAt = wholeSecond(latest(*s.Trust.Rotation.ProgressAt, r.nearer.at))
	}
	s.Daemon = &DaemonStatus{Epoch: r.epoch}
	if !r.cycleAt.IsZero() {
		at := r.cycleAt.Truncate(time.Second)
		s.Daemon.LastCycleAt = &at
	}
	r.mu.Unlock()
	var workloads []*WorkloadsStatus
	for i, m := range members {
		v := m.view()
		m.mu.Lock()
		d := m.decision
		m.mu.Unlock()
		c := clusterStatus(f, v, d, now)
		for n, found := range c.Findings {
			if t := found.Tried; t != nil && t.Step == "" && next[i].After(now) {
				again := *t
				again.Next = wholeSecond(next[i])
				c.Findings[n].Tried = &again
			}
		}
		s.Clusters = append(s.Clusters, c)
		if f.Change != nil && f.restarts(v) {
			workloads = append(workloads, f.workloads(v, d))
		}
	}
	s.Trust.Rotation.Workloads = workloadsOf(workloads)
	s.Conclude()
	return s
}

// JournalStatus is the fleet as the journal last knew it, for when no daemon
// runs. What has ended since then is judged by now; nothing is better than a
// warning, since nobody is looking.
func JournalStatus(f Fleet, records []ClusterRecord, now time.Time) FleetStatus {
	s := newFleetStatus(f, now, "journal")
	s.Findings = append(s.Findings, Finding{ID: "DaemonNotRunning", Severity: StateWarning, Message: "no certd daemon answers; this is what its journal last knew", Fix: "certd run"})
	for _, p := range f.Policy.Clusters {
		c := ClusterStatus{Name: p.Cluster, Labels: labelsOf(p), Groups: groupsOf(p), State: StateUnknown, Mode: string(Managed), Namespace: p.Namespace, Findings: []Finding{}}
		i := slices.IndexFunc(records, func(r ClusterRecord) bool { return r.Name == p.Cluster })
		if i < 0 || json.Unmarshal(records[i].Status, &c) != nil {
			c.Findings = append(c.Findings, Finding{ID: "NotSeenYet", Severity: StateUnknown, Message: "the journal knows nothing of this cluster"})
		} else {
			c.Labels, c.Groups = labelsOf(p), groupsOf(p)
			c.NextStep, c.Reachable = nil, nil
			if f.Change == nil && c.Proxies != nil {
				c.Proxies.Workloads = nil
			}
			c.expire(now)
			c.age(now)
		}
		c.paused(f, now)
		s.Clusters = append(s.Clusters, c)
	}
	if f.Change != nil {
		s.Trust.Rotation.Workloads = workloadsOf(counted(s.Clusters))
	}
	s.Conclude()
	return s
}

// LiveStatus is what one look at each cluster shows, now, without a daemon.
func LiveStatus(f Fleet, views []View, now time.Time) FleetStatus {
	if f.Epoch == 0 { // no certd has run with this journal, or there is none: nobody is deposed
		f.Epoch = lastEpoch - 1
	}
	s := newFleetStatus(f, now, "live")
	for _, v := range views {
		s.Clusters = append(s.Clusters, clusterStatus(f, v, Decide(f, v, now), now))
	}
	s.Conclude()
	return s
}

// evidenceOf is how old what the journal knows of a cluster may be and still
// stand for how it is: the daemon saves it at least every ten looks.
const evidenceOf = 15 * time.Minute

// age says that a recorded status is too old to go by.
func (c *ClusterStatus) age(now time.Time) {
	if c.LastContact != nil && now.Sub(*c.LastContact) <= evidenceOf {
		return
	}
	message := "has never been seen"
	if c.LastContact != nil {
		message = fmt.Sprintf("was last seen %s ago", short(now.Sub(*c.LastContact)))
	}
	c.Findings = append(c.Findings, Finding{ID: "NotSeenLately", Severity: StateUnknown, Message: message, Fix: "certd status --live"})
	c.State = worst(c.Findings)
}

// paused enters the pause that a managed cluster is under.
func (c *ClusterStatus) paused(f Fleet, now time.Time) {
	if c.Mode == string(Paused) { // as it was recorded
		c.Mode = string(Managed)
	}
	c.Pause = nil
	p := f.paused(c.Name, now)
	if p == nil || c.Mode != string(Managed) {
		return
	}
	c.Mode = string(Paused)
	c.Pause = &PauseStatus{Since: p.At.Truncate(time.Second), Until: wholeSecond(p.Until), By: p.Actor, Reason: p.Reason, Fleet: p.Cluster == ""}
	if i := c.Issuer; i != nil {
		i.NextRun = c.Pause.putOff(i.NextRun, i.MustRenewBy)
	}
	if ca := c.WebhookCA; ca != nil {
		ca.NextRun = c.Pause.putOff(ca.NextRun, ca.MustRenewBy)
	}
	for i := range c.Webhooks {
		c.Webhooks[i].NextRun = c.Pause.putOff(c.Webhooks[i].NextRun, c.Webhooks[i].MustRenewBy)
	}
}

// putOff is when a renewal comes: when the pause is over, and at the floor in any case.
func (p PauseStatus) putOff(next, must *time.Time) *time.Time {
	if next == nil || must == nil || next.After(*must) {
		return next
	}
	at := *must
	if p.Until != nil && p.Until.Before(at) {
		at = latest(*next, *p.Until)
	}
	return &at
}

// Managed says whether certd looks after the cluster, paused or not.
func (c ClusterStatus) Managed() bool { return c.Mode == string(Managed) || c.Mode == string(Paused) }

// expire judges a recorded status by the time it is now.
func (c *ClusterStatus) expire(now time.Time) {
	c.expireWebhooks(now)
	c.State = worst(c.Findings)
	if c.Issuer == nil || c.Issuer.Delivered == nil {
		return
	}
	end := c.Issuer.Delivered.NotAfter
	switch has := func(id string) bool {
		return slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.ID == id })
	}; {
	case !now.Before(end) && !has("IssuerExpired"):
		c.Findings = append(c.Findings, Finding{ID: "IssuerExpired", Severity: StateCritical, Message: fmt.Sprintf("the issuer ended %s ago, if nobody renewed it since", short(now.Sub(end))), Deadline: &end, Fix: "certd run"})
	case c.Issuer.MustRenewBy != nil && now.After(*c.Issuer.MustRenewBy) && now.Before(end) && !has("RenewalOverdue"):
		c.Findings = append(c.Findings, Finding{ID: "RenewalOverdue", Severity: StateCritical, Message: fmt.Sprintf("the issuer had to be renewed by %s and ends in %s", clock(*c.Issuer.MustRenewBy), short(end.Sub(now))), Deadline: &end, Fix: "certd run"})
	}
	c.State = worst(c.Findings)
}

func newFleetStatus(f Fleet, now time.Time, source string) FleetStatus {
	s := FleetStatus{APIVersion: APIVersion, Kind: "FleetStatus", Fleet: f.Policy.Fleet, ObservedAt: now.Truncate(time.Second), Source: source,
		Trust:    TrustStatus{Others: []AnchorStatus{}, Rotation: f.rotationStatus()},
		Clusters: []ClusterStatus{}, Findings: []Finding{}}
	active := f.Active()
	for i := range f.Anchors {
		if a := &f.Anchors[i]; a == active {
			st := a.Status()
			s.Trust.Active, s.Trust.RenewAt = &st, wholeSecond(a.Certificate.NotAfter.Add(-f.Policy.Trust.RenewBefore))
		} else if a.Certificate != nil && a.RetiredAt.IsZero() {
			s.Trust.Others = append(s.Trust.Others, a.Status())
		}
	}
	if c := f.Change; c != nil && c.Held {
		s.Findings = append(s.Findings, Finding{ID: "TrustChangeHeld", Severity: StateWarning, Message: fmt.Sprintf("the change of the trust anchor from %s to %s is held in stage %s", c.from(), c.to(), c.Stage), Fix: "certd trust resume"})
	}
	if c := f.Change; c != nil && c.Compromised {
		s.Findings = append(s.Findings, Finding{ID: "TrustCompromised", Severity: StateCritical, Message: fmt.Sprintf("%s counts as compromised: whoever has its key can deceive every pod that is not restarted yet, and those refuse the others", c.from()), Fix: "certd trust status"})
	}
	if c := f.Change; c != nil && len(c.Without) > 0 {
		s.Findings = append(s.Findings, Finding{ID: "TrustChangeWithout", Severity: StateWarning, Message: fmt.Sprintf("the change of the trust anchor from %s to %s goes on without %s: from stage %s on their workloads and the others refuse each other, until they are back and have been brought along; to end it without them, give certd trust advance again in stage %s", c.from(), c.to(), strings.Join(c.Without, ", "), StageFinish, StageRetire), Fix: "certd trust status"})
	}
	switch {
	case active == nil && slices.ContainsFunc(f.Anchors, func(a Anchor) bool { return a.keyless() && a.RetiredAt.IsZero() }):
		// The clusters that came with them say what there is to say.
	case active == nil:
		s.Findings = append(s.Findings, Finding{ID: "NoAnchor", Severity: StateWarning, Message: "there is no trust anchor yet", Fix: "certd init"})
	default:
		end := active.Certificate.NotAfter
		warn := f.Policy.Trust.RenewBefore
		if f.Policy.Trust.Renews { // it is news only that this did not happen
			warn -= warn / 4
		}
		if left := end.Sub(now); active.ended(now) {
			s.Findings = append(s.Findings, Finding{ID: "AnchorExpired", Severity: StateCritical, Message: fmt.Sprintf("trust anchor %s ended %s ago: linkerd-identity signs nothing any more, and no issuer can be signed under it", active.ID, short(-left)), Deadline: &end, Fix: f.renewal()})
		} else if left < warn {
			severity := StateWarning
			if left < f.Policy.Trust.RenewBefore/4 {
				severity = StateCritical
			}
			s.Findings = append(s.Findings, Finding{ID: "AnchorExpiring", Severity: severity, Message: fmt.Sprintf("trust anchor %s ends in %s; plan its renewal", active.ID, short(left)), Deadline: &end, Fix: f.renewal()})
		}
		if active.Exportable && active.Backend != "file" {
			s.Findings = append(s.Findings, Finding{ID: "KeyExportable", Severity: StateCritical, Message: fmt.Sprintf("the key %s of trust anchor %s can be exported from %s", active.Key, active.ID, active.Backend), Fix: "certd history"})
		}
	}
	return s
}

// Conclude derives state, summary and what breaks first from the clusters and
// findings, as of ObservedAt: also of a part of the fleet.
func (s *FleetStatus) Conclude() {
	s.Summary = Summary{Clusters: len(s.Clusters)}
	s.NothingBreaksBefore, s.FirstToBreak = nil, nil
	if a := s.Trust.Active; a != nil {
		s.breaksAt(Break{Kind: "anchor", Name: a.ID, At: a.NotAfter})
	}
	if slices.ContainsFunc(s.Clusters, func(c ClusterStatus) bool {
		return slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.ID == "NoAnchor" && f.Message == anchorForgotten })
	}) { // then there is one
		s.Findings = slices.DeleteFunc(s.Findings, func(f Finding) bool { return f.ID == "NoAnchor" })
	}
	all := slices.Clone(s.Findings)
	tell(s.Findings)
	for _, c := range s.Clusters {
		tell(c.Findings)
		switch c.State {
		case StateOK:
			s.Summary.OK++
		case StateWarning:
			s.Summary.Warning++
		case StateCritical:
			s.Summary.Critical++
		default:
			s.Summary.Unknown++
		}
		if i := c.Issuer; i != nil && i.Delivered != nil {
			end := i.Delivered.NotAfter
			if i.Loaded != nil && i.Loaded.NotAfter != nil && i.Loaded.NotAfter.Before(end) {
				end = *i.Loaded.NotAfter
			}
			if s.ObservedAt.Before(end) && slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.ID == "IssuerUnusable" }) {
				end = s.ObservedAt // what is there serves nobody, whatever its dates say
			}
			s.breaksAt(Break{Cluster: c.Name, Kind: "issuer", Name: IssuerObject, At: end})
		}
		for _, b := range c.webhookBreaks(s.ObservedAt) {
			s.breaksAt(b)
		}
	}
	s.State = worst(all)
	if s.State == StateUnknown {
		s.State = StateWarning
	}
	switch sum := s.Summary; {
	case sum.Critical > 0:
		s.State = StateCritical
	case sum.Clusters > 0 && sum.Unknown == sum.Clusters && s.State != StateCritical:
		s.State = StateUnknown
	case sum.Warning+sum.Unknown > 0 && s.State == StateOK:
		s.State = StateWarning
	}
}

// tell enters what prints the runbook of each finding.
func tell(findings []Finding) {
	for i := range findings {
		findings[i].Runbook = "certd runbook " + findings[i].ID
	}
}

func (s *FleetStatus) breaksAt(b Break) {
	if s.NothingBreaksBefore == nil || b.At.Before(*s.NothingBreaksBefore) {
		at := b.At
		s.NothingBreaksBefore, s.FirstToBreak = &at, &b
	}
}

// worst is the gravest severity of the findings; StateOK without any.
func worst(findings []Finding) State {
	rank := map[State]int{StateOK: 0, StateUnknown: 1, StateWarning: 2, StateCritical: 3}
	state := StateOK
	for _, f := range findings {
		if rank[f.Severity] > rank[state] {
			state = f.Severity
		}
	}
	return state
}

// Status describes an anchor that has a certificate.
func (a Anchor) Status() AnchorStatus {
	st := AnchorStatus{ID: a.ID, Subject: a.Certificate.Subject.CommonName, NotBefore: a.Certificate.NotBefore, NotAfter: a.Certificate.NotAfter,
		SHA256: pki.Fingerprint(a.Certificate), SKI: pki.SKI(a.Certificate), Key: KeyStatus{Backend: a.Backend, Name: a.Key, Exportable: a.Exportable, Imported: a.Imported}}
	if !a.CheckedAt.IsZero() {
		at := a.CheckedAt.UTC().Truncate(time.Second)
		st.Key.CheckedAt = &at
	}
	return st
}

func labelsOf(p Policy) map[string]string {
	if p.Labels == nil {
		return map[string]string{}
	}
	return p.Labels
}

func groupsOf(p Policy) []string { return append([]string{}, p.Groups...) }

// clusterStatus says what is known of one cluster, and nothing that is not.
func clusterStatus(f Fleet, v View, d Decision, now time.Time) ClusterStatus {
	c := clusterState(f, v, d, now)
	c.Labels, c.Groups, c.Namespace = labelsOf(v.Policy), groupsOf(v.Policy), v.Policy.Namespace
	if o := v.Observed; o != nil {
		c.Version = o.Version
		c.WebhookCA, c.Webhooks = webhookCAStatus(v, d), webhookStatuses(v, d)
		c.Proxies = proxiesStatus(f, d, v)
		if d.Mode == Managed && d.Step != "" && v.Err == nil {
			c.NextStep = &PlanItem{Cluster: c.Name, Step: d.Step, Webhook: d.Webhook, Due: now.Truncate(time.Second), At: now.Truncate(time.Second), Reason: d.Why, Undo: undo(d.Step)}
		}
	}
	return c
}

// clusterState is the part of clusterStatus that says whether all is well.
func clusterState(f Fleet, v View, d Decision, now time.Time) ClusterStatus {
	c := ClusterStatus{Name: v.Policy.Cluster, Mode: string(cmp.Or(d.Mode, Managed)), Findings: []Finding{}}
	c.Findings = append(c.Findings, d.Findings...)
	if v.Err == nil && v.Observed == nil && len(c.Findings) == 0 {
		c.Findings = append(c.Findings, Finding{ID: "NotSeenYet", Severity: StateUnknown, Message: "has not been looked at yet"})
	}
	if !v.Record.LastContact.IsZero() {
		at := v.Record.LastContact.Truncate(time.Second)
		c.LastContact = &at
	}
	if seen := v.Err == nil; !seen || v.Observed != nil {
		c.Reachable = &seen
	}
	if delivered, issued := v.delivered(); v.Observed == nil && issued {
		// What the journal remembers; LastContact says how old that is.
		c.Issuer = &IssuerStatus{Delivered: &Delivered{Serial: delivered.Serial, SHA256: delivered.SHA256, NotBefore: delivered.NotBefore, NotAfter: delivered.NotAfter, Anchor: delivered.Anchor}}
		c.Issuer.date(d.Dates)
	}
	if c.Issuer != nil {
		c.Issuer.FloorSeconds = ceilSeconds(v.Policy.Floor(0, 0))
	}
	if o := v.Observed; o != nil {
		c.Bundle = bundleStatus(f, v.Policy, d, o)
		c.Issuer = issuerStatus(f, v, d)
	}
	c.paused(f, now)
	c.State = worst(c.Findings)
	if c.State == StateOK && d.Mode == Managed && (c.Issuer == nil || c.Issuer.Delivered == nil || c.Bundle == nil || !c.Bundle.Current) && v.Err == nil {
		// Being worked on: not yet what it should be, so not healthy either.
		c.State = StateWarning
		c.Findings = append(c.Findings, Finding{ID: "NotConverged", Severity: StateWarning, Message: cmp.Or(d.Why, "is not yet as it should be")})
	}
	return c
}

func bundleStatus(f Fleet, p Policy, d Decision, o *Observation) *BundleStatus {
	if !o.Bundle.Exists {
		return nil
	}
	b := &BundleStatus{Anchors: []AnchorRef{}}
	b.Current = !d.Bundle.IsZero() && string(d.Bundle.PEM()) == string(o.BundleText)
	have, err := o.readBundle(o.BundleText)
	if err != nil {
		return b
	}
	b.SHA256 = have.SHA256()
	for _, c := range have.Anchors() {
		ref := AnchorRef{Subject: c.Subject.CommonName, SHA256: pki.Fingerprint(c), NotAfter: c.NotAfter}
		for _, a := range f.Anchors {
			if a.Certificate != nil && a.Certificate.Equal(c) {
				ref.ID = a.ID
			}
		}
		for _, a := range p.Foreign {
			if a.Certificate.Equal(c) {
				ref.Foreign = a.Name
			}
		}
		b.Anchors = append(b.Anchors, ref)
	}
	return b
}

func issuerStatus(f Fleet, v View, d Decision) *IssuerStatus {
	o := v.Observed
	if !o.Issuer.Exists || len(o.IssuerFacts.Chain) == 0 {
		return nil
	}
	c := o.IssuerFacts.Chain[0]
	s := &IssuerStatus{Delivered: &Delivered{Serial: pki.Serial(c), SHA256: pki.Fingerprint(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter}, Loaded: d.Loaded}
	if a := f.anchorOf(c); a != nil {
		s.Delivered.Anchor = a.ID
	}
	if chain := o.IssuerFacts.Chain; len(chain) > 1 {
		if a := f.anchorOf(chain[1]); a != nil {
			s.Delivered.Second = a.ID
		}
	}
	if l := d.Loaded; l != nil && l.At != nil {
		whole := *l
		whole.At = wholeSecond(*l.At)
		s.Loaded = &whole
	}
	s.date(d.Dates)
	s.FloorSeconds = ceilSeconds(v.Policy.Floor(observedLimits(o)))
	return s
}

// ceilSeconds is d in seconds, no fraction lost.
func ceilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// date enters the dates that are known, in whole seconds.
func (s *IssuerStatus) date(d RenewalDates) {
	s.MustRenewBy, s.RenewAt, s.NextRun = wholeSecond(d.MustRenewBy), wholeSecond(d.RenewAt), wholeSecond(d.NextRun)
}

// wholeSecond is t in UTC without fraction, nil for the zero time.
func wholeSecond(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// undo says how a step is taken back.
func undo(s Step) string {
	switch s {
	case StepIssuer, StepRepairIssuer:
		return "certd rotate issuer CLUSTER (a newer one replaces it)"
	case StepWebhook, StepRepairWebhook:
		return "certd rotate webhooks CLUSTER (a newer one replaces it)"
	case StepWebhookCA:
		return "certd rotate webhook-ca CLUSTER (a newer one replaces it; the old one is trusted until each replica is past it)"
	case StepWebhookRetire:
		return "none needed: nothing depends on what is taken out"
	case StepNamespace:
		return "kubectl delete namespace"
	case StepBundle:
		return "before Linkerd is installed: kubectl delete configmap " + BundleObject
	case StepBundleCopy:
		return "none needed: it is a copy of the trust bundle"
	}
	return "none needed: it restores what certd had published"
}
