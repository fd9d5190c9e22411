package backendtest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"testing"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// TestImporter checks what rotation.Importer promises beyond rotation.Keys.
func TestImporter(t *testing.T, open func(t *testing.T) rotation.Importer, opts KeysOptions) {
	if opts.Name == nil {
		opts.Name = func(s string) string { return s }
	}
	keys := func(t *testing.T) rotation.Importer {
		k := open(t)
		t.Cleanup(func() {
			if err := k.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return k
	}
	private := func(t *testing.T) pki.PrivateKey {
		k, err := pki.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	t.Run("an imported key signs, also when it is wiped here and to a certd that starts anew", func(t *testing.T) {
		mine := private(t)
		made, err := keys(t).ImportKey(t.Context(), opts.Name("imported"), mine)
		if err != nil {
			t.Fatal(err)
		}
		mine.Wipe()
		if info := made.Info(); info.Backend != opts.Backend || info.Name != opts.Name("imported") || info.Exportable != opts.Exportable || !mine.PublicKey().Equal(info.Public) {
			t.Errorf("it is %+v", info)
		}
		opened, err := keys(t).OpenKey(t.Context(), opts.Name("imported"), mine.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("tbs"))
		for _, k := range []rotation.Key{made, opened} {
			sig, err := digestSigner(t, k).SignDigest(t.Context(), digest[:])
			if err != nil || !ecdsa.VerifyASN1(mine.PublicKey(), digest[:], sig.ASN1) {
				t.Errorf("it does not sign: %v", err)
			}
		}
	})
	t.Run("a taken name is refused and its key left alone", func(t *testing.T) {
		k := keys(t)
		was, err := k.CreateKey(t.Context(), opts.Name("taken-by-another"))
		if err != nil {
			t.Fatal(err)
		}
		mine := private(t)
		if _, err := k.ImportKey(t.Context(), opts.Name("taken-by-another"), mine); !errors.Is(err, rotation.ErrKeyExists) {
			t.Errorf("imported over it: %v", err)
		}
		if _, err := k.OpenKey(t.Context(), opts.Name("taken-by-another"), was.Info().Public); err != nil {
			t.Errorf("the key that was there: %v", err)
		}
		if _, err := k.OpenKey(t.Context(), opts.Name("taken-by-another"), mine.PublicKey()); !errors.Is(err, rotation.ErrKeyUnfit) {
			t.Errorf("taken for the one that was not imported: %v", err)
		}
	})
	t.Run("a name that is a path is refused", func(t *testing.T) {
		for _, name := range []string{"", "..", "a/b", "a b"} {
			if _, err := keys(t).ImportKey(t.Context(), name, private(t)); err == nil {
				t.Errorf("%q is taken", name)
			}
		}
	})
}
