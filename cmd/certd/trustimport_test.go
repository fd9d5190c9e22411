package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certd.internal/rotation"
)

// openssl runs a line of a person's who makes a trust anchor by hand.
func (s *site) openssl(args ...string) {
	s.t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// madeByHand is an anchor ca.crt with its key ca.key.
func (s *site) madeByHand(but ...string) {
	s.t.Helper()
	if len(but) == 0 {
		but = []string{"-days", "3650", "-addext", "keyUsage=critical,keyCertSign,cRLSign"}
	}
	s.openssl("ecparam", "-name", "prime256v1", "-genkey", "-out", "ca.key")
	s.openssl(append([]string{"req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-subj", "/CN=root.linkerd.cluster.local"}, but...)...)
	if err := os.Chmod(s.path("ca.key"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// nowhere: no form of the private key of ca.key is in any file of the site but
// in those named.
func (s *site) nowhere(but ...string) {
	s.t.Helper()
	var block *pem.Block
	for rest := []byte(s.read("ca.key")); ; {
		if block, rest = pem.Decode(rest); block == nil || block.Type == "EC PRIVATE KEY" {
			break
		}
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	scalar, err := key.Bytes()
	if err != nil {
		s.t.Fatal(err)
	}
	body := strings.Split(string(pem.EncodeToMemory(block)), "\n")[1]
	err = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || slices.Contains(but, d.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, form := range [][]byte{scalar, []byte(hex.EncodeToString(scalar)), []byte(body), block.Bytes} {
			if bytes.Contains(text, form) {
				s.t.Errorf("%s has the private key", path)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// An anchor that somebody made by hand becomes a fleet's first: its key is in
// Vault and cannot leave it, issuers of two real clusters are under it, and
// what was typed can be typed again.
func TestTrustImportIntoVault(t *testing.T) {
	s := newSite(t, 2, daily)
	s.madeByHand()
	policy := s.fleet + "-import"
	s.policy(policy, readFile(t, "../../deploy/vault/certd-import.hcl"))
	token := s.vaultDo("POST", "auth/token/create", map[string]any{"policies": []string{policy}, "no_default_policy": true, "ttl": "10m"})["client_token"].(string)
	with := []string{"VAULT_TOKEN=" + token}
	files := []string{"--config", "certd.yaml", "--certificate", "ca.crt", "--key", "ca.key"}
	typed := func(more ...string) []string { return append(append([]string{"trust", "import"}, files...), more...) }

	// The operator's token may make keys, and not import them.
	s.refused(77, `wrapping_key.*certd-import\.hcl`, nil, typed("--yes")...)
	if out, code := s.with(with, typed("--dry-run")...); code != 0 || !strings.Contains(out, "rehearsal: nothing was changed") {
		t.Errorf("a dry run: exit %d\n%s", code, out)
	}
	out, code := s.with(with, typed("--yes", "--reason", "from the helm install", "--transcript", "record.md")...)
	if code != 0 || !strings.Contains(out, "the trust anchor is imported") || !strings.Contains(out, "every copy of it") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	s.write("out.log", out)
	if out, code := s.with(with, typed()...); code != 0 || !strings.Contains(out, "is there already; nothing was changed") {
		t.Errorf("typed again: exit %d\n%s", code, out)
	}
	s.refused(0, "is there already", nil, "init", "--config", "certd.yaml") // and init has nothing to make

	key := s.vaultRead("certd-transit/keys/" + s.fleet + "-anchor-1")
	for flag, want := range map[string]any{"type": "ecdsa-p256", "exportable": false, "allow_plaintext_backup": false, "deletion_allowed": false, "imported_key": true, "supports_signing": true} {
		if key[flag] != want {
			t.Errorf("%s is %v, want %v", flag, key[flag], want)
		}
	}
	d := s.run()
	s.converged()
	s.refused(75, "stop certd run first", with, typed("--yes")...)
	for i := range s.kube {
		if got := s.bundle(i).Data["ca-bundle.crt"]; got != s.read("ca.crt") {
			t.Errorf("cluster %d trusts\n%s", i, got)
		}
		s.write("issuer.pem", string(s.secret(i).Data["tls.crt"]))
		s.openssl("verify", "-x509_strict", "-CAfile", "ca.crt", "issuer.pem")
	}
	if list := s.must("trust", "list", "--config", "certd.yaml"); !strings.Contains(list, "imported") {
		t.Errorf("the list does not tell it from one that Vault made:\n%s", list)
	}
	d.term()
	steps := map[rotation.Step]rotation.HistoryItem{}
	for _, e := range s.history() {
		if e.Outcome == rotation.OK {
			steps[e.Step] = e
		}
	}
	if e := steps[rotation.StepImport]; !strings.HasSuffix(e.Actor, "@cli") || !strings.Contains(e.Reason, "from the helm install") || steps[rotation.StepAnchor].Anchor != "g1" {
		t.Errorf("the history has %+v and %+v", e, steps[rotation.StepAnchor])
	}
	s.auditMatchesHistory()
	s.nowhere("ca.key")
	if log := readFile(t, s.lab.Vault.AuditLog); !strings.Contains(log, s.fleet+"-anchor-1/import") {
		t.Error("Vault's log lacks the import")
	}
}

// The same into encrypted files, and all that is not taken: nothing of it
// leaves a trace.
func TestTrustImportIntoFiles(t *testing.T) {
	s := newFolders(t)
	s.madeByHand()
	anchor, key := s.read("ca.crt"), s.read("ca.key")
	files := []string{"trust", "import", "--config", "certd.yaml", "--certificate", "ca.crt", "--key", "ca.key", "--yes"}
	for _, row := range []struct {
		name string
		do   func(*site)
		code int
		want string
	}{
		{"another's key", func(s *site) { s.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key") }, 1, "not the certificate's"},
		{"P-384", func(s *site) { s.openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "ca.key") }, 64, "ECDSA P-384; certd signs with ECDSA P-256 alone"},
		{"RSA", func(s *site) { s.openssl("genrsa", "-out", "ca.key", "2048") }, 64, "RSA 2048; certd signs"},
		{"an anchor without keyCertSign", func(s *site) { s.madeByHand("-addext", "keyUsage=critical,digitalSignature") }, 1, "key usage"},
		{"an anchor that may have no CA below", func(s *site) {
			s.madeByHand("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign")
		}, 1, "path length"},
		{"a leaf", func(s *site) { s.madeByHand("-addext", "basicConstraints=critical,CA:FALSE") }, 1, "not a CA"},
		{"no key", func(s *site) { s.write("ca.key", anchor) }, 64, "no private key"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := *s
			s.t = t
			row.do(&s)
			s.refused(row.code, row.want, nil, files...)
			s.absent("keys")
			s.write("ca.crt", anchor)
			s.write("ca.key", key)
		})
	}
	s.write("pass", "sesame\n")
	s.openssl("pkcs8", "-topk8", "-v2", "aes256", "-in", "ca.key", "-out", "locked.key", "-passout", "file:pass")
	s.refused(64, "passphrase-file", nil, "trust", "import", "--config", "certd.yaml", "--certificate", "ca.crt", "--key", "locked.key", "--yes")
	if out := s.must("trust", "import", "--config", "certd.yaml", "--certificate", "ca.crt", "--key", "locked.key", "--passphrase-file", "pass", "--dry-run"); !strings.Contains(out, "in an encrypted file, imported") {
		t.Errorf("where the key would go:\n%s", out)
	}
	out := s.must("trust", "import", "--config", "certd.yaml", "--certificate", "ca.crt", "--key", "locked.key", "--passphrase-file", "pass", "--yes")
	s.write("out.log", out)
	d := s.run()
	s.answering()
	s.converged()
	d.term()
	if got := s.read("east/linkerd/linkerd-identity-trust-roots/ca-bundle.crt"); got != anchor {
		t.Errorf("east trusts\n%s", got)
	}
	s.nowhere("ca.key")
	// Another one beside it is a change, not an import.
	s.madeByHand()
	s.refused(1, "has a trust anchor already, g1.*certd trust rotate", nil, files...)
}
