package simulate

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// What may be away for a while.
const (
	Vault = "vault" // the key backend, whichever it is
	Certd = "certd" // certd itself
)

// Outage is a time in which something is away. It begins with the renewal of an issuer
// that is the first to be due after From, when it hurts most.
type Outage struct {
	What string        `json:"what"` // Vault or Certd
	For  time.Duration `json:"-"`
	From time.Time     `json:"from"`
	To   time.Time     `json:"to"`
}

// Options say what is gone through.
type Options struct {
	Policy      rotation.FleetPolicy
	From, Until time.Time
	Outages     []Outage
	Seed        uint64
	Progress    func(at time.Time) // nil: nobody is told; called now and then
}

// Life is a fleet's, as it was gone through. Times are UTC, to the second.
type Life struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Fleet      string        `json:"fleet"`
	From       time.Time     `json:"from"`
	Until      time.Time     `json:"until"`
	Outages    []Outage      `json:"outages"`
	Clusters   []ClusterLife `json:"clusters"`
	Anchors    []AnchorLife  `json:"anchors"`
	Signatures Signatures    `json:"signatures"`
	Findings   []Episode     `json:"findings"`
	Violations []Violation   `json:"violations"`
	Events     []Event       `json:"events"`
}

// ClusterLife is one cluster's part.
type ClusterLife struct {
	Name      string   `json:"name"`
	Issuer    Renewals `json:"issuer"`
	Webhooks  Renewals `json:"webhooks"`
	WebhookCA Renewals `json:"webhookCA"`
}

// Renewals are those of certificates of one kind: how many, and the least time that one
// had left when it was replaced, or at the end. The floor is what policy wants left.
type Renewals struct {
	Count            int       `json:"count"`
	LeastLeftSeconds int64     `json:"leastLeftSeconds"`
	LeastLeftAt      time.Time `json:"leastLeftAt,omitzero"`
	FloorSeconds     int64     `json:"floorSeconds"`
}

// AnchorLife is one certificate of a trust anchor.
type AnchorLife struct {
	ID        string    `json:"id"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// Signatures are those that the key backend was asked for.
type Signatures struct {
	Issuers  int `json:"issuers"`
	Webhooks int `json:"webhooks"` // serving certificates
	CAs      int `json:"cas"`      // trust anchors and webhook CAs
	Canaries int `json:"canaries"`
}

// Episode is a finding that stood for a while.
type Episode struct {
	Finding string         `json:"finding"`
	Cluster string         `json:"cluster,omitempty"`
	Worst   rotation.State `json:"worst"`
	From    time.Time      `json:"from"`
	To      time.Time      `json:"to,omitzero"` // absent: it stands at the end
	Message string         `json:"message"`
	Fix     string         `json:"fix"`
}

// Violation is a promise that did not hold in a cluster, or between clusters: a call or
// handshake in the simulated world would have failed, for instance.
type Violation struct {
	Promise string    `json:"promise"`
	Cluster string    `json:"cluster,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Times   int       `json:"times"` // how often that was seen
	Text    string    `json:"text"`  // what was seen first
}

// Event is a step of certd's.
type Event struct {
	At      time.Time     `json:"at"`
	Cluster string        `json:"cluster,omitempty"`
	Step    rotation.Step `json:"step"`
	Object  string        `json:"object,omitempty"`
	Webhook string        `json:"webhook,omitempty"`
	Why     string        `json:"why"`
	Error   string        `json:"error,omitempty"`
}

// life gathers what a world goes through.
type life struct {
	*world
	doc      Life
	seed     uint64
	changed  map[string]bool        // clusters with a step since the last look
	held     map[string][]*heldCert // by cluster: what is there
	stands   map[string]*Episode
	findings time.Time // when they were last looked at
}

// heldCert is a certificate that is in use.
type heldCert struct {
	object string
	cert   *x509.Certificate
	of     *Renewals
}

// Run goes through a fleet's life: its clusters begin empty but for Linkerd's control plane,
// which waits for its credentials, and for meshed workloads.
func Run(ctx context.Context, o Options) (Life, error) {
	l := &life{seed: o.Seed, changed: map[string]bool{}, held: map[string][]*heldCert{}, stands: map[string]*Episode{}}
	l.doc = Life{APIVersion: "certd/v1", Kind: "Simulation", Fleet: o.Policy.Fleet, From: o.From, Until: o.Until,
		Outages: []Outage{}, Clusters: []ClusterLife{}, Anchors: []AnchorLife{}, Findings: []Episode{}, Violations: []Violation{}, Events: []Event{}}
	for _, p := range o.Policy.Clusters {
		c := ClusterLife{Name: p.Cluster, Issuer: Renewals{FloorSeconds: int64(p.Issuer.RenewBefore / time.Second)}}
		if len(p.Webhooks.Specs) > 0 && !p.Directory {
			c.Webhooks.FloorSeconds, c.WebhookCA.FloorSeconds = int64(p.Webhooks.Leaf.RenewBefore/time.Second), int64(p.Webhooks.CA.RenewBefore/time.Second)
		}
		l.doc.Clusters = append(l.doc.Clusters, c)
	}
	w, err := newWorld(ctx, o.Policy, o.From, o.Seed, l.note, l.trying)
	if err != nil {
		return Life{}, err
	}
	l.world = w
	defer w.close()
	if err := w.begin(); err != nil {
		return Life{}, err
	}
	outages := slices.Clone(o.Outages)
	told := o.From
	for w.now.Before(o.Until) {
		if err := ctx.Err(); err != nil {
			return Life{}, err
		}
		if o.Progress != nil && w.now.Sub(told) > 30*24*time.Hour {
			told = w.now
			o.Progress(w.now)
		}
		until := o.Until
		if len(outages) > 0 && w.loop != nil {
			if at := l.begins(outages[0]); !at.IsZero() && !at.After(w.now) {
				if err := l.away(outages[0]); err != nil {
					return Life{}, err
				}
				if outages = outages[1:]; len(outages) > 0 {
					outages[0].From = l.doc.Outages[len(l.doc.Outages)-1].To.Add(daily)
				}
			} else if !at.IsZero() {
				until = earlier(until, at)
			}
		}
		w.turn(until)
		if err := w.restless(); err != nil {
			return Life{}, err
		}
		l.look()
	}
	return l.done()
}

// begins is when an outage begins: a minute before the next renewal of an issuer.
func (l *life) begins(o Outage) time.Time {
	var next time.Time
	for _, c := range l.loop.Status().Clusters {
		if c.Issuer != nil && c.Issuer.NextRun != nil && (next.IsZero() || c.Issuer.NextRun.Before(next)) {
			next = *c.Issuer.NextRun
		}
	}
	if next.IsZero() || next.Before(o.From) {
		return time.Time{}
	}
	return next.Add(-time.Minute)
}

// away has an outage begin now.
func (l *life) away(o Outage) error {
	o.From, o.To = l.now, l.now.Add(o.For)
	l.doc.Outages = append(l.doc.Outages, o)
	switch o.What {
	case Vault:
		l.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
			return memory.KeyFault{Err: fmt.Errorf("the key backend is away: %w", rotation.ErrUnavailable)}
		})
		l.at(o.To, func() { l.keys.SetFaults(nil) })
		return nil
	case Certd:
		l.at(o.To, func() {
			if err := l.open(); err != nil {
				l.violated("", "I10", "the journal cannot be opened again: "+err.Error())
			} else if err := l.begin(); err != nil {
				l.violated("", "I10", "certd does not start again: "+err.Error())
			}
		})
		return l.stop()
	}
	return fmt.Errorf("nothing is known of %q: %s and %s can be away", o.What, Vault, Certd)
}

// note is told of each step.
func (l *life) note(a rotation.Attempt) {
	e := Event{At: l.now.Truncate(time.Second), Cluster: a.Cluster, Step: a.Step, Object: a.Object, Webhook: a.Webhook, Why: a.Why}
	if a.Err != nil {
		e.Error = a.Err.Error()
	}
	l.doc.Events = append(l.doc.Events, e)
	if a.Cluster != "" {
		l.changed[a.Cluster] = true
	}
	l.findings = earlier(l.findings, l.now.Add(-lookedAt)) // soon
	if a.Err != nil {
		l.findings = time.Time{}
	}
}

// trying is told of each step before, and of canaries, which are no steps.
func (l *life) trying(ctx context.Context, a rotation.Attempt) (context.Context, func(error)) {
	return ctx, func(err error) {
		if a.Step == rotation.StepCanary && err == nil {
			l.doc.Signatures.Canaries++
		}
	}
}

// Findings are looked at daily, a little after a step, and at once where one failed.
const (
	daily    = 24 * time.Hour
	lookedAt = daily - brief
)

// look sees what came of the last turn.
func (l *life) look() {
	for i, p := range l.policy.Clusters {
		if l.changed[p.Cluster] {
			l.certificates(p, &l.doc.Clusters[i])
			l.promises(p)
		}
	}
	clear(l.changed)
	if l.loop != nil && l.now.Sub(l.findings) >= daily {
		l.findings = l.now
		l.episodes()
	}
	for _, v := range l.mesh.ForgetViolations() {
		if v.By != memory.ByWorld {
			l.violated("", "I1", v.Text)
		}
	}
	for _, p := range l.policy.Clusters {
		for _, v := range l.clusters[p.Cluster].ForgetViolations() {
			if v.By != "helm" { // the control plane was installed, and waits
				l.violated(p.Cluster, "I5", v.Text)
			}
		}
	}
}

func (l *life) violated(cluster, promise, text string) {
	now := l.now.Truncate(time.Second)
	i := slices.IndexFunc(l.doc.Violations, func(v Violation) bool { return v.Promise == promise && v.Cluster == cluster })
	if i < 0 {
		l.doc.Violations = append(l.doc.Violations, Violation{Promise: promise, Cluster: cluster, First: now, Text: text})
		i = len(l.doc.Violations) - 1
	}
	l.doc.Violations[i].Last = now
	l.doc.Violations[i].Times++
}

// certificates reads what is in a cluster, as Linkerd would, and counts what is new.
func (l *life) certificates(p rotation.Policy, doc *ClusterLife) {
	c := l.clusters[p.Cluster]
	seen := func(object string, text []byte, of *Renewals) {
		certs, err := pki.ReadCertificates(text)
		if err != nil || len(certs) == 0 {
			return
		}
		i := slices.IndexFunc(l.held[p.Cluster], func(h *heldCert) bool { return h.object == object })
		if i < 0 {
			l.held[p.Cluster] = append(l.held[p.Cluster], &heldCert{object, certs[0], of})
			return
		}
		if h := l.held[p.Cluster][i]; !h.cert.Equal(certs[0]) {
			of.Count++
			of.left(h.cert.NotAfter, l.now)
			h.cert = certs[0]
		}
	}
	seen(rotation.IssuerObject, c.Data(rotation.IssuerObject)[payload.TLSCert], &doc.Issuer)
	for _, spec := range p.Webhooks.Specs {
		if !ownPart(spec) || p.Directory {
			continue
		}
		data := c.Data(spec.Secret)
		seen(spec.Secret, data[payload.TLSCert], &doc.Webhooks)
		seen(spec.Name+"'s CA", data["ca.crt"], &doc.WebhookCA)
	}
}

func (r *Renewals) left(end, now time.Time) {
	left := int64(end.Sub(now) / time.Second)
	if r.LeastLeftAt.IsZero() || left < r.LeastLeftSeconds {
		r.LeastLeftSeconds, r.LeastLeftAt = left, now.Truncate(time.Second)
	}
}

// promises asks whether what was done in a cluster keeps them.
func (l *life) promises(p rotation.Policy) {
	if l.journal == nil {
		return
	}
	anchors, err := l.journal.Anchors()
	if err != nil {
		l.violated(p.Cluster, "I10", err.Error())
		return
	}
	certs, err := l.journal.Certificates(p.Cluster, 1, time.Time{})
	if err != nil {
		l.violated(p.Cluster, "I10", err.Error())
		return
	}
	o, err := l.clusters[p.Cluster].Observe(l.ctx)
	if err != nil {
		return
	}
	for _, v := range rotation.Violations(rotation.Fleet{Policy: l.policy, Anchors: anchors, Epoch: l.journal.Epoch()}, rotation.View{Policy: p, Observed: &o, Certificates: certs}, l.now) {
		l.violated(v.Cluster, v.Promise, v.Message)
	}
}

// episodes keeps the findings.
func (l *life) episodes() {
	st := l.loop.Status()
	now := map[string]bool{}
	see := func(cluster string, f rotation.Finding) {
		key := cluster + "/" + f.ID
		now[key] = true
		e := l.stands[key]
		if e == nil {
			e = &Episode{Finding: f.ID, Cluster: cluster, Worst: f.Severity, From: l.now.Truncate(time.Second), Message: f.Message, Fix: f.Fix}
			l.stands[key] = e
		}
		if worse(f.Severity, e.Worst) {
			e.Worst, e.Message = f.Severity, f.Message
		}
	}
	for _, f := range st.Findings {
		see(f.Cluster, f)
	}
	for _, c := range st.Clusters {
		for _, f := range c.Findings {
			see(c.Name, f)
		}
	}
	for key, e := range l.stands {
		if !now[key] {
			e.To = l.now.Truncate(time.Second)
			l.doc.Findings = append(l.doc.Findings, *e)
			delete(l.stands, key)
		}
	}
}

func worse(a, b rotation.State) bool {
	order := []rotation.State{rotation.StateOK, rotation.StateUnknown, rotation.StateWarning, rotation.StateCritical}
	return slices.Index(order, a) > slices.Index(order, b)
}

// brief is how short a finding may have stood to be left out: steps take a moment. At the
// start everything is yet to be done.
const brief = 15 * time.Minute

func (l *life) done() (Life, error) {
	if l.loop != nil {
		l.episodes()
	}
	for _, e := range l.stands {
		l.doc.Findings = append(l.doc.Findings, *e)
	}
	l.doc.Findings = slices.DeleteFunc(l.doc.Findings, func(e Episode) bool {
		return !e.To.IsZero() && (e.To.Sub(e.From) < brief || e.From.Equal(l.doc.From) && e.To.Sub(e.From) < time.Hour)
	})
	slices.SortFunc(l.doc.Findings, func(a, b Episode) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Finding, b.Finding))
	})
	for _, all := range l.held {
		for _, h := range all {
			h.of.left(h.cert.NotAfter, l.now)
		}
	}
	anchored := map[string]bool{}
	if l.journal == nil { // certd is away at the end
		if err := l.open(); err != nil {
			return Life{}, err
		}
	}
	anchors, err := l.journal.Anchors()
	if err != nil {
		return Life{}, err
	}
	for _, a := range anchors {
		for _, c := range []*x509.Certificate{a.Formerly, a.Certificate} {
			if c != nil && !anchored[pki.Fingerprint(c)] {
				anchored[pki.Fingerprint(c)] = true
				l.doc.Anchors = append(l.doc.Anchors, AnchorLife{a.ID, c.NotBefore, c.NotAfter})
			}
		}
	}
	for _, e := range l.doc.Events {
		if e.Error != "" {
			continue
		}
		switch e.Step {
		case rotation.StepIssuer, rotation.StepRepairIssuer:
			l.doc.Signatures.Issuers++
		case rotation.StepWebhook, rotation.StepRepairWebhook:
			l.doc.Signatures.Webhooks++
		case rotation.StepWebhookCA, rotation.StepTrustRenew:
			l.doc.Signatures.CAs++
		}
	}
	l.doc.Signatures.CAs++ // the trust anchor's own
	if total := l.doc.Signatures; len(l.keys.Signatures()) < total.Issuers+total.Webhooks+total.CAs+total.Canaries {
		l.violated("", "I7", fmt.Sprintf("the key backend gave %d signatures, and %d were used", len(l.keys.Signatures()), total.Issuers+total.Webhooks+total.CAs+total.Canaries))
	}
	return l.doc, nil
}
