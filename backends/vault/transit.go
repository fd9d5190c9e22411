package vault

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"certd.internal/rotation"
)

// Transit keeps CA keys in one mount of the Transit engine, which should hold
// nothing else: policies can tell mounts apart, but hardly keys.
type Transit struct {
	vault *Vault
	mount string
	maker string // the shipped policy that lets keys be made there

	mu   sync.Mutex
	told map[string]bool // oddities of keys, logged once
}

var _ rotation.Keys = (*Transit)(nil)

// Transit returns the keys in the Transit engine mounted at mount.
func (v *Vault) Transit(mount string) *Transit {
	return &Transit{vault: v, mount: strings.Trim(mount, "/"), maker: "certd-init.hcl", told: map[string]bool{}}
}

// WebhookTransit is Transit for the mount where the daemon makes keys itself.
func (v *Vault) WebhookTransit(mount string) *Transit {
	t := v.Transit(mount)
	t.maker = "certd-run.hcl"
	return t
}

// Close closes the Vault that the keys were made from.
func (t *Transit) Close() error { return t.vault.Close() }

// CreateKey implements rotation.Keys. It looks first, since Vault answers a
// request for a name that is taken with the old key, whatever was asked for.
func (t *Transit) CreateKey(ctx context.Context, name string) (rotation.Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := t.mount + "/keys/" + name
	switch _, err := t.read(ctx, name, t.maker); {
	case err == nil:
		return nil, fmt.Errorf("create key %s: %w in Vault; nothing was changed", path, rotation.ErrKeyExists)
	case !errors.Is(err, rotation.ErrKeyNotFound):
		return nil, fmt.Errorf("look whether key %s exists: %w", path, err)
	}
	r, err := t.vault.do(ctx, call{
		op: "create-key", doing: "create key " + path, path: path, capability: "update", policy: t.maker,
		body: map[string]any{"type": keyType, "exportable": false, "allow_plaintext_backup": false},
	})
	if err != nil {
		return nil, err
	}
	var rec keyRecord
	if len(r.Data) == 0 { // an older Vault: 204
		if rec, err = t.read(ctx, name, t.maker); err != nil {
			return nil, fmt.Errorf("read the key %s just made: %w: %w", path, err, rotation.ErrOutcomeUnknown)
		}
	} else if rec, err = parseKeyRecord(r.Data); err != nil {
		return nil, fmt.Errorf("create key %s: %w: %w", path, err, rotation.ErrOutcomeUnknown)
	}
	return t.fit(name, rec, nil)
}

// standbyPauses are waited between reads of a key that is known to exist: a
// standby of OpenBao lags behind by up to half a second.
var standbyPauses = [...]time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}

// OpenKey implements rotation.Keys.
func (t *Transit) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	rec, err := t.read(ctx, name, "certd-run.hcl")
	for _, pause := range standbyPauses {
		if pinned == nil || !errors.Is(err, rotation.ErrKeyNotFound) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("look again for %s: %w: %w", name, context.Cause(ctx), rotation.ErrUnavailable)
		case <-time.After(pause):
		}
		rec, err = t.read(ctx, name, "certd-run.hcl")
	}
	if err != nil {
		return nil, err
	}
	key, err := t.fit(name, rec, pinned)
	if err != nil {
		return nil, err
	}
	t.warnOfExcess(ctx, name)
	return key, nil
}

// read returns the key's record, or an error wrapping ErrKeyNotFound.
func (t *Transit) read(ctx context.Context, name, policy string) (keyRecord, error) {
	q := call{op: "read-key", doing: "read key " + t.mount + "/keys/" + name, path: t.mount + "/keys/" + name, capability: "read", policy: policy, absent: rotation.ErrKeyNotFound}
	r, err := t.vault.do(ctx, q)
	if err != nil {
		return keyRecord{}, err
	}
	rec, err := parseKeyRecord(r.Data)
	if err != nil {
		return keyRecord{}, fmt.Errorf("%s: %w: %w", q.doing, err, rotation.ErrUnavailable)
	}
	return rec, nil
}

// fit judges a key by its record.
func (t *Transit) fit(name string, rec keyRecord, pinned crypto.PublicKey) (rotation.Key, error) {
	path := t.mount + "/keys/" + name
	public, err := rec.publicKey()
	if why := rec.unfit(); why != "" {
		err = errors.New(why)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in Vault must not sign: %w: %w", path, err, rotation.ErrKeyUnfit)
	}
	if pinned != nil && !public.Equal(pinned) {
		return nil, fmt.Errorf("%s in Vault must not sign: its public key is not the one of the certificate; it was replaced, or this is another Vault: %w", path, rotation.ErrKeyUnfit)
	}
	if rec.DeletionAllowed && t.first(name+" deletion_allowed") {
		t.vault.log.Warn("CA key in Vault has an unusual flag", "key", path, "flag", "deletion_allowed")
	}
	if rec.Imported && t.first(name+" imported_key") {
		t.vault.log.Info("CA key in Vault was imported: whoever kept a copy can sign, too", "key", path)
	}
	return &transitKey{t: t, name: name, public: public}, nil
}

func (t *Transit) first(what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.told[what]
	t.told[what] = true
	return !was
}

// checkName refuses what would not be one segment of a path, as policies
// count it.
func checkName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	odd := strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) })
	if odd || strings.Trim(name, ".") == "" {
		return fmt.Errorf("key name %q: only letters, digits, '.', '_' and '-' make a name in Vault", name)
	}
	return nil
}

// transitKey signs with version 1 of one key: certd never rotates a key in
// place, and "the latest" would sign with whatever somebody else made of it.
type transitKey struct {
	t      *Transit
	name   string
	public *ecdsa.PublicKey
}

var _ rotation.DigestSigner = (*transitKey)(nil)

const (
	keyType    = "ecdsa-p256"
	keyVersion = 1
	sigPrefix  = "vault:v1:"
)

// Info implements rotation.Key.
func (k *transitKey) Info() rotation.KeyInfo {
	return rotation.KeyInfo{Backend: "vault-transit", Name: k.name, Public: k.public}
}

// SignDigest implements rotation.DigestSigner. Vault itself would sign
// anything, the empty string included.
func (k *transitKey) SignDigest(ctx context.Context, digest []byte) (rotation.Signature, error) {
	path := k.t.mount + "/sign/" + k.name
	doing := "sign with " + path
	if len(digest) != crypto.SHA256.Size() {
		return rotation.Signature{}, fmt.Errorf("%s: a SHA-256 digest has %d bytes, not %d", doing, crypto.SHA256.Size(), len(digest))
	}
	r, err := k.t.vault.do(ctx, call{
		op: "sign", doing: doing, path: path, capability: "update", policy: "certd-run.hcl", once: true,
		body: map[string]any{
			"input": base64.StdEncoding.EncodeToString(digest), "prehashed": true, "hash_algorithm": "sha2-256",
			"marshaling_algorithm": "asn1", "key_version": keyVersion,
		},
	})
	sig := rotation.Signature{Request: r.RequestID}
	if err != nil {
		return sig, err
	}
	var data struct {
		Signature string `json:"signature"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return sig, fmt.Errorf("%s: the answer has no signature: %w", doing, rotation.ErrOutcomeUnknown)
	}
	text, ok := strings.CutPrefix(data.Signature, sigPrefix)
	if !ok {
		return sig, fmt.Errorf("%s: the answer is not a signature by version %d of the key (it begins %.10q): %w", doing, keyVersion, data.Signature, rotation.ErrKeyUnfit)
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return sig, fmt.Errorf("%s: the signature is not base64: %w", doing, rotation.ErrKeyUnfit)
	}
	if !ecdsa.VerifyASN1(k.public, digest, der) {
		return sig, fmt.Errorf("%s: the signature does not verify under the key's public key; somebody stands between certd and Vault, or the key was replaced: %w", doing, rotation.ErrKeyUnfit)
	}
	sig.ASN1 = der
	return sig, nil
}

// p256 refuses keys of other kinds.
func p256(pub any) (*ecdsa.PublicKey, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("its public key is not ECDSA P-256 but %T", pub)
	}
	return key, nil
}
