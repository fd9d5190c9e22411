package keystore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/uri"

	"certd.internal/rotation"
)

// KMS keeps keys in a key management system named by a go.step.sm/crypto URI,
// such as pkcs11:module-path=…;token=certd?pin-source=…. It is opened when it
// is first needed, and again after it went away.
type KMS struct {
	uri    string
	parsed *uri.URI
	open   apiv1.KeyManagerNewFunc

	// using is held for reading by every call, and for writing to open and to
	// close, since a module must not be closed under a running call.
	using   sync.RWMutex
	manager apiv1.KeyManager
	stale   bool
	closed  bool
	// A wrong PIN is not tried twice: a token locks itself after a few.
	wrongPIN [sha256.Size]byte
	locked   error

	mu sync.Mutex // guards stale
}

var _ rotation.Keys = (*KMS)(nil)

// NewKMS checks the URI. Kinds of systems that this build cannot reach are an
// error wrapping rotation.ErrUnsupported. Nothing is opened yet.
func NewKMS(rawURI string) (*KMS, error) {
	parsed, err := uri.Parse(rawURI)
	if err != nil {
		// The parser's error repeats the URI, which may hold a PIN.
		return nil, errors.New("kms URI: it does not parse; it looks like pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=certd?pin-source=/etc/certd/pin")
	}
	scheme := strings.ToLower(parsed.Scheme)
	switch {
	case scheme == string(apiv1.SoftKMS):
		return nil, fmt.Errorf("kms URI: softkms keeps keys in plain files; use keys.file, which encrypts them: %w", rotation.ErrUnsupported)
	case scheme != string(apiv1.PKCS11):
		return nil, fmt.Errorf("kms URI: %q keys: this certd reaches PKCS#11 alone: %w", scheme, rotation.ErrUnsupported)
	case parsed.Has("pin-prompt"):
		return nil, errors.New("kms URI: pin-prompt: a daemon cannot ask; use pin-source=FILE")
	}
	open, ok := apiv1.LoadKeyManagerNewFunc(apiv1.Type(scheme))
	if !ok {
		return nil, fmt.Errorf("kms URI: this certd was built without PKCS#11, which needs C; use the build certd-pkcs11 (make build-pkcs11): %w", rotation.ErrUnsupported)
	}
	return &KMS{uri: rawURI, parsed: parsed, open: open}, nil
}

// CreateKey implements rotation.Keys. The key is made inside the token and
// marked so that it never leaves it.
func (k *KMS) CreateKey(ctx context.Context, name string) (rotation.Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	doing := "create key " + name + " in " + k.label()
	err := k.call(ctx, doing, rotation.ErrOutcomeUnknown, func(m apiv1.KeyManager) error {
		_, err := m.CreateKey(&apiv1.CreateKeyRequest{Name: objectURI(name), SignatureAlgorithm: apiv1.ECDSAWithSHA256})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return k.OpenKey(ctx, name, nil)
}

// OpenKey implements rotation.Keys.
func (k *KMS) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	doing := "open key " + name + " in " + k.label()
	var signer crypto.Signer
	err := k.call(ctx, doing, rotation.ErrUnavailable, func(m apiv1.KeyManager) (err error) {
		signer, err = m.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: objectURI(name)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	public, err := fit(signer, pinned)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &key{signer: signer, public: public, info: rotation.KeyInfo{Backend: "kms", Name: name, Public: public},
		use: func(ctx context.Context, doing string, lost error, sign func() error) error {
			return k.call(ctx, doing, lost, func(apiv1.KeyManager) error { return sign() })
		}}, nil
}

// Close implements rotation.Keys. It waits for calls that are under way.
func (k *KMS) Close() error {
	k.using.Lock()
	defer k.using.Unlock()
	k.closed = true
	if k.manager == nil {
		return nil
	}
	m := k.manager
	k.manager = nil
	return m.Close()
}

// objectURI names the key object. PKCS#11 wants an id beside the label to make
// a key; it follows from the name.
func objectURI(name string) string {
	id := sha256.Sum256([]byte(name))
	return uri.New(string(apiv1.PKCS11), url.Values{"id": {hex.EncodeToString(id[:20])}, "object": {name}}).String()
}

// label says which system it is, without a PIN.
func (k *KMS) label() string {
	for _, by := range []string{"token", "serial", "slot-id"} {
		if v := k.parsed.Get(by); v != "" {
			return "PKCS#11 " + by + " " + v
		}
	}
	return "the PKCS#11 token"
}

// call runs f, which knows no context, and gives up waiting when ctx ends: the
// error then wraps lost. f goes on in the background.
func (k *KMS) call(ctx context.Context, doing string, lost error, f func(apiv1.KeyManager) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), rotation.ErrUnavailable)
	}
	done := make(chan error, 1)
	go func() { done <- k.run(f) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("given up while the module was busy: %w: %w", context.Cause(ctx), lost)
	}
}

func (k *KMS) run(f func(apiv1.KeyManager) error) error {
	if err := k.ready(); err != nil {
		return err
	}
	k.using.RLock()
	defer k.using.RUnlock()
	if k.manager == nil {
		return fmt.Errorf("%s was closed meanwhile: %w", k.label(), rotation.ErrUnavailable)
	}
	err := f(k.manager)
	if err == nil {
		return nil
	}
	err = explain(err)
	if errors.Is(err, rotation.ErrUnavailable) {
		k.mu.Lock()
		k.stale = true
		k.mu.Unlock()
	}
	return err
}

// ready opens the module where it is not open, or where it has gone away.
func (k *KMS) ready() error {
	k.using.RLock()
	k.mu.Lock()
	ok := k.manager != nil && !k.stale
	k.mu.Unlock()
	k.using.RUnlock()
	if ok {
		return nil
	}
	k.using.Lock()
	defer k.using.Unlock()
	switch {
	case k.closed:
		return fmt.Errorf("%s is closed: %w", k.label(), rotation.ErrUnavailable)
	case k.manager != nil && !k.stale:
		return nil // somebody else was quicker
	}
	if k.manager != nil {
		_ = k.manager.Close() // it is broken: what it says of that is of no use
		k.manager, k.stale = nil, false
	}
	pin := k.parsed.Pin()
	if pin == "" && (k.parsed.Has("pin-source") || k.parsed.Has("pin-value")) {
		return fmt.Errorf("%s: its PIN cannot be read, or is empty (pin-source=%s): %w", k.label(), k.parsed.Get("pin-source"), rotation.ErrDenied)
	}
	sum := sha256.Sum256([]byte(pin))
	if k.locked != nil && sum == k.wrongPIN {
		return k.locked
	}
	m, err := k.open(context.Background(), apiv1.Options{Type: apiv1.PKCS11, URI: k.uri})
	if err != nil {
		err = explain(err)
		if errors.Is(err, rotation.ErrDenied) {
			err = fmt.Errorf("%w; certd does not try this PIN again, since a token locks itself after a few wrong ones", err)
			k.wrongPIN, k.locked = sum, err
		}
		return fmt.Errorf("open %s: %w", k.label(), err)
	}
	k.manager, k.locked = m, nil
	return nil
}

// explain sorts the errors of go.step.sm/crypto and of PKCS#11 modules, which
// come as text: CKR_ names of the PKCS#11 specification.
func explain(err error) error {
	has := func(names ...string) bool {
		for _, name := range names {
			if strings.Contains(err.Error(), name) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, apiv1.NotFoundError{}):
		return fmt.Errorf("%w: %w", err, rotation.ErrKeyNotFound)
	case errors.Is(err, apiv1.AlreadyExistsError{}):
		return fmt.Errorf("%w: %w", err, rotation.ErrKeyExists)
	case has("CKR_PIN_", "CKR_USER_NOT_LOGGED_IN", "CKR_USER_PIN_NOT_INITIALIZED"):
		return fmt.Errorf("%w (check the PIN): %w", err, rotation.ErrDenied)
	case has("CKR_TOKEN_NOT_PRESENT", "CKR_TOKEN_NOT_RECOGNIZED", "CKR_DEVICE_", "CKR_SESSION_", "CKR_CRYPTOKI_NOT_INITIALIZED",
		"CKR_GENERAL_ERROR", "CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID", "could not find PKCS#11 token", "failed to open module"):
		return fmt.Errorf("%w (check that the module is installed and the token plugged in): %w", err, rotation.ErrUnavailable)
	}
	return err
}
