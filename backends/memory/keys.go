package memory

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// Keys is a key backend in memory that behaves as Vault's Transit engine does
// where certd can tell. It keeps a log of all it signed, as Vault's audit log
// does, and outlives the certd that closes it.
type Keys struct {
	clock    Clock
	mu       sync.Mutex
	keys     map[string]*heldKey
	signed   []SignedDigest
	requests int
	calls    map[KeyCall]int
	fault    func(call KeyCall, name string) KeyFault
}

var _ rotation.Importer = (*Keys)(nil)

type heldKey struct {
	private    *ecdsa.PrivateKey
	exportable bool
}

// SignedDigest is one entry of the log. An entry stands there as soon as the
// signature exists, whether or not the answer reached certd.
type SignedDigest struct {
	At      time.Time
	Key     string
	Digest  string // hex
	Request string // as in rotation.Signature
}

// KeyCall names what a fault may befall.
type KeyCall string

// The calls to Keys and to a key of it.
const (
	CallCreateKey KeyCall = "create key"
	CallImportKey KeyCall = "import key"
	CallOpenKey   KeyCall = "open key"
	CallSign      KeyCall = "sign"
)

// KeyFault is what goes wrong with one call; the zero value is nothing.
type KeyFault struct {
	// Delay passes before the call takes effect, unless its context ends.
	Delay time.Duration
	// Err is the answer; it should wrap one of rotation's sentinels. Without
	// Lost the call has no effect.
	Err error
	// Lost: the call takes effect, then Err is the answer. The usual Err is
	// one wrapping rotation.ErrOutcomeUnknown.
	Lost bool
}

// NewKeys makes an empty place for keys.
func NewKeys() *Keys { return NewKeysAt(machineClock{}) }

// NewKeysAt is NewKeys in a world with a clock of its own.
func NewKeysAt(clock Clock) *Keys {
	return &Keys{clock: clock, keys: map[string]*heldKey{}, calls: map[KeyCall]int{}}
}

// SetFaults has every later call ask fault what goes wrong with it; nil heals.
// fault is called with the lock held.
func (k *Keys) SetFaults(fault func(call KeyCall, name string) KeyFault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = fault
}

// Signatures returns the log, oldest first.
func (k *Keys) Signatures() []SignedDigest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]SignedDigest(nil), k.signed...)
}

// Forget empties the log, for whoever measures what is kept beside it.
func (k *Keys) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signed = nil
}

// Calls returns how often call was made, failed ones included.
func (k *Keys) Calls(call KeyCall) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls[call]
}

// SetExportable turns a key's flag on, as somebody with too many rights in
// Vault can at any time.
func (k *Keys) SetExportable(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[name].exportable = true
}

// ReplaceKey puts another key under a name.
func (k *Keys) ReplaceKey(name string) {
	fresh := generate()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[name] = &heldKey{private: fresh}
}

// DeleteKey loses a key.
func (k *Keys) DeleteKey(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name)
}

// CreateKey implements rotation.Keys.
func (k *Keys) CreateKey(ctx context.Context, name string) (rotation.Key, error) {
	return k.put(ctx, CallCreateKey, name, generate())
}

// ImportKey implements rotation.Importer.
func (k *Keys) ImportKey(ctx context.Context, name string, key pki.PrivateKey) (rotation.Key, error) {
	der := key.PKCS8()
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return k.put(ctx, CallImportKey, name, parsed.(*ecdsa.PrivateKey))
}

func (k *Keys) put(ctx context.Context, call KeyCall, name string, fresh *ecdsa.PrivateKey) (rotation.Key, error) {
	var made *memoryKey
	err := k.do(ctx, call, name, func() error {
		if k.keys[name] != nil {
			return rotation.ErrKeyExists
		}
		k.keys[name] = &heldKey{private: fresh}
		made = &memoryKey{k, name, &fresh.PublicKey}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// OpenKey implements rotation.Keys.
func (k *Keys) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	var opened *memoryKey
	err := k.do(ctx, CallOpenKey, name, func() error {
		held := k.keys[name]
		switch {
		case held == nil:
			return rotation.ErrKeyNotFound
		case held.exportable:
			return fmt.Errorf("exportable=true: %w", rotation.ErrKeyUnfit)
		case pinned != nil && !held.private.PublicKey.Equal(pinned):
			return fmt.Errorf("its public key is not the one of the certificate: %w", rotation.ErrKeyUnfit)
		}
		opened = &memoryKey{k, name, &held.private.PublicKey}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Close implements rotation.Keys. The keys stay, as they do in Vault.
func (k *Keys) Close() error { return nil }

// nameLetters are what Vault's policies count as one segment of a path.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// do runs effect under the lock unless a fault comes first.
func (k *Keys) do(ctx context.Context, call KeyCall, name string, effect func() error) error {
	odd := strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(nameLetters, r) })
	if odd || strings.Trim(name, ".") == "" {
		return fmt.Errorf("%s %q: not a name for a key", call, name)
	}
	k.mu.Lock()
	k.calls[call]++
	var f KeyFault
	if k.fault != nil {
		f = k.fault(call, name)
	}
	k.mu.Unlock()
	if f.Delay > 0 {
		k.clock.Sleep(ctx, f.Delay)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w: %w", call, name, context.Cause(ctx), rotation.ErrUnavailable)
	}
	if f.Err != nil && !f.Lost {
		return fmt.Errorf("%s %s: %w", call, name, f.Err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err := effect()
	if f.Err != nil {
		err = f.Err
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", call, name, err)
	}
	return nil
}

func generate() *ecdsa.PrivateKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return private
}

type memoryKey struct {
	keys   *Keys
	name   string
	public *ecdsa.PublicKey
}

var _ rotation.DigestSigner = (*memoryKey)(nil)

// Info implements rotation.Key.
func (m *memoryKey) Info() rotation.KeyInfo {
	return rotation.KeyInfo{Backend: "memory", Name: m.name, Public: m.public}
}

// SignDigest implements rotation.DigestSigner.
func (m *memoryKey) SignDigest(ctx context.Context, digest []byte) (rotation.Signature, error) {
	if len(digest) != crypto.SHA256.Size() {
		return rotation.Signature{}, fmt.Errorf("sign %s: a SHA-256 digest has %d bytes, not %d", m.name, crypto.SHA256.Size(), len(digest))
	}
	var sig rotation.Signature
	err := m.keys.do(ctx, CallSign, m.name, func() error {
		held := m.keys.keys[m.name]
		if held == nil {
			return fmt.Errorf("signing key not found: %w", rotation.ErrUnavailable)
		}
		made, err := ecdsa.SignASN1(rand.Reader, held.private, digest)
		if err != nil {
			return err
		}
		if !held.private.PublicKey.Equal(m.public) { // then it verifies under another key alone
			return fmt.Errorf("the signature does not verify: %w", rotation.ErrKeyUnfit)
		}
		m.keys.requests++
		sig = rotation.Signature{ASN1: made, Request: fmt.Sprintf("request-%06d", m.keys.requests)}
		m.keys.signed = append(m.keys.signed, SignedDigest{At: m.keys.clock.Now(), Key: m.name, Digest: hex.EncodeToString(digest), Request: sig.Request})
		return nil
	})
	if errors.Is(err, rotation.ErrOutcomeUnknown) {
		return rotation.Signature{}, err // a lost answer tells nothing
	}
	if err != nil {
		return rotation.Signature{Request: sig.Request}, err
	}
	return sig, nil
}
