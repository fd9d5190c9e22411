package vault

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/rotation"
)

// parrot is a Vault that gives whatever it was taught as its answer to everything but the
// look-up of the token.
type parrot struct {
	status int
	header string
	body   []byte
	asked  *int
}

func (p parrot) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	*p.asked++
	status, body := p.status, p.body
	h := http.Header{"Content-Type": {"application/json"}}
	if strings.HasSuffix(r.URL.Path, "/lookup-self") {
		status, body = http.StatusOK, []byte(`{"data":{"ttl":3600,"renewable":false,"policies":["certd"]}}`)
	} else if p.header != "" && !strings.ContainsAny(p.header, "\r\n\x00") {
		h["Retry-After"], h["Location"], h["Date"] = []string{p.header}, []string{p.header}, []string{p.header}
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r}, nil
}

// Whatever Vault answers, certd comes to an end, tells its token to nobody, and takes as
// signed only what its pinned key has signed.
func FuzzReplies(f *testing.F) {
	const token = "hvs.the-token-of-the-fuzz-test"
	const key = `{"data":{"type":"ecdsa-p256","exportable":false,"allow_plaintext_backup":false,"supports_signing":true,"latest_version":1,"auto_rotate_period":0,"keys":{"1":{"public_key":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgh+DyAPy7o7gTH+MJ6pt/41DpV/Q\nItZJEFEOyTYLfYLZoMgqamTWi4IpB+U6BgeOjiRIqkK1UQ5TTVKVl338sw==\n-----END PUBLIC KEY-----\n"}}}}`
	for _, seed := range []struct {
		status int
		body   string
	}{
		{200, key}, {200, `{"request_id":"r1","data":{"signature":"vault:v1:MEUCIQ=="}}`}, {200, `{"data":{"signature":"vault:v2:"}}`},
		{200, `{"data":{"data":{"document":"{}"},"metadata":{"version":3}}}`}, {200, `{"data":{"current_version":3}}`}, {200, `{"data":{"version":4}}`},
		{200, `{"initialized":true,"sealed":false,"standby":false,"server_time_utc":1700000000,"version":"2.0.0"}`}, {503, `{"errors":["Vault is sealed"]}`},
		{403, `{"errors":["permission denied","` + token + `"]}`}, {404, `{"errors":[]}`}, {429, `{}`}, {412, `{"errors":["required index state not present"]}`}, {204, ``}, {200, `null`}, {200, `{"data":null}`},
		{307, ``}, {400, `{"errors":["check-and-set parameter did not match the current version"]}`}, {500, "<html>"}, {200, `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"}}`},
		{200, `{"data":{"capabilities":["read"],"keys":["a"],"certd/":{"type":"transit"}},"auth":{"client_token":"x","lease_duration":-1}}`}, {472, `{`}, {473, `{"errors":[1]}`},
	} {
		f.Add(seed.status, "1", []byte(seed.body))
	}
	f.Add(429, token, []byte(`{}`))
	f.Add(307, "https://"+token+"/", []byte(``))
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			log := &bytes.Buffer{}
			v, err := New(Config{Address: "https://vault.example:8200", Timeout: 5 * time.Second, Auth: Auth{Token: func() ([]byte, error) { return []byte(token), nil }}}, slog.New(slog.NewTextHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			asked := 0
			v.client.wire.next = parrot{status, header, body, &asked}
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer stop()
			var said []string
			note := func(err error) {
				if err != nil {
					said = append(said, err.Error())
				}
			}
			transit := v.Transit("certd-transit")
			pinned := &ecdsa.PublicKey{}
			opened, err := transit.OpenKey(ctx, "acme-anchor-1", nil)
			note(err)
			if err == nil {
				pinned = opened.Info().Public.(*ecdsa.PublicKey)
				if opened, err = transit.OpenKey(ctx, "acme-anchor-1", pinned); err != nil && ctx.Err() == nil {
					t.Errorf("the key that was just opened is refused: %v", err)
				}
			}
			digest := bytes.Repeat([]byte{7}, 32)
			if err == nil && opened != nil {
				sig, err := opened.(rotation.DigestSigner).SignDigest(ctx, digest)
				note(err)
				if err == nil && !ecdsa.VerifyASN1(pinned, digest, sig.ASN1) {
					t.Error("a signature is taken that the pinned key did not make")
				}
			}
			_, err = transit.CreateKey(ctx, "acme-anchor-2")
			note(err)
			m := v.Mirror("secret", "certd/acme")
			doc, version, err := m.Load(ctx)
			note(err)
			if err == nil && version == 0 && len(doc) > 0 {
				t.Error("a document without a version")
			}
			if n, err := m.Save(ctx, []byte("{}"), 1); err == nil && n == 0 {
				t.Error("saved, as no version")
			} else {
				note(err)
			}
			if k, err := v.PKI("pki", "default").OpenKey(ctx, "x", nil); err == nil {
				if a := k.(rotation.IssuerSigner).Anchor(); a == nil || len(a.Raw) == 0 || pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Raw}) == nil {
					t.Error("a CA without a certificate")
				}
			} else {
				note(err)
			}
			_, err = v.Health(ctx)
			note(err)
			_ = v.Examine(ctx, Use{})
			if asked < 5 {
				t.Errorf("only %d requests have got here", asked)
			}
			for _, text := range append(said, log.String()) {
				if strings.Contains(text, token) {
					t.Errorf("the token is told: %q", text)
				}
			}
			for _, err := range said {
				if len(err) > 4000 {
					t.Errorf("an error of %d bytes", len(err))
				}
			}
		})
	})
}

// Whoever answers may repeat what was sent, or what was sent before, in a place of its
// choice; also where a text that is cut begins with a secret.
func TestSecretsThatAreRepeated(t *testing.T) {
	const plain, wrapped = "eyJhbGciOiJSUzI1NiJ9.the-secret-of-this-test", "hvs.the-secret-of-this-test"
	for _, row := range []struct {
		name, secret string
		auth         Auth
	}{
		{"token", wrapped, Auth{Token: fixed(wrapped)}},
		{"JWT", plain, Auth{JWT: &JWT{Role: "certd", Token: fixed(plain)}}},
		{"AppRole", plain, Auth{AppRole: &AppRole{RoleID: "certd", SecretID: fixed(plain)}}},
		{"wrapped AppRole", wrapped, Auth{AppRole: &AppRole{RoleID: "certd", SecretID: fixed(wrapped)}}},
	} {
		secret := row.secret
		for _, a := range []parrot{
			{400, "", []byte(`{"errors":["` + secret + `"]}`), nil}, {500, "", []byte(`{"errors":["` + strings.Repeat("x", 290) + secret + `"]}`), nil},
			{503, "", []byte(secret), nil}, {429, secret, []byte(`{}`), nil}, {307, "https://" + secret + "/", nil, nil},
		} {
			synctest.Test(t, func(t *testing.T) {
				log := &bytes.Buffer{}
				v, err := New(Config{Address: "https://vault.example:8200", Auth: row.auth}, slog.New(slog.NewTextHandler(log, nil)))
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close()
				a.asked = new(int)
				v.client.wire.next = a
				_, opened := v.Transit("certd-transit").OpenKey(t.Context(), "acme-anchor-1", nil)
				_, healthy := v.Health(t.Context())
				if opened == nil || *a.asked == 0 {
					t.Fatalf("%s, %d: %v after %d requests", row.name, a.status, opened, *a.asked)
				}
				said := fmt.Sprint(opened, log)
				if row.auth.Token != nil {
					said += fmt.Sprint(healthy) // there is a token now that health does not send
				}
				if strings.Contains(said, secret[:10]) {
					t.Errorf("%s, %d %q %.20s: %s", row.name, a.status, a.header, a.body, said)
				}
			})
		}
	}
}
