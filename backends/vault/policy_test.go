package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"testing"
)

// digest64 is a SHA-256 digest in base64.
const digest64 = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="

// The shipped policies grant what certd does and nothing beside it. Each row
// is a request by hand.
func TestShippedPolicies(t *testing.T) {
	l := openLab(t)
	anchors, webhooks, root, kv := l.mount(t, "transit"), l.mount(t, "transit"), l.mount(t, "pki"), l.mountKV(t)
	for _, path := range []string{anchors + "/keys/a1", webhooks + "/keys/w1"} {
		l.must(t, "POST", path, map[string]any{"type": "ecdsa-p256"})
	}
	l.must(t, "POST", root+"/issuers/generate/root/internal", map[string]any{"common_name": "root.linkerd.cluster.local", "key_type": "ec", "key_bits": 256,
		"ttl": "87600h", "issuer_name": "a1", "exclude_cn_from_sans": true, "not_before_duration": "1h"})

	type row struct {
		want         int
		method, path string
		body         string
	}
	const (
		plain   = `{"type":"ecdsa-p256","exportable":false,"allow_plaintext_backup":false}`
		sign    = `{"input":"` + digest64 + `","prehashed":true,"key_version":1}`
		signAll = `{"input":"` + digest64 + `","prehashed":true,"key_version":1,"hash_algorithm":"sha2-256","marshaling_algorithm":"asn1"}`
	)
	// Never allowed to any of them.
	never := func(mount, key string, but ...string) []row {
		rows := []row{
			{403, "DELETE", mount + "/keys/" + key, ""},
			{403, "GET", mount + "/export/signing-key/" + key, ""},
			{403, "GET", mount + "/export/public-key/" + key, ""},
			{403, "GET", mount + "/backup/" + key, ""},
			{403, "GET", mount + "/byok-export/" + key + "/" + key, ""},
			{403, "POST", mount + "/restore/" + key, `{"backup":"x"}`},
			{403, "GET", mount + "/wrapping_key", ""},
			{403, "POST", mount + "/encrypt/" + key, `{"plaintext":"eA=="}`},
			{403, "POST", mount + "/hmac/" + key, `{"input":"eA=="}`},
			{403, "POST", mount + "/keys/" + key + "/config", `{"exportable":true}`},
			{403, "POST", mount + "/keys/" + key + "/config", `{"exportable":false}`},
			{403, "POST", mount + "/sign/" + key + "/sha2-256", sign},
			{403, "POST", "auth/token/create", `{}`},
			{403, "GET", "sys/mounts", ""},
			{403, "DELETE", "sys/mounts/" + mount, ""},
			{403, "GET", "sys/policies/acl/certd-run", ""},
			{403, "GET", "secret/data/certd", ""},
			{200, "GET", "auth/token/lookup-self", ""},
			{200, "POST", "sys/capabilities-self", `{"paths":["` + mount + `/sign/` + key + `"]}`},
		}
		for _, sub := range []string{"config", "rotate", "trim", "import", "import_version", "csr", "set-certificate", "soft-delete"} {
			rows = append(rows, row{403, "POST", mount + "/keys/" + key + "/" + sub, "{}"})
		}
		return slices.DeleteFunc(rows, func(r row) bool {
			return slices.ContainsFunc(but, func(end string) bool { return strings.HasSuffix(r.path, "/"+end) })
		})
	}
	signing := func(mount, key string) []row {
		return []row{
			{200, "POST", mount + "/sign/" + key, sign},
			{200, "POST", mount + "/sign/" + key, signAll},
			{403, "POST", mount + "/sign/" + key, `{"input":"` + digest64 + `","prehashed":false,"key_version":1}`},
			{403, "POST", mount + "/sign/" + key, `{"input":"` + digest64 + `","prehashed":true}`},
			{403, "POST", mount + "/sign/" + key, `{"input":"` + digest64 + `","prehashed":true,"key_version":1,"hash_algorithm":"none"}`},
			{403, "POST", mount + "/sign/" + key, `{"batch_input":[{"input":"` + digest64 + `"}],"prehashed":true,"key_version":1}`},
			{200, "GET", mount + "/keys/" + key, ""},
		}
	}
	making := func(mount, key string) []row {
		return []row{
			{200, "GET", mount + "/keys/" + key, ""},
			{404, "GET", mount + "/keys/none", ""},
			{200, "POST", mount + "/keys/made-1", plain},
			{403, "POST", mount + "/keys/made-2", `{"type":"ecdsa-p256","exportable":true,"allow_plaintext_backup":false}`},
			{403, "POST", mount + "/keys/made-2", `{"type":"ecdsa-p256","exportable":"false"}`},
			{403, "POST", mount + "/keys/made-2", `{"type":"ecdsa-p256","allow_plaintext_backup":true}`},
			{403, "POST", mount + "/keys/made-2", `{"type":"ecdsa-p256","auto_rotate_period":"24h"}`},
			{403, "POST", mount + "/keys/made-2", `{"type":"rsa-2048","exportable":false,"allow_plaintext_backup":false}`},
			{403, "POST", mount + "/keys/made-2", `{"type":"aes256-gcm96"}`},
		}
	}

	mirroring := func(kept string) []row {
		return []row{
			{404, "GET", kv + "/data/certd/" + kept, ""},
			{404, "GET", kv + "/metadata/certd/" + kept, ""},
			{200, "POST", kv + "/data/certd/" + kept, `{"options":{"cas":0},"data":{"document":"a"}}`},
			{200, "POST", kv + "/data/certd/" + kept, `{"options":{"cas":1},"data":{"document":"b"}}`},
			{200, "GET", kv + "/data/certd/" + kept, ""},
			{200, "GET", kv + "/metadata/certd/" + kept, ""},
			{403, "DELETE", kv + "/data/certd/" + kept, ""},
			{403, "DELETE", kv + "/metadata/certd/" + kept, ""},
			{403, "POST", kv + "/metadata/certd/" + kept, `{"max_versions":1}`},
			{403, "POST", kv + "/delete/certd/" + kept, `{"versions":[1]}`},
			{403, "POST", kv + "/destroy/certd/" + kept, `{"versions":[1]}`},
			{403, "GET", kv + "/data/certd/another", ""},
			{403, "POST", kv + "/data/certd/another", `{"data":{"document":"a"}}`},
			{403, "POST", kv + "/data/certd", `{"data":{"document":"a"}}`},
			{403, "POST", kv + "/config", `{"cas_required":false}`},
			{403, "DELETE", "sys/mounts/" + kv, ""},
		}
	}

	importing := func(change map[string]any) string {
		body := map[string]any{"ciphertext": "eA==", "hash_function": "SHA256", "type": "ecdsa-p256", "exportable": false, "allow_plaintext_backup": false, "allow_rotation": false}
		maps.Copy(body, change)
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	usual := map[string]any{"common_name": "identity.linkerd.cluster.local", "ttl": "168h", "max_path_length": "0", "not_before_duration": "10m", "format": "pem",
		"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}
	but := func(change map[string]any) string {
		body := maps.Clone(usual)
		maps.Copy(body, change)
		maps.DeleteFunc(body, func(_ string, v any) bool { return v == nil })
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	intermediate := root + "/issuer/a1/sign-intermediate"

	for _, policy := range []struct {
		name  string
		token string
		rows  [][]row
	}{
		{"certd-run.hcl", l.token(t, nil, l.policy(t, "certd-run.hcl", "certd-transit", anchors, "certd-transit-webhooks", webhooks)), [][]row{
			signing(anchors, "a1"), signing(webhooks, "w1"), making(webhooks, "w1"), never(anchors, "a1"), never(webhooks, "w1"),
			{
				{403, "POST", anchors + "/keys/a3", plain},
				{403, "POST", anchors + "/keys/a1", plain},
				{200, "POST", "auth/token/renew-self", "{}"},
			},
		}},
		{"certd-run.hcl with the mirror's lines", l.token(t, nil, l.mirrorPolicy(t, "certd-run.hcl", kv, "run", "certd-transit", anchors, "certd-transit-webhooks", webhooks)), [][]row{
			mirroring("run"), signing(anchors, "a1"), never(anchors, "a1"),
		}},
		{"certd-pki.hcl with the mirror's lines", l.token(t, nil, l.mirrorPolicy(t, "certd-pki.hcl", kv, "pki", "pki-root", root, "certd-transit-webhooks", webhooks)), [][]row{
			mirroring("pki"), {{200, "POST", intermediate, but(nil)}},
		}},
		{"certd-init.hcl", l.token(t, nil, l.policy(t, "certd-init.hcl", "certd-transit", anchors)), [][]row{
			making(anchors, "a1"), never(anchors, "a1"),
			{
				{403, "POST", anchors + "/sign/a1", sign},
				{403, "POST", webhooks + "/keys/w2", plain},
				{403, "POST", "auth/token/renew-self", "{}"},
			},
		}},
		{"certd-import.hcl", l.token(t, nil, l.policy(t, "certd-import.hcl", "certd-transit", anchors)), [][]row{
			never(anchors, "a1", "wrapping_key", "import"),
			{
				{200, "GET", anchors + "/wrapping_key", ""},
				{200, "GET", anchors + "/keys/a1", ""},
				{404, "GET", anchors + "/keys/none", ""},
				// It is let pass, and is too short to unwrap.
				{500, "POST", anchors + "/keys/i1/import", importing(nil)},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"exportable": true})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"allow_plaintext_backup": true})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"allow_rotation": true})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"type": "ecdsa-p384"})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"derived": true})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"auto_rotate_period": "24h"})},
				{403, "POST", anchors + "/keys/i1/import", importing(map[string]any{"public_key": "x"})},
				{403, "POST", anchors + "/keys/made-3", plain},
				{403, "POST", anchors + "/sign/a1", sign},
				{403, "GET", webhooks + "/wrapping_key", ""},
				{403, "POST", webhooks + "/keys/i1/import", importing(nil)},
				{403, "POST", "auth/token/renew-self", "{}"},
			},
		}},
		// Both in one token, as a person with all rights might do it, must not
		// cancel each other out.
		{"certd-run.hcl and certd-init.hcl", l.token(t, nil,
			l.policy(t, "certd-run.hcl", "certd-transit", anchors, "certd-transit-webhooks", webhooks), l.policy(t, "certd-init.hcl", "certd-transit", anchors)), [][]row{
			signing(anchors, "a1"), making(anchors, "a1"), never(anchors, "a1"),
		}},
		{"certd-pki.hcl", l.token(t, nil, l.policy(t, "certd-pki.hcl", "pki-root", root, "certd-transit-webhooks", webhooks)), [][]row{signing(webhooks, "w1"), making(webhooks, "w1"), never(webhooks, "w1"), {
			{200, "POST", intermediate, but(nil)},
			{200, "POST", root + "/issuer/default/sign-intermediate", but(nil)},
			{200, "POST", intermediate, but(map[string]any{"not_before_duration": "37s"})},
			{403, "POST", intermediate, but(map[string]any{"max_path_length": 0})},
			{403, "POST", intermediate, but(map[string]any{"max_path_length": "1"})},
			{403, "POST", intermediate, but(map[string]any{"max_path_length": nil})},
			{403, "POST", intermediate, but(map[string]any{"ttl": "169h"})},
			{403, "POST", intermediate, but(map[string]any{"ttl": nil})},
			{403, "POST", intermediate, but(map[string]any{"not_after": "2036-01-01T00:00:00Z"})},
			{403, "POST", intermediate, but(map[string]any{"common_name": "identity.linkerd.example.org"})},
			{403, "POST", intermediate, but(map[string]any{"alt_names": "example.org"})},
			{403, "POST", intermediate, but(map[string]any{"use_csr_values": true})},
			{403, "POST", intermediate, but(map[string]any{"exclude_cn_from_sans": true})},
			{403, "POST", intermediate, but(map[string]any{"permitted_dns_domains": "example.org"})},
			{403, "POST", root + "/root/sign-intermediate", but(nil)},
			{403, "POST", root + "/issuer/a1/sign-self-issued", `{}`},
			{403, "POST", root + "/issuer/a1/sign-verbatim", but(nil)},
			{403, "POST", root + "/issuer/a1/revoke", `{}`},
			{403, "POST", root + "/issuers/generate/root/exported", `{"common_name":"x"}`},
			{403, "POST", root + "/config/issuers", `{"default":"a1"}`},
			{403, "DELETE", root + "/issuer/a1", ""},
			{200, "GET", root + "/issuer/a1/json", ""},
			{403, "POST", anchors + "/keys/a3", plain},
			{403, "POST", anchors + "/sign/a1", sign},
			{200, "GET", "auth/token/lookup-self", ""},
			{200, "POST", "auth/token/renew-self", "{}"},
		}}},
	} {
		t.Run(policy.name, func(t *testing.T) {
			for _, rows := range policy.rows {
				for _, r := range rows {
					var body any
					if r.body != "" {
						body = r.body
					}
					if got, answer := l.call(t, policy.token, r.method, r.path, body); got != r.want {
						t.Errorf("%s %s %.120s: %d, want %d: %v", r.method, r.path, r.body, got, r.want, answer["errors"])
					}
				}
			}
		})
	}
}
