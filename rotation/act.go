package rotation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// act carries out one decided step: intent, effect, another look, outcome.
// It returns the error of the effect. ctx bounds the effect; the look after it
// has time of its own, out of hand, since it matters most where the effect
// used up its time.
func (r *Reconciler) act(ctx, hand context.Context, m *member, f Fleet, v View, d Decision) error {
	in := Intent{Step: d.Step, Cluster: m.name, Actor: d.Actor, Reason: d.Why, Object: d.Object, Writer: d.Writer}
	o := v.Observed
	if d.Webhook != "" || d.Step == StepWebhookCA || d.ca != nil {
		return r.actOnWebhook(ctx, hand, m, f, v, d, in)
	}
	switch {
	case d.Object == BundleObject:
		in.Wanted = d.Bundle.SHA256()
	case d.Step == StepBundleCopy:
		in.Wanted = d.beside.SHA256()
	}
	switch d.Step {
	case StepNamespace:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			return Outcome{}, m.cluster.CreateNamespace(ctx)
		})
	case StepBundle, StepRepairBundle:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			rev, err := m.cluster.WriteBundle(ctx, BundleWrite{Revision: o.Bundle.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, Adopted: f.adoptedMark(v), Bundle: d.Bundle})
			return Outcome{Revision: rev, Enrolled: true}, err
		})
	case StepRepairMetadata, StepBundleCopy:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			if d.Object == BundleObject {
				w := BundleWrite{Revision: o.Bundle.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, Adopted: f.adoptedMark(v), Bundle: d.Bundle}
				if v.Record.Adopted != "" { // its text is as it should be, and somebody else's
					w.Bundle = pki.Bundle{}
				}
				rev, err := m.cluster.WriteBundle(ctx, w)
				return Outcome{Revision: rev}, err
			}
			rev, err := m.cluster.WriteIssuer(ctx, IssuerWrite{Revision: o.Issuer.Revision, Scheme: o.scheme(), Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: pki.Serial(d.Issuer), Bundle: d.beside, Missing: d.found})
			return Outcome{Revision: rev}, err
		})
	case StepIssuerReload:
		in.Serial = pki.Serial(d.Issuer)
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			rev, err := m.cluster.WriteIssuer(ctx, IssuerWrite{Revision: o.Issuer.Revision, Scheme: o.scheme(), Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: in.Serial, Bundle: d.beside, Reload: in.Serial, Missing: d.found})
			return Outcome{Revision: rev}, err
		})
	case StepIdentityRestart:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			return Outcome{}, m.cluster.Restart(ctx, v.Policy.Namespace, identityOwner())
		})
	case StepControlRestart:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			return Outcome{}, m.cluster.Restart(ctx, v.Policy.Namespace, d.owner)
		})
	case StepWorkloadRestart:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			certd, err := m.cluster.RestartSince(ctx, d.namespace, d.owner, d.since, f.Change == nil || !f.Change.Compromised)
			if err == nil && !certd {
				return Outcome{ByOthers: true, Detail: "others have restarted it since"}, nil
			}
			return Outcome{}, err
		})
	case StepPodEvict:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			pods, err := m.cluster.Evict(ctx, d.namespace, d.owner, Eviction{Since: d.since, Wanted: d.Bundle, Whole: f.Change == nil || !f.Change.Compromised})
			return Outcome{Detail: evicted(pods), ByOthers: len(pods) == 0}, err
		})
	case StepIssuer, StepRepairIssuer:
		if d.keepsKey {
			return r.publishChain(ctx, hand, m, f, v, d, in)
		}
		return r.publishIssuer(ctx, hand, m, f, v, d, in)
	}
	return fmt.Errorf("step %q of %s: there is no such step", d.Step, m.name)
}

// evicted says which pods were, a few of them by name.
func evicted(pods []string) string {
	const most = 5
	switch n := len(pods); {
	case n == 0:
		return "it has none of these any more"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ", "), n-most)
	}
	return strings.Join(pods, ", ")
}

// apartFrom is from how many issuers before it a new one's end is kept apart, by
// a minute each: enough when repairs come thick and fast, and so few that a new
// one is not due at once where issuers of half an hour are renewed each minute.
func (p RenewalPolicy) apartFrom() int {
	return min(16, max(1, int((p.Lifetime-p.Backdate-p.RenewBefore)/2/time.Minute)))
}

// publishIssuer signs a new issuer and writes it, in this order: a signature
// that reaches no cluster does no harm, a key without certificate would.
func (r *Reconciler) publishIssuer(ctx, hand context.Context, m *member, f Fleet, v View, d Decision, in Intent) error {
	if len(d.signers) == 0 {
		return fmt.Errorf("sign an issuer for %s: there is no trust anchor to sign it", m.name)
	}
	signers := make([]Anchor, len(d.signers))
	for i, a := range d.signers {
		signers[i] = *a
	}
	p := pki.IssuerProfile{Namespace: v.Policy.Namespace, TrustDomain: v.Policy.TrustDomain, Lifetime: v.Policy.Issuer.Lifetime, Backdate: v.Policy.Issuer.Backdate}
	for _, c := range v.Certificates {
		if len(p.NotAfterTaken) < v.Policy.Issuer.apartFrom() && !c.DeliveredAt.IsZero() {
			p.NotAfterTaken = append(p.NotAfterTaken, c.NotAfter)
		}
	}
	if d.Issuer != nil {
		p.NotAfterTaken = append(p.NotAfterTaken, d.Issuer.NotAfter)
	}
	cred, rec, err := r.signer.issuer(ctx, signers, d.Bundle, p, caller{m.name, d.Actor, d.Why}, r.wall())
	for _, a := range signers {
		r.keyOutcome(a, err)
	}
	a := signers[0]
	if !notSigned(err) {
		m.hasSigned(d.Action, r.wall())
	}
	if err != nil {
		return err
	}
	defer cred.Wipe()
	in.Serial, in.Anchor, in.Key, rec.Over = rec.Serial, a.ID, a.Key, v.Observed.serial()
	return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
		begun := r.wall()
		rev, err := m.cluster.WriteIssuer(ctx, IssuerWrite{Revision: v.Observed.Issuer.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: rec.Serial, Credential: &cred, Bundle: d.beside})
		rec.DeliveredAt = latest(begun, r.wall())
		out := Outcome{Revision: rev, Certificate: &rec, Checked: &a, Enrolled: true}
		if home := f.home(v); home.keyless() && !home.RetiredAt.IsZero() {
			out.Adopted = v.Record.broughtHome()
		}
		return out, err
	})
}

// publishChain has other certificates stand beside the key that the cluster came
// with: what it came with, a further one under the fleet's anchor, or both.
func (r *Reconciler) publishChain(ctx, hand context.Context, m *member, f Fleet, v View, d Decision, in Intent) error {
	doing := "give the issuer of " + m.name + " other certificates"
	came, _ := pki.ReadCertificates(v.Record.AdoptedIssuer)
	if len(came) == 0 || !v.foundKey() {
		return fmt.Errorf("%s: %w", doing, errOtherKey)
	}
	taken := []time.Time{v.Observed.IssuerFacts.Chain[0].NotAfter}
	for _, c := range v.Certificates {
		if len(taken) < 16 && !c.DeliveredAt.IsZero() {
			taken = append(taken, c.NotAfter)
		}
	}
	var chain []*x509.Certificate
	var used *Anchor
	for _, s := range d.signers {
		if s.keyless() {
			chain = append(chain, came...)
			continue
		}
		a := *s
		c, err := r.signer.second(ctx, &a, came[0], taken, caller{m.name, d.Actor, d.Why}, r.wall())
		r.keyOutcome(a, err)
		if !notSigned(err) {
			m.hasSigned(d.Action, r.wall())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		chain, used = append(chain, c), &a
	}
	if err := proveChain(v.Observed.IssuerFacts.With(chain...), d.signers, d.Bundle, r.wall()); err != nil {
		return fmt.Errorf("%s: prove them: %w; they were thrown away", doing, err)
	}
	rec := certificateRecord(m.name, "issuer", d.signers[0].ID, chain[0], time.Time{})
	if used != nil && !d.signers[0].keyless() {
		rec.SignedAt = r.wall()
	}
	if len(d.signers) > 1 {
		rec.Second = d.signers[1].ID
	}
	rec.Over = v.Observed.serial()
	in.Serial, in.Anchor, in.Wanted = rec.Serial, rec.Anchor, chainDigest(chain)
	return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
		begun := r.wall()
		rev, err := m.cluster.WriteIssuer(ctx, IssuerWrite{Revision: v.Observed.Issuer.Revision, Scheme: v.Observed.scheme(), Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: rec.Serial, Chain: chain, Bundle: d.beside})
		rec.DeliveredAt = latest(begun, r.wall())
		return Outcome{Revision: rev, Certificate: &rec, Checked: used, Enrolled: true}, err
	})
}

// proveChain proves an issuer under the bundle it is for, and under each of its
// anchors alone, since there are pods that hold no other.
func proveChain(facts pki.IssuerFacts, signers []*Anchor, bundle pki.Bundle, now time.Time) error {
	if err := facts.Verify(bundle, now); err != nil {
		return err
	}
	for _, a := range signers {
		alone, err := pki.NewBundle(a.Certificate)
		if err == nil {
			err = facts.With(facts.Chain...).Verify(alone, now)
		}
		if err != nil {
			return fmt.Errorf("under anchor %s alone: %w", a.ID, err)
		}
	}
	return nil
}

// chainDigest tells issuer files apart that begin with one certificate.
func chainDigest(chain []*x509.Certificate) string {
	sum := sha256.Sum256(pki.EncodeCertificates(chain...))
	return hex.EncodeToString(sum[:])
}

// notSigned says that an error left no signature behind.
func notSigned(err error) bool {
	for _, is := range []error{ErrUnavailable, ErrDenied, ErrKeyUnfit, ErrKeyNotFound, ErrTryAgain} {
		if errors.Is(err, is) {
			return true
		}
	}
	var none unasked
	return errors.As(err, &none)
}

// recorded wraps one effect in the journal. The intent is on disk before the
// effect begins; when the answer was lost, another look at the cluster tells
// what came of it, and until one succeeds the intent stays open.
func (r *Reconciler) recorded(ctx, hand context.Context, m *member, f Fleet, in Intent, effect func() (Outcome, error)) error {
	begun := r.wall()
	id, err := r.journal.Begin(in)
	if err != nil {
		return fmt.Errorf("record the intent: %w", err)
	}
	out, err := effect()
	open := PendingIntent{ID: id, At: begun, Intent: in}
	// After what certd writes to one object nothing else is known to be different. What
	// it mends somebody else has changed, and who knows what beside it.
	object := map[Step]string{StepBundle: BundleObject, StepBundleCopy: IssuerObject, StepIssuer: IssuerObject}[in.Step]
	if err != nil || object == "" || r.reread(hand, m, object) != nil {
		if oerr := r.observe(hand, m); oerr != nil && errors.Is(err, ErrOutcomeUnknown) {
			r.addPending(m, open)
			return err
		}
	}
	switch {
	case err == nil:
		out.Result = OK
	case errors.Is(err, ErrOutcomeUnknown) && tookEffect(in, m.view().Observed):
		out.Result, out.Detail, err = OK, "the answer was lost; the effect was seen afterwards", nil
	default:
		// Either refused, or looked for and not there.
		out = Outcome{Result: Failed, Detail: err.Error()}
	}
	if ferr := r.journal.Finish(id, out); ferr != nil {
		r.addPending(m, open)
		return errors.Join(err, fmt.Errorf("record the outcome: %w", ferr))
	}
	r.remember(m, in, out)
	if err == nil {
		r.tell(ctx, m, in)
	}
	return err
}

// tookEffect says whether the world shows what the intent wanted.
func tookEffect(in Intent, o *Observation) bool {
	if o == nil {
		return false
	}
	have, err := pki.AsWritten(o.BundleText)
	bundleHolds := err == nil && o.Bundle.Exists && have.SHA256() == in.Wanted
	switch in.Step {
	case StepNamespace:
		return o.Namespace
	case StepBundle, StepRepairBundle:
		return bundleHolds
	case StepBundleCopy:
		beside, err := pki.AsWritten(o.IssuerFacts.CABundle)
		return err == nil && o.Issuer.Exists && beside.SHA256() == in.Wanted
	case StepIssuerReload:
		return o.IssuerReload == in.Serial
	case StepIssuer, StepRepairIssuer:
		if in.Wanted != "" {
			return o.Issuer.Exists && chainDigest(o.IssuerFacts.Chain) == in.Wanted
		}
		return o.Issuer.Exists && in.Serial != "" && o.serial() == in.Serial
	case StepWebhook, StepRepairWebhook, StepWebhookTrust, StepWebhookRetire, StepRepairTrust, StepWebhookReload:
		return webhookTookEffect(in, o)
	case StepRepairMetadata:
		if in.Webhook != "" {
			return webhookTookEffect(in, o)
		}
		if in.Object == BundleObject {
			return bundleHolds && o.Bundle.Marks.Keep && o.Bundle.Marks.Label
		}
		return o.IssuerFacts.Complete && o.Issuer.Marks.Keep && o.Issuer.Marks.Label
	}
	return false
}

// webhookTookEffect says the same of steps about webhooks.
func webhookTookEffect(in Intent, o *Observation) bool {
	for _, w := range o.Webhooks {
		if w.Spec.Name != in.Webhook || w.Err != nil {
			continue
		}
		switch {
		case in.Step == StepWebhookReload:
			return w.Reload == in.Serial
		case in.Step == StepWebhook, in.Step == StepRepairWebhook:
			return len(w.Facts.Chain) > 0 && pki.Serial(w.Facts.Chain[0]) == in.Serial
		case in.Object == w.Spec.secretName():
			return w.Facts.CAs.SHA256() == in.Wanted && w.Secret.Marks.Keep
		}
		for _, obj := range w.Objects {
			if obj.Ref.String() == in.Object {
				return obj.CABundle.SHA256() == in.Wanted
			}
		}
	}
	return false
}

// settle closes intents that an earlier run, or a lost answer, left open: it
// looks at what is there and records it. It repeats nothing.
func (r *Reconciler) settle(m *member, f Fleet) error {
	v := m.view()
	for _, p := range m.takePending() {
		if p.Step == StepKey {
			continue // the key backend knows; it is asked when the key is wanted
		}
		out := Outcome{Result: Abandoned, Detail: "looked for afterwards, and not there"}
		if slices.Contains(restartSteps, p.Step) { // nor can it be told from what others do
			out = Outcome{Result: Unknown, Detail: "certd ended before the answer was recorded"}
		}
		if tookEffect(p.Intent, v.Observed) {
			out = Outcome{Result: OK, Detail: "its answer was lost; seen afterwards to have taken effect", Enrolled: p.Step == StepBundle}
			switch p.Step {
			case StepIssuer, StepRepairIssuer:
				rec := certificateRecord(m.name, "issuer", p.Anchor, v.Observed.IssuerFacts.Chain[0], p.At)
				if order := f.signersOf(v.Observed.IssuerFacts.Chain); len(order) > 1 {
					rec.Second = order[1].ID
				}
				rec.DeliveredAt = latest(p.At, v.Observed.IssuerWrittenAt) // it may have come late
				out.Certificate, out.Enrolled = &rec, true
			case StepWebhook, StepRepairWebhook:
				rec := servingRecord(m.name, p.Webhook, p.Anchor, v.Observed.leafOf(p.Webhook), p.At)
				rec.DeliveredAt = p.At
				out.Certificate = &rec
			}
		}
		if err := r.journal.Finish(p.ID, out); err != nil {
			r.addPending(m, p)
			return fmt.Errorf("record what came of %s in %s: %w", p.Step, m.name, err)
		}
		r.remember(m, p.Intent, out)
		if out.Result == OK {
			r.tried(Attempt{Cluster: m.name, Step: p.Step, Object: p.Object, Webhook: p.Webhook, Writer: p.Writer})
		}
		if out.Result == Unknown {
			m.mu.Lock()
			m.restarts = m.restarts.noted(p.Intent, false, m.policy, p.At)
			m.mu.Unlock()
		}
	}
	return nil
}

// tell writes a Kubernetes Event on the object that changed. It is for people;
// nothing depends on it.
func (r *Reconciler) tell(ctx context.Context, m *member, in Intent) {
	e := Event{Object: in.Object, Message: in.Reason}
	if in.Webhook != "" {
		spec := m.view().Observed.specOf(in.Webhook)
		e.Object, e.Namespace = spec.Secret, spec.Namespace
		e.Message = in.Webhook + ": " + in.Reason
	}
	switch in.Step {
	case StepBundle:
		e.Reason = "CertdBundleChanged"
	case StepIssuer:
		e.Reason, e.Message = "CertdIssuerRotated", "new issuer "+in.Serial+": "+in.Reason
	case StepWebhook:
		e.Reason, e.Message = "CertdWebhookRotated", in.Webhook+": new certificate "+in.Serial+": "+in.Reason
	case StepRepairBundle, StepRepairIssuer, StepRepairMetadata, StepRepairTrust, StepRepairWebhook:
		e.Reason, e.Warning = "CertdDriftRepaired", true
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if err := m.cluster.Event(ctx, e); err != nil {
		r.log.WarnContext(ctx, "event not written", "cluster", m.name, "reason", e.Reason, "err", err)
	}
}

// failed works out when a failed action is tried again: soon at first, then
// rarer, and never so late that the remaining life of what it is about is spent
// waiting. The caller holds mu.
func (m *member) failed(a Action, err error, now, deadline time.Time) (until time.Time) {
	fl := StepFailure{Step: a.Step, Webhook: a.Webhook, Err: err, Since: now, Tries: 1}
	if was := m.failures[a.lane()]; was != nil {
		fl.Tries = was.Tries + 1
		if was.Step == a.Step {
			fl.Since = was.Since
		}
	}
	fl.Until = now.Add(backoff(fl.Tries, m.left(deadline, now)))
	m.failures = with(m.failures, a.lane(), &fl)
	return fl.Until
}

// maxBackoff bounds the pause between tries.
const maxBackoff = 5 * time.Minute

// evenTries is how many failures in a row it takes until the pauses grow no longer.
const evenTries = 10

// backoff is the pause after the nth failure in a row, bounded by a
// twentieth of what is left until the deadline. After that it is short, but
// not for ever: each try leaves its trace in the journal.
func backoff(n int, left time.Duration) time.Duration {
	const first = time.Second
	least := 5 * time.Second
	if n > 60 {
		least = 30 * time.Second
	}
	bound := min(maxBackoff, max(least, left/20))
	return min(bound, first<<min(n-1, 10))
}
