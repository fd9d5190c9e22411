package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

const (
	// proofSoon is how old evidence of a webhook gets before it is asked again
	// where something is not proved yet, for as long as that is to be expected;
	// after that it is asked at each regular look, and where all is as it should
	// be as often as the policy says.
	proofSoon = 5 * time.Second
	proofHope = 10 * time.Minute
	// foreignFor is for how many times Projection certd leaves CAs of others in
	// a caBundle: who wrote them may write once more, and with both in it
	// either way works.
	foreignFor = 3
)

// WebhookDecision is what is known of one webhook that is installed, and what
// comes next.
type WebhookDecision struct {
	Webhook Webhook
	Mode    Mode
	Why     string // why it is only watched
	Leaf    *x509.Certificate
	CA      *WebhookCA // over Leaf; nil: not certd's
	Dates   RenewalDates
	Served  *Loaded       // nil where nothing is known
	Check   *WebhookCheck // nil where there is no check, or none was made
	// Trust is what its ca.crt holds if it is written now. Exactly that is to be
	// in ca.crt and caBundles where exact says so; else at least the active CA.
	Trust   pki.CASet
	Current bool // the caBundles are as they should be

	evidence WebhookEvidence
	at       time.Time // when Leaf was signed
	proved   bool      // every replica serves Leaf, and the webhook does its work
	exact    bool      // nothing but Trust is needed any more
	need     pki.CASet // what must not leave a caBundle now
	broken   []brokenTrust
}

// brokenTrust is an object by which the API server would refuse what is served.
type brokenTrust struct {
	object WebhookObject
	why    error
}

// Active returns the webhook CA that signs: the newest that is complete and
// not retired, or nil.
func activeCA(cas []WebhookCA) *WebhookCA {
	for i := len(cas) - 1; i >= 0; i-- {
		if a := &cas[i]; a.Certificate != nil && a.RetiredAt.IsZero() {
			return a
		}
	}
	return nil
}

// signedBy returns the generation that signed c, or nil.
func signedBy(cas []WebhookCA, facts pki.ServingFacts) *WebhookCA {
	for i := range cas {
		if a := &cas[i]; a.Certificate != nil && facts.SignedBy(a.Certificate) {
			return a
		}
	}
	return nil
}

// installed says whether some object calls the webhook's Service.
func (w Webhook) installed() bool { return len(w.Objects) > 0 }

// states are those of all its objects, the Secret's first.
func (w Webhook) states() []ObjectState {
	all := []ObjectState{w.Secret}
	for _, o := range w.Objects {
		all = append(all, o.ObjectState)
	}
	return all
}

// state stands for everything a probe depends on.
func (w Webhook) state() string {
	var s strings.Builder
	for _, o := range w.states() {
		fmt.Fprintf(&s, "%s;", o.Revision)
	}
	return s.String()
}

// secretName names the Secret in text: journal, findings, events.
func (s WebhookSpec) secretName() string { return s.Namespace + "/" + s.Secret }

// injected says whether a cainjector fills in one of the caBundles from the
// Secret.
func (w Webhook) injected() bool {
	return slices.ContainsFunc(w.Objects, func(o WebhookObject) bool { return o.Injector != "" })
}

func (w Webhook) ignores() bool {
	return slices.ContainsFunc(w.Objects, func(o WebhookObject) bool { return o.Ignores })
}

// judgeWebhooks says what each installed webhook is worth: its dates, what is
// really served, whether the API server takes it.
func (d *Decision) judgeWebhooks(f Fleet, v View, now time.Time) {
	denied, unseen := []Webhook{}, []Webhook{}
	for _, w := range v.Observed.Webhooks {
		switch {
		case errors.Is(w.Err, ErrDenied):
			denied = append(denied, w)
		case w.Err != nil:
			unseen = append(unseen, w)
		case w.installed():
			d.Webhooks = append(d.Webhooks, d.judgeWebhook(f, v, w, now))
		case w.Spec.Own && v.Err == nil:
			names := make([]string, len(w.Spec.Objects))
			for i, o := range w.Spec.Objects {
				names[i] = o.String()
			}
			d.find(StateWarning, "WebhookMissing", fmt.Sprintf("webhook %s is configured, and nothing calls it: %s", w.Spec.Name, strings.Join(names, ", ")), nil, "certd config show")
		}
	}
	if active := activeCA(v.WebhookCAs); active != nil {
		d.caDates, d.caDated = v.Policy.caDates(*active), active.ID
	}
	if v.Err == nil {
		d.unseenWebhooks(StateWarning, "WebhookDenied", denied, "kubectl apply -f deploy/rbac/certd.yaml")
		d.unseenWebhooks(StateUnknown, "WebhookUnseen", unseen, "certd inspect "+v.Policy.Cluster)
	}
}

// unseenWebhooks makes one finding of several: what prevents certd from looking
// at one of them, as a rule, is in the way of the others, too.
func (d *Decision) unseenWebhooks(severity State, id string, all []Webhook, fix string) {
	if len(all) == 0 {
		return
	}
	names := make([]string, len(all))
	for i, w := range all {
		names[i] = w.Spec.Name
	}
	d.find(severity, id, fmt.Sprintf("webhook %s could not be seen: %v", strings.Join(names, ", "), all[0].Err), nil, fix)
}

func (d *Decision) judgeWebhook(f Fleet, v View, w Webhook, now time.Time) WebhookDecision {
	wd := WebhookDecision{Webhook: w, Mode: d.Mode, evidence: v.Evidence[w.Spec.Name]}
	name := w.Spec.Name
	switch foreign := w.Secret.Marks.Fleet; {
	case d.Mode == Watched:
		wd.Why = "the cluster is watched only"
	case w.Renewer != "":
		wd.Mode, wd.Why = Watched, w.Renewer+" issues into Secret "+w.Spec.secretName()+": delete it, and certd takes over without a failed admission"
		d.find(StateWarning, "WebhookManagedElsewhere", "webhook "+name+": "+wd.Why, nil, deleteRenewer(w.Renewer))
	case foreign != "" && foreign != f.Policy.Fleet:
		wd.Mode, wd.Why = Watched, fmt.Sprintf("Secret %s bears the mark of another fleet, %s", w.Spec.secretName(), foreign)
		d.find(StateWarning, "WebhookManagedElsewhere", "webhook "+name+": "+wd.Why, nil, "certd inspect "+v.Policy.Cluster+"/webhook/"+name)
	}
	if facts := w.Facts; w.Secret.Exists && facts.Problem == "" {
		wd.Leaf = facts.Chain[0]
		wd.CA = signedBy(v.WebhookCAs, facts)
		wd.at = wd.Leaf.NotBefore.Add(v.Policy.Webhooks.Leaf.Backdate)
		if wd.Mode == Managed && wd.CA != nil {
			wd.Dates = v.Policy.Webhooks.Leaf.Dates(v.Policy.Cluster, wd.at, wd.Leaf.NotAfter, v.Policy.WebhookFloor())
		}
	}
	wd.judgeServed(v.Policy.Webhooks.ProbeEvery, now)
	wd.judgeTrust(v, now)
	if v.Err == nil {
		d.reportWebhook(v, &wd, now)
	}
	return wd
}

func deleteRenewer(renewer string) string {
	kind, name, _ := strings.Cut(renewer, " ")
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, " ")
	return "kubectl -n " + namespace + " delete " + strings.ToLower(kind) + " " + name + orphans
}

// judgeServed weighs the evidence of what the replicas serve.
func (wd *WebhookDecision) judgeServed(every time.Duration, now time.Time) {
	ev := wd.evidence
	if ev.At.IsZero() {
		return
	}
	if ev.Check.State != "" {
		check := ev.Check
		wd.Check = &check
	}
	at := ev.At
	l := &Loaded{State: "yes", At: &at}
	kinds := map[string]bool{}
	behind, unseen := "", ""
	for _, r := range ev.Replicas {
		if r.At.Before(*l.At) {
			at := r.At
			l.At = &at
		}
		switch {
		case len(r.Served) == 0:
			unseen = r.Pod + ": " + r.Evidence
			continue
		case wd.Leaf == nil || !r.Served[0].Equal(wd.Leaf):
			behind = r.Pod
		}
		kinds[r.Evidence] = true
		if end := r.Served[0].NotAfter; l.NotAfter == nil || end.Before(*l.NotAfter) {
			l.NotAfter, l.Serial = &end, pki.Serial(r.Served[0])
		}
	}
	switch {
	case behind != "":
		l.State, l.Evidence = "no", behind+" serves another certificate"
	case len(ev.Replicas) == 0:
		l.State, l.Evidence = "unknown", cmp.Or(ev.Check.Evidence, "no replica runs")
	case unseen != "":
		l.State, l.Evidence = "unknown", unseen
	case now.Sub(*l.At) > evidenceAge+2*every:
		l.State, l.Evidence = "unknown", fmt.Sprintf("what is served was last seen %s ago", short(now.Sub(*l.At)))
	default:
		l.Evidence = strings.Join(slices.Sorted(maps.Keys(kinds)), ", ")
	}
	wd.Served = l
}

// judgeTrust finds out what the caBundle has to hold: everything needed for
// what is or may be served, for as long as nothing newer is proved; the CA of
// the certificate alone once every replica serves it.
func (wd *WebhookDecision) judgeTrust(v View, now time.Time) {
	w := wd.Webhook
	alive := func(s pki.CASet) pki.CASet {
		return s.Where(func(c *x509.Certificate) bool { return now.Before(c.NotAfter) })
	}
	var held pki.CASet
	for _, o := range w.Objects {
		held = held.Union(alive(o.CABundle))
	}
	served := wd.maybeServed()
	need := pki.CASet{}
	for _, a := range v.WebhookCAs {
		if a.Certificate != nil && a.RetiredAt.IsZero() {
			need = need.Union(pki.NewCASet(a.Certificate))
		}
	}
	need = alive(need)
	for _, chain := range served {
		refused := false
		for _, o := range w.Objects {
			if err := verifies(o.CABundle, w.Spec, chain, now); err != nil && now.Before(chain[0].NotAfter) {
				wd.broken = append(wd.broken, brokenTrust{o, err})
				refused = true
			}
		}
		if refused && verifies(need, w.Spec, chain, now) != nil {
			need = need.Union(roots(need.Union(held).Union(alive(w.Facts.CAs)), w.Spec, chain, now))
		}
	}
	wd.proved = wd.isProved(v, now)
	wd.need = need
	active := activeCA(v.WebhookCAs)
	switch {
	case wd.Mode != Managed:
		wd.Trust = held
	case active == nil:
		wd.Trust = bounded(need, held)
	case wd.mayShrink(v, active, held, now):
		wd.Trust, wd.exact = pki.NewCASet(active.Certificate), true
	default:
		wd.need = need.Union(pki.NewCASet(active.Certificate))
		wd.Trust = bounded(wd.need, held)
	}
	wd.Current = len(wd.broken) == 0
	for _, o := range w.Objects {
		wd.Current = wd.Current && (wd.Mode != Managed || wd.trusted(o.CABundle, o.CAText, active))
	}
}

// trusted says whether a caBundle, or a ca.crt, is as it should be: by itself
// it has to hold the active CA; what else is in it stays until it is proved
// that nobody needs it, and does not come back unless somebody does.
func (wd *WebhookDecision) trusted(set pki.CASet, text []byte, active *WebhookCA) bool {
	if wd.exact {
		return bytes.Equal(text, wd.Trust.PEM())
	}
	return active == nil || set.Contains(active.Certificate)
}

// bounded adds as much of others as certd is willing to publish, the newest
// first.
func bounded(must, others pki.CASet) pki.CASet {
	for _, c := range others.Certificates() {
		if len(must.Certificates()) >= pki.MaxCAs {
			break
		}
		must = must.Union(pki.NewCASet(c))
	}
	return must
}

// maybeServed are the chains that some replica serves or takes up next.
func (wd *WebhookDecision) maybeServed() [][]*x509.Certificate {
	var chains [][]*x509.Certificate
	if wd.Leaf != nil {
		chains = append(chains, wd.Webhook.Facts.Chain)
	}
	for _, r := range wd.evidence.Replicas {
		if len(r.Served) > 0 && (wd.Leaf == nil || !r.Served[0].Equal(wd.Leaf)) {
			chains = append(chains, r.Served)
		}
	}
	return chains
}

func verifies(set pki.CASet, spec WebhookSpec, chain []*x509.Certificate, now time.Time) error {
	if len(spec.DNSNames) == 0 {
		return errors.New("nothing says under which name it is called")
	}
	return set.Verify(chain, spec.DNSNames[0], now)
}

// roots finds among known certificates, and in the chain itself where it is
// self-signed, one under which the chain is accepted; none if there is none.
func roots(known pki.CASet, spec WebhookSpec, chain []*x509.Certificate, now time.Time) pki.CASet {
	for _, c := range append(known.Certificates(), chain[len(chain)-1], chain[0]) {
		if s := pki.NewCASet(c); verifies(s, spec, chain, now) == nil {
			return s
		}
	}
	return pki.CASet{}
}

// isProved says whether every replica serves the Secret's certificate, by
// evidence of what is there now, and the webhook does its work. A replica that
// could not be seen counts if it was started so late that its kubelet had
// nothing older to show.
func (wd *WebhookDecision) isProved(v View, now time.Time) bool {
	ev := wd.evidence
	if wd.Leaf == nil || ev.Of != wd.Webhook.state() || now.Sub(ev.At) > evidenceAge || len(ev.Replicas) == 0 {
		return false
	}
	if ev.Check.State != "" && ev.Check.State != "yes" {
		return false
	}
	for _, r := range ev.Replicas {
		switch {
		case len(r.Served) > 0 && r.Served[0].Equal(wd.Leaf):
		case len(r.Served) == 0 && !r.Started.Before(wd.at.Add(v.Policy.Webhooks.Projection)):
		default:
			return false
		}
	}
	return true
}

// mayShrink says whether nothing but the active CA is needed any more: a
// certificate of its own is proved to be served, no kubelet can still show an
// older one to a pod that starts, and whoever wrote another CA has had time to
// write it again.
func (wd *WebhookDecision) mayShrink(v View, active *WebhookCA, held pki.CASet, now time.Time) bool {
	p := v.Policy.Webhooks
	if !wd.proved || wd.CA == nil || wd.CA.ID != active.ID || now.Before(wd.at.Add(p.Projection)) {
		return false
	}
	foreign := held.Where(func(c *x509.Certificate) bool {
		return !slices.ContainsFunc(v.WebhookCAs, func(a WebhookCA) bool { return a.Certificate != nil && a.Certificate.Equal(c) })
	})
	for _, o := range wd.Webhook.Objects {
		wait := p.Settle
		if !foreign.IsZero() {
			wait = max(wait, foreignFor*p.Projection)
		}
		if now.Before(o.lastWrite().Add(v.Observed.behind()+wait)) && !o.CABundle.Equal(pki.NewCASet(active.Certificate)) {
			return false
		}
	}
	return true
}

// lastWrite is when certd or another last wrote the caBundle, as far as known.
func (o WebhookObject) lastWrite() time.Time {
	last := o.WrittenAt
	for _, w := range o.Writers {
		if w.At.After(last) {
			last = w.At
		}
	}
	return last
}

// reportWebhook tells people what is wrong with a webhook, or will be.
func (d *Decision) reportWebhook(v View, wd *WebhookDecision, now time.Time) {
	w := wd.Webhook
	name, fix := w.Spec.Name, "certd rotate webhooks "+v.Policy.Cluster
	history := "certd history --cluster " + v.Policy.Cluster
	if wd.Mode == Watched {
		fix = "certd inspect " + v.Policy.Cluster + "/webhook/" + name
	}
	harm := "the API server refuses what it has to ask it"
	if w.ignores() {
		harm = "the API server goes on without it and tells nobody (failurePolicy Ignore)"
		if w.Spec.Check == CheckInjected {
			harm += ": pods start without a proxy"
		}
	}
	var end *time.Time
	if wd.Leaf != nil {
		end = wd.ends()
		left := end.Sub(now)
		switch floor := v.Policy.WebhookFloor(); {
		case left <= 0:
			d.find(StateCritical, "WebhookExpired", fmt.Sprintf("the certificate of %s ended %s ago: %s", name, short(-left), harm), end, fix)
		case left < floor:
			d.find(StateCritical, "WebhookBelowFloor", fmt.Sprintf("the certificate of %s ends in %s, less than the %s that repairs may take; then %s", name, short(left), short(floor), harm), end, fix)
		case wd.Mode == Managed && !wd.Dates.MustRenewBy.IsZero() && now.After(wd.Dates.MustRenewBy.Add(time.Minute)):
			d.find(StateWarning, "WebhookOverdue", fmt.Sprintf("the certificate of %s had to be renewed by %s and ends in %s", name, clock(wd.Dates.MustRenewBy), short(left)), end, history)
		}
	} else if w.Secret.Exists || w.Secret.Marks.Fleet != "" {
		d.find(StateCritical, "WebhookUnusable", fmt.Sprintf("Secret %s cannot serve %s: %s", w.Spec.secretName(), name, w.Facts.Problem), nil, history)
	}
	for i, b := range wd.broken {
		if i > 0 && b.object.Ref == wd.broken[i-1].object.Ref {
			continue
		}
		d.find(StateCritical, "WebhookUntrusted", fmt.Sprintf("what %s serves is not accepted under the caBundle of %s: %v; %s", name, b.object.Ref, b.why, harm), nil, history)
	}
	if c := wd.Check; c != nil && c.State == "no" && len(wd.broken) == 0 && wd.evidence.Of == w.state() && (end == nil || now.Before(*end)) {
		d.find(StateCritical, "WebhookBroken", fmt.Sprintf("%s does not do its work (%s); %s", name, c.Evidence, harm), nil, "kubectl -n "+w.Spec.Namespace+" get pods,endpointslices")
	}
	d.reportUnproved(v, wd, end, now)
}

// reportUnproved tells where it is not, or not yet, proved that a certificate
// is in use, after the time that this may take.
func (d *Decision) reportUnproved(v View, wd *WebhookDecision, end *time.Time, now time.Time) {
	w := wd.Webhook
	since := now.Sub(wd.at)
	if wd.Mode != Managed || wd.Leaf == nil || wd.Served == nil || since < 2*v.Policy.Webhooks.Projection+loadGrace/2 {
		return
	}
	name := w.Spec.Name
	switch {
	case wd.Served.State == "no":
		severity := StateWarning
		if end != nil && end.Sub(now) < v.Policy.WebhookFloor() {
			severity = StateCritical
		}
		d.find(severity, "WebhookNotServed", fmt.Sprintf("the certificate of %s was delivered %s ago, and %s", name, short(since), wd.Served.Evidence), end, "kubectl -n "+w.Spec.Namespace+" rollout restart "+restartable(wd.evidence))
	case wd.Served.State == "unknown":
		d.find(StateUnknown, "WebhookServedUnknown", fmt.Sprintf("the certificate of %s was delivered %s ago, and whether it is served could not be seen: %s", name, short(since), wd.Served.Evidence), end, "certd inspect "+v.Policy.Cluster+"/webhook/"+name)
	case wd.Check != nil && wd.Check.State == "unknown":
		d.find(StateUnknown, "WebhookCheckUnknown", fmt.Sprintf("whether %s does its work could not be seen: %s", name, wd.Check.Evidence), nil, "kubectl apply -f deploy/rbac/certd.yaml")
	}
}

// restartable is what to name to kubectl.
func restartable(ev WebhookEvidence) string {
	for _, r := range ev.Replicas {
		if r.Owner.Kind != "" && plain(r.Owner.Name) {
			return strings.ToLower(r.Owner.Kind) + "/" + r.Owner.Name
		}
	}
	return "deployment"
}

// ends is when the webhook stops: what a replica serves counts where it ends
// earlier than what lies in the Secret.
func (wd *WebhookDecision) ends() *time.Time {
	if wd.Leaf == nil {
		return nil
	}
	end := wd.Leaf.NotAfter
	if l := wd.Served; l != nil && l.NotAfter != nil && l.NotAfter.Before(end) {
		end = *l.NotAfter
	}
	return &end
}

// webhookActions lists what is to be done for the webhooks. mending comes
// before everything else: without it an admission fails now.
//
// The order of the others is the safety argument. A CA is trusted before
// anything is signed under it (in the Secret first where a cainjector copies
// from there); a certificate is replaced once every API server goes by that
// trust; and what is older leaves a caBundle when each replica is proved to
// serve the new one, and no kubelet can show the old one again. Until the last
// step everything can be taken back by asking for it: the old CA is still
// trusted.
func (d *Decision) webhookActions(f Fleet, v View, now time.Time) (mending, others []Action) {
	active := activeCA(v.WebhookCAs)
	managed := false
	for i := range d.Webhooks {
		wd := &d.Webhooks[i]
		if wd.Mode != Managed {
			continue
		}
		managed = true
		mending = append(mending, wd.mend(now)...)
		if active != nil {
			if a, ok := d.webhookStep(f, v, wd, active, now); ok {
				others = append(others, a)
				if a, ok = wd.renewUnderFormer(v, a, now); ok {
					others = append(others, a)
				}
			}
		}
	}
	if managed {
		if a, ok := d.webhookCA(v, active, now); ok {
			others = append([]Action{a}, others...)
		}
		if a, ok := d.retired(v, active); ok {
			others = append(others, a)
		}
	}
	return mending, others
}

// mend puts back into a caBundle what is needed for what is served. It takes
// nothing out.
func (wd *WebhookDecision) mend(now time.Time) (actions []Action) {
	for i, b := range wd.broken {
		if slices.ContainsFunc(wd.broken[:i], func(x brokenTrust) bool { return x.object.Ref == b.object.Ref }) {
			continue // all that is needed goes in at once
		}
		cas := bounded(wd.need, b.object.CABundle)
		if b.object.CABundle.Holds(cas) {
			continue // what is missing is nobody's to give: a new certificate is needed
		}
		a := wd.action(StepRepairTrust, b.object.Ref.String(), fmt.Sprintf("what %s serves is not accepted under its caBundle: %v", wd.Webhook.Spec.Name, b.why))
		a.cas = cas
		a.blame(b.object.ObjectState)
		actions = append(actions, a)
	}
	return actions
}

func (wd *WebhookDecision) action(step Step, object, why string) Action {
	a := Action{Step: step, Object: object, Webhook: wd.Webhook.Spec.Name, Why: why, spec: wd.Webhook.Spec, cas: wd.Trust}
	if end := wd.ends(); end != nil {
		a.Deadline = *end
	}
	return a
}

// blame names in an action who wrote last.
func (a *Action) blame(o ObjectState) {
	if len(o.Writers) > 0 {
		a.Writer = o.Writers[0].Name
		a.Why += fmt.Sprintf("; last written by %s at %s", a.Writer, clock(o.Writers[0].At))
	}
}

// webhookStep picks the first thing about one webhook that is not as it should
// be.
func (d *Decision) webhookStep(f Fleet, v View, wd *WebhookDecision, active *WebhookCA, now time.Time) (Action, bool) {
	w, ca := wd.Webhook, pki.NewCASet(active.Certificate)
	secret := w.Spec.secretName()
	for _, o := range w.Objects {
		if o.CABundle.Holds(ca) {
			continue
		}
		if a, ok := wd.trustSecretFirst(ca, secret); ok {
			return a, true
		}
		a := wd.action(StepWebhookTrust, o.Ref.String(), fmt.Sprintf("webhook CA %s is to be trusted before anything is signed under it", active.ID))
		a.cas = bounded(wd.need, o.CABundle)
		if o.Marks.Fleet != "" { // it was there before
			a.blame(o.ObjectState)
		}
		return a, true
	}
	if why, step := d.wantsCertificate(v, wd, active, now); why != "" {
		if at := wd.settledAt(v, now); now.Before(at) {
			d.wakeAt(at)
			return Action{}, false
		}
		a := wd.action(step, secret, why)
		a.Signs = true
		if step == StepRepairWebhook {
			a.blame(w.Secret)
		}
		if r := v.WebhookRequest; r != nil && strings.HasPrefix(why, askedFor) {
			a.Actor = r.Actor
		}
		return a, true
	}
	if a, ok := wd.helpUptake(v, secret, now); ok {
		return a, true
	}
	marks := Marks{Fleet: f.Policy.Fleet, Serial: pki.Serial(wd.Leaf), Keep: true, Label: true}
	why, step := "", StepRepairMetadata
	switch {
	case !wd.trusted(w.Facts.CAs, w.Facts.CAText, active) && wd.exact && w.Facts.CAs.Holds(wd.Trust):
		step, why = StepWebhookRetire, "each replica serves a certificate under "+active.ID+", and nothing else is needed in ca.crt"
	case !wd.trusted(w.Facts.CAs, w.Facts.CAText, active):
		why = "ca.crt was changed"
	case !marksHold(w.Secret.Marks, marks):
		why = "labels or annotations of the Secret were changed"
	}
	if why != "" {
		a := wd.action(step, secret, why)
		a.blame(w.Secret)
		return a, true
	}
	for _, o := range w.Objects {
		if !wd.trusted(o.CABundle, o.CAText, active) { // it holds the active CA, and more
			a := wd.action(StepWebhookRetire, o.Ref.String(), "each replica serves a certificate under "+active.ID+": no other CA is needed")
			a.blame(o.ObjectState)
			return a, true
		}
	}
	d.wakeAt(wd.Dates.NextRun, wd.Dates.MustRenewBy)
	return Action{}, false
}

// renewUnderFormer wants a certificate at its floor under the CA that it has, although another is
// active: that one is to be trusted first, and may never be where that is refused, or somebody
// undoes it again and again. The floor does not wait, and the former CA is trusted.
func (wd *WebhookDecision) renewUnderFormer(v View, first Action, now time.Time) (Action, bool) {
	by := wd.Dates.MustRenewBy
	if first.Step != StepWebhookTrust || wd.Leaf == nil || wd.CA == nil || !wd.CA.RetiredAt.IsZero() || by.IsZero() || now.Before(by) || !gainsLife(v.Policy.Webhooks.Leaf, wd.CA.Certificate, wd.Leaf, now) {
		return Action{}, false
	}
	for _, o := range wd.Webhook.Objects {
		if !o.CABundle.Holds(pki.NewCASet(wd.CA.Certificate)) {
			return Action{}, false
		}
	}
	a := wd.action(StepWebhook, wd.Webhook.Spec.secretName(), atFloor(wd.Leaf.NotAfter, by, now)+"; under "+wd.CA.ID+" once more, since that is trusted")
	a.Signs, a.ca = true, wd.CA
	return a, true
}

// trustSecretFirst: where a cainjector copies ca.crt into the caBundle, a CA
// that is not in ca.crt would not stay in the caBundle.
func (wd *WebhookDecision) trustSecretFirst(ca pki.CASet, secret string) (Action, bool) {
	w := wd.Webhook
	if !w.injected() || !w.Secret.Exists || !w.Facts.Complete || w.Facts.CAs.Holds(ca) {
		return Action{}, false
	}
	return wd.action(StepWebhookTrust, secret, "a cainjector copies ca.crt into the caBundle, so the new webhook CA goes there first"), true
}

// askedFor begins the reason of what a person wanted.
const askedFor = "asked for"

// asked is what a person wanted, with the reason that they gave, if they did.
func asked(reason string) string {
	if reason == "" {
		return askedFor
	}
	return askedFor + ": " + reason
}

// wantsCertificate says why there has to be a new certificate, and by which
// step; "" if there need not be one.
func (d *Decision) wantsCertificate(v View, wd *WebhookDecision, active *WebhookCA, now time.Time) (why string, step Step) {
	w := wd.Webhook
	ours := !w.WrittenAt.IsZero() || w.Secret.Marks.Fleet != ""
	replace := StepWebhook // what others made is taken over
	if ours {
		replace = StepRepairWebhook
	}
	switch {
	case !w.Secret.Exists && d.had(v, w):
		return "Secret " + w.Spec.secretName() + " is gone, and certd keeps no key", StepRepairWebhook
	case !w.Secret.Exists:
		return "the webhook has no certificate yet", StepWebhook
	case wd.Leaf == nil:
		return "the certificate cannot serve: " + w.Facts.Problem, replace
	case wd.CA == nil && w.Secret.Marks.Fleet == "":
		return "its certificate was issued by " + quoteIssuer(wd.Leaf) + ": it is taken over", StepWebhook
	case wd.CA == nil:
		return "its certificate is not under certd's webhook CA but issued by " + quoteIssuer(wd.Leaf), replace
	case !slices.Equal(wd.Leaf.DNSNames, w.Spec.DNSNames):
		return fmt.Sprintf("its certificate is for %s, and it is called as %s", strings.Join(wd.Leaf.DNSNames, ", "), strings.Join(w.Spec.DNSNames, ", ")), replace
	case !w.Facts.Complete:
		return "certificate or key are not written in the one form that each server reads", replace
	case !now.Before(wd.Leaf.NotAfter):
		return "its certificate has ended", StepWebhook
	case wd.CA.ID != active.ID:
		return fmt.Sprintf("its certificate is under webhook CA %s, and %s has taken its place", wd.CA.ID, active.ID), StepWebhook
	case !gainsLife(v.Policy.Webhooks.Leaf, active.Certificate, wd.Leaf, now):
		if now.After(wd.Dates.NextRun) {
			d.find(StateCritical, "WebhookCAEnds", fmt.Sprintf("a new certificate of %s could not outlive webhook CA %s, which ends %s", w.Spec.Name, active.ID, clock(active.Certificate.NotAfter)), wd.ends(), "certd rotate webhook-ca "+v.Policy.Cluster)
		}
		return "", ""
	case v.WebhookRequest != nil && wd.at.Before(v.WebhookRequest.At.Truncate(time.Second)):
		return asked(v.WebhookRequest.Reason), StepWebhook
	case !now.Before(wd.Dates.MustRenewBy):
		return atFloor(wd.Leaf.NotAfter, wd.Dates.MustRenewBy, now), StepWebhook
	case !now.Before(wd.Dates.NextRun):
		return fmt.Sprintf("due since %s by schedule %q: fewer than two more firings come before %s", clock(wd.Dates.NextRun), v.Policy.Webhooks.Leaf.Schedule, clock(wd.Dates.MustRenewBy)), StepWebhook
	}
	return "", ""
}

// had says whether certd has looked after the webhook before: its objects
// bear the fleet's mark.
func (d *Decision) had(_ View, w Webhook) bool {
	return slices.ContainsFunc(w.Objects, func(o WebhookObject) bool { return o.Marks.Fleet != "" })
}

func quoteIssuer(c *x509.Certificate) string {
	if bytes.Equal(c.RawIssuer, c.RawSubject) {
		return "itself"
	}
	return fmt.Sprintf("%.80q", c.Issuer.CommonName)
}

// gainsLife says whether a new certificate would live noticeably longer than
// the one there is: not where the CA is about to end.
func gainsLife(p RenewalPolicy, ca, leaf *x509.Certificate, now time.Time) bool {
	end := now.Add(p.Lifetime - p.Backdate)
	if end.After(ca.NotAfter) {
		end = ca.NotAfter
	}
	return end.Sub(leaf.NotAfter) > min(time.Minute, p.Lifetime/4)
}

// settledAt is when every API server goes by the caBundle as it is now. Where
// nothing that is served works anyhow, there is nothing to wait for; what
// nobody has seen may work.
func (wd *WebhookDecision) settledAt(v View, now time.Time) time.Time {
	works := wd.evidence.At.IsZero() || slices.ContainsFunc(wd.evidence.Replicas, func(r WebhookReplica) bool {
		return len(r.Served) == 0 && (r.Ready || r.Owner.Kind == "") // without an owner, it may stand for replicas that could not be listed
	})
	for _, chain := range wd.maybeServed() {
		works = works || now.Before(chain[0].NotAfter)
	}
	if !works || wd.allBroken() {
		return now
	}
	var last time.Time
	for _, o := range wd.Webhook.Objects {
		if at := o.lastWrite(); at.After(last) {
			last = at
		}
	}
	return last.Add(v.Observed.behind() + v.Policy.Webhooks.Settle)
}

// allBroken says whether the API server refuses, by every object, something
// that is served.
func (wd *WebhookDecision) allBroken() bool {
	return !slices.ContainsFunc(wd.Webhook.Objects, func(o WebhookObject) bool {
		return !slices.ContainsFunc(wd.broken, func(b brokenTrust) bool { return b.object.Ref == o.Ref })
	})
}

// helpUptake moves replicas that did not take a certificate up in the time that
// kubelets need: the files are swapped once more; if that does not help, the
// pods are replaced. Replicas that cannot be seen are replaced only where
// something waits for the proof.
func (wd *WebhookDecision) helpUptake(v View, secret string, now time.Time) (Action, bool) {
	w, ev, p := wd.Webhook, wd.evidence, v.Policy.Webhooks
	if wd.Leaf == nil || wd.CA == nil || ev.Of != w.state() || now.Sub(ev.At) > evidenceAge || wd.proved || now.Before(wd.at.Add(p.Projection)) {
		return Action{}, false
	}
	serial := pki.Serial(wd.Leaf)
	waits := slices.ContainsFunc(w.Objects, func(o WebhookObject) bool { return len(o.CABundle.Certificates()) > 1 })
	for _, r := range ev.Replicas {
		missed := len(r.Served) > 0 && !r.Served[0].Equal(wd.Leaf)
		unseen := len(r.Served) == 0 && r.Ready && waits && r.Started.Before(wd.at.Add(p.Projection))
		switch {
		case !missed && !unseen:
			continue
		case missed && w.Reload != serial:
			a := wd.action(StepWebhookReload, secret, fmt.Sprintf("%s has not taken the certificate up in %s: its files are swapped once more", r.Pod, short(now.Sub(wd.at))))
			return a, true
		case missed && now.Before(w.WrittenAt.Add(p.Projection)), r.Owner.Kind == "", missed && !r.Started.Before(w.WrittenAt):
			continue
		}
		why := fmt.Sprintf("%s did not take the certificate up, also not after its files were swapped once more", r.Pod)
		if unseen {
			why = fmt.Sprintf("what %s serves cannot be seen (%s), and an older CA can only go when it is sure", r.Pod, r.Evidence)
		}
		a := wd.action(StepWebhookRestart, w.Spec.Namespace+"/"+r.Owner.String(), why)
		a.owner = r.Owner
		return a, true
	}
	return Action{}, false
}

// webhookCA says whether a new CA is to be made, and why.
func (d *Decision) webhookCA(v View, active *WebhookCA, now time.Time) (Action, bool) {
	a := Action{Step: StepWebhookCA, Object: "webhook CA", Signs: true}
	p := v.Policy.Webhooks.CA
	if active == nil {
		a.Why = "the cluster has webhooks and no webhook CA yet"
		return a, true
	}
	a.Deadline = active.Certificate.NotAfter
	dates := d.datesOf(v.Policy, *active)
	switch {
	case v.CARequest != nil && active.CreatedAt.Before(v.CARequest.At.Truncate(time.Second)):
		a.Why, a.Actor = asked(v.CARequest.Reason), v.CARequest.Actor
	case !now.Before(dates.MustRenewBy):
		a.Why = fmt.Sprintf("webhook CA %s ends in %s, and the floor is %s", active.ID, short(active.Certificate.NotAfter.Sub(now)), short(active.Certificate.NotAfter.Sub(dates.MustRenewBy)))
	case !now.Before(dates.NextRun):
		a.Why = fmt.Sprintf("webhook CA %s is due since %s by schedule %q", active.ID, clock(dates.NextRun), p.Schedule)
	default:
		d.wakeAt(dates.NextRun, dates.MustRenewBy)
		return Action{}, false
	}
	return a, true
}

// caDates are the dates of a webhook CA. A serving certificate that is made at
// the last moment still lives its whole life.
func (p Policy) caDates(ca WebhookCA) RenewalDates {
	return p.Webhooks.CA.Dates(p.Cluster, ca.CreatedAt, ca.Certificate.NotAfter, p.Webhooks.Leaf.Lifetime)
}

// datesOf are a webhook CA's dates. Each report asks for them, and finding the
// firings of a schedule takes longer than all the rest of it.
func (d *Decision) datesOf(p Policy, ca WebhookCA) RenewalDates {
	if d.caDated == ca.ID {
		return d.caDates
	}
	return p.caDates(ca)
}

// retired finds a CA that has been replaced and that nothing holds any more.
func (d *Decision) retired(v View, active *WebhookCA) (Action, bool) {
	if active == nil || slices.ContainsFunc(v.Observed.Webhooks, func(w Webhook) bool { return w.Err != nil }) {
		return Action{}, false
	}
	for i := range v.WebhookCAs {
		ca := v.WebhookCAs[i]
		if ca.Certificate == nil || ca.ID == active.ID || !ca.RetiredAt.IsZero() {
			continue
		}
		if held := slices.ContainsFunc(d.Webhooks, func(wd WebhookDecision) bool {
			return wd.Mode == Managed && (!wd.Current || !wd.proved || wd.CA == nil || wd.CA.ID == ca.ID || wd.Webhook.Facts.CAs.Contains(ca.Certificate) ||
				slices.ContainsFunc(wd.Webhook.Objects, func(o WebhookObject) bool { return o.CABundle.Contains(ca.Certificate) }))
		}); !held {
			return Action{Step: StepWebhookRetire, Object: "webhook CA " + ca.ID, Why: "no caBundle holds it any more", ca: &ca}, true
		}
	}
	return Action{}, false
}

// probeWhatIsUnproven asks for evidence where it is missing, about something
// else, or too old.
func (d *Decision) probeWhatIsUnproven(v View, now time.Time) {
	for i := range d.Webhooks {
		wd := &d.Webhooks[i]
		if wd.Mode != Managed {
			continue
		}
		every := v.Policy.Webhooks.ProbeEvery
		if hoped := now.Sub(wd.at) < proofHope || slices.ContainsFunc(wd.Webhook.Objects, func(o WebhookObject) bool { return now.Sub(o.WrittenAt) < proofHope }); !wd.proved && hoped {
			every = proofSoon
		} else if !wd.proved {
			every = min(every, usualResync-passPause)
		}
		switch due := wd.evidence.At.Add(every); {
		case wd.evidence.Of != wd.Webhook.state(), !now.Before(due), wd.evidence.At.After(now):
			d.Probe = append(d.Probe, wd.Webhook.Spec)
		default:
			d.lookAt(due)
		}
		// What waits for time alone.
		p := v.Policy.Webhooks
		for _, at := range []time.Time{wd.at.Add(p.Projection), wd.Webhook.WrittenAt.Add(p.Projection)} {
			if at.After(now) {
				d.wakeAt(at)
			}
		}
		for _, o := range wd.Webhook.Objects {
			for _, wait := range []time.Duration{p.Settle, foreignFor * p.Projection} {
				if at := o.lastWrite().Add(v.Observed.behind() + wait); at.After(now) {
					d.wakeAt(at)
				}
			}
		}
	}
}

// renewedSince says whether what was asked for is there, and which serials.
func (d *Decision) renewedSince(target Target, v View, req Request) (serials []string, done bool) {
	since := req.At.Truncate(time.Second)
	active := activeCA(v.WebhookCAs)
	if target == TargetIssuer || active == nil || !d.under(target) {
		return nil, false
	}
	if target == TargetWebhookCA && active.CreatedAt.Before(since) {
		return nil, false
	}
	for _, wd := range d.Webhooks {
		if wd.Mode != Managed {
			continue
		}
		switch {
		case wd.Leaf == nil || wd.CA == nil || wd.CA.ID != active.ID:
			return nil, false
		case target == TargetWebhooks && wd.at.Before(since):
			return nil, false
		case target == TargetWebhookCA && (!wd.Current || len(wd.Trust.Certificates()) != 1):
			return nil, false
		}
		serials = append(serials, pki.Serial(wd.Leaf))
	}
	if target == TargetWebhookCA {
		serials = []string{pki.Serial(active.Certificate)}
	}
	return serials, true
}

// under says whether there is a webhook that certd looks after.
func (d *Decision) under(target Target) bool {
	return target != TargetIssuer && slices.ContainsFunc(d.Webhooks, func(wd WebhookDecision) bool { return wd.Mode == Managed })
}

// targets are the requests that trouble in the action concerns.
func (a Action) targets() []Target {
	if a.Webhook == "" && a.Step != StepWebhookCA {
		return []Target{TargetIssuer}
	}
	return []Target{TargetWebhooks, TargetWebhookCA}
}

// hurry is until when the action should have succeeded.
func (d *Decision) hurry() time.Time {
	if d.Deadline.IsZero() && slices.Contains(d.targets(), TargetIssuer) {
		return d.Dates.MustRenewBy
	}
	return d.Deadline
}
