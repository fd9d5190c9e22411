package keystore

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.step.sm/crypto/keyutil"
	"go.step.sm/crypto/pemutil"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

func passphrase(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	open := func(*testing.T) rotation.Keys { return NewFiles(dir, passphrase("correct horse")) }
	backendtest.TestKeys(t, open, backendtest.KeysOptions{Backend: "file", Exportable: true})
	backendtest.TestImporter(t, func(*testing.T) rotation.Importer { return NewFiles(dir, passphrase("correct horse")) }, backendtest.KeysOptions{Backend: "file", Exportable: true})
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestKeyFileOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := NewFiles(dir, passphrase("correct horse")).CreateKey(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "a.pem"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "a.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "ENCRYPTED PRIVATE KEY" || len(block.Headers) > 0 {
		t.Fatalf("it is not encrypted PKCS#8: %.40q", text)
	}
	key, err := pemutil.ParseKey(text, pemutil.WithPassword([]byte("correct horse")))
	if err != nil {
		t.Fatalf("other tools cannot open it: %v", err)
	}
	if _, err := x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Error(err)
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	write := func(t *testing.T, dir, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a.pem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serialize := func(t *testing.T, key any, opts ...pemutil.Options) string {
		t.Helper()
		block, err := pemutil.Serialize(key, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(block))
	}
	made := t.TempDir()
	if _, err := NewFiles(made, passphrase("correct horse")).CreateKey(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(made, "a.pem"))
	if err != nil {
		t.Fatal(err)
	}
	encrypted := []pemutil.Options{pemutil.WithPKCS8(true), pemutil.WithPassword([]byte("correct horse"))}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   error
		says   string
	}{
		{"readable by the group", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "a.pem"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, rotation.ErrKeyUnfit, "chmod 600"},
		{"cut short", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "a.pem"), 100); err != nil {
				t.Fatal(err)
			}
		}, rotation.ErrKeyUnfit, "backup"},
		{"empty", func(t *testing.T, dir string) { write(t, dir, "") }, rotation.ErrKeyUnfit, "backup"},
		{"a folder", func(t *testing.T, dir string) {
			if err := errors.Join(os.Remove(filepath.Join(dir, "a.pem")), os.Mkdir(filepath.Join(dir, "a.pem"), 0o700)); err != nil {
				t.Fatal(err)
			}
		}, rotation.ErrKeyUnfit, "not a file"},
		{"huge", func(t *testing.T, dir string) { write(t, dir, strings.Repeat("x", maxKeyFile+1)) }, rotation.ErrKeyUnfit, "too long"},
		{"not encrypted", func(t *testing.T, dir string) {
			key, err := keyutil.GenerateKey("EC", "P-256", 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, serialize(t, key, pemutil.WithPKCS8(true)))
		}, rotation.ErrKeyUnfit, "not encrypted"},
		{"encrypted with MD5 as in the 1990s", func(t *testing.T, dir string) {
			key, err := keyutil.GenerateKey("EC", "P-256", 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, serialize(t, key, pemutil.WithPassword([]byte("correct horse"))))
		}, rotation.ErrKeyUnfit, "not encrypted as certd writes it"},
		{"of another curve", func(t *testing.T, dir string) {
			key, err := keyutil.GenerateKey("EC", elliptic.P384().Params().Name, 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, serialize(t, key, encrypted...))
		}, rotation.ErrKeyUnfit, "P-256"},
		{"of another passphrase", func(t *testing.T, dir string) {
			key, err := keyutil.GenerateKey("EC", "P-256", 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, serialize(t, key, pemutil.WithPKCS8(true), pemutil.WithPassword([]byte("wrong horse"))))
		}, rotation.ErrDenied, "passphraseFrom"},
		{"of another passphrase that leaves the right padding", func(t *testing.T, dir string) {
			block, err := pemutil.EncryptPKCS8PrivateKey(rand.Reader, []byte("no key"), []byte("correct horse"), x509.PEMCipherAES256)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, string(pem.EncodeToMemory(block)))
		}, rotation.ErrDenied, "passphraseFrom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, string(whole))
			c.damage(t, dir)
			_, err := NewFiles(dir, passphrase("correct horse")).OpenKey(t.Context(), "a", nil)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "horse") {
				t.Error("the error has the passphrase in it")
			}
		})
	}
}

func TestKeyFilesThatCannotBeMade(t *testing.T) {
	for _, c := range []struct {
		name   string
		mode   os.FileMode
		secret func() ([]byte, error)
		says   string
	}{
		{"others may write to the folder", 0o777, passphrase("correct horse"), "chmod 700"},
		{"the passphrase is empty", 0o700, passphrase(""), "passphrase is empty"},
		{"the passphrase cannot be read", 0o700, func() ([]byte, error) { return nil, os.ErrNotExist }, "passphrase"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, c.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := NewFiles(dir, c.secret).CreateKey(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error that says %q", err, c.says)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}
