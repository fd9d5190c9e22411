package rotation

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"certd.internal/pki"
)

func webhookKeyName(prefix, cluster string, n int) string {
	return fmt.Sprintf("%s-webhook-%s-%d", prefix, cluster, n)
}

func webhookCAID(n int) string { return fmt.Sprintf("w%d", n) }

// generation is the number in the id, 0 for an id of another form.
func (a WebhookCA) generation() int {
	n, err := strconv.Atoi(strings.TrimPrefix(a.ID, "w"))
	if err != nil {
		return 0
	}
	return n
}

// probe collects evidence of webhooks and keeps it. It changes nothing.
func (r *Reconciler) probe(ctx context.Context, m *member, webhooks []WebhookSpec) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	v := m.view()
	v.Prove(m.cluster.ProbeWebhooks(ctx, webhooks))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, spec := range webhooks {
		m.evidence = with(m.evidence, spec.Name, v.Evidence[spec.Name])
	}
}

// Installed are the places of the webhooks that are installed.
func (o *Observation) Installed() (specs []WebhookSpec) {
	for _, w := range o.Webhooks {
		if w.Err == nil && w.installed() {
			specs = append(specs, w.Spec)
		}
	}
	return specs
}

// Prove takes evidence in as being about the webhooks as they were observed.
func (v *View) Prove(found map[string]WebhookEvidence) {
	evidence := maps.Clone(v.Evidence) // another view may hold it
	if evidence == nil {
		evidence = map[string]WebhookEvidence{}
	}
	for _, w := range v.Observed.Webhooks {
		if ev, ok := found[w.Spec.Name]; ok {
			ev.Of = w.state()
			evidence[w.Spec.Name] = ev
		}
	}
	v.Evidence = evidence
}

// actOnWebhook carries out one decided step about webhooks.
func (r *Reconciler) actOnWebhook(ctx, hand context.Context, m *member, f Fleet, v View, d Decision, in Intent) error {
	in.Webhook = d.Webhook
	var w Webhook
	for _, x := range v.Observed.Webhooks {
		if x.Spec.Name == d.Webhook {
			w = x
		}
	}
	switch d.Step {
	case StepWebhookCA:
		return r.makeWebhookCA(ctx, hand, m, f, v, d, in)
	case StepWebhook, StepRepairWebhook:
		return r.publishServing(ctx, hand, m, f, v, w, d, in)
	case StepWebhookRestart:
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			return Outcome{}, m.cluster.Restart(ctx, d.spec.Namespace, d.owner)
		})
	case StepWebhookReload:
		in.Serial = pki.Serial(w.Facts.Chain[0])
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			rev, err := m.cluster.WriteWebhook(ctx, WebhookWrite{Spec: d.spec, Revision: w.Secret.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: in.Serial, CAs: d.cas, Reload: in.Serial})
			return Outcome{Revision: rev}, err
		})
	}
	if d.ca != nil {
		ca := *d.ca
		ca.RetiredAt = r.wall()
		in.Anchor = ca.ID
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) { return Outcome{WebhookCA: &ca}, nil })
	}
	in.Wanted = d.cas.SHA256()
	if d.Object == d.spec.secretName() {
		return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
			rev, err := m.cluster.WriteWebhook(ctx, WebhookWrite{Spec: d.spec, Revision: w.Secret.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch,
				Serial: pki.Serial(w.Facts.Chain[0]), CAs: d.cas, Reload: w.Reload})
			return Outcome{Revision: rev}, err
		})
	}
	for _, o := range w.Objects {
		if o.Ref.String() == d.Object {
			return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
				rev, err := m.cluster.WriteCABundle(ctx, CABundleWrite{Spec: d.spec, Object: o.Ref, Revision: o.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, CAs: d.cas})
				return Outcome{Revision: rev}, err
			})
		}
	}
	return fmt.Errorf("step %q of webhook %s: it has no object %s", d.Step, d.Webhook, d.Object)
}

// publishServing signs a new serving certificate and writes it, in this order,
// as publishIssuer does.
func (r *Reconciler) publishServing(ctx, hand context.Context, m *member, f Fleet, v View, w Webhook, d Decision, in Intent) error {
	ca := *cmp.Or(d.ca, activeCA(v.WebhookCAs))
	p := v.Policy.Webhooks.Leaf
	profile := pki.ServingProfile{DNSNames: d.spec.DNSNames, Lifetime: p.Lifetime, Backdate: p.Backdate}
	cred, rec, err := r.webhook.serving(ctx, &ca, d.spec, profile, caller{m.name, d.Actor, d.Why}, r.wall())
	if !notSigned(err) {
		m.hasSigned(d.Action, r.wall())
	}
	if err != nil {
		return err
	}
	defer cred.Wipe()
	in.Serial, in.Anchor, in.Key = rec.Serial, ca.ID, ca.Key
	return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
		begun := r.wall()
		rev, err := m.cluster.WriteWebhook(ctx, WebhookWrite{Spec: d.spec, Revision: w.Secret.Revision, Fleet: f.Policy.Fleet, Epoch: f.Epoch, Serial: rec.Serial, Credential: &cred, CAs: d.cas})
		rec.DeliveredAt = latest(begun, r.wall())
		return Outcome{Revision: rev, Certificate: &rec}, err
	})
}

// serving makes a serving certificate under a webhook CA and proves that it is
// accepted under it. The caller wipes the credential.
func (s signer) serving(ctx context.Context, ca *WebhookCA, spec WebhookSpec, p pki.ServingProfile, who caller, now time.Time) (pki.Credential, CertificateRecord, error) {
	var rec CertificateRecord
	doing := fmt.Sprintf("sign a certificate of webhook %s for %s under %s", spec.Name, who.cluster, ca.ID)
	key, err := s.open(ctx, &ca.Anchor, now)
	if err != nil {
		return pki.Credential{}, rec, err
	}
	k, ok := key.(DigestSigner)
	if !ok {
		return pki.Credential{}, rec, fmt.Errorf("%s: key %s cannot sign digests", doing, ca.Key)
	}
	template, err := pki.NewServingTemplate(now, p, ca.Certificate)
	if err != nil {
		return pki.Credential{}, rec, fmt.Errorf("%s: %w", doing, unasked{err})
	}
	rec = servingRecord(who.cluster, spec.Name, ca.ID, template, now)
	rec.AKI = pki.SKI(ca.Certificate)
	priv, err := pki.GenerateKey()
	if err != nil {
		return pki.Credential{}, rec, fmt.Errorf("generate a key for webhook %s of %s: %w", spec.Name, who.cluster, err)
	}
	cert, err := pki.SignServing(template, ca.Certificate, priv.PublicKey(), &recordedSigner{
		ctx: ctx, journal: s.journal, key: k, signed: &rec,
		intent: Intent{Step: StepSign, Cluster: who.cluster, Actor: who.actor, Reason: "webhook " + spec.Name + ": " + who.reason, Anchor: ca.ID, Serial: rec.Serial, Key: ca.Key, Webhook: spec.Name},
	})
	var cred pki.Credential
	if err == nil {
		cred, err = pki.NewCredential(priv, cert)
	}
	if err == nil {
		err = pki.NewCASet(ca.Certificate).Verify(cred.Chain(), p.DNSNames[0], now)
	}
	if err != nil {
		priv.Wipe()
		return pki.Credential{}, rec, fmt.Errorf("%s: %w", doing, err)
	}
	return cred, servingRecord(who.cluster, spec.Name, ca.ID, cert, now), nil
}

func servingRecord(cluster, name, ca string, c *x509.Certificate, now time.Time) CertificateRecord {
	r := certificateRecord(cluster, "webhook", ca, c, now)
	r.Name = name
	return r
}

// makeWebhookCA makes the next generation of a cluster's webhook CA, after
// looking whether one that a lost journal knew is still in use. Its key's name
// is on disk before the key is made.
func (r *Reconciler) makeWebhookCA(ctx, hand context.Context, m *member, f Fleet, v View, d Decision, in Intent) error {
	if activeCA(v.WebhookCAs) == nil {
		if found, err := r.recoverWebhookCAs(ctx, m, f, v); err != nil || found {
			return err
		}
	}
	ca, key, err := r.webhookKey(ctx, m, f, v, d)
	if err != nil {
		return err
	}
	now, p := r.wall(), v.Policy.Webhooks.CA
	doing := fmt.Sprintf("sign webhook CA %s of %s with its own key %s", ca.ID, m.name, ca.Key)
	k, ok := key.(DigestSigner)
	if !ok {
		return fmt.Errorf("%s: the key cannot sign digests", doing)
	}
	profile := pki.AnchorProfile{CommonName: pki.WebhookCACommonName(f.Policy.Fleet, m.name, now.Year(), ca.generation()), Lifetime: p.Lifetime, Backdate: p.Backdate}
	ca.Certificate, err = pki.SelfSignAnchor(now, profile, &recordedSigner{ctx: ctx, journal: r.journal, key: k,
		intent: Intent{Step: StepSign, Cluster: m.name, Actor: d.Actor, Reason: "webhook CA " + ca.ID + ": " + d.Why, Anchor: ca.ID, Key: ca.Key}})
	m.hasSigned(d.Action, r.wall())
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	ca.CreatedAt = now
	rec := certificateRecord(m.name, "webhook-ca", ca.ID, ca.Certificate, now)
	rec.DeliveredAt = now
	in.Anchor, in.Serial, in.Key = ca.ID, rec.Serial, ca.Key
	return r.recorded(ctx, hand, m, f, in, func() (Outcome, error) {
		return Outcome{Detail: "sha256 " + rec.SHA256, WebhookCA: &ca, Certificate: &rec}, nil
	})
}

// webhookKey finds or makes the key of the next generation. A name that is
// taken by a key which this journal did not set out to make is passed over.
func (r *Reconciler) webhookKey(ctx context.Context, m *member, f Fleet, v View, d Decision) (WebhookCA, Key, error) {
	n := 1
	for _, ca := range v.WebhookCAs {
		if n = ca.generation() + 1; ca.Certificate == nil {
			key, err := r.webhook.open(ctx, &ca.Anchor, r.wall())
			return ca, key, err
		}
	}
	for last := n + maxGenerations; n < last; n++ {
		ca := WebhookCA{Cluster: m.name, Anchor: Anchor{ID: webhookCAID(n), Key: webhookKeyName(f.Policy.KeyPrefix, m.name, n)}}
		entered := func(info KeyInfo, at time.Time) Outcome {
			ca.Backend, ca.Exportable, ca.CheckedAt, ca.CreatedAt = info.Backend, info.Exportable, at, at
			return Outcome{WebhookCA: &ca}
		}
		ours, err := settleKeyIntents(ctx, r.journal, r.webhook.keys, ca.Key, entered)
		if err != nil {
			return ca, nil, err
		}
		key, err := r.webhook.keys.OpenKey(ctx, ca.Key, nil)
		switch {
		case err == nil && ours:
			r.remember(m, Intent{}, Outcome{Result: OK, WebhookCA: &ca})
			return ca, key, nil
		case err == nil:
			r.log.WarnContext(ctx, "a webhook CA's key is there that this journal did not make; the next name is taken", "cluster", m.name, "key", ca.Key)
			continue
		case errors.Is(err, ErrKeyUnfit):
			r.log.WarnContext(ctx, "a key of a webhook CA's name is there that must not sign; the next name is taken", "cluster", m.name, "key", ca.Key, "err", err)
			continue
		case !errors.Is(err, ErrKeyNotFound):
			return ca, nil, fmt.Errorf("look for key %s: %w", ca.Key, err)
		}
		in := Intent{Step: StepKey, Cluster: m.name, Actor: d.Actor, Reason: "key of webhook CA " + ca.ID + ": " + d.Why, Anchor: ca.ID, Key: ca.Key}
		made, err := createKey(ctx, r.journal, r.webhook.keys, in, entered)
		if err != nil {
			return ca, nil, err
		}
		r.remember(m, in, Outcome{Result: OK, WebhookCA: &ca})
		key, err = r.webhook.keys.OpenKey(ctx, ca.Key, made.Info().Public)
		if err != nil {
			err = fmt.Errorf("open the new key %s: %w", ca.Key, err)
		}
		return ca, key, err
	}
	return WebhookCA{}, nil, fmt.Errorf("make a webhook CA for %s: %d names for its key are taken, up to %s: %w", m.name, maxGenerations, webhookKeyName(f.Policy.KeyPrefix, m.name, n-1), ErrKeyExists)
}

// recoverWebhookCAs learns webhook CAs from Secrets that bear the fleet's mark
// and from the caBundles beside them, after the journal was lost. As with
// anchors the key backend must hold the key, under the name certd gives it.
func (r *Reconciler) recoverWebhookCAs(ctx context.Context, m *member, f Fleet, v View) (found bool, err error) {
	var seen pki.CASet
	for _, w := range v.Observed.Webhooks {
		if w.Err != nil || w.Secret.Marks.Fleet != f.Policy.Fleet {
			continue
		}
		seen = seen.Union(w.Facts.CAs)
		for _, o := range w.Objects {
			seen = seen.Union(o.CABundle)
		}
	}
	for _, c := range seen.Certificates() {
		if pki.CheckAnchor(c) != nil {
			continue
		}
		n, key, err := findKey(ctx, r.webhook.keys, c.PublicKey, 0, func(n int) string { return webhookKeyName(f.Policy.KeyPrefix, m.name, n) })
		if err != nil {
			return found, fmt.Errorf("recover webhook CA %q seen in %s: %w", c.Subject.CommonName, m.name, err)
		}
		if key == nil {
			continue
		}
		ca := WebhookCA{Cluster: m.name, Anchor: Anchor{ID: webhookCAID(n), Key: key.Info().Name, Backend: key.Info().Backend, Exportable: key.Info().Exportable,
			CheckedAt: r.wall(), Certificate: c, CreatedAt: c.NotBefore}}
		rec := certificateRecord(m.name, "webhook-ca", ca.ID, c, time.Time{})
		in := Intent{Step: StepRecover, Cluster: m.name, Actor: "certd", Reason: "the journal knows no webhook CA, and Secrets of this cluster bear the fleet's mark", Anchor: ca.ID, Serial: rec.Serial, Key: ca.Key}
		out := Outcome{Result: OK, WebhookCA: &ca, Certificate: &rec}
		if err := r.enter(in, out); err != nil {
			return found, fmt.Errorf("record the recovery of webhook CA %s of %s: %w", ca.ID, m.name, err)
		}
		r.remember(m, in, out)
		r.log.WarnContext(ctx, "webhook CA recovered from the cluster", "cluster", m.name, "anchor", ca.ID, "key", ca.Key)
		found = true
	}
	return found, nil
}

// enter records something that has no effect outside the journal.
func (r *Reconciler) enter(in Intent, out Outcome) error {
	id, err := r.journal.Begin(in)
	if err != nil {
		return err
	}
	return r.journal.Finish(id, out)
}

// findKey looks which generation's key belongs to a public key; a nil Key: none of those
// that are there. People destroy keys of what is retired, so that one that is not there
// ends nothing; but some in a row do, after the newest generation that is known (0: none
// is). Certificates that somebody makes up are not to keep the key backend busy.
func findKey(ctx context.Context, keys Keys, public crypto.PublicKey, known int, name func(n int) string) (n int, key Key, err error) {
	const inARow = 4
	last := known // that is there, or may be
	for n := 1; n <= maxGenerations && (known == 0 || n <= last+inARow); n++ {
		key, err := keys.OpenKey(ctx, name(n), public)
		switch {
		case err == nil:
			return n, key, nil
		case errors.Is(err, ErrKeyUnfit):
			last = max(last, n)
		case !errors.Is(err, ErrKeyNotFound):
			return 0, nil, fmt.Errorf("open key %s: %w", name(n), err)
		}
	}
	return 0, nil, nil
}
