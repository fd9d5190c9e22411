package vault

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

// Under the shipped policies nothing is missing and nothing is too much; each right
// more or less is named.
func TestRights(t *testing.T) {
	l := openLab(t)
	anchors, webhooks, root := l.mount(t, "transit"), l.mount(t, "transit"), l.mount(t, "pki")
	for _, path := range []string{anchors + "/keys/a1", webhooks + "/keys/w1"} {
		l.must(t, "POST", path, map[string]any{"type": "ecdsa-p256"})
	}
	kv := l.mountKV(t)
	run := l.policy(t, "certd-run.hcl", "certd-transit", anchors, "certd-transit-webhooks", webhooks)
	mirrored := l.mirrorPolicy(t, "certd-run.hcl", kv, "acme", "certd-transit", anchors, "certd-transit-webhooks", webhooks)
	mirroredPKI := l.mirrorPolicy(t, "certd-pki.hcl", kv, "acme", "pki-root", root, "certd-transit-webhooks", webhooks)
	pki := l.policy(t, "certd-pki.hcl", "pki-root", root, "certd-transit-webhooks", webhooks)
	transit := Use{Transit: anchors, Webhooks: webhooks, Keys: []string{"a1"}, WebhookKeys: []string{"w1"}}
	engine := Use{PKI: root + "/issuer/default", Webhooks: webhooks, WebhookKeys: []string{"w1"}}
	withMirror, engineWithMirror := transit, engine
	withMirror.MirrorMount, withMirror.MirrorPath = kv+"/", "certd/acme"
	engineWithMirror.MirrorMount, engineWithMirror.MirrorPath = kv, "/certd/acme"
	for _, row := range []struct {
		name     string
		policies []string
		use      Use
		missing  []Right
		excess   []string
		root     bool
	}{
		{"certd-run.hcl", []string{run}, transit, nil, nil, false},
		{"certd-pki.hcl", []string{pki}, engine, nil, nil, false},
		{"certd-run.hcl with the mirror's lines", []string{mirrored}, withMirror, nil, nil, false},
		{"certd-pki.hcl with the mirror's lines", []string{mirroredPKI}, engineWithMirror, nil, nil, false},
		{"a mirror, and its lines left out", []string{run}, withMirror,
			[]Right{{kv + "/data/certd/acme", "create", "certd-run.hcl"}, {kv + "/data/certd/acme", "update", "certd-run.hcl"}, {kv + "/data/certd/acme", "read", "certd-run.hcl"}, {kv + "/metadata/certd/acme", "read", "certd-run.hcl"}}, nil, false},
		{"the mirror's versions, too", []string{mirrored, l.policyText(t, `path "`+kv+`/data/certd/acme" { capabilities = ["delete"] }
			path "`+kv+`/metadata/certd/acme" { capabilities = ["read", "delete"] }
			path "`+kv+`/destroy/certd/+" { capabilities = ["update"] }
			path "`+kv+`/config" { capabilities = ["update"] }`)}, withMirror, nil,
			[]string{kv + "/config (update)", kv + "/data/certd/acme (delete)", kv + "/destroy/certd/acme (update)", kv + "/metadata/certd/acme (delete)"}, false},
		{"without the webhooks' mount", []string{l.policyText(t, `path "`+anchors+`/sign/+" { capabilities = ["update"] }`+own)}, transit,
			[]Right{{anchors + "/keys/a1", "read", "certd-run.hcl"}, {webhooks + "/keys/w1", "read", "certd-run.hcl"}, {webhooks + "/keys/w1", "update", "certd-run.hcl"}, {webhooks + "/sign/w1", "update", "certd-run.hcl"}}, nil, false},
		{"a key's flags, too", []string{run, l.policyText(t, `path "`+anchors+`/keys/+/config" { capabilities = ["update"] }`)}, transit, nil, []string{anchors + "/keys/a1/config (update)"}, false},
		{"new keys on the anchors' mount", []string{run, l.policyText(t, `path "`+anchors+`/keys/+" { capabilities = ["read", "update"] }`)}, transit, nil, []string{anchors + "/keys/a1 (update)"}, false},
		{"the mount itself", []string{pki, l.policyText(t, `path "sys/mounts/`+root+`" { capabilities = ["delete"] }`)}, engine, nil, []string{"sys/mounts/" + root + " (delete)"}, false},
		{"root", []string{"root"}, transit, nil, nil, true},
		{"nothing", []string{l.policyText(t, `path "nothing" { capabilities = ["deny"] }`)}, transit, []Right{{"sys/capabilities-self", "update", "certd-run.hcl"}}, nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := l.open(t, Auth{Token: fixed(l.token(t, nil, row.policies...))}).Examine(t.Context(), row.use)
			if e.HealthErr != nil || e.LoginErr != nil || e.RightsErr != nil || e.Health.TLSEnds.Before(time.Now()) {
				t.Errorf("%+v", e)
			}
			inOrder := func(a, b Right) int {
				return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Capability, b.Capability))
			}
			slices.SortFunc(row.missing, inOrder) // mounts have names of chance
			slices.SortFunc(e.Rights.Missing, inOrder)
			if !slices.Equal(e.Rights.Missing, row.missing) || !slices.Equal(e.Rights.Excess, row.excess) || e.Rights.Root != row.root {
				t.Errorf("%+v", e.Rights)
			}
		})
	}
}

const own = `
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }`

func TestTokenAndAuditDevices(t *testing.T) {
	l := openLab(t)
	blind := l.policyText(t, own)
	// As the comment in certd-run.hcl has it.
	seeing := l.policyText(t, own+"\n"+`path "sys/audit" { capabilities = ["read", "sudo"] }`)
	e := l.open(t, Auth{Token: fixed(l.token(t, map[string]any{"renewable": false, "ttl": "30m"}, blind))}).Examine(t.Context(), Use{})
	if left := time.Until(e.Token.Expires); e.TokenErr != nil || e.Token.Renewable || e.Token.Lasting || left < 29*time.Minute || left > 31*time.Minute || !slices.Contains(e.Token.Policies, blind) {
		t.Errorf("%+v, %v", e.Token, e.TokenErr)
	}
	if !errors.Is(e.AuditErr, rotation.ErrDenied) {
		t.Errorf("audit devices without the right: %v, %v", e.Audit, e.AuditErr)
	}
	e = l.open(t, Auth{Token: fixed(l.token(t, nil, seeing))}).Examine(t.Context(), Use{})
	if e.AuditErr != nil || len(e.Audit) == 0 {
		t.Errorf("audit devices: %v, %v", e.Audit, e.AuditErr)
	}
}

func TestFlags(t *testing.T) {
	l := openLab(t)
	mount := l.mount(t, "transit")
	keys := l.asRoot(t).Transit(mount)
	flags := func(name string, config ...map[string]any) KeyFlags {
		t.Helper()
		l.must(t, "POST", mount+"/keys/"+name, map[string]any{"type": "ecdsa-p256"})
		for _, c := range config {
			l.must(t, "POST", mount+"/keys/"+name+"/config", c)
		}
		f, err := keys.Flags(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := flags("plain"); f != (KeyFlags{}) {
		t.Errorf("%+v", f)
	}
	if f := flags("loose", map[string]any{"exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true}); f != (KeyFlags{Exportable: true, PlaintextBackup: true, DeletionAllowed: true}) {
		t.Errorf("%+v", f)
	}
	if f := flags("rolling", map[string]any{"auto_rotate_period": "24h"}); !strings.Contains(f.NotPinned, "auto_rotate_period") {
		t.Errorf("%+v", f)
	}
	flags("rotated")
	l.must(t, "POST", mount+"/keys/rotated/rotate", nil)
	if f := flags("rotated"); !strings.Contains(f.NotPinned, "latest_version=2") {
		t.Errorf("%+v", f)
	}
	if _, err := keys.Flags(t.Context(), "none"); !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := l.asRoot(t).Transit("nowhere").Flags(t.Context(), "none"); err == nil || errors.Is(err, rotation.ErrKeyNotFound) || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("a mount that is not there: %v", err)
	}
}

// A wrapped secret id is good for one login, which is the daemon's.
func TestExaminingSpendsNoWrappedSecret(t *testing.T) {
	f := newFake(t)
	unwrapped := false
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/sys/health"):
			_, _ = w.Write([]byte(`{"initialized":true,"sealed":false,"standby":false,"version":"1.21.0"}`))
			return true
		case strings.Contains(r.URL.Path, "/wrapping/"), strings.Contains(r.URL.Path, "/login"):
			unwrapped = true
		}
		return false
	}
	c := f.config()
	c.Auth = Auth{AppRole: &AppRole{RoleID: "certd", SecretID: fixed("hvs.wrapped")}}
	v, err := New(c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	if e := v.Examine(t.Context(), Use{}); !e.Wrapped || e.LoginErr != nil || e.Health.Version != "1.21.0" || unwrapped {
		t.Errorf("%+v, unwrapped: %t", e, unwrapped)
	}
}

// Of a Vault that is away, sealed or somebody else, no more is asked.
func TestExaminingAVaultThatIsNotThere(t *testing.T) {
	f := newFake(t)
	sealed, asked := true, 0
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/sys/health") && sealed {
			_, _ = w.Write([]byte(`{"initialized":true,"sealed":true,"standby":false,"version":"1.21.0"}`))
			return true
		}
		asked++
		return false
	}
	v := f.open(t)
	if e := v.Examine(t.Context(), Use{}); !e.Health.Sealed || asked > 0 {
		t.Errorf("%+v, %d further requests", e, asked)
	}
	f.server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if e := v.Examine(ctx, Use{}); !errors.Is(e.HealthErr, rotation.ErrUnavailable) {
		t.Errorf("%+v", e)
	}
}
