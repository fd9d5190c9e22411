// Package keystore keeps CA keys without Vault: in encrypted files, or in a
// key management system that go.step.sm/crypto can reach, such as a PKCS#11
// token.
package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/softkms"
	"go.step.sm/crypto/pemutil"

	"certd.internal/rotation"
)

// Files keeps keys as DIR/NAME.pem: PKCS#8, encrypted under a passphrase by
// PBES2 (PBKDF2 with HMAC-SHA256, AES-256-CBC; RFC 8018). Opening a key costs
// about 0.1 s of computing, by design.
type Files struct {
	dir        string
	passphrase func() ([]byte, error)
	kms        *softkms.SoftKMS
}

var _ rotation.Keys = (*Files)(nil)

// NewFiles returns the keys in dir, which the first key creates. passphrase is
// called at each use and its result wiped.
func NewFiles(dir string, passphrase func() ([]byte, error)) *Files {
	return &Files{dir: dir, passphrase: passphrase, kms: &softkms.SoftKMS{}}
}

// Close implements rotation.Keys; there is nothing to forget.
func (f *Files) Close() error { return nil }

// CreateKey implements rotation.Keys.
func (f *Files) CreateKey(ctx context.Context, name string) (rotation.Key, error) {
	path, err := f.free(ctx, "create", name)
	if err != nil {
		return nil, err
	}
	made, err := f.kms.CreateKey(&apiv1.CreateKeyRequest{SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	if err != nil {
		return nil, fmt.Errorf("generate key %s: %w", path, err)
	}
	if err := f.store(path, made.PrivateKey); err != nil {
		return nil, fmt.Errorf("create key %s: %w", path, err)
	}
	return newFileKey(name, made.CreateSignerRequest.Signer, nil)
}

// free returns the path of a key that does not exist yet, and makes its folder.
func (f *Files) free(ctx context.Context, verb, name string) (path string, err error) {
	if path, err = f.path(name); err != nil {
		return "", err
	}
	doing := verb + " key " + path
	if err := alive(ctx, doing); err != nil {
		return "", err
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return "", fmt.Errorf("%s: the file is there: %w; nothing was changed", doing, rotation.ErrKeyExists)
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	if err := f.folder(); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	return path, nil
}

// store writes a private key, encrypted, and reads it back.
func (f *Files) store(path string, private crypto.PrivateKey) error {
	secret, err := f.secret()
	if err != nil {
		return err
	}
	defer clear(secret)
	// Without WithPKCS8 this would be the MD5-based encryption of RFC 1423.
	block, err := pemutil.Serialize(private, pemutil.WithPKCS8(true), pemutil.WithPassword(secret))
	if err != nil {
		return fmt.Errorf("encrypt it: %w", err)
	}
	text := pem.EncodeToMemory(block)
	if err := writeNew(path, text); err != nil {
		return fmt.Errorf("write it: %w", err)
	}
	switch back, err := readPrivate(path); {
	case err != nil:
		return fmt.Errorf("read it back: %w", err)
	case !bytes.Equal(back, text):
		return fmt.Errorf("read it back: it is not what was written: %w", rotation.ErrKeyUnfit)
	}
	return nil
}

// OpenKey implements rotation.Keys.
func (f *Files) OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	path, err := f.path(name)
	if err != nil {
		return nil, err
	}
	if err := alive(ctx, "open key "+path); err != nil {
		return nil, err
	}
	return f.open(path, name, pinned)
}

func (f *Files) open(path, name string, pinned crypto.PublicKey) (rotation.Key, error) {
	text, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open key %s: there is no such file: %w", path, rotation.ErrKeyNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", path, err)
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil || len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("open key %s: it is not one PEM block; restore it from a backup: %w", path, rotation.ErrKeyUnfit)
	case block.Type != "ENCRYPTED PRIVATE KEY":
		clear(text)
		clear(block.Bytes)
		return nil, fmt.Errorf("open key %s: it is %q, not encrypted as certd writes it: %w", path, block.Type, rotation.ErrKeyUnfit)
	}
	secret, err := f.secret()
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", path, err)
	}
	defer clear(secret)
	signer, err := f.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKeyPEM: text, Password: secret})
	// One wrong passphrase of 256 leaves what looks like padding, and then no key.
	if err != nil && (errors.Is(err, x509.IncorrectPasswordError) || sealed(block.Bytes)) {
		return nil, fmt.Errorf("open key %s: the passphrase does not open it (keys.file.passphraseFrom): %w", path, rotation.ErrDenied)
	}
	if err != nil {
		return nil, fmt.Errorf("open key %s: it is damaged (%w); restore it from a backup: %w", path, err, rotation.ErrKeyUnfit)
	}
	k, err := newFileKey(name, signer, pinned)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", path, err)
	}
	return k, nil
}

// newFileKey calls the key exportable, since whoever has file and passphrase
// has a copy.
func newFileKey(name string, signer crypto.Signer, pinned crypto.PublicKey) (rotation.Key, error) {
	public, err := fit(signer, pinned)
	if err != nil {
		return nil, err
	}
	return &key{signer: signer, public: public, info: rotation.KeyInfo{Backend: "file", Name: name, Public: public, Exportable: true}}, nil
}

// secret reads the passphrase, for the caller to wipe.
func (f *Files) secret() ([]byte, error) {
	secret, err := f.passphrase()
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if len(secret) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	return secret, nil
}

func (f *Files) path(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	return filepath.Join(f.dir, name+".pem"), nil
}

// folder makes the folder, or refuses one that others may write to.
func (f *Files) folder() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(f.dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others may write to folder %s (mode %04o): chmod 700 it", f.dir, info.Mode().Perm())
	}
	return nil
}

// checkName refuses what is not plainly a file's name.
func checkName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	odd := strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) })
	if odd || name == "" || name[0] == '.' || len(name) > 200 {
		return fmt.Errorf("key name %q: only letters, digits, '_', '-' and, not in front, '.' make a name", name)
	}
	return nil
}

// maxKeyFile bounds what is read; an encrypted P-256 key has about 500 bytes.
const maxKeyFile = 16 << 10

// readPrivate reads a file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a file: %w", rotation.ErrKeyUnfit)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read it (mode %04o); find out who did, then chmod 600 it: %w", info.Mode().Perm(), rotation.ErrKeyUnfit)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("it is too long for a key: %w", rotation.ErrKeyUnfit)
	}
	return text, err
}

// writeNew puts a file that must not exist there in one step, on disk before
// it returns.
func writeNew(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Sync()
	}
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// A link, unlike a rename, cannot replace what somebody made meanwhile.
	switch err := os.Link(temp.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("the file is there: %w", rotation.ErrKeyExists)
	case err != nil: // a file system without links
		if err := os.Rename(temp.Name(), path); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// alive says that a call whose context has ended does nothing.
func alive(ctx context.Context, doing string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", doing, context.Cause(ctx), rotation.ErrUnavailable)
	}
	return nil
}

// fit returns the public key of what may sign for a CA.
func fit(signer crypto.Signer, pinned crypto.PublicKey) (*ecdsa.PublicKey, error) {
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("it is not an ECDSA P-256 key but %T: %w", signer.Public(), rotation.ErrKeyUnfit)
	}
	if pinned != nil && !public.Equal(pinned) {
		return nil, fmt.Errorf("its public key is not the one of the certificate; it was replaced: %w", rotation.ErrKeyUnfit)
	}
	return public, nil
}

// sealed says whether der is something encrypted, as a whole (EncryptedPrivateKeyInfo, RFC 5958
// section 3).
func sealed(der []byte) bool {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	rest, err := asn1.Unmarshal(der, &info)
	return err == nil && len(rest) == 0
}
