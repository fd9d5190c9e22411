package vault

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// Under the shipped policies: one token imports, the other signs. What Vault
// then has is as little to be had back as what it made itself.
func TestImportUnderTheShippedPolicies(t *testing.T) {
	l := openLab(t)
	mount, webhooks := l.mount(t, "transit"), l.mount(t, "transit")
	importer := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-import.hcl", "certd-transit", mount)))}).Transit(mount)
	daemon := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-run.hcl", "certd-transit", mount, "certd-transit-webhooks", webhooks)))}).Transit(mount)
	mine, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	plain := mine.PKCS8()
	if _, err := importer.ImportKey(t.Context(), "acme-anchor-1", mine); err != nil {
		t.Fatal(err)
	}
	opened, err := daemon.OpenKey(t.Context(), "acme-anchor-1", mine.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("tbs"))
	if _, err := opened.(rotation.DigestSigner).SignDigest(t.Context(), digest[:]); err != nil {
		t.Error(err)
	}
	l.must(t, "POST", mount+"/keys/made", map[string]any{"type": "ecdsa-p256"})
	made, imported := l.must(t, "GET", mount+"/keys/made", nil), l.must(t, "GET", mount+"/keys/acme-anchor-1", nil)
	for flag, want := range made {
		if flag == "name" || flag == "keys" || flag == "imported_key" || flag == "imported_key_allow_rotation" {
			continue
		}
		if got := imported[flag]; !equalJSON(got, want) {
			t.Errorf("%s is %v, and %v of a key that Vault made", flag, got, want)
		}
	}
	if imported["imported_key"] != true || imported["imported_key_allow_rotation"] == true {
		t.Errorf("imported_key %v, imported_key_allow_rotation %v", imported["imported_key"], imported["imported_key_allow_rotation"])
	}
	for _, path := range []string{"/export/signing-key/acme-anchor-1", "/backup/acme-anchor-1"} {
		if status, _ := l.call(t, l.rootToken, "GET", mount+path, nil); status < 400 {
			t.Errorf("%s answers %d, even to root", path, status)
		}
	}
	// What went over the wire, as Vault's own log has it, is wrapped.
	log, err := os.ReadFile(l.auditLog)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), mount+"/keys/acme-anchor-1/import") || strings.Contains(string(log), string(plain)) {
		t.Error("the audit log lacks the import, or has the key")
	}

	_, err = daemon.ImportKey(t.Context(), "acme-anchor-2", mine)
	if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "read on "+mount+"/wrapping_key") || !strings.Contains(err.Error(), "certd-import.hcl") {
		t.Errorf("the daemon's token imports: %v", err)
	}
}

func equalJSON(a, b any) bool {
	switch a.(type) {
	case []any, map[string]any:
		return true // what it can do, the same for the type
	}
	return a == b
}

// An answer that was lost leaves open whether the key is there; that the name
// was taken a moment before is told; a wrapping key that is none gets nothing.
func TestImportsThatFail(t *testing.T) {
	mine, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		on   func(http.ResponseWriter)
		key  string // the wrapping key
		want error
		says string
	}{
		{"the answer is lost", func(w http.ResponseWriter) { dropped("")(w, nil) }, rsaPublic, rotation.ErrOutcomeUnknown, "was lost"},
		{"the name was taken meanwhile", func(w http.ResponseWriter) {
			refuse(w, 500, "1 error occurred:\n\t* the import path cannot be used with an existing key; use import-version to rotate an existing imported key\n\n")
		}, rsaPublic, rotation.ErrKeyExists, "taken"},
		{"what cannot be unwrapped", func(w http.ResponseWriter) { refuse(w, 400, "error unwrapping") }, rsaPublic, nil, "unwrapping"},
		{"a wrapping key of another kind", nil, ecPublic, nil, "nothing was sent"},
		{"a wrapping key that is none", nil, "none", nil, "not PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			sent := 0
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case strings.HasSuffix(r.URL.Path, "/wrapping_key"):
					answer(w, map[string]any{"public_key": c.key})
				case strings.HasSuffix(r.URL.Path, "/import"):
					sent++
					c.on(w)
				default:
					return false
				}
				return true
			}
			_, err := f.open(t).Transit("certd-transit").ImportKey(t.Context(), "new", mine)
			check(t, "import", err, c.want, c.says)
			if want := map[bool]int{true: 1}[c.on != nil]; sent != want {
				t.Errorf("%d were sent, want %d", sent, want)
			}
		})
	}
}

// Public keys, as Vault gives its wrapping key; nobody has the private ones.
const (
	rsaPublic = `-----BEGIN PUBLIC KEY-----
MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAuFUzuZTNdxVNkieBxVuy
kDrC7ybbMvrZuQ88nD0B1bEyXLPMVm7HxPy+qO1frD8+CJ1ag4GVeFOSDBUJCU2p
IOwG9EI5vOYjmSmGrd2CO8ndz8X+grWQB60NlocXogD5fQdKqxWWU7V2q8njC4fW
nwz+JNfrMBKRmYbCEiNJGE/F0qS2fDL/EKt25A5NNOkoaxMrZfCoMr0tIkShrMLr
e6Pa/bVlWWGzlwy1XBIX6+5kGVmxXHzX+POGHGCfH1vWbv8QJOQJeC1o0WFYh2GR
GbS6rrlqQFqrNb2hpV/Vi9yckSQZM1ppfqj0mcW01nFU1eFopj0JeEBisCbfbyRV
L5nxSus/ofv6f+24kpk5wMmVJbwXTukNejMh2oPUQSRbesORQFUQ7tAg0El9uV+H
NocacR8URu/l/ZjHuRQs6hsBWw6pchq7TOgh3iJrN4CU3CNpy6U7fF5V/yjmUSf5
uZQWOloXUwQ45kFh97XKO5QVZ50TpCKQUHO99/hPe1WlIhjFi87ZxSUtaO2l68FT
hw979Q+jJqkmYE4DwQg95/w0JiFtuLgADYm2d0W+2yQEneMvmtcpozLm4LrYxssF
jYvL0IhgUHuhW7lvpfqbqh9luaysS+AMk9e9RQM3U7gbgp3VhZqE9S53Nvd2euNr
5sMk1bZLfVfynVYSv2LxBcsCAwEAAQ==
-----END PUBLIC KEY-----
`
	ecPublic = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAHGsVrbaYIrsfBpS/03MUsfQY1W+
Ajl4FYUQq1y8xbYJN/BBj62x1Tagt0eVTz363pGWPN36pKF6vszQkzTP/Q==
-----END PUBLIC KEY-----
`
)
