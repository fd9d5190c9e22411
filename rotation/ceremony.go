package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"certd.internal/pki"
)

// maxGenerations bounds the search for keys of anchor generations.
const maxGenerations = 32

func anchorKeyName(prefix string, n int) string { return fmt.Sprintf("%s-anchor-%d", prefix, n) }

func generationID(n int) string { return fmt.Sprintf("g%d", n) }

// generationOf is the number in an id, 0 where there is none.
func generationOf(id string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(id, "g"))
	if err != nil {
		return 0
	}
	return n
}

// Ceremony makes the first trust anchor. It can be repeated at will: what is
// there already is found, and what was begun is ended.
type Ceremony struct {
	Journal Journal
	Creator Keys // creates the key, and does nothing else
	Signer  Keys // signs
	Policy  FleetPolicy
	Actor   string
	Reason  string
	DryRun  bool
	// Say is called with each thing checked or done, in order.
	Say func(format string, args ...any)
}

// Run makes the anchor, or finds it, and returns it. created is false when it
// was there before. A dry run returns what would be made, without certificate.
func (c Ceremony) Run(ctx context.Context) (a Anchor, created bool, err error) {
	anchors, err := c.Journal.Anchors()
	if err != nil {
		return Anchor{}, false, fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	f := Fleet{Policy: c.Policy, Anchors: anchors}
	s := signer{c.Journal, c.Signer}
	if active := f.Active(); active != nil {
		a := *active
		if _, err := s.open(ctx, &a, c.Journal.Now()); err != nil {
			return a, false, err
		}
		c.Say("trust anchor %s is there already; its key %s answers and is fit to sign", a.ID, a.Key)
		return a, false, nil
	}
	a = Anchor{ID: generationID(1), Key: anchorKeyName(c.Policy.KeyPrefix, 1)}
	if n := len(anchors); n > 0 && anchors[n-1].Certificate == nil {
		a = anchors[n-1]
	}
	key, err := c.key(ctx, s, &a)
	if err != nil {
		return a, false, err
	}
	if c.DryRun {
		return a, false, nil
	}
	if a.Certificate, err = c.certificate(ctx, key, a, 1); err != nil {
		return a, false, err
	}
	if a.CreatedAt.IsZero() {
		a.CreatedAt = c.Journal.Now()
	}
	rec := certificateRecord("", "anchor", a.ID, a.Certificate, c.Journal.Now())
	rec.DeliveredAt = rec.SignedAt
	id, err := c.Journal.Begin(Intent{Step: StepAnchor, Actor: c.Actor, Reason: c.Reason, Anchor: a.ID, Serial: rec.Serial, Key: a.Key})
	if err == nil {
		err = c.Journal.Finish(id, Outcome{Result: OK, Detail: "sha256 " + rec.SHA256, Anchor: &a, Certificate: &rec})
	}
	if err != nil {
		return a, false, fmt.Errorf("record trust anchor %s: %w", a.ID, err)
	}
	c.Say("trust anchor %s signed, verified and recorded: sha256 %s", a.ID, rec.SHA256)
	return a, true, nil
}

// key finds or makes the anchor's key. Its name is on disk before the key is
// made, so that a crash in between leaves a key that can be told for ours.
func (c Ceremony) key(ctx context.Context, s signer, a *Anchor) (Key, error) {
	ours, err := settleKeyIntents(ctx, c.Journal, c.Signer, a.Key, a.entered)
	if err != nil {
		return nil, err
	}
	key, err := s.keys.OpenKey(ctx, a.Key, nil)
	switch {
	case err == nil:
		_, certifies := key.(IssuerSigner)
		if !ours && a.CreatedAt.IsZero() && !certifies {
			return nil, fmt.Errorf("key %s exists in the key backend, and this journal did not make it: %w; "+
				"if it is this fleet's and the journal was lost, `certd run` recovers the anchor from the clusters; else give keys another prefix, or have it removed", a.Key, ErrKeyExists)
		}
		c.Say("key %s is there and fit to sign", a.Key)
		a.Backend, a.Exportable, a.CheckedAt = key.Info().Backend, key.Info().Exportable, c.Journal.Now()
		return key, nil
	case !errors.Is(err, ErrKeyNotFound):
		return nil, fmt.Errorf("look for key %s: %w", a.Key, err)
	}
	c.Say("key %s does not exist yet", a.Key)
	if c.DryRun {
		return nil, nil
	}
	in := Intent{Step: StepKey, Actor: c.Actor, Reason: "key of trust anchor " + a.ID + ": " + c.Reason, Anchor: a.ID, Key: a.Key}
	made, err := createKey(ctx, c.Journal, c.Creator, in, a.entered)
	if err != nil {
		return nil, err
	}
	c.Say("key %s made; its private part stays in %s (exportable: %t)", a.Key, a.Backend, a.Exportable)
	// What signs is opened anew, with the login that signs from now on.
	key, err = s.keys.OpenKey(ctx, a.Key, made.Info().Public)
	if err != nil {
		return nil, fmt.Errorf("open the new key %s: %w", a.Key, err)
	}
	return key, nil
}

// entered is what becomes known with a new key, as an outcome for the journal.
func (a *Anchor) entered(info KeyInfo, at time.Time) Outcome {
	a.Backend, a.Exportable, a.CheckedAt, a.CreatedAt = info.Backend, info.Exportable, at, at
	return Outcome{Anchor: a}
}

// createKey makes a key, with the intent on disk before and the outcome after:
// entered says what that brings into the inventory.
func createKey(ctx context.Context, j Journal, keys Keys, in Intent, entered func(KeyInfo, time.Time) Outcome) (Key, error) {
	id, err := j.Begin(in)
	if err != nil {
		return nil, fmt.Errorf("record the intent to create key %s: %w", in.Key, err)
	}
	made, err := keys.CreateKey(ctx, in.Key)
	if errors.Is(err, ErrOutcomeUnknown) {
		// The name was free, so that a key which is there now is ours. Where it cannot be
		// seen, or not yet, the intent stays open: settleKeyIntents looks again, before
		// another is made.
		there, looked := keys.OpenKey(ctx, in.Key, nil)
		if looked != nil {
			return nil, fmt.Errorf("create key %s: %w; if it was made, that is seen when it is wanted next: run it again", in.Key, errors.Join(err, unlessMissing(looked)))
		}
		made, err = there, nil
	}
	out := outcome(err)
	if err == nil {
		out = entered(made.Info(), j.Now())
		out.Result = OK
	}
	if ferr := j.Finish(id, out); ferr != nil || err != nil {
		return nil, errors.Join(wrapIf("create key "+in.Key, err), wrapIf("record the outcome of creating key "+in.Key, ferr))
	}
	return made, nil
}

// settleKeyIntents closes intents to create a key that a crash left open and
// says whether the key, if it exists, is one that this journal set out to make.
func settleKeyIntents(ctx context.Context, j Journal, keys Keys, name string, entered func(KeyInfo, time.Time) Outcome) (ours bool, err error) {
	pending, err := j.Pending()
	if err != nil {
		return false, fmt.Errorf("read open intents: %w", err)
	}
	for _, p := range pending {
		if p.Step != StepKey || p.Key != name {
			continue
		}
		key, err := keys.OpenKey(ctx, name, nil)
		out := Outcome{Result: Abandoned, Detail: "certd ended before the key was made"}
		switch {
		case err == nil:
			ours = true
			out = entered(key.Info(), p.At)
			out.Result, out.Detail = OK, "seen to have been made after certd had ended in between"
		case !errors.Is(err, ErrKeyNotFound):
			return false, fmt.Errorf("look for key %s: %w", name, err)
		}
		if err := j.Finish(p.ID, out); err != nil {
			return false, fmt.Errorf("close the open intent %d: %w", p.ID, err)
		}
	}
	return ours, nil
}

// certificate has the anchor's certificate signed by its own key, or takes the
// one that the backend already has.
func (c Ceremony) certificate(ctx context.Context, key Key, a Anchor, generation int) (*x509.Certificate, error) {
	now := c.Journal.Now()
	switch k := key.(type) {
	case IssuerSigner:
		crt := k.Anchor()
		if err := pki.CheckAnchor(crt); err != nil {
			return nil, fmt.Errorf("the CA certificate of %s cannot be a trust anchor: %w", a.Key, err)
		}
		c.Say("the key backend's own CA certificate is the anchor: %q", crt.Subject.CommonName)
		return crt, nil
	case DigestSigner:
		domain := "cluster.local"
		if len(c.Policy.Clusters) > 0 {
			domain = c.Policy.Clusters[0].TrustDomain
		}
		p := pki.AnchorProfile{CommonName: pki.AnchorCommonName(domain, now.Year(), generation), Lifetime: c.Policy.Trust.Lifetime, Backdate: c.Policy.Trust.Backdate}
		crt, err := pki.SelfSignAnchor(now, p, &recordedSigner{ctx: ctx, journal: c.Journal, key: k,
			intent: Intent{Step: StepSign, Actor: c.Actor, Reason: "certificate of trust anchor " + a.ID, Anchor: a.ID, Key: a.Key}})
		if err != nil {
			return nil, fmt.Errorf("sign trust anchor %s with %s: %w", a.ID, a.Key, err)
		}
		return crt, nil
	}
	return nil, fmt.Errorf("key %s can sign neither digests nor issuers", a.Key)
}

// unlessMissing is what kept somebody from looking for a key; that it is not there did not.
func unlessMissing(err error) error {
	if errors.Is(err, ErrKeyNotFound) {
		return nil
	}
	return err
}

func wrapIf(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Started and Reloaded leave a trace of the daemon's own life in the journal.
func Started(j Journal, step Step, reason string) error {
	id, err := j.Begin(Intent{Step: step, Actor: "certd", Reason: strings.TrimSpace(reason)})
	if err != nil {
		return fmt.Errorf("record %s: %w", step, err)
	}
	return wrapIf("record "+string(step), j.Finish(id, Outcome{Result: OK}))
}
