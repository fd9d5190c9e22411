package rotation

import (
	"context"
	"encoding/json"
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
	policy    Policy
	next      time.Time // when it is looked at again
	busy      bool      // a pass is under way
	again     bool      // something changed during the pass
	stopWatch context.CancelFunc

	mu           sync.Mutex
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
	request      *Request
	waiters      []chan<- RotateResult
	pending      []PendingIntent
	saved        ClusterStatus // as last written to the journal
	savedAt      time.Time
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
		Request: m.request, Repairs: maps.Clone(m.repairs), Failure: m.failure}
}

// ends is when the issuer in the cluster ends; the zero time, before all
// others, where there is none.
func (m *member) ends() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.decision.Issuer == nil {
		return time.Time{}
	}
	return m.decision.Issuer.NotAfter
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
	m.mu.Lock()
	defer m.mu.Unlock()
	if out.Result != OK {
		return
	}
	m.record.Enrolled = m.record.Enrolled || out.Enrolled
	if c := out.Certificate; c != nil {
		m.certificates = slices.DeleteFunc(m.certificates, func(x CertificateRecord) bool { return x.Serial == c.Serial })
		m.certificates = slices.Insert(m.certificates, 0, *c)
		m.certificates = m.certificates[:min(len(m.certificates), recentCertificates)]
	}
	if in.Step == StepIssuer || in.Step == StepRepairIssuer {
		m.request = nil
		m.answer(RotateResult{Result: OK, Serial: in.Serial})
	}
	if a := out.Anchor; a != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rememberAnchor(*a)
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

// answer tells those who wait for a requested rotation; the caller holds mu.
func (m *member) answer(res RotateResult) {
	res.Cluster = m.name
	for _, w := range m.waiters {
		w <- res // each has room for its one answer
	}
	m.waiters = nil
}

// decided keeps the decision and logs it when it changed.
func (r *Reconciler) decided(m *member, d Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
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
		m.waiters = append(m.waiters, results)
		m.mu.Unlock()
		m.changed()
	}
	r.poke()
	return results
}
