package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// promised are the promises in a few words, in their order.
var promised = []struct{ id, name string }{
	{"I1", "mutual trust"}, {"I2", "no crash loop, no skip"}, {"I3", "no early removal"}, {"I4", "no lapse"},
	{"I5", "admission keeps working"}, {"I6", "custody"}, {"I7", "every signature is accounted for"}, {"I8", "one writer"},
	{"I9", "idle is free"}, {"I10", "resumable"}, {"I11", "isolation"}, {"I12", "honest status"},
}

// concerns says which promise a finding is about. The others are no promise
// broken: what a person has asked for, or what is yet to be done.
var concerns = map[string]string{
	"TrustChangeWithout": "I1", "LeftBehind": "I1",
	"IssuerUnusable": "I2", "IssuerNotLoaded": "I2", "BundleUnusable": "I2",
	"IssuerExpired": "I4", "IssuerBelowFloor": "I4", "RenewalOverdue": "I4", "LifetimeTooShort": "I4", "AnchorExpiring": "I4", "AnchorExpired": "I4", "AnchorEnds": "I4", "AnchorNotRenewed": "I4",
	"IdentityTrustsOldDates": "I4", "ForeignAnchorExpiring": "I4", "ForeignAnchorExpired": "I4", "WebhookExpired": "I4", "WebhookBelowFloor": "I4", "WebhookOverdue": "I4", "WebhookCAEnds": "I4",
	"StepFailed": "I4", "KeysDenied": "I4", "KeysUnavailable": "I4", "ClockSkew": "I4", "IssuerLost": "I4", "CredentialEnds": "I4",
	"WebhookUntrusted": "I5", "WebhookBroken": "I5", "WebhookUnusable": "I5", "WebhookNotServed": "I5", "WebhookMissing": "I5", "WebhookDenied": "I5",
	"KeyExportable": "I6", "KeyUnfit": "I6", "AnchorKeyElsewhere": "I6", "TrustCompromised": "I6",
	"Deposed": "I8", "SecondDaemon": "I8", "SameCluster": "I8", "RepairHeldBack": "I8", "WebhookManagedElsewhere": "I8", "SecondWriter": "I8",
	"SignatureBudget": "I9", "AnchorNotRecovered": "I10", "JournalFailed": "I10",
}

// promise is a verdict in the making.
type promise struct {
	PromiseVerdict
	oldest time.Time
}

// bad makes the verdict no better than s, and says why before anything else.
func (p *promise) bad(s State, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if slices.Contains(p.Evidence, line) {
		return
	}
	p.Evidence = append(p.Evidence, line)
	if rankOf(s) > rankOf(p.State) {
		p.State = s
	}
}

// blind says what could not be judged.
func (p *promise) blind(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !slices.Contains(p.Unseen, line) {
		p.Unseen = append(p.Unseen, line)
	}
	if rankOf(StateUnknown) > rankOf(p.State) {
		p.State = StateUnknown
	}
}

func (p *promise) note(format string, args ...any) {
	p.Evidence = append(p.Evidence, fmt.Sprintf(format, args...))
}

// restsOn says how old the evidence is.
func (p *promise) restsOn(at time.Time) {
	if !at.IsZero() && (p.oldest.IsZero() || at.Before(p.oldest)) {
		p.oldest = at
	}
}

// promises judges each promise: first by the findings about it, which status
// shows, too, then by what takes a look at the whole.
func (j *judgement) promises() {
	judges := map[string]func(*promise){"I1": j.mutualTrust, "I2": j.noSkip, "I3": j.noEarlyRemoval, "I4": j.noLapse, "I5": j.admission, "I6": j.custody,
		"I7": j.accounted, "I8": j.oneWriter, "I9": j.idle, "I10": j.resumable, "I11": j.isolation, "I12": j.honest}
	for _, is := range promised {
		p := &promise{PromiseVerdict: PromiseVerdict{ID: is.id, Name: is.name, State: StateOK, Evidence: []string{}, Unseen: []string{}}}
		for _, f := range j.Findings {
			p.found("", f)
		}
		for i, d := range j.decisions {
			for _, f := range d.Findings {
				p.found(j.Clusters[i].Policy.Cluster+": ", f)
			}
		}
		for _, c := range j.Clusters {
			for _, v := range Violations(j.Fleet, c.View, j.At) {
				if v.Promise == is.id && !p.says(v.Cluster) {
					p.bad(StateCritical, "%s: %s", v.Cluster, v.Message)
				}
			}
		}
		judges[is.id](p)
		p.At = wholeSecond(p.oldest)
		j.doc.Promises = append(j.doc.Promises, p.PromiseVerdict)
	}
}

func (p *promise) found(where string, f Finding) {
	if concerns[f.ID] == p.ID && f.Severity != StateUnknown {
		p.bad(f.Severity, "%s%s (%s)", where, f.Message, f.ID)
	}
}

// says is whether something is said of a cluster already.
func (p *promise) says(cluster string) bool {
	return slices.ContainsFunc(p.Evidence, func(line string) bool { return strings.HasPrefix(line, cluster+": ") })
}

// seen calls with each cluster that was seen since it was asked for; the others
// are told of.
func (j *judgement) seen(p *promise, with func(c ClusterEvidence, d *Decision)) {
	for i, c := range j.Clusters {
		if unseen := c.unseen(j.Asked, j.At); unseen != "" {
			p.blind("%s", unseen)
		}
		if c.Observed != nil {
			p.restsOn(c.Observed.At)
			with(c, &j.decisions[i])
		}
	}
}

// mutualTrust is I1: the matrix, and that it holds until certd has to act.
func (j *judgement) mutualTrust(p *promise) {
	due, apart := map[string]time.Time{}, map[string]bool{}
	for i, c := range j.Clusters {
		due[c.Policy.Cluster] = j.decisions[i].Dates.MustRenewBy
		apart[c.Policy.Cluster] = j.decisions[i].Mode == Watched || j.Fleet.stays(c.View)
	}
	strangers := 0
	told := map[string]bool{}
	for _, v := range j.doc.Matrix {
		if v.EvidenceAt != nil {
			p.restsOn(*v.EvidenceAt)
		}
		switch by := due[v.Peer]; {
		case v.State == PairRefused && v.Peer != v.Verifier && (apart[v.Peer] || apart[v.Verifier]):
			strangers++
		case v.State == PairRefused:
			p.bad(StateCritical, "%s -> %s: %s", v.Peer, v.Verifier, v.Why)
		case v.State == PairUnknown && !told[v.Why]:
			told[v.Why] = true
			p.blind("%s", v.Why)
		case v.State == PairAccepted && v.Until != nil && v.Until.Before(by):
			p.bad(StateWarning, "%s -> %s is accepted until %s only, before the issuer has to be renewed by %s", v.Peer, v.Verifier, clock(*v.Until), clock(by))
		}
	}
	if s := j.doc.Pairs; s.Until != nil {
		p.note("%d of %d pairs of clusters accept each other, the first of them until %s (%s -> %s)", s.Accepted, s.Total, clock(*s.Until), s.First.Peer, s.First.Verifier)
	}
	if strangers > 0 {
		p.note("%d pairs refuse each other whose anchors are not the fleet's: clusters that are watched only, or came with an anchor of their own", strangers)
	}
	for _, a := range j.doc.Partners {
		switch a.State {
		case StateUnknown:
			p.blind("partner mesh %s in %s: %s", a.Name, a.Cluster, a.Why)
		case StateWarning:
			p.bad(StateWarning, "%s: partner mesh %s: %s", a.Cluster, a.Name, a.Why)
		}
	}
}

// noSkip is I2: linkerd-identity loads each issuer it may find by each bundle it
// may start with.
func (j *judgement) noSkip(p *promise) {
	files := 0
	j.seen(p, func(c ClusterEvidence, _ *Decision) {
		shown := projectionOf(c.Policy)
		for _, f := range c.Trail.Issuers {
			if f.Facts == nil || !f.Replaced.IsZero() && !j.At.Before(f.Replaced.Add(shown)) {
				continue
			}
			files++
			for _, b := range c.Trail.Bundles {
				if !b.Until.IsZero() && !j.At.Before(b.Until.Add(shown)) {
					continue
				}
				bundle, err := pki.ReadBundle(b.Text)
				switch first := f.Facts.Chain[0]; {
				case p.says(c.Policy.Cluster):
				case err != nil:
					p.bad(StateCritical, "%s: a linkerd-identity that starts now finds a bundle that stops it: %v", c.Policy.Cluster, err)
				case !signedUnder(bundle, first):
					p.bad(StateCritical, "%s: a linkerd-identity that starts with {%s} would refuse %s, whose first certificate is under another anchor", c.Policy.Cluster, j.Fleet.named(bundle, c.Policy), pki.Serial(first))
				}
			}
		}
		if l := j.decisionOf(c.Policy.Cluster).Loaded; l != nil && l.State == "unknown" {
			p.blind("%s: which issuer linkerd-identity uses: %s", c.Policy.Cluster, l.Evidence)
		}
	})
	p.note("%d issuer files that linkerd-identity may find were held against each bundle that it may start with", files)
}

func (j *judgement) decisionOf(cluster string) *Decision {
	i := slices.IndexFunc(j.Clusters, func(c ClusterEvidence) bool { return c.Policy.Cluster == cluster })
	return &j.decisions[i]
}

// signedUnder says whether an anchor in the bundle is the signer of c, by name
// and key.
func signedUnder(b pki.Bundle, c *x509.Certificate) bool {
	return slices.ContainsFunc(b.Anchors(), func(a *x509.Certificate) bool {
		return bytes.Equal(a.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(a) == nil
	})
}

// noEarlyRemoval is I3: nothing depends on an anchor that was retired.
func (j *judgement) noEarlyRemoval(p *promise) {
	var retired []Anchor
	var ids []string
	for _, a := range j.Fleet.Anchors {
		if a.Certificate != nil && !a.RetiredAt.IsZero() && j.At.Before(a.Certificate.NotAfter) {
			retired, ids = append(retired, a), append(ids, a.ID)
		}
	}
	p.restsOn(j.At)
	if len(retired) == 0 {
		p.note("no trust anchor that is still valid was retired")
		return
	}
	isRetired := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(retired, func(a Anchor) bool {
			return bytes.Equal(a.Certificate.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) && bytes.Equal(a.Certificate.RawSubject, c.RawSubject)
		})
	}
	pods := 0
	for _, c := range j.Clusters {
		name := c.Policy.Cluster
		for _, a := range retired {
			if c.Observed == nil || c.Observed.At.Before(a.RetiredAt) {
				p.blind("%s has not been seen since %s was retired, and counts as if it depended on it", name, a.ID)
			} else if c.Observed.Version != "" && c.Proxies.At.Before(a.RetiredAt) {
				p.blind("%s: its meshed pods have not been counted since %s was retired", name, a.ID)
			}
		}
		if c.Observed == nil {
			continue
		}
		p.restsOn(c.Observed.At)
		if b, err := pki.ReadBundle(c.Observed.BundleText); err == nil && slices.ContainsFunc(b.Anchors(), isRetired) {
			p.bad(StateWarning, "%s: the bundle holds a retired anchor: %s", name, j.Fleet.named(b, c.Policy))
		}
		if chain := c.Observed.IssuerFacts.Chain; len(chain) > 0 && !slices.ContainsFunc(chain, func(crt *x509.Certificate) bool {
			a := j.Fleet.anchorOf(crt)
			return a == nil || a.RetiredAt.IsZero()
		}) {
			p.bad(StateCritical, "%s: its issuer is under a retired anchor alone", name)
		}
		pods += c.Proxies.Total() - c.Proxies.Unread
		for _, s := range c.Proxies.Sets {
			p.restsOn(c.Proxies.At)
			own := s.Anchors.Anchors()
			switch n := len(slices.DeleteFunc(slices.Clone(own), func(c *x509.Certificate) bool { return !isRetired(c) })); {
			case n > 0 && n == len(own):
				p.bad(StateCritical, "%s: a retired anchor alone is trusted by %s: %s", name, podCount(s.Pods, "pod"), namesOf(s.Owners, 3))
			case n > 0:
				p.bad(StateWarning, "%s: a retired anchor, beside others, is trusted by %s: %s", name, podCount(s.Pods, "pod"), namesOf(s.Owners, 3))
			}
		}
		if n := c.Proxies.Unread; n > 0 {
			p.blind("%s: of %d meshed pods it could not be seen what they trust", name, n)
		}
	}
	p.note("retired and still valid: %s; looked for in %d bundles and %d pods", strings.Join(ids, ", "), len(j.Clusters), pods)
}

// noLapse is I4: what is left of everything that ends, and the floors.
func (j *judgement) noLapse(p *promise) {
	least := map[string]string{}
	margin := map[string]time.Duration{}
	closer := func(kind, name string, end time.Time, floor time.Duration) {
		left := end.Sub(j.At)
		if spare, known := margin[kind]; !known || left-floor < spare {
			margin[kind], least[kind] = left-floor, fmt.Sprintf("%s %s has %s left, the floor is %s", kind, name, short(left), short(floor))
		}
	}
	j.seen(p, func(c ClusterEvidence, d *Decision) {
		if d.Issuer != nil {
			leaf, skew := observedLimits(c.Observed)
			closer("issuer", "of "+c.Policy.Cluster, *d.breaks(), c.Policy.Floor(leaf, skew))
		}
		for _, w := range d.Webhooks {
			if end := w.ends(); end != nil {
				closer("webhook certificate", w.Webhook.Spec.Name+" of "+c.Policy.Cluster, *end, c.Policy.WebhookFloor())
			}
		}
		if ca := activeCA(c.WebhookCAs); ca != nil {
			closer("webhook CA", ca.ID+" of "+c.Policy.Cluster, ca.Certificate.NotAfter, c.Policy.WebhookFloor())
		}
		if own := c.Observed.Credential; own != nil {
			if say, _ := own.Problem(j.At); say == "" { // else the finding says so
				closer("certd's own credential", "for "+c.Policy.Cluster, own.Ends, own.Floor())
			}
		}
	})
	for _, a := range j.Fleet.Anchors {
		if a.Certificate != nil && a.RetiredAt.IsZero() {
			closer("trust anchor", a.ID, a.Certificate.NotAfter, marginOfChange)
		}
	}
	for _, kind := range []string{"issuer", "webhook certificate", "webhook CA", "trust anchor", "certd's own credential"} {
		switch spare, known := margin[kind]; {
		case !known:
		case spare < 0:
			p.bad(StateCritical, "%s", least[kind])
		default:
			p.note("nearest to its floor: %s", least[kind])
		}
	}
	p.note("certd's own login at Vault is judged by certd check (vault-login, vault-token)")
}

// admission is I5: what the API servers make of the webhooks.
func (j *judgement) admission(p *promise) {
	proved, watched, installed := 0, 0, 0
	j.seen(p, func(c ClusterEvidence, d *Decision) {
		for _, w := range c.Observed.Webhooks {
			if w.Err != nil {
				p.blind("%s: webhook %s: %v", c.Policy.Cluster, w.Spec.Name, w.Err)
			}
		}
		for _, w := range d.Webhooks {
			installed++
			name := c.Policy.Cluster + ": webhook " + w.Webhook.Spec.Name
			if !w.evidence.At.IsZero() {
				p.restsOn(w.evidence.At)
			}
			if len(w.broken) > 0 && !p.says(c.Policy.Cluster) {
				p.bad(StateCritical, "%s is not accepted under the caBundle of %s: %v", name, w.broken[0].object.Ref, w.broken[0].why)
			}
			switch {
			case w.Served == nil:
				p.blind("%s: what is served has not been looked at yet", name)
			case w.Served.State == "unknown":
				p.blind("%s: what is served: %s", name, w.Served.Evidence)
			case w.Check != nil && w.Check.State == "unknown":
				p.blind("%s: whether it does its work: %s", name, w.Check.Evidence)
			case w.Served.State == "yes" && (w.Check == nil || w.Check.State == "yes"):
				proved++
			}
			if w.Mode == Watched {
				watched++
			}
		}
	})
	p.note("%d of %d webhooks were seen to serve what is in their Secrets, and to do their work", proved, installed)
	if watched > 0 {
		p.note("%d webhooks are watched only", watched)
	}
}

// custody is I6: where the keys are, as the key backend says now.
func (j *judgement) custody(p *promise) {
	for _, k := range j.Keys {
		switch {
		case errors.Is(k.Err, ErrKeyUnfit), errors.Is(k.Err, ErrKeyNotFound):
			p.bad(StateCritical, "the key of %s: %v", k.Anchor, k.Err)
		case k.Err != nil:
			p.blind("the key of %s could not be read: %v", k.Anchor, k.Err)
		case k.Info.Exportable && k.Info.Backend != "file":
			p.bad(StateCritical, "the key %s of %s can be exported from %s", k.Info.Name, k.Anchor, k.Info.Backend)
		default:
			how := "not exportable"
			if k.Info.Exportable {
				how = "encrypted: who has the folder and the passphrase has the key"
			}
			p.note("read now: the key %s of %s is in %s, %s", k.Info.Name, k.Anchor, k.Info.Backend, how)
		}
	}
	if len(j.Keys) == 0 {
		p.note("certd has no trust anchor of its own")
	}
	p.restsOn(j.At)
	cas, oldest := 0, time.Time{}
	for _, c := range j.Clusters {
		ca := activeCA(c.WebhookCAs)
		if ca == nil {
			continue
		}
		if cas++; !ca.CheckedAt.IsZero() && (oldest.IsZero() || ca.CheckedAt.Before(oldest)) {
			oldest = ca.CheckedAt
		}
		if ca.Exportable && ca.Backend != "file" {
			p.bad(StateCritical, "%s: the key %s of the webhook CA can be exported from %s", c.Policy.Cluster, ca.Key, ca.Backend)
		}
	}
	if cas > 0 && !oldest.IsZero() {
		p.note("the keys of %d webhook CAs were read when they last signed, the first of them %s ago", cas, short(j.At.Sub(oldest)))
	}
}

// accounted is I7: the journal holds, and each signature in it has an outcome.
func (j *judgement) accounted(p *promise) {
	r := j.Journal
	if r.Err != nil {
		p.blind("the journal could not be read: %v", r.Err)
		return
	}
	p.restsOn(j.At)
	if r.Problem != "" {
		p.bad(StateCritical, "the journal does not hold: %s", r.Problem)
	} else if r.Entries > 0 {
		p.note("entries %d to %d of the journal form one unbroken chain", r.First, r.Last)
	}
	signed, lost := 0, []string{}
	for _, e := range r.Recent {
		if e.Intent.Step != StepSign && e.Intent.Step != StepCanary {
			continue
		}
		if signed++; e.Result == Unknown {
			lost = append(lost, fmt.Sprint(e.Seq))
		}
	}
	if len(lost) > 0 {
		p.bad(StateWarning, "of %d signatures of the last day the outcome of %d is not known (entries %s): look for them in the key backend's own log", signed, len(lost), strings.Join(lost[:min(len(lost), 10)], ", "))
	} else {
		p.note("the outcome of each of the %d signatures of the last day is known", signed)
	}
	for _, o := range r.Open {
		if (o.Step == StepSign || o.Step == StepCanary) && j.At.Sub(o.At) > 2*stepTimeout {
			p.bad(StateWarning, "a signature by %s was begun %s ago and has no outcome", o.Key, short(j.At.Sub(o.At)))
		}
	}
	p.note("Vault's audit log, which certd cannot read, is not compared: docs/reference/history.md says how")
}

// oneWriter is I8: who else writes what certd manages.
func (j *judgement) oneWriter(p *promise) {
	j.seen(p, func(c ClusterEvidence, d *Decision) {
		if d.Mode != Managed {
			return
		}
		name := c.Policy.Cluster
		if epoch := c.Observed.epoch(j.Fleet.Policy.Fleet); epoch > j.Fleet.Epoch && !p.says(name) {
			p.bad(StateCritical, "%s: another certd wrote there (epoch %d, this one's is %d)", name, epoch, j.Fleet.Epoch)
		}
		others := func(object string, o ObjectState) {
			for _, w := range o.Writers {
				p.bad(StateWarning, "%s: %s wrote fields of %s that certd manages, at %s", name, w.Name, object, clock(w.At))
			}
		}
		others(BundleObject, c.Observed.Bundle)
		others(IssuerObject, c.Observed.Issuer)
	})
	p.note("this certd's epoch is %d, and no object bears a later one unless it is named above", j.Fleet.Epoch)
}

// manyRepairs is how often one object of a cluster may be repaired in a day
// before somebody is taken to be fighting over it.
const manyRepairs = 6

// idle is I9: what was written in the last day without need.
func (j *judgement) idle(p *promise) {
	if j.Journal.Err != nil {
		p.blind("the journal could not be read: %v", j.Journal.Err)
		return
	}
	p.restsOn(j.At)
	type place struct{ cluster, object string }
	repairs, writers, published, writes := map[place]int{}, map[place]string{}, map[string]string{}, 0
	for _, e := range j.Journal.Recent {
		in := e.Intent
		if e.Result != OK || in.Cluster == "" {
			continue
		}
		switch in.Step {
		case StepSign, StepCanary, StepKey, StepRecover:
			continue
		case StepRepairBundle, StepRepairIssuer, StepRepairMetadata, StepRepairWebhook, StepRepairTrust:
			at := place{in.Cluster, in.Object}
			repairs[at]++
			writers[at] = cmp.Or(in.Writer, writers[at])
			if in.Object == BundleObject {
				delete(published, in.Cluster) // what was put back was not there
			}
		case StepBundle:
			if in.Wanted != "" && published[in.Cluster] == in.Wanted {
				p.bad(StateWarning, "%s: the bundle was written twice in a row with the same anchors (entry %d)", in.Cluster, e.Seq)
			}
			published[in.Cluster] = in.Wanted
		}
		writes++
	}
	total := 0
	for at, n := range repairs {
		total += n
		if n > manyRepairs {
			p.bad(StateWarning, "%s: %s was repaired %d times in the last day; last changed by %s", at.cluster, at.object, n, cmp.Or(writers[at], "somebody who cannot be seen"))
		}
	}
	slices.Sort(p.Evidence)
	p.note("%d steps in clusters in the last day, %d of them repairs", writes, total)
}

// resumable is I10: nothing was begun and left.
func (j *judgement) resumable(p *promise) {
	if j.Journal.Err != nil {
		p.blind("the journal could not be read: %v", j.Journal.Err)
		return
	}
	p.restsOn(j.At)
	under := 0
	for _, o := range j.Journal.Open {
		if age := j.At.Sub(o.At); age > 2*stepTimeout {
			p.bad(StateWarning, "%s %s was begun %s ago and has no outcome; it is looked into when the cluster is seen", cmp.Or(o.Cluster, "the fleet")+":", o.Step, short(age))
		} else {
			under++
		}
	}
	p.note("%d steps are under way, %d were left open", under, len(j.Journal.Open)-under)
}

// isolation is I11: that some clusters do not answer keeps nobody waiting.
func (j *judgement) isolation(p *promise) {
	answered, slowest := 0, time.Duration(0)
	for _, c := range j.Clusters {
		switch {
		case c.answered(j.Asked):
			answered++
			slowest = max(slowest, c.Observed.At.Sub(j.Asked))
		case c.Waits:
			p.bad(StateWarning, "%s: its turn to be looked at has not come in %s; others keep it waiting", c.Policy.Cluster, short(j.At.Sub(j.Asked)))
		default:
			p.note("%s", c.unseen(j.Asked, j.At))
		}
	}
	p.restsOn(j.Asked)
	p.note("%d of %d clusters answered; the last look at them began %s after it was asked for", answered, len(j.Clusters), short(slowest))
}

// honest is I12: all that is not known, in one place.
func (j *judgement) honest(p *promise) {
	for _, other := range j.doc.Promises {
		for _, line := range other.Unseen {
			p.blind("%s", line)
		}
	}
	for i, c := range j.Clusters {
		if d := j.decisions[i]; c.Observed != nil && d.Mode == Watched {
			p.note("%s is watched only: it is judged by what is seen there", c.Policy.Cluster)
		}
	}
	for _, c := range j.Clusters {
		if c.Observed != nil {
			p.restsOn(c.Observed.At)
		}
		if c.Observed != nil && c.Observed.Version != "" {
			p.restsOn(c.Proxies.At)
		}
	}
	if len(p.Unseen) == 0 {
		p.note("nothing that could be seen is unknown")
	}
	p.note("links between clusters are not read yet: every cluster is held against every other")
}
