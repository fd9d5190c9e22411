package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"certd.internal/pki"
)

// An Importer is a key backend that takes a private key that was made
// elsewhere. Not every backend does.
type Importer interface {
	Keys
	// ImportKey puts key under name, as fit to sign as one that CreateKey made
	// and as little to be had back. A taken name is an error wrapping
	// ErrKeyExists. After an error wrapping ErrOutcomeUnknown the key may be
	// there; OpenKey tells.
	ImportKey(ctx context.Context, name string, key pki.PrivateKey) (Key, error)
}

// Import makes a trust anchor that was made elsewhere the fleet's first. It can
// be repeated at will: what is there already is found, and what was begun is
// ended.
type Import struct {
	Journal     Journal
	Creator     Keys // takes the key, and does nothing else
	Signer      Keys // looks for the key, and tries it
	Policy      FleetPolicy
	Actor       string
	Reason      string
	DryRun      bool
	Certificate *x509.Certificate
	Key         pki.PrivateKey // the caller wipes it
	// Say and Warn are called with each thing checked or done, in order.
	Say, Warn func(format string, args ...any)
}

// Run imports the anchor, or finds it, and returns it. imported is false when
// it was there before. A dry run changes nothing.
func (c Import) Run(ctx context.Context) (a Anchor, imported bool, err error) {
	if !pki.CanSign(c.Key, c.Certificate) {
		return Anchor{}, false, errors.New("the private key is not the certificate's; nothing was changed")
	}
	importer, ok := c.Creator.(Importer)
	if !ok {
		return Anchor{}, false, fmt.Errorf("this key backend takes no key that was made elsewhere; Vault's Transit engine (keys.vault.transit) and encrypted files (keys.file) do. "+
			"A root in Vault's PKI engine is imported there, and certd init finds it (keys.vault.pki): %w", ErrUnsupported)
	}
	anchors, err := c.Journal.Anchors()
	if err != nil {
		return Anchor{}, false, fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	s := signer{c.Journal, c.Signer}
	for _, a := range anchors {
		if a.Certificate == nil || a.Certificate.Equal(c.Certificate) || a.Formerly != nil && a.Formerly.Equal(c.Certificate) {
			continue
		}
		return a, false, fmt.Errorf("this fleet has a trust anchor already, %s %q: certd trust rotate changes it; nothing was changed", a.ID, a.Certificate.Subject.CommonName)
	}
	for _, a := range anchors {
		if a.Certificate == nil {
			continue
		}
		if _, err := s.open(ctx, &a, c.Journal.Now()); err != nil {
			return a, false, err
		}
		c.Say("trust anchor %s is there already; its key %s answers and is fit to sign", a.ID, a.Key)
		return a, false, nil
	}
	if len(anchors) > 0 {
		return anchors[0], false, fmt.Errorf("trust anchor %s was begun by certd init, which has made or asked for key %s: end it with certd init, or begin with another stateDir and keyPrefix; nothing was changed", anchors[0].ID, anchors[0].Key)
	}
	now := c.Journal.Now()
	warnings, err := pki.CheckImported(c.Certificate, now)
	if err != nil {
		return Anchor{}, false, fmt.Errorf("%w; nothing was changed", err)
	}
	c.Say("certificate %q is self-signed, a CA, ECDSA P-256 and valid; the private key is its own", c.Certificate.Subject.CommonName)
	for _, w := range warnings {
		c.Warn("%s", w)
	}
	if t := c.Policy.Trust; t.Renews && c.Certificate.NotAfter.Sub(now) <= t.RenewBefore {
		c.Warn("the anchor has %s left, and trust.renewBefore is %s: certd run gives it new dates with its own key at once", short(c.Certificate.NotAfter.Sub(now)), FormatDuration(t.RenewBefore))
	}
	a = Anchor{ID: generationID(1), Key: anchorKeyName(c.Policy.KeyPrefix, 1), Imported: true}
	key, err := c.key(ctx, importer, &a)
	if err != nil || c.DryRun {
		a.Certificate = c.Certificate
		return a, false, err
	}
	a.Backend, a.Exportable, a.CheckedAt, a.CreatedAt = key.Info().Backend, key.Info().Exportable, c.Journal.Now(), c.Journal.Now()
	a.Certificate = c.Certificate
	// The daemon's login is tried before anything is built on it.
	if err := s.canary(ctx, c.Policy.Fleet, &a, c.Journal.Now()); err != nil {
		return a, false, fmt.Errorf("key %s is in %s, but cannot be used; when that is mended, type the same again: %w", a.Key, a.Backend, err)
	}
	c.Say("a signature by it verifies under the certificate")
	rec := certificateRecord("", "anchor", a.ID, a.Certificate, c.Journal.Now())
	rec.DeliveredAt = rec.SignedAt
	id, err := c.Journal.Begin(Intent{Step: StepAnchor, Actor: c.Actor, Reason: c.Reason, Anchor: a.ID, Serial: rec.Serial, Key: a.Key})
	if err == nil {
		err = c.Journal.Finish(id, Outcome{Result: OK, Detail: "sha256 " + rec.SHA256 + ", imported", Anchor: &a, Certificate: &rec})
	}
	if err != nil {
		return a, false, fmt.Errorf("record trust anchor %s: %w", a.ID, err)
	}
	c.Say("trust anchor %s recorded: sha256 %s", a.ID, rec.SHA256)
	return a, true, nil
}

// key finds the key in the backend, where an earlier try may have left it, or
// has it imported. A key of the certificate's is taken whoever put it there:
// whoever asks for it has shown that he holds it.
func (c Import) key(ctx context.Context, importer Importer, a *Anchor) (Key, error) {
	if err := c.settle(ctx, a.Key); err != nil {
		return nil, err
	}
	key, err := c.Signer.OpenKey(ctx, a.Key, c.Certificate.PublicKey)
	switch {
	case err == nil:
		c.Say("key %s is there and fit to sign", a.Key)
		return key, nil
	case errors.Is(err, ErrKeyUnfit):
		return nil, fmt.Errorf("the name %s is taken in the key backend; give keys another prefix (keys.vault.transit.keyPrefix) or have it removed: %w", a.Key, err)
	case !errors.Is(err, ErrKeyNotFound):
		return nil, fmt.Errorf("look for key %s: %w", a.Key, err)
	}
	c.Say("key %s does not exist yet", a.Key)
	if c.DryRun {
		return nil, nil
	}
	id, err := c.Journal.Begin(Intent{Step: StepImport, Actor: c.Actor, Reason: "key of trust anchor " + a.ID + ": " + c.Reason, Anchor: a.ID, Key: a.Key})
	if err != nil {
		return nil, fmt.Errorf("record the intent to import key %s: %w", a.Key, err)
	}
	_, err = importer.ImportKey(ctx, a.Key, c.Key)
	out := outcome(err)
	if errors.Is(err, ErrOutcomeUnknown) {
		switch _, looked := c.Signer.OpenKey(ctx, a.Key, c.Certificate.PublicKey); {
		case looked == nil:
			out, err = Outcome{Result: OK, Detail: "seen to be there; the answer was lost"}, nil
		case errors.Is(looked, ErrKeyNotFound):
			out = Outcome{Result: Failed, Detail: "seen not to be there; the answer was lost"}
		}
	}
	if ferr := c.Journal.Finish(id, out); ferr != nil || err != nil {
		return nil, errors.Join(wrapIf("import key "+a.Key+" (typed again, the command looks for the key first)", err), wrapIf("record the outcome of importing key "+a.Key, ferr))
	}
	// What signs is opened anew, with the login that signs from now on.
	if key, err = c.Signer.OpenKey(ctx, a.Key, c.Certificate.PublicKey); err != nil {
		return nil, fmt.Errorf("open the imported key %s: %w", a.Key, err)
	}
	c.Say("key %s imported into %s (exportable: %t)", a.Key, key.Info().Backend, key.Info().Exportable)
	return key, nil
}

// settle closes what a crash left open, by looking. A dry run leaves it.
func (c Import) settle(ctx context.Context, name string) error {
	pending, err := c.Journal.Pending()
	if err != nil {
		return fmt.Errorf("read open intents: %w", err)
	}
	for _, p := range pending {
		if p.Step != StepImport || p.Key != name || c.DryRun {
			continue
		}
		out := Outcome{Result: Abandoned, Detail: "certd ended before the key was imported"}
		switch _, err := c.Signer.OpenKey(ctx, name, c.Certificate.PublicKey); {
		case err == nil:
			out = Outcome{Result: OK, Detail: "seen to have been imported after certd had ended in between"}
		case !errors.Is(err, ErrKeyNotFound):
			return fmt.Errorf("look for key %s: %w", name, err)
		}
		if err := c.Journal.Finish(p.ID, out); err != nil {
			return fmt.Errorf("close the open intent %d: %w", p.ID, err)
		}
	}
	return nil
}
