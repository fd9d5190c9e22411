package memory

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

func TestKeys(t *testing.T) {
	world := NewKeys()
	backendtest.TestKeys(t, func(*testing.T) rotation.Keys { return world }, backendtest.KeysOptions{Backend: "memory", RequestIDs: true})
	backendtest.TestImporter(t, func(*testing.T) rotation.Importer { return world }, backendtest.KeysOptions{Backend: "memory"})
}

func TestKeysFaults(t *testing.T) {
	lost := fmt.Errorf("the answer was lost: %w", rotation.ErrOutcomeUnknown)
	away := fmt.Errorf("Vault is sealed: %w", rotation.ErrUnavailable)
	for _, c := range []struct {
		name   string
		fault  KeyFault
		call   KeyCall
		want   error
		signed int  // entries in the log afterwards
		made   bool // the key "b" exists afterwards
	}{
		{"nothing is wrong", KeyFault{}, "", nil, 1, true},
		{"signing is refused", KeyFault{Err: away}, CallSign, rotation.ErrUnavailable, 0, true},
		{"a signature is made and its answer lost", KeyFault{Err: lost, Lost: true}, CallSign, rotation.ErrOutcomeUnknown, 1, true},
		{"a key is made and its answer lost", KeyFault{Err: lost, Lost: true}, CallCreateKey, rotation.ErrOutcomeUnknown, 1, true},
		{"a key is not made", KeyFault{Err: away}, CallCreateKey, rotation.ErrUnavailable, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := NewKeys()
			made, err := k.CreateKey(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			k.SetFaults(func(call KeyCall, _ string) KeyFault {
				if call == c.call {
					return c.fault
				}
				return KeyFault{}
			})
			digest := sha256.Sum256([]byte("tbs"))
			sig, signErr := made.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
			_, createErr := k.CreateKey(t.Context(), "b")
			if got := errors.Join(signErr, createErr); !errors.Is(got, c.want) {
				t.Errorf("error is %v, want %v", got, c.want)
			}
			log := k.Signatures()
			if len(log) != c.signed {
				t.Errorf("%d signatures in the log, want %d", len(log), c.signed)
			}
			if signErr == nil && (len(log) != 1 || log[0].Request != sig.Request || log[0].Digest != fmt.Sprintf("%x", digest) || log[0].Key != "a") {
				t.Errorf("log is %+v, signature %+v", log, sig)
			}
			k.SetFaults(nil)
			if _, err := k.OpenKey(t.Context(), "b", nil); (err == nil) != c.made {
				t.Errorf("opening b: %v", err)
			}
		})
	}
}

func TestKeysOddStates(t *testing.T) {
	k := NewKeys()
	made, err := k.CreateKey(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	pinned := made.Info().Public
	k.SetExportable("a")
	if _, err := k.OpenKey(t.Context(), "a", pinned); !errors.Is(err, rotation.ErrKeyUnfit) {
		t.Errorf("a key that became exportable: %v", err)
	}
	k.ReplaceKey("a")
	if _, err := k.OpenKey(t.Context(), "a", pinned); !errors.Is(err, rotation.ErrKeyUnfit) {
		t.Errorf("a replaced key: %v", err)
	}
	digest := sha256.Sum256([]byte("tbs"))
	if _, err := made.(rotation.DigestSigner).SignDigest(t.Context(), digest[:]); !errors.Is(err, rotation.ErrKeyUnfit) {
		t.Errorf("signing with a key replaced since it was opened: %v", err)
	}
	k.DeleteKey("a")
	if _, err := k.OpenKey(t.Context(), "a", pinned); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("a deleted key: %v", err)
	}
	if n := len(k.Signatures()); n != 0 {
		t.Errorf("%d signatures in the log", n)
	}
}
