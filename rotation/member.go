package rotation

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// recentCertificates is how many of a cluster's certificates the loop keeps at
// hand at least (see keptSince).
const recentCertificates = 64

// keptSince is the notBefore since which all of a cluster's certificates are kept: since
// when its issuers are signed as they are has to be known for as long as leaves may
// live, also where issuers are renewed each minute.
func (v View) keptSince(now time.Time) time.Time {
	return now.Add(-v.drain() - projectionOf(v.Policy) - v.Policy.Issuer.Backdate - time.Hour)
}

// member is one cluster in the loop. Fields above mu belong to the
// Reconciler's lock, those below to the member's own.
type member struct {
	name      string
	cluster   Cluster
	next      time.Time // when it is looked at again
	rested    time.Time // when the last pass ended, with its monotonic reading
	busy      bool      // a pass is under way
	again     bool      // it became due after the look of the pass had begun
	news      bool      // something may have changed since the last look began
	stopWatch context.CancelFunc

	mu           sync.Mutex // taken after the Reconciler's, where both are
	policy       Policy
	record       ClusterRecord
	certificates []CertificateRecord // replaced, never changed: views hold the old slice
	observed     *Observation
	obsErr       error
	lookedAt     time.Time    // when the last look that has ended began
	epoch        uint64       // the largest that was seen there
	seenAt       clockReading // when the look began that observed is of
	unsaved      bool         // another cluster has taken this one's place, or leaves live otherwise, and the journal does not know yet
	trail        Trail
	errSince     time.Time
	lookFails    int
	decision     Decision
	repairs      map[lane][]time.Time // likewise, as are all below that views hold
	failures     map[lane]*StepFailure
	raced        map[lane]int         // how often somebody else was quicker, in a row
	signed       map[lane][]time.Time // when CA signatures were made, of the last hour or more
	webhookCAs   []WebhookCA
	bundles      *readBundles
	evidence     map[string]WebhookEvidence
	proxies      Proxies
	counting     bool      // a census is under way
	counted      bool      // one has ended since the last pass began
	countFrom    time.Time // somebody wants a census that begins then or later
	restarts     Restarts
	requests     map[Target]*Request
	waiters      []waiter
	pending      []PendingIntent
	saved        ClusterStatus // as last written to the journal
	savedAt      time.Time
}

// Target is what a person can ask to have renewed.
type Target string

// The targets.
const (
	TargetIssuer    Target = "issuer"
	TargetWebhooks  Target = "webhooks"   // all serving certificates of the cluster
	TargetWebhookCA Target = "webhook-ca" // and the CA over them
)

// waiter is somebody who waits for what was asked for at a time.
type waiter struct {
	target  Target
	at      time.Time
	results chan<- RotateResult // with room for the one answer
}

// changed makes the cluster due because something is different there, or may be; the
// caller holds the Reconciler's lock.
func (m *member) changed() {
	m.news = true
	m.dueNow()
}

// dueNow makes the cluster due; the caller holds the Reconciler's lock.
func (m *member) dueNow() {
	if m.busy {
		m.again = true
	}
	m.next = time.Time{}
}

// view is the cluster as Decide wants it.
func (m *member) view() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.viewNow()
}

// viewNow is for who holds mu.
func (m *member) viewNow() View {
	return View{Policy: m.policy, Record: m.record, Certificates: m.certificates, Observed: m.observed, Err: m.obsErr, ErrSince: m.errSince, Looks: m.lookFails, Epoch: m.epoch,
		Request: m.requests[TargetIssuer], Repairs: m.repairs, Failures: m.failures, Signed: m.signed,
		WebhookCAs: m.webhookCAs, Evidence: m.evidence, WebhookRequest: m.requests[TargetWebhooks], CARequest: m.requests[TargetWebhookCA], Proxies: m.proxies, Restarts: m.restarts}
}

// with is m with one value more, or another: views go on holding m as it was.
func with[K comparable, V any](m map[K]V, key K, value V) map[K]V {
	next := make(map[K]V, len(m)+1)
	maps.Copy(next, m)
	next[key] = value
	return next
}

// without is m without what drop says, in the same way.
func without[K comparable, V any](m map[K]V, drop func(K, V) bool) map[K]V {
	for key, value := range m {
		if drop(key, value) {
			next := maps.Clone(m)
			maps.DeleteFunc(next, drop)
			return next
		}
	}
	return m
}

// policyNow is the policy that the cluster has now.
func (m *member) policyNow() Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.policy
}

// newMember knows nothing yet but what the configuration says.
func newMember(c Cluster, p Policy, shared *sharedBundles) *member {
	return &member{bundles: newReadBundles(shared), name: p.Cluster, cluster: c, policy: p, repairs: map[lane][]time.Time{}, failures: map[lane]*StepFailure{}, raced: map[lane]int{},
		signed: map[lane][]time.Time{}, evidence: map[string]WebhookEvidence{}, requests: map[Target]*Request{}}
}

// remind has a new member know of restarts that an earlier certd has made, and since
// when none is left out.
func (m *member) remind(restarts []Entry, from, now time.Time) {
	m.restarts.From = from
	hour := now.Add(-time.Hour)
	for _, e := range restarts {
		if e.Intent.Cluster != m.name || e.Result != OK && e.Result != Unknown {
			continue
		}
		m.restarts.note(e.Intent, e.ByOthers, m.policy, e.At)
		if l := (lane{e.Intent.Step, e.Intent.Object}); e.At.After(hour) && e.Intent.Step != StepIdentityRestart && e.Result == OK {
			m.repairs[l] = append(m.repairs[l], e.At)
		}
	}
}

// urgency is a cluster's turn: those that an earlier certd saw come first, and last those whose
// last look failed, an earlier certd's where this one has yet to look. Among equals counts
// when the issuer in the cluster ends: the zero time, before all others, where there
// is none.
func (m *member) urgency() (turn int, ends time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.decision.Issuer != nil {
		ends = m.decision.Issuer.NotAfter
	}
	unlooked := m.observed == nil
	switch {
	case m.lookFails > 0 || unlooked && m.record.Error != "":
		return 2, ends
	case unlooked && !m.record.LastContact.IsZero():
		return 0, ends
	}
	return 1, ends
}

// pause lies between two passes.
func (m *member) pause() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(sickPause, passPause<<min(m.lookFails, 10))
}

// hasSigned counts one signature for an object of the cluster.
func (m *member) hasSigned(a Action, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signed = with(m.signed, a.lane(), append(within(m.signed[a.lane()], at, budgetWindow), at))
}

// left is the time until a deadline. Where none is known, nothing runs there
// that could lapse: half an hour, so that trying again is not hurried.
func (m *member) left(deadline, now time.Time) time.Duration {
	if deadline.IsZero() {
		return 30 * time.Minute
	}
	return deadline.Sub(now)
}

// handOver gives what a person asked for to the member that takes this one's
// place; without one the answer is no.
func (m *member) handOver(to *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to == nil {
		clear(m.requests)
		m.refuse("the cluster is no longer configured")
		return
	}
	to.mu.Lock() // new, and known to nobody else yet
	defer to.mu.Unlock()
	to.requests, to.waiters = m.requests, m.waiters
	m.requests, m.waiters = map[Target]*Request{}, nil
}

func (m *member) takePending() []PendingIntent {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pending
	m.pending = nil
	return p
}

func (r *Reconciler) addPending(m *member, p PendingIntent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = append(m.pending, p)
}

// remember keeps in memory what Finish has put on disk.
func (r *Reconciler) remember(m *member, in Intent, out Outcome) {
	if out.Result != OK {
		return
	}
	if a := out.Anchor; a != nil {
		r.mu.Lock()
		r.rememberAnchor(*a)
		r.mu.Unlock()
	}
	if a := out.Checked; a != nil {
		r.mu.Lock()
		r.rememberChecked(*a)
		r.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.Enrolled = m.record.Enrolled || out.Enrolled
	m.restarts = m.restarts.noted(in, out.ByOthers, m.policy, r.wall())
	if a := out.Adopted; a != nil {
		m.record.came(*a)
	}
	if ca := out.WebhookCA; ca != nil {
		cas := slices.DeleteFunc(slices.Clone(m.webhookCAs), func(x WebhookCA) bool { return x.ID == ca.ID })
		m.webhookCAs = append(cas, *ca)
		slices.SortFunc(m.webhookCAs, func(a, b WebhookCA) int { return cmp.Compare(a.generation(), b.generation()) })
	}
	c := out.Certificate
	if c == nil || c.Kind != "issuer" {
		return
	}
	others := slices.DeleteFunc(slices.Clone(m.certificates), func(x CertificateRecord) bool { return x.Serial == c.Serial })
	since, kept := m.viewNow().keptSince(r.wall()), min(len(others), recentCertificates-1)
	for kept < len(others) && !others[kept].NotBefore.Before(since) {
		kept++
	}
	m.certificates = slices.Concat([]CertificateRecord{*c}, others[:kept])
	if in.Step == StepIssuer || in.Step == StepRepairIssuer {
		// An issuer signed before it was asked for is not what was asked for.
		if r := m.requests[TargetIssuer]; r != nil && !r.At.After(c.SignedAt) {
			delete(m.requests, TargetIssuer)
		}
		m.answer(TargetIssuer, RotateResult{Result: OK, Serial: in.Serial}, c.SignedAt)
	}
}

// came sets what the cluster came with.
func (c *ClusterRecord) came(a Adoption) {
	c.Adopted, c.AdoptedIssuer, c.AdoptedBundle, c.AdoptedAt = a.Anchor, a.Issuer, a.Bundle, a.At
}

// rememberChecked takes over what the key backend says of an anchor's key, and
// that alone: the rest may have moved on meanwhile. The caller holds the lock.
func (r *Reconciler) rememberChecked(a Anchor) {
	if i := slices.IndexFunc(r.anchors, func(x Anchor) bool { return x.ID == a.ID }); i >= 0 {
		now := r.anchors[i]
		now.Backend, now.Exportable, now.CheckedAt = a.Backend, a.Exportable, a.CheckedAt
		r.rememberAnchor(now)
	}
}

// rememberAnchor replaces or appends; the caller holds the lock.
func (r *Reconciler) rememberAnchor(a Anchor) {
	anchors := slices.Clone(r.anchors) // readers hold the old slice
	if i := slices.IndexFunc(anchors, func(x Anchor) bool { return x.ID == a.ID }); i >= 0 {
		anchors[i] = a
	} else {
		anchors = append(anchors, a)
	}
	r.anchors = anchors
}

// answer tells those who asked for it then or earlier; the caller holds mu.
func (m *member) answer(target Target, res RotateResult, done time.Time) {
	res.Cluster = m.name
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.target != target || w.at.After(done) {
			return false
		}
		w.results <- res
		return true
	})
}

// refuse tells those who wait for one of the targets, or for any if none is
// given, why it is not there; the caller holds mu.
func (m *member) refuse(why string, targets ...Target) {
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if len(targets) > 0 && !slices.Contains(targets, w.target) {
			return false
		}
		w.results <- RotateResult{Cluster: m.name, Result: Failed, Detail: why}
		return true
	})
}

// refuseWaiters answers all who still wait.
func (r *Reconciler) refuseWaiters(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		m.mu.Lock()
		m.refuse(why)
		m.mu.Unlock()
	}
}

// decided keeps the decision, logs it when it changed, and answers requests
// that are done or that it does not serve.
func (r *Reconciler) decided(m *member, v View, d Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.Err == nil {
		// Failures count until nothing is to be done any more for the webhook,
		// or for the cluster: another step may just have come first.
		wanted := map[string]bool{}
		for _, a := range d.Wanted {
			wanted[a.Webhook] = true
		}
		m.failures = without(m.failures, func(_ lane, fl *StepFailure) bool { return !wanted[fl.Webhook] })
		if len(d.Wanted) == 0 {
			clear(m.raced)
		}
	}
	m.served(v, d)
	if was := m.decision; d.Step != was.Step || d.Mode != was.Mode || (d.Paused == nil) != (was.Paused == nil) || !sameFindings(d.Findings, was.Findings) {
		ids := make([]string, len(d.Findings))
		for i, f := range d.Findings {
			ids[i] = f.ID
		}
		attrs := []any{"cluster", m.name, "step", d.Step, "why", d.Why, "mode", d.Mode, "findings", ids}
		if !d.Dates.NextRun.IsZero() { // nothing is to be renewed where there is no issuer, or where certd only watches
			attrs = append(attrs, "next_run", d.Dates.NextRun)
		}
		r.log.Info("decision", attrs...)
	}
	m.decision = d
}

// served closes the requests that the decision finds done, and answers those
// that it finds nothing to do for; the caller holds mu.
func (m *member) served(v View, d Decision) {
	requested := map[Target]*Request{TargetIssuer: v.Request, TargetWebhooks: v.WebhookRequest, TargetWebhookCA: v.CARequest}
	for target, req := range requested {
		if req == nil || req != m.requests[target] {
			continue
		}
		serials, done := d.renewedSince(target, v, *req)
		if done && v.Err == nil {
			delete(m.requests, target)
			m.answer(target, RotateResult{Result: OK, Serial: strings.Join(serials, ", ")}, req.At)
			continue
		}
		if d.Step != "" || target != TargetIssuer && d.under(target) {
			continue
		}
		why := "nothing can be done there now"
		for _, f := range d.Findings {
			if f.Severity == worst(d.Findings) {
				why = f.ID + ": " + f.Message
				break
			}
		}
		if v.Err != nil || len(d.Wanted) > 0 {
			why += "; it is done as soon as it can be"
		} else {
			delete(m.requests, target)
		}
		m.refuse(why, target)
	}
}

func sameFindings(a, b []Finding) bool {
	return slices.EqualFunc(a, b, func(x, y Finding) bool { return x.ID == y.ID && x.Severity == y.Severity })
}

// all are the members there are now.
func (r *Reconciler) all() []*member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.AppendSeq(make([]*member, 0, len(r.members)), maps.Values(r.members))
}

// fleet is what Decide needs beside the cluster.
func (r *Reconciler) fleet() Fleet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Fleet{Policy: r.policy, Anchors: r.anchors, Change: r.change, Pauses: r.pauses, Epoch: r.epoch}
}

// Problem reports something about the fleet as a whole until Solved takes it
// back.
func (r *Reconciler) Problem(id string, err error) {
	fix := map[string]string{"KeyUnfit": "certd history", "KeysDenied": "vault policy write certd-run deploy/vault/certd-run.hcl",
		"KeysUnavailable": "vault status", "ConfigReloadFailed": "certd config validate", "JournalFailed": "certd history --verify", "AnchorNotRenewed": "certd trust renew",
		"NotifyFailing": "certd debug notify NAME", "BackupFailed": "certd backup FILE",
		"MirrorFailed": "vault status", "SecondDaemon": "certd runbook SecondDaemon"}[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	severity := StateWarning
	if id == "KeyUnfit" || id == "JournalFailed" || id == "SecondDaemon" {
		severity = StateCritical
	}
	r.findings[id] = Finding{ID: id, Severity: severity, Message: err.Error(), Fix: fix}
}

// Solved takes findings back.
func (r *Reconciler) Solved(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		delete(r.findings, id)
	}
}

// has says whether a finding about the fleet stands.
func (r *Reconciler) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, stands := r.findings[id]
	return stands
}

// saveStatus keeps what `status` shows when no daemon runs. Writing it at each
// look would be a disk sync a minute and cluster for nothing: it is written
// when it says something else, or was ten looks ago.
func (r *Reconciler) saveStatus(m *member) {
	now := r.wall()
	f := r.fleet()
	v := m.view()
	m.mu.Lock()
	d, rec := m.decision, m.record
	same := !m.unsaved && now.Sub(m.savedAt) < 10*r.resync && sameStatus(clusterState(f, v, d, now), m.saved)
	m.mu.Unlock()
	if same && !r.has("JournalFailed") { // else it shows whether that is over
		return
	}
	s := clusterStatus(f, v, d, now)
	var err error
	if rec.Status, err = json.Marshal(s); err == nil {
		if v.Err != nil {
			rec.Error = v.Err.Error()
		}
		err = r.journal.SaveCluster(rec)
	}
	if err != nil {
		r.log.Error("journal not written", "cluster", m.name, "err", err)
		r.Problem("JournalFailed", err)
		return
	}
	r.Solved("JournalFailed")
	m.mu.Lock()
	m.saved, m.savedAt, m.unsaved = s, now, m.unsaved && !m.record.isIn(rec)
	m.mu.Unlock()
}

// isIn says whether saved has all of c that does not wait for the next status.
func (c ClusterRecord) isIn(saved ClusterRecord) bool {
	return c.TargetSince.Equal(saved.TargetSince) && slices.Equal(c.Terms, saved.Terms)
}

// keepRecord has the journal know that another cluster has taken this one's place, before
// anything is delivered to it: else that would count for the one that comes back. And by
// which terms leaves live there, before another issuer signs some.
func (r *Reconciler) keepRecord(m *member) error {
	m.mu.Lock()
	unsaved, rec := m.unsaved, m.record
	m.mu.Unlock()
	if !unsaved {
		return nil
	}
	if err := r.journal.SaveCluster(rec); err != nil {
		r.log.Error("journal not written", "cluster", m.name, "err", err)
		r.Problem("JournalFailed", err)
		return err
	}
	m.mu.Lock()
	m.unsaved = !m.record.isIn(rec)
	m.mu.Unlock()
	return nil
}

// sameStatus compares what matters: not the times of looking.
func sameStatus(a, b ClusterStatus) bool {
	serial := func(s ClusterStatus) string {
		if s.Issuer == nil || s.Issuer.Delivered == nil {
			return ""
		}
		return s.Issuer.Delivered.Serial
	}
	return a.State == b.State && a.Mode == b.Mode && serial(a) == serial(b) && sameFindings(a.Findings, b.Findings)
}

// RotateResult is what came of a requested rotation in one cluster.
type RotateResult struct {
	Cluster string
	Result  Result
	Serial  string
	Detail  string
}

// Rotate asks for new certificates in each named cluster and returns a channel
// that carries one result a cluster, as each is done. A name that is not
// configured answers at once.
func (r *Reconciler) Rotate(target Target, names []string, req Request) <-chan RotateResult {
	results := make(chan RotateResult, len(names))
	req.At = r.wall() // by the clock that issuers are signed by
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		m := r.members[name]
		if m == nil {
			results <- RotateResult{Cluster: name, Result: Failed, Detail: "no cluster of this name is configured"}
			continue
		}
		m.mu.Lock()
		m.requests[target] = &req
		m.failures = nil // a person asks: try at once
		m.waiters = append(m.waiters, waiter{target, req.At, results})
		m.mu.Unlock()
		m.dueNow()
	}
	r.poke()
	return results
}
