package main

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// mirrorLines takes the # away from the lines of certd-run.hcl that grant the mirror,
// as its comment says, for a secret called for the fleet.
func mirrorLines(t testing.TB, policy, fleet string) string {
	t.Helper()
	lines := regexp.MustCompile(`(?ms)^# path "secret/.*?^# \}$`)
	if n := len(lines.FindAllString(policy, -1)); n != 2 {
		t.Fatalf("%d paths of the mirror's are in the policy", n)
	}
	policy = lines.ReplaceAllStringFunc(policy, func(text string) string { return regexp.MustCompile(`(?m)^# `).ReplaceAllString(text, "") })
	return strings.ReplaceAll(policy, `/FLEET"`, `/`+fleet+`"`)
}

// newMirrored is a fleet of two folders with its keys in Vault and a mirror, under the
// shipped policies and no others. There is no daemon yet, and no anchor.
func newMirrored(t *testing.T) *site {
	t.Helper()
	s := newFolders(t)
	s.lab, s.fleet = openLab(t), "t"+regexp.MustCompile(`\D`).ReplaceAllString(time.Now().Format("150405.000000000"), "")
	s.policy(s.fleet+"-init", shipped(t, "certd-init.hcl"))
	s.role(mirrorLines(t, shipped(t, "certd-run.hcl"), s.fleet))
	// As the docs say: nothing but the policy, not even the default one.
	s.lab.Vault.OperatorToken = s.vaultDo("POST", "auth/token/create", map[string]any{"policies": []string{s.fleet + "-init"}, "no_default_policy": true, "ttl": "15m"})["client_token"].(string)
	s.t.Cleanup(func() { s.vaultDo("DELETE", "secret/metadata/certd/"+s.fleet, nil) })
	s.edit("name: folders", "name: "+s.fleet, "  file: {dir: keys, passphraseFrom: {file: passphrase}}\n",
		"  vault:\n    address: "+s.lab.Vault.Address+"\n    caFile: "+s.lab.Vault.CAFile+"\n    auth: {appRole: {roleID: "+s.fleet+", secretIDFrom: {file: secret-id}}}\n    mirror: {mount: secret, path: certd/"+s.fleet+"}\n")
	return s
}

// Making the trust anchor, running, changing the anchor and recovering a lost journal in
// the middle of that work with exactly the shipped policies: check finds nothing missing
// and nothing beyond them.
func TestTheShippedPoliciesAreEnough(t *testing.T) {
	s := newMirrored(t)
	rights := func(when string) {
		t.Helper()
		r, code := s.checked("--pre", "--category", "keys")
		if got := troubles(r); code > 1 || got["keys-rights"] != "" || got["keys-rights-excess"] != "" {
			t.Errorf("%s: exit %d, %v", when, code, got)
		}
	}
	rights("before the beginning")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	s.must("trust", "rotate", "--config", "certd.yaml", "--yes", "--reason", "yearly")
	stage := func() string {
		st, _ := s.status()
		if st.Trust.Rotation == nil {
			return ""
		}
		return st.Trust.Rotation.Stage + " from " + st.Trust.Rotation.From + " to " + st.Trust.Rotation.To
	}
	s.eventually(20*time.Second, func() string {
		var doc struct{ Changes []json.RawMessage }
		text, _ := s.vaultDo("GET", "secret/data/certd/"+s.fleet, nil)["data"].(map[string]any)["document"].(string)
		if err := json.Unmarshal([]byte(text), &doc); err != nil || stage() != "bridge from g1 to g2" || !strings.Contains(text, `"bridge"`) {
			return "the mirror does not have the change: " + text
		}
		return ""
	})
	rights("while the anchor is changed")
	was, bundle := stage(), s.read("east/linkerd/"+rotation.BundleObject+"/ca-bundle.crt")
	d.term()

	if err := os.RemoveAll(s.path("state")); err != nil {
		t.Fatal(err)
	}
	var reply api.RecoverReply
	out := s.must("recover", "--config", "certd.yaml", "--yes", "--reason", "the disk was lost", "-o", "json")
	if err := json.Unmarshal([]byte(out), &reply); err != nil || reply.Mirror == nil || reply.Mirror.Problem != "" || reply.Mirror.Records == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	s.run()
	s.eventually(30*time.Second, func() string {
		if st, _ := s.status(); st.Source != "daemon" || stage() != was {
			return stage() + ", and before: " + was
		}
		return ""
	})
	for _, f := range func() []rotation.Finding { st, _ := s.status(); return st.Findings }() {
		if strings.HasPrefix(f.ID, "Mirror") || strings.HasPrefix(f.ID, "Keys") {
			t.Errorf("%s: %s", f.ID, f.Message)
		}
	}
	if now := s.read("east/linkerd/" + rotation.BundleObject + "/ca-bundle.crt"); now != bundle {
		t.Error("the bundle is another")
	}
}

// A capability of the mirror's that is not granted is named before the beginning, by
// the running daemon, which goes on without, and by recover.
func TestAMirrorWithoutItsRights(t *testing.T) {
	s := newMirrored(t)
	s.policy(s.fleet, replaced(t, mirrorLines(t, shipped(t, "certd-run.hcl"), s.fleet), `["create", "update", "read"]`, `["update"]`))
	path := "secret/data/certd/" + s.fleet
	r, code := s.checked("--pre", "--category", "keys")
	got := troubles(r)["keys-rights"]
	if code != 2 || !strings.Contains(got, `"create" on `+path+` is missing`) {
		t.Errorf("check: exit %d, %s", code, got)
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.eventually(30*time.Second, func() string {
		st, _ := s.status()
		for _, f := range st.Findings {
			if f.ID == "MirrorFailed" && strings.Contains(f.Message, "read on "+path) && strings.Contains(f.Message, "certd-run.hcl") && len(st.Clusters) == 2 && st.Clusters[0].Issuer != nil {
				return ""
			}
		}
		b, _ := json.Marshal(st.Findings)
		return string(b)
	})
	d.term()
	var reply api.RecoverReply
	out := s.must("recover", "--config", "certd.yaml", "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(out), &reply); err != nil || reply.Mirror == nil || !strings.Contains(reply.Mirror.Problem, "read on "+path) {
		t.Errorf("recover: %v\n%s", err, out)
	}
	s.policy(s.fleet, mirrorLines(t, shipped(t, "certd-run.hcl"), s.fleet)+"\npath \""+strings.Replace(path, "/data/", "/destroy/", 1)+"\" {\n  capabilities = [\"update\"]\n}\n")
	r, code = s.checked("--pre", "--category", "keys")
	if got := troubles(r)["keys-rights-excess"]; code > 1 || !strings.Contains(got, "secret/destroy/certd/"+s.fleet+" (update)") {
		t.Errorf("check of too much: exit %d, %s", code, got)
	}
}

// waitsFor waits for a finding of the fleet or of a cluster, with words in its message.
func (s *site) waitsFor(id, words string) {
	s.t.Helper()
	s.eventually(2*time.Minute, func() string {
		st, _ := s.status()
		all := slices.Clone(st.Findings)
		for _, c := range st.Clusters {
			all = append(all, c.Findings...)
		}
		for _, f := range all {
			if f.ID == id && strings.Contains(f.Message, words) {
				return ""
			}
		}
		b, _ := json.Marshal(all)
		return id + " is not found: " + string(b)
	})
}

// As docs/how-to/lose-vault.md has it: a Vault that comes back from a snapshot older than
// the running daemon has that one stop, and a new start is enough; one without the
// anchor's key signs nothing, and what runs goes on; and where the key does not come
// back, another anchor takes its place.
func TestAVaultThatComesBackOlder(t *testing.T) {
	s := newMirrored(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	d.term()
	mirror := func() any { return s.vaultDo("GET", "secret/data/certd/"+s.fleet, nil)["data"] }
	old := mirror()
	d = s.run()
	s.converged()
	s.eventually(20*time.Second, func() string {
		if reflect.DeepEqual(mirror(), old) {
			return "the daemon has not taken the mirror over"
		}
		return ""
	})
	issuer, bundle := s.read("east/linkerd/"+rotation.IssuerObject+"/tls.crt"), s.read("east/linkerd/"+rotation.BundleObject+"/ca-bundle.crt")
	s.vaultDo("DELETE", "secret/metadata/certd/"+s.fleet, nil)
	s.vaultDo("POST", "secret/data/certd/"+s.fleet, map[string]any{"data": old})
	s.must("rotate", "issuer", "east", "--config", "certd.yaml", "--yes", "--reason", "Vault is back")
	s.waitsFor("SecondDaemon", "the mirror is no longer this daemon's")
	if s.read("east/linkerd/"+rotation.IssuerObject+"/tls.crt") != issuer {
		t.Error("a daemon without the mirror wrote")
	}
	d.term()
	s.run()
	s.converged()
	s.must("rotate", "issuer", "east", "--config", "certd.yaml", "--yes", "--wait", "--reason", "Vault is back")

	key := "certd-transit/keys/" + s.fleet + "-anchor-1"
	s.vaultDo("POST", key+"/config", map[string]any{"deletion_allowed": true})
	s.vaultDo("DELETE", key, nil)
	issuer = s.read("east/linkerd/" + rotation.IssuerObject + "/tls.crt")
	s.refused(1, `key not found`, nil, "rotate", "issuer", "east", "--config", "certd.yaml", "--yes", "--wait", "--reason", "its key is gone")
	s.waitsFor("KeyUnfit", "")
	if s.read("east/linkerd/"+rotation.IssuerObject+"/tls.crt") != issuer || s.read("east/linkerd/"+rotation.BundleObject+"/ca-bundle.crt") != bundle {
		t.Error("without the key the cluster was written to")
	}
	s.refused(0, `g1 +active`, nil, "trust", "list", "--config", "certd.yaml")
	for _, mode := range []string{"--dry-run", "--yes"} {
		s.refused(75, `key of g1 has to sign.*key not found.*--compromised --dry-run`, nil, "trust", "rotate", mode, "--config", "certd.yaml")
	}
	s.must("trust", "rotate", "--compromised", "--config", "certd.yaml", "--yes", "--reason", "the key is lost")
	s.eventually(4*time.Minute, func() string {
		st, _ := s.status()
		if a := st.Trust.Active; a != nil && a.ID == "g2" && chains([]byte(s.read("east/linkerd/"+rotation.IssuerObject+"/tls.crt")), s.read("east/linkerd/"+rotation.BundleObject+"/ca-bundle.crt")) && s.read("east/linkerd/"+rotation.BundleObject+"/ca-bundle.crt") != bundle && st.Trust.Rotation.Phase == "idle" {
			return ""
		}
		b, _ := json.Marshal(st.Trust)
		return string(b)
	})
	s.converged()
}
