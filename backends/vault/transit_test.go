package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

func TestTransit(t *testing.T) {
	l := openLab(t)
	mount := l.mount(t, "transit")
	backendtest.TestKeys(t, func(t *testing.T) rotation.Keys { return l.asRoot(t).Transit(mount) },
		backendtest.KeysOptions{Backend: "vault-transit", RequestIDs: true})
	backendtest.TestImporter(t, func(t *testing.T) rotation.Importer { return l.asRoot(t).Transit(mount) }, backendtest.KeysOptions{Backend: "vault-transit"})
}

// With the shipped policies the whole of it works too: the ceremony's token
// makes the key, the daemon's signs.
func TestTransitUnderTheShippedPolicies(t *testing.T) {
	l := openLab(t)
	anchors, webhooks := l.mount(t, "transit"), l.mount(t, "transit")
	ceremony := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-init.hcl", "certd-transit", anchors)))}).Transit(anchors)
	daemon := l.open(t, Auth{Token: fixed(l.token(t, nil, l.policy(t, "certd-run.hcl", "certd-transit", anchors, "certd-transit-webhooks", webhooks)))})

	made, err := ceremony.CreateKey(t.Context(), "acme-mesh-anchor-1")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(k rotation.Key) error {
		digest := sha256.Sum256([]byte("tbs"))
		_, err := k.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
		return err
	}
	opened, err := daemon.Transit(anchors).OpenKey(t.Context(), "acme-mesh-anchor-1", made.Info().Public)
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(opened); err != nil {
		t.Errorf("the daemon signs: %v", err)
	}
	hook, err := daemon.Transit(webhooks).CreateKey(t.Context(), "acme-mesh-webhook-c1-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(hook); err != nil {
		t.Errorf("the daemon signs with a webhook CA: %v", err)
	}

	denied := func(what string, err error, says ...string) {
		t.Helper()
		if !errors.Is(err, rotation.ErrDenied) {
			t.Errorf("%s: %v, want %v", what, err, rotation.ErrDenied)
			return
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want %q in it", what, err, s)
			}
		}
	}
	denied("the ceremony's token signs", sign(made), "lacks update on "+anchors+"/sign/acme-mesh-anchor-1", "certd-run.hcl")
	_, err = daemon.Transit(anchors).CreateKey(t.Context(), "acme-mesh-anchor-2")
	denied("the daemon makes an anchor's key", err, "lacks update on "+anchors+"/keys/acme-mesh-anchor-2", "certd-init.hcl")
	_, err = daemon.WebhookTransit(l.mount(t, "transit")).CreateKey(t.Context(), "acme-mesh-webhook-c2-1")
	denied("the daemon makes a webhook CA's key elsewhere", err, "lacks read", "certd-run.hcl")
	_, err = daemon.Transit(l.mount(t, "transit")).OpenKey(t.Context(), "acme-mesh-anchor-1", nil)
	denied("the daemon reads a key elsewhere", err, "lacks read on ")
}

// What somebody with too many rights does to a key is noticed before its next
// use, by name.
func TestTransitKeysThatMustNotSign(t *testing.T) {
	l := openLab(t)
	mount := l.mount(t, "transit")
	keys := l.asRoot(t).Transit(mount)
	config := func(body map[string]any) func(*testing.T, string) {
		return func(t *testing.T, path string) { l.must(t, "POST", path+"/config", body) }
	}
	make := func(body map[string]any) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			config(map[string]any{"deletion_allowed": true})(t, path)
			l.must(t, "DELETE", path, nil)
			l.must(t, "POST", path, body)
		}
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, path string)
		want error
		says string
	}{
		{"untouched", func(*testing.T, string) {}, nil, ""},
		{"made exportable", config(map[string]any{"exportable": true}), rotation.ErrKeyUnfit, "exportable=true"},
		{"allowed to be backed up in clear", config(map[string]any{"allow_plaintext_backup": true}), rotation.ErrKeyUnfit, "allow_plaintext_backup=true"},
		{"rotated in place", func(t *testing.T, path string) { l.must(t, "POST", path+"/rotate", nil) }, rotation.ErrKeyUnfit, "latest_version=2"},
		{"set to rotate by itself", config(map[string]any{"auto_rotate_period": "24h"}), rotation.ErrKeyUnfit, "auto_rotate_period=86400"},
		{"deleted", func(t *testing.T, path string) {
			config(map[string]any{"deletion_allowed": true})(t, path)
			l.must(t, "DELETE", path, nil)
		}, rotation.ErrKeyNotFound, "does not exist"},
		{"replaced by another key", make(map[string]any{"type": "ecdsa-p256"}), rotation.ErrKeyUnfit, "not the one of the certificate"},
		{"replaced by one of another curve", make(map[string]any{"type": "ecdsa-p384"}), rotation.ErrKeyUnfit, "type=ecdsa-p384"},
		{"replaced by a symmetric one", make(map[string]any{"type": "aes256-gcm96"}), rotation.ErrKeyUnfit, "type=aes256-gcm96"},
		{"replaced by an RSA key", make(map[string]any{"type": "rsa-2048"}), rotation.ErrKeyUnfit, "type=rsa-2048"},
		{"allowed to be deleted", config(map[string]any{"deletion_allowed": true}), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := unique("key")
			made, err := keys.CreateKey(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, mount+"/keys/"+name)
			_, err = keys.OpenKey(t.Context(), name, made.Info().Public)
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("opening it: %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

// Between opening and signing the key can change as well.
func TestTransitKeyThatChangesWhileOpen(t *testing.T) {
	l := openLab(t)
	mount := l.mount(t, "transit")
	keys := l.asRoot(t).Transit(mount)
	for _, c := range []struct {
		name string
		do   func(t *testing.T, path string)
		want error
	}{
		{"rotated: version 1 still signs", func(t *testing.T, path string) { l.must(t, "POST", path+"/rotate", nil) }, nil},
		{"rotated and frozen", func(t *testing.T, path string) {
			l.must(t, "POST", path+"/rotate", nil)
			l.must(t, "POST", path+"/config", map[string]any{"min_encryption_version": 2})
		}, rotation.ErrKeyUnfit},
		{"deleted", func(t *testing.T, path string) {
			l.must(t, "POST", path+"/config", map[string]any{"deletion_allowed": true})
			l.must(t, "DELETE", path, nil)
		}, rotation.ErrUnavailable},
		{"replaced", func(t *testing.T, path string) {
			l.must(t, "POST", path+"/config", map[string]any{"deletion_allowed": true})
			l.must(t, "DELETE", path, nil)
			l.must(t, "POST", path, map[string]any{"type": "ecdsa-p256"})
		}, rotation.ErrKeyUnfit},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := unique("key")
			made, err := keys.CreateKey(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, mount+"/keys/"+name)
			digest := sha256.Sum256([]byte("tbs"))
			sig, err := made.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
			if !errors.Is(err, c.want) {
				t.Errorf("signing: %v, want %v", err, c.want)
			}
			if (sig.ASN1 != nil) != (c.want == nil) {
				t.Error("a signature beside an error, or neither")
			}
		})
	}
}

// The id in a signature is the one in Vault's audit log, and the request is
// there once.
func TestTransitRequestIDIsThatOfTheAuditLog(t *testing.T) {
	l := openLab(t)
	mount := l.mount(t, "transit")
	l.must(t, "POST", "sys/mounts/"+mount+"/tune", map[string]any{"audit_non_hmac_request_keys": []string{"input", "key_version"}})
	made, err := l.asRoot(t).Transit(mount).CreateKey(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("tbs"))
	sig, err := made.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(l.auditLog)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range bytes.Lines(log) {
		var e struct {
			Type    string
			Request struct {
				ID, Path string
				Data     map[string]any
			}
		}
		if json.Unmarshal(line, &e) != nil || e.Type != "request" || e.Request.Path != mount+"/sign/a" {
			continue
		}
		ids = append(ids, e.Request.ID)
		if got := e.Request.Data["input"]; got != base64.StdEncoding.EncodeToString(digest[:]) {
			t.Errorf("input in the audit log: %v", got)
		}
	}
	if len(ids) != 1 || ids[0] != sig.Request {
		t.Errorf("requests in the audit log: %v, the signature's: %s", ids, sig.Request)
	}
}

func TestTransitMountIsMissing(t *testing.T) {
	keys := openLab(t).asRoot(t).Transit(unique("nothing"))
	for what, do := range map[string]func() error{
		"open":   func() error { _, err := keys.OpenKey(t.Context(), "a", nil); return err },
		"create": func() error { _, err := keys.CreateKey(t.Context(), "a"); return err },
	} {
		err := do()
		if err == nil || errors.Is(err, rotation.ErrKeyNotFound) || !strings.Contains(err.Error(), "nothing is mounted") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestHealth(t *testing.T) {
	l := openLab(t)
	c := l.config(Auth{Token: fixed("never used")})
	for _, namespace := range []string{"", "team-a"} {
		c.Namespace = namespace
		v, err := New(c, testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		h, err := v.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if h.Version == "" || h.Sealed || h.Standby || h.Skew.Abs() > 30*time.Second || (h.NamespaceProblem != "") != (namespace != "") {
			t.Errorf("namespace %q: %+v", namespace, h)
		}
	}
}

// The log says once when certd's token may do what a thief could use.
func TestTokenThatMayDoTooMuch(t *testing.T) {
	l := openLab(t)
	mount, shipped := l.signer(t)
	for _, c := range []struct {
		name   string
		policy string // beside the shipped one
		says   []string
	}{
		{"the shipped policy", ``, nil},
		{"keys may be made exportable", `path "` + mount + `/keys/+/config" { capabilities = ["update"] }`, []string{mount + "/keys/a/config (update)"}},
		{"a wildcard over the mount", `path "` + mount + `/*" { capabilities = ["read", "update"] }`, []string{"/keys/a/config", "/keys/a/rotate", "/backup/a", "/export/signing-key/a"}},
		{"the mount may be deleted", `path "sys/mounts/*" { capabilities = ["delete"] }`, []string{"sys/mounts/" + mount + " (delete)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			policies := []string{shipped}
			if c.policy != "" {
				policies = append(policies, l.policyText(t, c.policy))
			}
			var log bytes.Buffer
			v, err := New(l.config(Auth{Token: fixed(l.token(t, nil, policies...))}), slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			keys := v.Transit(mount)
			for range 3 {
				if _, err := keys.OpenKey(t.Context(), "a", nil); err != nil {
					t.Fatal(err)
				}
			}
			if n := strings.Count(log.String(), "may do more"); n != min(len(c.says), 1) {
				t.Errorf("said %d times: %s", n, &log)
			}
			for _, s := range c.says {
				if !strings.Contains(log.String(), s) {
					t.Errorf("the log lacks %q: %s", s, &log)
				}
			}
		})
	}
}
