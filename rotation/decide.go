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

// MaxClockSkew is how far a cluster's clock may be from certd's before certd
// stops writing there: the allowance Linkerd makes for its nodes.
const MaxClockSkew = 5 * time.Minute

// loadGrace is how long identity replicas may take to load a delivered issuer
// before certd reports it: the kubelet's sync and cache time, twice.
const loadGrace = 5 * time.Minute

// loadLook is how long certd waits between looks at replicas that have not yet
// loaded a new issuer.
const loadLook = 5 * time.Second

// evidenceAge is how old evidence of a loaded issuer may be and still count.
const evidenceAge = 5 * time.Minute

// Fleet is what a decision needs to know beside the cluster it is about.
type Fleet struct {
	Policy  FleetPolicy
	Anchors []Anchor // all generations, oldest first
	Epoch   uint64
	Change  *Change // of the trust anchor; nil: none is under way
	Pauses  []Pause // also those that are over
	// ClockDoubt is why certd's own clock is not to be trusted, "" if it is.
	ClockDoubt string
}

// Active returns the anchor that signs: the newest with a certificate that is
// not retired, or nil. While it is being changed, that is the one whose
// certificate comes first in most clusters' issuers.
func (f Fleet) Active() *Anchor {
	if f.Change != nil && !f.Change.adopts() {
		return f.anchor(f.Change.leading())
	}
	for i := len(f.Anchors) - 1; i >= 0; i-- {
		if a := &f.Anchors[i]; a.Certificate != nil && a.RetiredAt.IsZero() && !a.keyless() {
			return a
		}
	}
	return nil
}

// anchor returns a generation by its id, nil if it is not known.
func (f Fleet) anchor(id string) *Anchor {
	i := slices.IndexFunc(f.Anchors, func(a Anchor) bool { return a.ID == id && a.Certificate != nil })
	if i < 0 {
		return nil
	}
	return &f.Anchors[i]
}

// BundleOf returns the anchors that one cluster is to trust: the fleet's, those
// of partner meshes that its policy names, and what it came with besides.
func (f Fleet) BundleOf(v View) (pki.Bundle, error) {
	own, err := f.Bundle()
	others := f.kept(v)
	if err != nil || own.IsZero() || len(v.Policy.Foreign)+len(others) == 0 {
		return own, err
	}
	all := append(own.Anchors(), others...)
	for _, a := range v.Policy.Foreign {
		all = append(all, a.Certificate)
	}
	return pki.NewBundle(all...)
}

// Bundle returns the fleet's own anchors, which every cluster is to trust; not
// those that meshes came with.
func (f Fleet) Bundle() (pki.Bundle, error) {
	var b []*x509.Certificate
	for _, a := range f.Anchors {
		if a.Certificate != nil && a.RetiredAt.IsZero() && !a.keyless() {
			b = append(b, a.Certificate)
		}
	}
	return pki.NewBundle(b...)
}

// anchorOf returns the generation that c names as its signer, or is, or nil. The
// key identifiers decide, since names may repeat; that the signature holds is
// judged where the chain is. Where there are none it takes the signature.
func (f Fleet) anchorOf(c *x509.Certificate) *Anchor {
	for i := range f.Anchors {
		a := &f.Anchors[i]
		switch {
		case a.Certificate == nil:
		case c.Equal(a.Certificate): // a mesh whose anchor is its issuer
			return a
		case len(c.AuthorityKeyId) > 0 && len(a.Certificate.SubjectKeyId) > 0:
			if bytes.Equal(a.Certificate.SubjectKeyId, c.AuthorityKeyId) {
				return a
			}
		case bytes.Equal(c.RawIssuer, a.Certificate.RawSubject) && c.CheckSignatureFrom(a.Certificate) == nil:
			return a
		}
	}
	return nil
}

// View is one cluster as certd knows it when it decides.
type View struct {
	Policy       Policy
	Record       ClusterRecord
	Certificates []CertificateRecord // of this cluster, newest first; a few are enough
	Observed     *Observation        // the last that succeeded; nil: none yet
	Err          error               // why the latest look failed; nil: Observed is that look
	ErrSince     time.Time
	Looks        int                  // that failed in a row
	Epoch        uint64               // the largest that was seen there; what bore it may be gone
	SameTarget   string               // another configured cluster that turned out to be this very one
	Request      *Request             // a person wants a new issuer
	Repairs      map[lane][]time.Time // of the last hour
	Failures     map[lane]*StepFailure
	Signed       map[lane][]time.Time // when signatures were made, of the last hour at least

	WebhookCAs     []WebhookCA                // all generations, oldest first
	Evidence       map[string]WebhookEvidence // by webhook, the latest of each
	WebhookRequest *Request                   // a person wants new serving certificates
	CARequest      *Request                   // a person wants a new webhook CA

	Proxies Proxies // the last census

	Restarts Restarts // what certd has restarted
}

// delivered returns the newest certificate that is known to have been written
// to the cluster. One that was only signed says nothing about what is there.
func (v View) delivered() (CertificateRecord, bool) {
	i := slices.IndexFunc(v.Certificates, func(c CertificateRecord) bool { return !c.DeliveredAt.IsZero() })
	if i < 0 {
		return CertificateRecord{}, false
	}
	return v.Certificates[i], true
}

// Request is a person's wish for new certificates now.
type Request struct {
	Actor, Reason string
	At            time.Time
}

// StepFailure is the last failure of a step and when certd tries again.
type StepFailure struct {
	Step    Step
	Webhook string // whose step it was; "" is the cluster's
	Err     error
	Since   time.Time
	Until   time.Time
	Tries   int // that failed in a row
}

// Action is one thing to do.
type Action struct {
	Step    Step
	Object  string // what it is done to; "" for the cluster
	Webhook string // whose it is
	Why     string
	Writer  string // for repairs: who wrote last
	Actor   string
	Signs   bool // it needs a signature by a CA key
	// Deadline is when what the action mends or renews ends; zero: not known.
	Deadline time.Time

	cas   pki.CASet // for a caBundle or a ca.crt
	spec  WebhookSpec
	owner ObjectRef // of pods to be restarted
	// For workloads: where the owner is, and from when on a restart counts.
	namespace string
	since     time.Time
	ca        *WebhookCA
}

// A lane is what trouble in one action holds back: others go on. Actions that
// sign for one object share theirs, whatever they are called.
type lane struct {
	step   Step // "" where it signs
	object string
}

func (a Action) lane() lane {
	switch {
	case a.Signs:
		return lane{"", a.Object}
	case a.Step == StepWebhookTrust: // who undoes the one undoes the other
		return lane{StepRepairTrust, a.Object}
	}
	return lane{a.Step, a.Object}
}

// Mode says how far certd's hand reaches in a cluster.
type Mode string

// The modes.
const (
	Managed Mode = "managed"
	Watched Mode = "watched"
	Paused  Mode = "paused" // a managed cluster's, in reports alone: see Decision.Paused
)

// Decision is what certd does in one cluster now, what comes next, and what
// people should know. The same value feeds the loop, `plan` and `status`.
type Decision struct {
	Action          // what to do now; Step "" = nothing
	Wanted []Action // all that is to be done, the most urgent first, also what is held back for a while

	Mode     Mode
	Paused   *Pause     // a managed cluster is left alone for now; nil: it is not
	Bundle   pki.Bundle // what the cluster is to trust
	Progress *Progress  // in a change of the trust anchor; nil: none is under way, or nothing is known
	Dates    RenewalDates
	Issuer   *x509.Certificate // the first certificate in the issuer file, if it can serve
	Loaded   *Loaded
	Webhooks []WebhookDecision // those that are installed
	Probe    []WebhookSpec     // whose evidence is missing or too old
	Census   bool              // the meshed pods are to be counted anew
	Findings []Finding
	// What stands beside the issuer (ca.crt), who signs it, and which anchors pods
	// may hold for now beside those of Bundle.
	beside    pki.Bundle
	signers   []*Anchor
	tolerated []pki.Bundle
	caDates   RenewalDates
	caDated   string // the webhook CA whose dates these are
	keepsKey  bool   // the issuer's key stays the one that is there
	found     bool   // the issuer is the one that the cluster came with: not a byte of it is changed
	// Wake is when the answer can change by the passing of time alone; zero:
	// it cannot.
	Wake time.Time
	// Acts is Wake without the looks that are due for their own sake: where nothing
	// has happened, nothing comes of these.
	Acts time.Time
}

// Decide says what certd does now in one cluster, and why. The answer depends
// on the arguments alone: after a crash certd observes, asks again, and goes
// on from whatever is true by then. The order of the cases is the safety
// argument: who we are, whether we may write, trust before issuers, a whole
// issuer before a fresh one.
func Decide(f Fleet, v View, now time.Time) Decision {
	d := Decision{Mode: Managed}
	o := v.Observed
	if o == nil {
		d.unreachable(v, now)
		return d
	}
	another := v.Record.elsewhere(o, f.Policy.Fleet)
	ours := v.Record.Enrolled && !another || o.Bundle.Marks.Fleet == f.Policy.Fleet || o.Issuer.Marks.Fleet == f.Policy.Fleet
	empty := !o.Bundle.Exists && !o.Issuer.Exists
	if !ours && !empty {
		d.Mode = Watched
	}
	g, err := f.goal(v, now)
	d.Bundle, d.beside, d.signers, d.tolerated = g.bundle, g.beside, g.signers, g.tolerated
	d.keepsKey, d.found = g.keepsKey, v.Record.Adopted != "" && v.found()
	d.judgeIssuer(f, v, now)
	d.judgeWebhooks(f, v, now)
	d.judgeCredential(o, now)
	wrong := clockProblem(f, v, now)
	if v.Err != nil {
		d.unreachable(v, now)
		return d
	}

	active := f.Active()
	switch epoch := max(o.epoch(f.Policy.Fleet), v.Epoch); {
	case v.SameTarget != "":
		d.find(StateCritical, "SameCluster", fmt.Sprintf("is the same cluster as %s (%s): nothing is written to either", v.SameTarget, o.Target), nil, "remove one of the two from the configuration")
		return d
	case another:
		d.find(StateCritical, "WatchedOnly", fmt.Sprintf("answers as another cluster (%s) than the one that certd looks after (%s), with trust material that certd did not make: %s; nothing is written, and nobody renews what the other one has",
			o.Target, v.Record.Target, describeForeign(o)), d.breaks(), "certd runbook WatchedOnly")
		return d
	case d.Mode == Watched:
		why := ""
		if v.Policy.Adopt {
			if _, _, err := f.adopt(v, now); err != nil {
				why = "; it is to be taken over (adopt: true), and cannot be: " + err.Error()
			}
		}
		d.find(StateWarning, "WatchedOnly", "has trust material that certd did not make: "+describeForeign(o)+"; it is watched, not changed"+why, nil, "certd adopt "+v.Policy.Cluster+" --dry-run")
		return d
	case epoch > f.Epoch:
		how := "stop one of the two daemons; the one that goes on has to be started last"
		if epoch >= lastEpoch {
			how = "no certd gets to that epoch: find out who wrote it, and take that annotation off"
		}
		d.find(StateCritical, "Deposed", fmt.Sprintf("another certd wrote here (epoch %d, ours is %d): this one no longer writes", epoch, f.Epoch), nil, how)
		return d
	case wrong != "":
		d.find(StateCritical, "ClockSkew", wrong+": nothing is signed or written until they agree", d.breaks(), "check NTP on this host and on the cluster's control plane")
		return d
	case active == nil && f.stays(v): // it can be looked after all the same
	case active == nil && ours:
		d.find(StateWarning, "NoAnchor", anchorForgotten, d.breaks(), "certd check --category keys")
		return d
	case active == nil:
		d.find(StateWarning, "NoAnchor", "there is no trust anchor yet", nil, "certd init")
		return d
	case err != nil:
		d.find(StateCritical, "BundleUnusable", "the trust anchors do not form a usable bundle: "+err.Error(), d.breaks(), "certd history --verify")
		return d
	case !o.Namespace && !v.Policy.CreateNamespace:
		d.find(StateWarning, "NamespaceMissing", fmt.Sprintf("namespace %s does not exist", v.Policy.Namespace), nil, "kubectl create namespace "+v.Policy.Namespace+"   or set linkerd.createNamespace: true")
		return d
	}
	d.judgeForeign(v, now)
	d.judgeAdopted(f, v, now)
	d.nextStep(f, v, g, now)
	d.changing(f, v, g, now)
	mending, others := d.webhookActions(f, v, now)
	d.Wanted = mending
	if d.Step != "" {
		d.Wanted = append(d.Wanted, d.Action)
	}
	pause := f.paused(v.Policy.Cluster, now)
	if pause != nil || g.signed() {
		d.renewBehindWhatWaits(v, g, now)
	}
	d.Wanted = append(d.Wanted, others...)
	d.Action = Action{}
	if pause != nil {
		d.pause(f, v, *pause, now)
	}
	d.reportFailures(v, now)
	for _, a := range d.Wanted {
		if d.allowed(v, a, now) && d.Step == "" {
			d.Action = a
		}
	}
	if d.Actor == "" {
		d.Actor = "certd"
	}
	d.probeWhatIsUnproven(v, now)
	d.judgeProxies(f, v, now)
	return d
}

// elsewhere says whether what was seen is another cluster than the one that is looked after, and
// not the fleet's: the same address may come to lead to it. One that is empty, or bears the
// fleet's mark, takes the place of the one that was there.
func (c ClusterRecord) elsewhere(o *Observation, fleet string) bool {
	return c.Enrolled && c.Target != "" && o.Target != c.Target && o.Version != "" && (o.Bundle.Exists || o.Issuer.Exists) &&
		o.Bundle.Marks.Fleet != fleet && o.Issuer.Marks.Fleet != fleet
}

// anchorForgotten is what a cluster shows of a journal that was lost.
const anchorForgotten = "the journal knows no trust anchor, and the cluster bears this fleet's mark: certd run learns the anchor from it as soon as the key backend answers"

// lastEpoch is what no certd gets to: it is a second of the year 36812. Who can write to one
// cluster must not have the numbers come to their end.
const lastEpoch = 1 << 40

// epoch is the newest epoch that a certd of the fleet has left in the cluster.
func (o *Observation) epoch(fleet string) uint64 {
	epoch := max(o.Bundle.Marks.Epoch, o.Issuer.Marks.Epoch)
	for _, w := range o.Webhooks {
		for _, s := range w.states() {
			if s.Marks.Fleet == fleet {
				epoch = max(epoch, s.Marks.Epoch)
			}
		}
	}
	return epoch
}

// clockProblem says why certd's clock and the cluster's cannot both be right,
// "" if they can. A folder has no clock of its own: it is held against most of
// the fleet's API servers and against what certd itself has signed. A clock
// set forward where there is no API server at all goes unnoticed.
func clockProblem(f Fleet, v View, now time.Time) string {
	switch {
	case v.Observed.ClockSkew.Abs() > MaxClockSkew:
		return fmt.Sprintf("its clock differs from certd's by %s", v.Observed.ClockSkew.Round(time.Second))
	case v.Observed.Version != "":
		return ""
	case f.ClockDoubt != "":
		return f.ClockDoubt
	case v.Request != nil: // a person says that the clock is right now
		return ""
	}
	for _, c := range v.Certificates {
		if ahead := c.SignedAt.Sub(now); ahead > MaxClockSkew {
			return fmt.Sprintf("certd's clock is %s behind the time at which it signed issuer %s (if it is right now, ask for a new issuer)", short(ahead), c.Serial)
		}
	}
	return ""
}

// nextStep picks the first thing that is not as it should be.
func (d *Decision) nextStep(f Fleet, v View, g goal, now time.Time) {
	o, active, home := v.Observed, g.shortest(), f.home(v)
	marks := Marks{Fleet: f.Policy.Fleet, Keep: true, Label: true, Adopted: f.adoptedMark(v)}
	_, issued := v.delivered()
	known := v.Record.Enrolled || len(v.Certificates) > 0
	switch {
	case !o.Namespace:
		d.Step, d.Why = StepNamespace, fmt.Sprintf("namespace %s does not exist", v.Policy.Namespace)
		return
	case !o.Bundle.Exists && !known && !o.Issuer.Exists:
		d.Step, d.Object, d.Why = StepBundle, BundleObject, "the cluster is empty: it is enrolled with the trust bundle first"
		return
	case !o.Bundle.Exists:
		d.repair(StepRepairBundle, BundleObject, "the trust bundle is gone", o.Bundle)
		return
	case d.reconfigured(o):
		d.Action = Action{Step: StepBundle, Object: BundleObject, Why: cmp.Or(g.why, "the cluster is to trust other anchors than before") + ": " + bundleDiff(o.BundleText, d.Bundle)}
		return
	case !bytes.Equal(o.BundleText, d.Bundle.PEM()):
		d.repair(StepRepairBundle, BundleObject, "the trust bundle is not what certd published: "+bundleDiff(o.BundleText, d.Bundle), o.Bundle)
		return
	case !marksHold(o.Bundle.Marks, marks):
		d.repair(StepRepairMetadata, BundleObject, "labels or annotations of the trust bundle "+v.marksLack(o.Bundle), o.Bundle)
		return
	case g.keepsKey && (!o.Issuer.Exists || o.IssuerFacts.Problem != "" || !v.foundKey()):
		d.find(StateCritical, "IssuerLost", fmt.Sprintf("the issuer that came with it is not there any more (%s), and certd has no key to make another: put back what was there, or leave its trust anchor at once, whatever that costs", issuerProblem(o, d.Bundle, now)), nil, "certd trust rotate --compromised --dry-run")
		return
	case g.keepsKey && d.Issuer == nil:
		d.repair(StepRepairIssuer, IssuerObject, "the issuer does not verify under the bundle: its key is given other certificates", o.Issuer)
		return
	case (!o.Issuer.Exists || d.Issuer == nil) && active.ended(now):
		return // nothing can be signed under it: the findings say what is to be done
	case !o.Issuer.Exists && !issued:
		d.sign(StepIssuer, "the cluster has no issuer yet")
		return
	case !o.Issuer.Exists:
		d.repair(StepRepairIssuer, IssuerObject, "the issuer is gone, and certd keeps no issuer key", o.Issuer)
		return
	case d.Issuer == nil && issuerEnded(o, now) && len(o.Issuer.Writers) == 0:
		d.sign(StepIssuer, fmt.Sprintf("the issuer ended %s ago", short(now.Sub(o.IssuerFacts.Chain[0].NotAfter))))
		return
	case d.Issuer == nil:
		d.repair(StepRepairIssuer, IssuerObject, "the issuer cannot serve: "+issuerProblem(o, d.Bundle, now), o.Issuer)
		return
	}
	marks.Serial, marks.Adopted = pki.Serial(d.Issuer), ""
	restart, outdated := d.judgeDates(f, v, now)
	uptake, missed := d.helpIdentity(v, now)
	switch {
	case f.Change != nil && !g.signed():
		d.sign(StepIssuer, cmp.Or(g.why, "it is to be signed by others")+" (signed by "+namesOfAnchors(g.signers)+")")
	case d.found && !o.IssuerFacts.Readable:
		d.repair(StepRepairMetadata, IssuerObject, "names beside the issuer (tls.crt, tls.key, ca.crt) are missing, or not in step", o.Issuer)
	case !d.found && d.copyLags(o):
		d.Action = Action{Step: StepBundleCopy, Object: IssuerObject, Why: "ca.crt, which linkerd check reads, follows the trust bundle: " + bundleDiff(o.IssuerFacts.CABundle, d.beside)}
	case !d.found && (!o.IssuerFacts.Complete || !bytes.Equal(o.IssuerFacts.CABundle, d.beside.PEM())):
		d.repair(StepRepairMetadata, IssuerObject, "the copies beside the issuer (ca.crt, crt.pem, key.pem) were changed", o.Issuer)
	case !marksHold(o.Issuer.Marks, marks):
		d.repair(StepRepairMetadata, IssuerObject, "labels or annotations of the issuer "+v.marksLack(o.Issuer), o.Issuer)
	case missed:
		d.Action = uptake
	case outdated:
		d.Action = restart
	case g.restart.Step != "" && !g.held:
		d.Action = g.restart
	case g.keepsKey: // it ends with what it came with; judgeAdopted says when
	case home != nil && f.Change == nil && !home.RetiredAt.IsZero() && v.foundKey():
		d.sign(StepIssuer, "its key came with the mesh: one that nobody else ever had takes its place")
	case !d.gains(v, active, now):
		d.anchorEnds(f, active, now)
	case !now.Before(d.Dates.MustRenewBy):
		d.sign(StepIssuer, atFloor(d.Issuer.NotAfter, d.Dates.MustRenewBy, now))
	case v.Request != nil:
		d.sign(StepIssuer, asked(v.Request.Reason))
		d.Actor = v.Request.Actor
	case !now.Before(d.Dates.NextRun) && v.Policy.Issuer.EveryFiring:
		d.sign(StepIssuer, fmt.Sprintf("schedule %q fired at %s", v.Policy.Issuer.Schedule, clock(d.Dates.NextRun)))
	case !now.Before(d.Dates.NextRun):
		d.sign(StepIssuer, fmt.Sprintf("due since %s by schedule %q: fewer than two more firings come before %s", clock(d.Dates.NextRun), v.Policy.Issuer.Schedule, clock(d.Dates.MustRenewBy)))
	default:
		d.wakeAt(d.Dates.NextRun, d.Dates.MustRenewBy)
	}
}

// reconfigured says whether the bundle is whole, certd's own, and of other
// anchors than it should be: the configuration names other partner meshes.
func (d *Decision) reconfigured(o *Observation) bool {
	if bytes.Equal(o.BundleText, d.Bundle.PEM()) {
		return false
	}
	have, err := pki.ParseBundle(o.BundleText)
	return err == nil && !have.Equal(d.Bundle) && len(o.Bundle.Writers) == 0 && o.Bundle.Marks.Fleet != ""
}

// copyLags says whether the copy of the bundle beside the issuer is whole, certd's own, and
// of other anchors than it should be: the bundle has changed since.
func (d *Decision) copyLags(o *Observation) bool {
	have, err := o.readBundle(o.IssuerFacts.CABundle)
	return err == nil && o.IssuerFacts.Complete && !have.Equal(d.beside) && len(o.Issuer.Writers) == 0 && o.Issuer.Marks.Fleet != ""
}

// judgeForeign watches the ends of partner meshes' anchors. One that has ended
// stays in the bundle, since proxies do not mind, and its leaves may be in use.
func (d *Decision) judgeForeign(v View, now time.Time) {
	const warn, alarm = 60 * 24 * time.Hour, 14 * 24 * time.Hour // the first is linkerd check's
	for _, a := range v.Policy.Foreign {
		end := a.Certificate.NotAfter
		switch left := end.Sub(now); {
		case left <= 0:
			d.find(StateCritical, "ForeignAnchorExpired", fmt.Sprintf("the anchor of partner mesh %s ended %s ago: `linkerd check` fails for it, and Linkerd's own programs trust nobody under it", a.Name, short(-left)), &end, "certd config show")
		case left < warn:
			severity := StateWarning
			if left < alarm {
				severity = StateCritical
			}
			d.find(severity, "ForeignAnchorExpiring", fmt.Sprintf("the anchor of partner mesh %s ends in %s: ask them for the one that follows", a.Name, short(left)), &end, "certd config show")
		}
	}
}

// gains says whether a new issuer would live noticeably longer than the one
// there is. Under an anchor that is about to end it would not, and renewing
// for its own sake would go on for ever.
func (d *Decision) gains(v View, active *Anchor, now time.Time) bool {
	end := now.Add(v.Policy.Issuer.Lifetime - v.Policy.Issuer.Backdate)
	if end.After(active.Certificate.NotAfter) {
		end = active.Certificate.NotAfter
	}
	asked := v.Request != nil || (v.Policy.Issuer.EveryFiring && end.Before(active.Certificate.NotAfter))
	return asked || end.Sub(d.Issuer.NotAfter) > time.Minute || now.Before(d.Dates.NextRun)
}

func (d *Decision) anchorEnds(f Fleet, active *Anchor, now time.Time) {
	end := active.Certificate.NotAfter
	d.find(StateCritical, "AnchorEnds", fmt.Sprintf("a new issuer could not outlive the trust anchor %s, which ends in %s", active.ID, short(end.Sub(now))), &end, f.renewal())
}

// reportFailures tells of actions that do not succeed, with how long there is.
// They count for as long as anything is to be done for the same webhook, or for
// the cluster.
func (d *Decision) reportFailures(v View, now time.Time) {
	for _, a := range d.Wanted {
		fl := v.Failures[a.lane()]
		if fl == nil { // another one's turn may have come first
			for _, other := range v.Failures {
				if other.Webhook == a.Webhook && (fl == nil || other.Since.Before(fl.Since)) {
					fl = other
				}
			}
		}
		if fl == nil || slices.ContainsFunc(d.Findings, func(f Finding) bool {
			return f.ID == "StepFailed" && strings.HasPrefix(f.Message, string(fl.Step)+a.of()+" ")
		}) {
			continue
		}
		if errors.Is(fl.Err, ErrNotNow) { // that is ordinary for a while, and told of where the change waits
			if told := slices.ContainsFunc(d.Findings, func(f Finding) bool { return f.ID == "RestartWaits" }); now.Sub(fl.Since) > rolloutTime && !told {
				d.find(StateWarning, "RestartWaits", fmt.Sprintf("%v; it has waited since %s, next try at %s", fl.Err, clock(fl.Since), clock(fl.Until)), nil, "certd trust status")
			}
			continue
		}
		d.find(StateWarning, "StepFailed", fmt.Sprintf("%s%s does not succeed: %v", fl.Step, a.of(), fl.Err), a.deadline(d), "certd history --cluster "+v.Policy.Cluster)
		d.Findings[len(d.Findings)-1].Tried = &Tried{Step: fl.Step, Times: fl.Tries, Since: fl.Since.UTC().Truncate(time.Second), Next: wholeSecond(fl.Until)}
	}
}

// of names the webhook in a text, where there is one.
func (a Action) of() string {
	if a.Webhook == "" {
		return ""
	}
	return " of " + a.Webhook
}

// deadline is what is told to people: the issuer's end where the action has
// none of its own.
func (a Action) deadline(d *Decision) *time.Time {
	if a.Deadline.IsZero() && a.Webhook == "" {
		return d.breaks()
	}
	return wholeSecond(a.Deadline)
}

// allowed says whether an action may be tried now. It is held back where trying
// again at once would do harm: after a failure, where somebody keeps undoing a
// repair, and where signing again and again brings nothing.
func (d *Decision) allowed(v View, a Action, now time.Time) bool {
	hold := func(until time.Time) bool {
		d.wakeAt(until)
		return false
	}
	fl := v.Failures[a.lane()]
	if fl != nil && now.Before(fl.Until) && fl.Until.Sub(now) <= 2*maxBackoff {
		d.lookAt(fl.Until) // who keeps the failures knows when
		return false
	}
	done := v.Repairs[a.lane()]
	if a.restarts() && len(done) > 0 && now.Before(done[len(done)-1].Add(rolloutTime)) && !v.rolledOut(a, done[len(done)-1]) {
		return hold(done[len(done)-1].Add(rolloutTime))
	}
	if recent, until := repairAllowed(done, now); a.contested() && now.Before(until) {
		who := ""
		if a.Writer != "" {
			who = " by " + a.Writer
		}
		d.find(StateWarning, "RepairHeldBack", fmt.Sprintf("%s is changed again and again%s: %d repairs in the last hour, the next one at %s", a.Object, who, recent, clock(until)), a.deadline(d), "certd history --cluster "+v.Policy.Cluster)
		return hold(until)
	}
	if !a.Signs {
		return true
	}
	timing := v.Policy.Issuer
	if !signsIssuer(a.Step) {
		timing = v.Policy.Webhooks.Leaf
	}
	if until := timing.budget(v.Signed[a.lane()], now); now.Before(until) {
		d.find(StateCritical, "SignatureBudget", fmt.Sprintf("%d signatures were made for %s in the last hour, and it still wants another one (%s): no more until %s", len(within(v.Signed[a.lane()], now, budgetWindow)), a.Object, a.Why, clock(until)), a.deadline(d), "certd history --cluster "+v.Policy.Cluster)
		return hold(until)
	}
	return true
}

// rolloutTime is what a rollout may take before it has failed: the
// progressDeadlineSeconds that Kubernetes gives a Deployment. Pods that are yet
// to be replaced are no reason for another one.
const rolloutTime = 10 * time.Minute

// rolledOut says whether a rollout of linkerd-identity begun at a time is seen to
// have come to its end: every replica is younger, or on its way out.
func (v View) rolledOut(a Action, begun time.Time) bool {
	id := v.Observed.Identity
	if a.Step != StepIdentityRestart || id == nil || v.Observed.At.Before(begun) {
		return false
	}
	_, others := id.parted()
	return len(others) > 0 && !slices.ContainsFunc(others, func(r Replica) bool { return r.Started.Before(begun.Truncate(time.Second)) }) // pods' times are in whole seconds
}

// restarts says whether an action rolls pods out anew.
func (a Action) restarts() bool {
	return a.Step == StepWebhookRestart || a.Step == StepIdentityRestart || a.Step == StepControlRestart || a.Step == StepWorkloadRestart
}

// contested says whether an action puts something right that somebody else has
// changed, and may change again.
func (a Action) contested() bool {
	switch a.Step {
	case StepRepairBundle, StepRepairIssuer, StepRepairMetadata, StepRepairWebhook, StepRepairTrust, StepWebhookTrust, StepWebhookReload, StepWebhookRestart, StepIssuerReload, StepIdentityRestart, StepControlRestart, StepWorkloadRestart:
		return true
	}
	return a.Writer != ""
}

func signsIssuer(s Step) bool { return s == StepIssuer || s == StepRepairIssuer }

// budgetWindow and budgetSpare bound what a cluster that undoes each write can
// cost: in any hour, no more signatures than spare ones and one for each
// firing of the schedule.
const (
	budgetWindow = time.Hour
	budgetSpare  = 10
)

// budget is when the next signature may be made.
func (p RenewalPolicy) budget(signed []time.Time, now time.Time) time.Time {
	recent := within(signed, now, budgetWindow)
	if len(recent) < budgetSpare {
		return now
	}
	allowed := budgetSpare
	for at := p.Schedule.Next(now.Add(-budgetWindow)); !at.IsZero() && !at.After(now) && allowed <= len(recent); at = p.Schedule.Next(at) {
		allowed++
	}
	if len(recent) < allowed {
		return now
	}
	return recent[len(recent)-allowed].Add(budgetWindow)
}

// within returns the times of the window that ends now, oldest first. Times to
// come are of a clock that has been set back since, and do not count.
func within(times []time.Time, now time.Time, window time.Duration) []time.Time {
	recent := slices.DeleteFunc(slices.Clone(times), func(t time.Time) bool { return now.Sub(t) >= window || t.After(now) })
	slices.SortFunc(recent, time.Time.Compare)
	return recent
}

// freeRepairs is how many repairs of one thing are made in an hour without a wait.
const freeRepairs = 3

// repairAllowed is when the next repair may be made: behind the free ones
// each waits twice as long as the one before, ten minutes at most. The first waits
// are short: one upgrade by Helm may need two repairs, its retry two more, and no
// pod may be created meanwhile.
func repairAllowed(repairs []time.Time, now time.Time) (n int, at time.Time) {
	const first, most = time.Second, 10 * time.Minute
	recent := within(repairs, now, time.Hour)
	if len(recent) < freeRepairs {
		return len(recent), now
	}
	wait := min(most, first<<min(len(recent)-freeRepairs, 10))
	return len(recent), recent[len(recent)-1].Add(wait)
}

// judgeIssuer says what the issuer in the cluster is worth: its dates, who
// uses it, how long it lasts.
func (d *Decision) judgeIssuer(f Fleet, v View, now time.Time) {
	o := v.Observed
	if !o.Issuer.Exists || o.IssuerFacts.Problem != "" || len(o.IssuerFacts.Chain) == 0 {
		if _, issued := v.delivered(); issued && d.Mode == Managed && v.Err == nil {
			d.find(StateCritical, "IssuerUnusable", "the issuer cannot serve: "+issuerProblem(o, d.Bundle, now), nil, "certd history --cluster "+v.Policy.Cluster)
		}
		return
	}
	c := o.IssuerFacts.Chain[0]
	if d.Mode == Managed && len(f.Anchors) > 0 {
		bundle, err := d.Bundle, error(nil)
		if !bundle.IsZero() {
			err = o.IssuerFacts.Verify(bundle, now)
		}
		if err != nil {
			d.notServing(f, v, c, err, now)
			return
		}
	}
	d.Issuer = c
	leaf, skew := observedLimits(o)
	floor := v.Policy.Floor(leaf, skew)
	if d.Mode == Managed && !d.keepsKey {
		due := floor
		if life := v.Policy.Issuer.Lifetime - v.Policy.Issuer.Backdate; floor > v.Policy.Issuer.RenewBefore && floor > life-life/8 {
			// A fresh issuer would be below this floor at once or soon:
			// renewing again and again would not help.
			due = life - life/8
			if floor >= life {
				d.find(StateCritical, "LifetimeTooShort", fmt.Sprintf("linkerd-identity runs with leaves of %s and a skew of %s, so that an issuer must always have %s left; issuer.lifetime %s is too short for that", FormatDuration(leaf), FormatDuration(skew), FormatDuration(floor), FormatDuration(v.Policy.Issuer.Lifetime)), nil, "certd config validate")
			}
		}
		d.Dates = v.Policy.Issuer.Dates(v.Policy.Cluster, signedAt(c, v), c.NotAfter, due)
	}
	d.judgeLoaded(v, now)
	end := c.NotAfter
	switch left := end.Sub(now); {
	case d.Mode == Watched && left <= 0:
		d.find(StateCritical, "IssuerExpired", fmt.Sprintf("the issuer, which is not certd's, ended %s ago: every workload certificate ended with it", short(-left)), &end, "certd inspect "+v.Policy.Cluster)
	case left <= 0: // and no anchor is known
		d.find(StateCritical, "IssuerExpired", fmt.Sprintf("the issuer ended %s ago: every workload certificate ended with it", short(-left)), &end, "certd rotate issuer "+v.Policy.Cluster)
	case (d.Mode == Watched || d.keepsKey) && left < floor:
		d.find(StateCritical, "IssuerBelowFloor", fmt.Sprintf("the issuer, which is not certd's, ends in %s; in that second every workload certificate ends", short(left)), &end, "certd inspect "+v.Policy.Cluster)
	case left < floor:
		d.find(StateCritical, "IssuerBelowFloor", fmt.Sprintf("the issuer ends in %s, less than the %s that repairs may take; in that second every workload certificate ends", short(left), short(floor)), &end, "certd rotate issuer "+v.Policy.Cluster)
	case d.Mode == Managed && !d.keepsKey && now.After(d.Dates.MustRenewBy.Add(time.Minute)):
		d.find(StateWarning, "RenewalOverdue", fmt.Sprintf("the issuer had to be renewed by %s and ends in %s", clock(d.Dates.MustRenewBy), short(left)), &end, "certd history --cluster "+v.Policy.Cluster)
	}
}

// signedAt is when the issuer was signed: from the inventory, else reckoned
// from its notBefore.
func signedAt(c *x509.Certificate, v View) time.Time {
	serial := pki.Serial(c)
	for _, r := range v.Certificates {
		if r.Serial == serial && !r.SignedAt.IsZero() {
			return r.SignedAt
		}
	}
	return c.NotBefore.Add(v.Policy.Issuer.Backdate)
}

func observedLimits(o *Observation) (leaf, skew time.Duration) {
	if o.Identity == nil {
		return 0, 0
	}
	return o.Identity.LeafLifetime, o.Identity.ClockSkew
}

// scheme is by which names linkerd-identity reads its issuer, "" if that is not
// known.
func (o *Observation) scheme() string {
	if o.Identity == nil {
		return ""
	}
	return o.Identity.Scheme
}

// runsIdentity says whether linkerd-identity is installed, or was seen to run.
func (o *Observation) runsIdentity() bool {
	return o.Identity != nil && (o.Identity.Deployed || len(o.Identity.Replicas) > 0)
}

// sameEnd says whether two notAfters are of one issuer, as far as a metric with
// its delays can tell.
func sameEnd(a, b time.Time) bool { return a.Sub(b).Abs() < 30*time.Second }

// judgeLoaded weighs the evidence of which issuer the replicas of
// linkerd-identity use (contract of linkerd-identity: the metric shows only a
// notAfter, which is why issuers' notAfters are kept a minute apart).
func (d *Decision) judgeLoaded(v View, now time.Time) {
	o := v.Observed
	if !o.runsIdentity() {
		return
	}
	want := d.Issuer.NotAfter
	l := &Loaded{State: "yes", Evidence: "metric"}
	if len(o.Identity.Replicas) == 0 {
		l.State, l.Evidence = "unknown", "no replica of linkerd-identity runs"
	}
	var behind []string
	helps := false // a restart
	for _, r := range o.Identity.Replicas {
		at := r.At
		if l.At == nil || at.Before(*l.At) {
			l.At = &at
		}
		switch {
		case r.NotAfter.IsZero():
			if l.State != "no" {
				l.State, l.Evidence = "unknown", r.Pod+": "+r.Evidence
			}
			continue
		case now.Sub(r.At) > evidenceAge:
			if l.State != "no" {
				l.State, l.Evidence = "unknown", fmt.Sprintf("%s: the metric is %s old", r.Pod, short(now.Sub(r.At)))
			}
		case !sameEnd(r.NotAfter, want):
			l.State, l.Evidence = "no", r.Evidence
			if helps = helps || !r.leaving(); r.leaving() {
				r.Pod += " (being deleted)"
			}
			behind = append(behind, r.Pod)
		}
		if end := r.NotAfter; l.NotAfter == nil || end.Before(*l.NotAfter) {
			l.NotAfter = &end
		}
	}
	d.Loaded = l
	delivered := deliveredAt(d.Issuer, v)
	since := now.Sub(delivered)
	if l.State == "no" { // it may be several that were missed
		since = max(since, now.Sub(v.missed(d.Issuer, *l.NotAfter)[0]))
	}
	if l.State != "yes" && since.Abs() <= loadGrace {
		d.lookAt(now.Add(loadLook))
	}
	if l.State == "unknown" && since > loadGrace && v.Err == nil {
		d.find(StateUnknown, "IssuerLoadUnknown", fmt.Sprintf("the issuer was delivered %s ago, and whether linkerd-identity uses it could not be seen: %s", short(since), l.Evidence), d.breaks(), "certd inspect "+v.Policy.Cluster+"/issuer")
	}
	if l.State == "no" && since > loadGrace {
		severity := StateWarning
		leaf, skew := observedLimits(o)
		if l.NotAfter.Sub(now) < v.Policy.Floor(leaf, skew) {
			severity = StateCritical
		}
		use, tried := "uses", ""
		if len(behind) > 1 {
			use = "use"
		}
		if o.IssuerReload == pki.Serial(d.Issuer) && now.After(o.IssuerWrittenAt.Add(loadGrace)) {
			tried = "; that its files were swapped once more did not help"
		}
		fix := "kubectl -n " + v.Policy.Namespace + " rollout restart deploy/linkerd-identity"
		if !helps {
			fix = "kubectl -n " + v.Policy.Namespace + " get pods -l linkerd.io/control-plane-component=identity"
		}
		d.find(severity, "IssuerNotLoaded", fmt.Sprintf("another issuer was delivered %s ago, and %s still %s one that ends in %s%s", short(since), strings.Join(behind, ", "), use, short(l.NotAfter.Sub(now)), tried), l.NotAfter, fix)
	}
}

// helpIdentity moves replicas of linkerd-identity that did not load a delivered
// issuer in the time that this takes: one whose file watch has ended stays so
// for good, and looks healthy (linkerd2 issue 15109). Its files are swapped once
// more; if that does not help, the pods are replaced one after another. What it
// could not load is not put right by a restart: then the proof that it can, from
// the bundle in the cluster, is missing, and nothing is done here. Where issuers come
// thick and fast, each swaps the files: who missed two needs no third.
func (d *Decision) helpIdentity(v View, now time.Time) (Action, bool) {
	o := v.Observed
	if d.Loaded == nil || d.Loaded.State != "no" || !bytes.Equal(o.BundleText, d.Bundle.PEM()) {
		return Action{}, false
	}
	for _, r := range o.Identity.Replicas {
		if r.leaving() || r.NotAfter.IsZero() || now.Sub(r.At) > evidenceAge || sameEnd(r.NotAfter, d.Issuer.NotAfter) {
			continue
		}
		missed := v.missed(d.Issuer, r.NotAfter)
		if at := missed[0].Add(loadGrace); now.Before(at) {
			d.wakeAt(at)
			continue
		}
		a := Action{Step: StepIssuerReload, Object: IssuerObject, Deadline: r.NotAfter,
			Why: fmt.Sprintf("%s has not loaded the issuer in %s: its files are swapped once more", r.Pod, short(now.Sub(missed[0])))}
		if len(missed) > 1 && !now.Before(missed[1].Add(loadGrace)) && r.Started.Before(missed[0]) {
			a.Step, a.Object, a.Why = StepIdentityRestart, identityOwner().String(), fmt.Sprintf("%s did not load an issuer of %s ago, nor any of %d that came since", r.Pod, short(now.Sub(missed[0])), len(missed)-1)
			return a, true
		}
		if o.IssuerReload != pki.Serial(d.Issuer) {
			return a, true
		}
		if at := o.IssuerWrittenAt.Add(loadGrace); now.Before(at) {
			d.wakeAt(at)
			continue
		}
		if r.Started.Before(o.IssuerWrittenAt) {
			a.Step, a.Object, a.Why = StepIdentityRestart, identityOwner().String(), r.Pod+" did not load the issuer, also not after its files were swapped once more"
			return a, true
		}
	}
	return Action{}, false
}

// missed are the times at which other issuers were delivered than the one that ends
// so, and after it, in their order: of current alone where that one is not known.
func (v View) missed(current *x509.Certificate, notAfter time.Time) []time.Time {
	var has time.Time
	var others []time.Time
	for _, r := range v.Certificates {
		switch {
		case r.DeliveredAt.IsZero():
		case !sameEnd(r.NotAfter, notAfter):
			others = append(others, r.DeliveredAt)
		case r.DeliveredAt.After(has):
			has = r.DeliveredAt
		}
	}
	others = slices.DeleteFunc(others, func(at time.Time) bool { return !at.After(has) })
	if has.IsZero() || len(others) == 0 {
		return []time.Time{deliveredAt(current, v)}
	}
	slices.SortFunc(others, time.Time.Compare)
	return others
}

// identityOwner is what runs linkerd-identity.
func identityOwner() ObjectRef { return ObjectRef{Kind: "Deployment", Name: "linkerd-identity"} }

func deliveredAt(c *x509.Certificate, v View) time.Time {
	serial := pki.Serial(c)
	for _, r := range v.Certificates {
		if r.Serial == serial && !r.DeliveredAt.IsZero() {
			return r.DeliveredAt
		}
	}
	return c.NotBefore.Add(v.Policy.Issuer.Backdate)
}

// unreachable reports a look that failed, with what is known from before.
func (d *Decision) unreachable(v View, now time.Time) {
	if v.Err == nil {
		d.find(StateUnknown, "NotSeenYet", "has not been looked at yet", nil, "")
		return
	}
	end := d.breaks()
	if c, issued := v.delivered(); end == nil && issued {
		end = &c.NotAfter
		d.Dates = v.Policy.Issuer.Dates(v.Policy.Cluster, c.SignedAt, c.NotAfter, v.Policy.Floor(0, 0))
	}
	what := "nothing is known of what runs there"
	severity := StateUnknown
	if end != nil {
		what = fmt.Sprintf("its issuer ends in %s", short(end.Sub(now)))
		due := end.Add(-v.Policy.Issuer.RenewBefore)
		if now.Before(due) {
			what = fmt.Sprintf("nothing has to be renewed there before %s", clock(due))
		} else {
			severity = StateCritical
		}
	}
	since := v.ErrSince
	if since.IsZero() {
		since = now
	}
	id, fix := "ClusterUnreachable", "certd inspect "+v.Policy.Cluster
	if errors.Is(v.Err, ErrDenied) {
		id, fix = "ClusterDenied", "certd clusters test "+v.Policy.Cluster // credentials or rights
	}
	d.find(severity, id, fmt.Sprintf("could not be seen for %s: %v; %s", short(now.Sub(since)), v.Err, what), end, fix)
	if v.Looks > 0 {
		d.Findings[len(d.Findings)-1].Tried = &Tried{Times: v.Looks, Since: since.UTC().Truncate(time.Second)}
	}
}

func (d *Decision) breaks() *time.Time {
	if d.Issuer == nil {
		return nil
	}
	end := d.Issuer.NotAfter
	if d.Loaded != nil && d.Loaded.NotAfter != nil && d.Loaded.NotAfter.Before(end) {
		end = *d.Loaded.NotAfter
	}
	return &end
}

func (d *Decision) find(s State, id, message string, deadline *time.Time, fix string) {
	d.Findings = append(d.Findings, Finding{ID: id, Severity: s, Message: message, Deadline: deadline, Fix: fix})
}

// atFloor is why something that ends is renewed by a time, whatever its schedule says.
func atFloor(end, by, now time.Time) string {
	return fmt.Sprintf("%s left, and the floor is %s", short(end.Sub(now)), short(end.Sub(by)))
}

func (d *Decision) sign(step Step, why string) {
	d.Action = Action{Step: step, Object: IssuerObject, Why: why, Signs: true, Actor: d.Actor}
}

func (d *Decision) repair(step Step, object, why string, o ObjectState) {
	d.Step, d.Object, d.Why, d.Signs = step, object, why, step == StepRepairIssuer
	if len(o.Writers) > 0 {
		d.Writer = o.Writers[0].Name
		d.Why += fmt.Sprintf("; last written by %s at %s", d.Writer, clock(o.Writers[0].At))
	}
}

func (d *Decision) wakeAt(times ...time.Time) {
	for _, t := range times {
		if !t.IsZero() && (d.Wake.IsZero() || t.Before(d.Wake)) {
			d.Wake = t
		}
		if !t.IsZero() && (d.Acts.IsZero() || t.Before(d.Acts)) {
			d.Acts = t
		}
	}
}

// lookAt is wakeAt for a look for its own sake.
func (d *Decision) lookAt(t time.Time) {
	if d.Wake.IsZero() || t.Before(d.Wake) {
		d.Wake = t
	}
}

// marksLack says what is wrong with an object's marks.
func (v View) marksLack(o ObjectState) string {
	switch {
	case v.Record.Adopted == "":
	case o.Marks.Fleet == "":
		return "are to show that certd looks after it; its data stays as it is"
	case o.Marks.Adopted != "":
		return "are no longer to name what the cluster came with"
	}
	return "were changed"
}

// marksHold compares all marks but the epoch, which changes only with a write.
func marksHold(have, want Marks) bool {
	want.Epoch = have.Epoch
	return have == want
}

func issuerProblem(o *Observation, b pki.Bundle, now time.Time) string {
	switch {
	case !o.Issuer.Exists:
		return "it does not exist"
	case o.IssuerFacts.Problem != "":
		return o.IssuerFacts.Problem
	case !b.IsZero():
		if err := o.IssuerFacts.Verify(b, now); err != nil {
			return err.Error()
		}
	}
	return "it holds no certificate"
}

func bundleDiff(text []byte, want pki.Bundle) string {
	have, err := pki.ParseBundle(text)
	switch {
	case err != nil:
		return err.Error()
	case have.Equal(want):
		return "the same anchors, written differently"
	}
	var missing, former, extra []string
	for _, c := range want.Anchors() {
		switch {
		case have.Contains(c):
		case have.Covers(c):
			former = append(former, c.Subject.CommonName)
		default:
			missing = append(missing, c.Subject.CommonName)
		}
	}
	for _, c := range have.Anchors() {
		if !want.Contains(c) && !want.Covers(c) {
			extra = append(extra, fmt.Sprintf("%q", c.Subject.CommonName))
		}
	}
	var s []string
	if len(former) > 0 {
		s = append(s, "holds a former certificate of "+strings.Join(former, ", "))
	}
	if len(missing) > 0 {
		s = append(s, "lacks "+strings.Join(missing, ", "))
	}
	if len(extra) > 0 {
		s = append(s, "holds the foreign anchor "+strings.Join(extra, ", "))
	}
	if len(s) == 0 { // a former certificate beside the one that took its place
		return "holds a former certificate as well"
	}
	return strings.Join(s, " and ")
}

func describeForeign(o *Observation) string {
	var s []string
	if o.Bundle.Exists {
		s = append(s, "ConfigMap "+BundleObject)
	}
	if o.Issuer.Exists {
		s = append(s, "Secret "+IssuerObject)
	}
	return strings.Join(s, " and ")
}

// short renders a duration for people: the two largest units.
func short(d time.Duration) string {
	if d < 0 {
		return "-" + short(-d)
	}
	const day = 24 * time.Hour
	switch {
	case d >= 365*day:
		return fmt.Sprintf("%dy %dd", d/(365*day), d%(365*day)/day)
	case d >= day:
		return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// clock renders a time for people: in UTC, to the minute.
func clock(t time.Time) string { return t.UTC().Format("Mon 2 Jan 2006 15:04 MST") }
