package vault

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"certd.internal/pki"
	"certd.internal/rotation"
)

var _ rotation.Importer = (*Transit)(nil)

// importPolicy is the shipped policy that lets a key be imported.
const importPolicy = "certd-import.hcl"

// ImportKey implements rotation.Importer. The key leaves this process only
// wrapped under a key that Vault made for that and never hands out.
func (t *Transit) ImportKey(ctx context.Context, name string, key pki.PrivateKey) (rotation.Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := t.mount + "/keys/" + name
	switch _, err := t.read(ctx, name, importPolicy); {
	case err == nil:
		return nil, fmt.Errorf("import key %s: %w in Vault; nothing was changed", path, rotation.ErrKeyExists)
	case !errors.Is(err, rotation.ErrKeyNotFound):
		return nil, fmt.Errorf("look whether key %s exists: %w", path, err)
	}
	wrapping, err := t.wrappingKey(ctx)
	if err != nil {
		return nil, err
	}
	wrapped, err := wrap(wrapping, key)
	if err != nil {
		return nil, fmt.Errorf("wrap key %s: %w", path, err)
	}
	_, err = t.vault.do(ctx, call{
		op: "import-key", doing: "import key " + path, path: path + "/import", capability: "update", policy: importPolicy,
		body: map[string]any{
			"ciphertext": base64.StdEncoding.EncodeToString(wrapped), "hash_function": "SHA256", "type": keyType,
			"exportable": false, "allow_plaintext_backup": false, "allow_rotation": false,
		},
	})
	if err != nil {
		return nil, err
	}
	// The answer is empty: what Vault made of it is read back.
	rec, err := t.read(ctx, name, importPolicy)
	if err != nil {
		return nil, fmt.Errorf("read the key %s just imported: %w: %w", path, err, rotation.ErrOutcomeUnknown)
	}
	return t.fit(name, rec, key.PublicKey())
}

// wrappingKey is the public key that Vault unwraps with.
func (t *Transit) wrappingKey(ctx context.Context) (*rsa.PublicKey, error) {
	q := call{op: "wrapping-key", doing: "read the wrapping key " + t.mount + "/wrapping_key", path: t.mount + "/wrapping_key", capability: "read", policy: importPolicy}
	r, err := t.vault.do(ctx, q)
	if err != nil {
		return nil, err
	}
	var data struct {
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return nil, fmt.Errorf("%s: the answer is not one: %w", q.doing, err)
	}
	block, _ := pem.Decode([]byte(data.PublicKey))
	if block == nil {
		return nil, fmt.Errorf("%s: the answer is not PEM", q.doing)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q.doing, err)
	}
	key, ok := pub.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < 4096 {
		return nil, fmt.Errorf("%s: it is %T, not an RSA key of 4096 bits; nothing was sent", q.doing, pub)
	}
	return key, nil
}

// wrap is what Vault's import takes: an AES-256 key of this one use under the
// wrapping key (RSA-OAEP, SHA-256), and the private key (PKCS#8) under that
// (AES key wrap with padding).
func wrap(wrapping *rsa.PublicKey, key pki.PrivateKey) ([]byte, error) {
	once := make([]byte, 32)
	defer clear(once)
	if _, err := rand.Read(once); err != nil {
		return nil, err
	}
	plain := key.PKCS8()
	defer clear(plain)
	inner, err := wrapKey(once, plain)
	if err != nil {
		return nil, err
	}
	outer, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, wrapping, once, nil)
	if err != nil {
		return nil, err
	}
	return slices.Concat(outer, inner), nil
}
