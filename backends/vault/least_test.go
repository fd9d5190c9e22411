package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// granted is one path of a policy, and what it grants there.
var granted = regexp.MustCompile(`(?s)path "([^"]+)" \{\n\s*capabilities\s*= \[([^\]]*)\]`)

// without is the policy without one capability of one path.
func without(t *testing.T, policy, path, capability string) string {
	t.Helper()
	at := granted.FindAllStringSubmatchIndex(policy, -1)
	for _, m := range at {
		if policy[m[2]:m[3]] != path {
			continue
		}
		all := strings.Split(policy[m[4]:m[5]], ", ")
		left := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == `"`+capability+`"` })
		if len(left) == len(all) {
			t.Fatalf("%s has no %s", path, capability)
		}
		if len(left) == 0 {
			left = []string{`"deny"`}
		}
		return policy[:m[4]] + strings.Join(left, ", ") + policy[m[5]:]
	}
	t.Fatalf("the policy has no path %s", path)
	return ""
}

// Everything that certd does in Vault works with exactly the shipped policies; each
// capability that is taken away is named by the error of what needs it, with its path
// and the policy's file.
func TestEachCapabilityIsNeededAndNamed(t *testing.T) {
	l := openLab(t)
	anchors, webhooks, kv, root := l.mount(t, "transit"), l.mount(t, "transit"), l.mountKV(t), l.pkiRoot(t, nil)
	mounts := map[string][]string{
		"certd-run.hcl":    {"certd-transit", anchors, "certd-transit-webhooks", webhooks},
		"certd-init.hcl":   {"certd-transit", anchors},
		"certd-import.hcl": {"certd-transit", anchors},
		"certd-pki.hcl":    {"pki-root", root, "certd-transit-webhooks", webhooks},
	}
	digest := sha256.Sum256([]byte("tbs"))
	sign := func(ctx context.Context, at *Transit, name string) error {
		key, err := at.OpenKey(ctx, name, nil)
		if err != nil {
			return err
		}
		_, err = key.(rotation.DigestSigner).SignDigest(ctx, digest[:])
		return err
	}
	l.must(t, "POST", anchors+"/keys/a1", map[string]any{"type": "ecdsa-p256"})
	l.must(t, "POST", webhooks+"/keys/w1", map[string]any{"type": "ecdsa-p256"})
	written := func(ctx context.Context, v *Vault, fleet string) error { // as a daemon does that starts
		m := v.Mirror(kv, "certd/"+fleet)
		_, was, err := m.Load(ctx)
		if err == nil {
			was, err = m.Save(ctx, []byte(`{"epoch":1}`), was)
		}
		if err == nil {
			_, err = m.Save(ctx, []byte(`{"epoch":2}`), was)
		}
		return err
	}

	// What is done under each policy, in an order that meets each of its grants.
	does := map[string]func(ctx context.Context, v *Vault, fleet string) error{
		"certd-run.hcl": func(ctx context.Context, v *Vault, fleet string) error {
			return errors.Join(sign(ctx, v.Transit(anchors), "a1"), made(v.WebhookTransit(webhooks).CreateKey(ctx, fleet)), sign(ctx, v.WebhookTransit(webhooks), "w1"), written(ctx, v, fleet))
		},
		"certd-init.hcl": func(ctx context.Context, v *Vault, fleet string) error {
			return made(v.Transit(anchors).CreateKey(ctx, fleet))
		},
		"certd-import.hcl": func(ctx context.Context, v *Vault, fleet string) error {
			key, err := pki.GenerateKey()
			if err != nil {
				return err
			}
			return made(v.Transit(anchors).ImportKey(ctx, fleet, key))
		},
		"certd-pki.hcl": func(ctx context.Context, v *Vault, fleet string) error {
			key, err := v.PKI(root, "").OpenKey(ctx, "a", nil)
			if err != nil {
				return err
			}
			_, csr := request(t)
			_, _, err = key.(rotation.IssuerSigner).SignIssuer(ctx, issuerProfile, csr)
			return errors.Join(err, made(v.WebhookTransit(webhooks).CreateKey(ctx, fleet)), sign(ctx, v.WebhookTransit(webhooks), "w1"), written(ctx, v, fleet))
		},
	}
	for file, mounts := range mounts {
		whole := shipped(t, file, mounts...)
		text := func(fleet string) string { return whole }
		if file == "certd-run.hcl" || file == "certd-pki.hcl" {
			text = func(fleet string) string { return withMirror(t, whole, kv, fleet) }
		}
		as := func(policy string) *Vault {
			return l.open(t, Auth{Token: fixed(l.token(t, nil, l.policyText(t, policy)))})
		}
		t.Run(file, func(t *testing.T) {
			fleet := unique("whole")
			if err := does[file](t.Context(), as(text(fleet)), fleet); err != nil {
				t.Fatalf("with the whole policy: %v", err)
			}
		})
		for _, m := range granted.FindAllStringSubmatch(text("FLEET"), -1) {
			for _, quoted := range strings.Split(m[2], ", ") {
				path, capability := m[1], strings.Trim(quoted, `"`)
				// certd goes without: a token that cannot be renewed is made anew, one
				// that cannot look at itself is as good, and check says what it lacks.
				// Vault shows the certificate of a CA to everybody.
				if strings.HasPrefix(path, "auth/token/") || strings.HasPrefix(path, "sys/") || path == root+"/issuer/+/json" {
					continue
				}
				t.Run(file+" without "+capability+" on "+path, func(t *testing.T) {
					fleet := unique("less")
					err := does[file](t.Context(), as(without(t, text(fleet), strings.Replace(path, "/FLEET", "/"+fleet, 1), capability)), fleet)
					if err == nil {
						t.Fatal("it is granted, and nothing needs it")
					}
					named := regexp.MustCompile(regexp.QuoteMeta("the token lacks "+capability+" on ") + strings.NewReplacer(`\+`, "[a-z0-9-]+", "FLEET", fleet).Replace(regexp.QuoteMeta(path)) + ";? ?.*deploy/vault/[a-z-]+\\.hcl is the policy")
					if !errors.Is(err, rotation.ErrDenied) || !named.MatchString(err.Error()) {
						t.Errorf("it is not named: %v", err)
					}
				})
			}
		}
	}
}

func made(_ rotation.Key, err error) error { return err }
