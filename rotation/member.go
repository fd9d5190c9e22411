package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// recentCertificates is how many of a cluster's certificates the loop keeps at
// hand: enough to keep notAfters apart when repairs come thick and fast.
const recentCertificates = 16

// member is one cluster in the loop. Fields above mu belong to the
// Reconciler's lock, those below to the member's own.
type member struct {
	name      string
	cluster   Cluster
	next      time.Time // when it is looked at again
	rested    time.Time // when the last pass ended, with its monotonic reading
	busy      bool      // a pass is under way
	again     bool      // something changed after the look of the pass had begun
	stopWatch context.CancelFunc

	mu           sync.Mutex // taken after the Reconciler's, where both are
	policy       Policy
	record       ClusterRecord
	certificates []CertificateRecord
	observed     *Observation
	obsErr       error
	errSince     time.Time
	lookFails    int
	decision     Decision
	repairs      map[Step][]time.Time
	failure      *StepFailure
	attempts     int
	signed       []time.Time // when CA signatures for the cluster were made, of the last hour or more
	request      *Request
	waiters      []waiter
	pending      []PendingIntent
	saved        ClusterStatus // as last written to the journal
	savedAt      time.Time
}

// waiter is somebody who waits for an issuer signed no earlier than at.
type waiter struct {
	at      time.Time
	results chan<- RotateResult // with room for the one answer
}

// changed makes the cluster due; the caller holds the Reconciler's lock.
func (m *member) changed() {
	if m.busy {
		m.again = true
	}
	m.next = time.Time{}
}

// view is the cluster as Decide wants it.
func (m *member) view() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return View{Policy: m.policy, Record: m.record, Certificates: slices.Clone(m.certificates), Observed: m.observed, Err: m.obsErr, ErrSince: m.errSince,
		Request: m.request, Repairs: maps.Clone(m.repairs), Failure: m.failure, Signed: slices.Clone(m.signed)}
}

// urgency says whether the last look failed, and when the issuer in the
// cluster ends: the zero time, before all others, where there is none.
func (m *member) urgency() (sick bool, ends time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.decision.Issuer != nil {
		ends = m.decision.Issuer.NotAfter
	}
	return m.lookFails > 0, ends
}

// hasSigned counts one signature for the cluster.
func (m *member) hasSigned(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signed = append(slices.DeleteFunc(m.signed, func(t time.Time) bool { return at.Sub(t) > budgetWindow }), at)
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
		m.request = nil
		m.refuse("the cluster is no longer configured")
		return
	}
	to.mu.Lock() // new, and known to nobody else yet
	defer to.mu.Unlock()
	to.request, to.waiters = m.request, m.waiters
	m.request, m.waiters = nil, nil
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
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.Enrolled = m.record.Enrolled || out.Enrolled
	c := out.Certificate
	if c == nil {
		return
	}
	m.certificates = slices.DeleteFunc(m.certificates, func(x CertificateRecord) bool { return x.Serial == c.Serial })
	m.certificates = slices.Insert(m.certificates, 0, *c)
	m.certificates = m.certificates[:min(len(m.certificates), recentCertificates)]
	if in.Step == StepIssuer || in.Step == StepRepairIssuer {
		// An issuer signed before it was asked for is not what was asked for.
		if m.request != nil && !m.request.At.After(c.SignedAt) {
			m.request = nil
		}
		m.answer(RotateResult{Result: OK, Serial: in.Serial}, c.SignedAt)
	}
}

// clockDoubt says why certd's own clock is not to be trusted, "" if there is
// no reason: most of the API servers that were seen disagree with it.
func (r *Reconciler) clockDoubt() string {
	r.mu.Lock()
	members := slices.Collect(maps.Values(r.members))
	r.mu.Unlock()
	agree, disagree := 0, 0
	for _, m := range members {
		m.mu.Lock()
		if o := m.observed; o != nil && o.Version != "" && m.obsErr == nil {
			if o.ClockSkew.Abs() > MaxClockSkew {
				disagree++
			} else {
				agree++
			}
		}
		m.mu.Unlock()
	}
	if disagree <= agree {
		return ""
	}
	return fmt.Sprintf("certd's clock disagrees with %d of %d API servers", disagree, agree+disagree)
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

// answer tells those who wait for an issuer signed then or earlier; the caller
// holds mu.
func (m *member) answer(res RotateResult, signed time.Time) {
	res.Cluster = m.name
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.at.After(signed) {
			return false
		}
		w.results <- res
		return true
	})
}

// refuse tells all who wait why there is no new issuer; the caller holds mu.
func (m *member) refuse(why string) {
	for _, w := range m.waiters {
		w.results <- RotateResult{Cluster: m.name, Result: Failed, Detail: why}
	}
	m.waiters = nil
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

// decided keeps the decision, logs it when it changed, and answers a request
// that it does not serve.
func (r *Reconciler) decided(m *member, v View, d Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.Err == nil && d.Wanted == "" {
		m.failure, m.attempts = nil, 0
	}
	if v.Request != nil && v.Request == m.request && d.Step == "" {
		why := "nothing can be done there now"
		for _, f := range d.Findings {
			if f.Severity == worst(d.Findings) {
				why = f.ID + ": " + f.Message
				break
			}
		}
		if v.Err != nil || d.Wanted != "" {
			why += "; it is done as soon as it can be"
		} else {
			m.request = nil
		}
		m.refuse(why)
	}
	if was := m.decision; d.Step != was.Step || d.Mode != was.Mode || !sameFindings(d.Findings, was.Findings) {
		ids := make([]string, len(d.Findings))
		for i, f := range d.Findings {
			ids[i] = f.ID
		}
		r.log.Info("decision", "cluster", m.name, "step", d.Step, "why", d.Why, "mode", d.Mode, "findings", ids, "next_run", d.Dates.NextRun)
	}
	m.decision = d
}

func sameFindings(a, b []Finding) bool {
	return slices.EqualFunc(a, b, func(x, y Finding) bool { return x.ID == y.ID && x.Severity == y.Severity })
}

// twin names another configured cluster that is this very one, or "".
func (r *Reconciler) twin(m *member) string {
	m.mu.Lock()
	target := m.record.Target
	m.mu.Unlock()
	if target == "" {
		return ""
	}
	r.mu.Lock()
	others := slices.Collect(maps.Values(r.members))
	r.mu.Unlock()
	twin := ""
	for _, o := range others {
		if o == m {
			continue
		}
		o.mu.Lock()
		if o.record.Target == target && (twin == "" || o.name < twin) {
			twin = o.name
		}
		o.mu.Unlock()
	}
	return twin
}

// fleet is what Decide needs beside the cluster.
func (r *Reconciler) fleet() Fleet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Fleet{Policy: r.policy, Anchors: r.anchors, Epoch: r.epoch}
}

// Problem reports something about the fleet as a whole until Solved takes it
// back.
func (r *Reconciler) Problem(id string, err error) {
	fix := map[string]string{"KeyUnfit": "certd history", "KeysDenied": "vault policy write certd-run deploy/vault/certd-run.hcl",
		"KeysUnavailable": "vault status", "ConfigReloadFailed": "certd config validate", "JournalFailed": "certd history --verify"}[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	severity := StateWarning
	if id == "KeyUnfit" || id == "JournalFailed" {
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
	now := wall()
	f := r.fleet()
	v := m.view()
	m.mu.Lock()
	s := clusterStatus(f, v, m.decision, now)
	same := sameStatus(s, m.saved) && now.Sub(m.savedAt) < 10*r.resync
	rec := m.record
	m.mu.Unlock()
	if same {
		return
	}
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
	m.saved, m.savedAt = s, now
	m.mu.Unlock()
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

// Rotate asks for a new issuer in each named cluster and returns a channel
// that carries one result a cluster, as each is done. A name that is not
// configured answers at once.
func (r *Reconciler) Rotate(names []string, req Request) <-chan RotateResult {
	results := make(chan RotateResult, len(names))
	req.At = wall() // by the clock that issuers are signed by
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		m := r.members[name]
		if m == nil {
			results <- RotateResult{Cluster: name, Result: Failed, Detail: "no cluster of this name is configured"}
			continue
		}
		m.mu.Lock()
		m.request = &req
		m.failure = nil
		m.waiters = append(m.waiters, waiter{req.At, results})
		m.mu.Unlock()
		m.changed()
	}
	r.poke()
	return results
}
