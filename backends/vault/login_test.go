package vault

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

// auth mounts a login method for one test.
func (l *lab) auth(t *testing.T, method string) string {
	t.Helper()
	path := unique("test-" + method)
	l.must(t, "POST", "sys/auth/"+path, map[string]string{"type": method})
	t.Cleanup(func() {
		req, err := http.NewRequest("DELETE", l.address+"/v1/sys/auth/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", l.rootToken)
		if resp, err := l.http.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	return path
}

// reader is a policy under which one key can be opened and used.
func (l *lab) signer(t *testing.T) (mount, policy string) {
	t.Helper()
	mount = l.mount(t, "transit")
	l.must(t, "POST", mount+"/keys/a", map[string]string{"type": "ecdsa-p256"})
	return mount, l.policy(t, "certd-run.hcl", "certd-transit", mount, "certd-transit-webhooks", unique("none"))
}

// works opens a key and signs.
func works(t *testing.T, v *Vault, mount string) error {
	t.Helper()
	opened, err := v.Transit(mount).OpenKey(t.Context(), "a", nil)
	if err != nil {
		return err
	}
	return signs(t, opened)
}

func signs(t *testing.T, k rotation.Key) error {
	t.Helper()
	digest := sha256.Sum256([]byte("tbs"))
	_, err := k.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
	return err
}

// appRole makes a role and returns how to log in to it.
func (l *lab) appRole(t *testing.T, policy string, extra map[string]any) (mount string, secretID func() string) {
	t.Helper()
	mount = l.auth(t, "approle")
	role := map[string]any{"token_policies": []string{policy}, "token_no_default_policy": true, "token_ttl": "1h"}
	for k, v := range extra {
		role[k] = v
	}
	l.must(t, "POST", "auth/"+mount+"/role/certd", role)
	l.must(t, "POST", "auth/"+mount+"/role/certd/role-id", map[string]string{"role_id": "certd"})
	return mount, func() string {
		return l.must(t, "POST", "auth/"+mount+"/role/certd/secret-id", nil)["secret_id"].(string)
	}
}

func write(t *testing.T, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoginByAppRole(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	auth, secretID := l.appRole(t, policy, nil)
	right := secretID()
	for _, c := range []struct {
		name           string
		mount, roleID  string
		secret         Secret
		want           error
		says, saysNone string
	}{
		{"as it should be", auth, "certd", fixed(right + "\n"), nil, "", ""},
		{"a wrong secret id", auth, "certd", fixed("0f0e0d0c-wrong"), rotation.ErrDenied, "invalid role or secret ID", "0f0e0d0c-wrong"},
		{"a wrong role id", auth, "certe", fixed(right), rotation.ErrDenied, "check the role", right},
		{"a method that is not mounted", unique("none"), "certd", fixed(right), rotation.ErrDenied, "auth", right},
		{"a secret that cannot be read", auth, "certd", func() ([]byte, error) { return nil, os.ErrPermission }, os.ErrPermission, "permission denied", right},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := l.open(t, Auth{AppRole: &AppRole{Mount: c.mount, RoleID: c.roleID, SecretID: c.secret}})
			err := works(t, v, mount)
			if !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), c.saysNone)) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

func TestLoginByWrappedSecretID(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	auth, _ := l.appRole(t, policy, map[string]any{"token_ttl": "1h"})
	wrap := func(path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", l.address+"/v1/"+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", l.rootToken)
		req.Header.Set("X-Vault-Wrap-TTL", "5m")
		resp, err := l.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var out struct {
			WrapInfo struct{ Token string } `json:"wrap_info"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.WrapInfo.Token == "" {
			t.Fatalf("wrapping failed: %d %v", resp.StatusCode, err)
		}
		return out.WrapInfo.Token
	}
	path := "auth/" + auth + "/role/certd/secret-id"

	wrapped := wrap(path)
	v := l.open(t, Auth{AppRole: &AppRole{Mount: auth, RoleID: "certd", SecretID: fixed(wrapped)}})
	if err := works(t, v, mount); err != nil {
		t.Fatal(err)
	}
	s, err := v.keeper.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v.keeper.discard(s)
	if err := works(t, v, mount); err != nil {
		t.Errorf("a second login with what was unwrapped: %v", err)
	}

	var log bytes.Buffer
	for _, c := range []struct{ name, secret, says string }{
		{"unwrapped by somebody else", wrapped, "somebody else has it"},
		{"made by something else", wrap("sys/tools/random"), "made by"},
		{"no wrapping token at all", "hvs.nothing", "somebody else has it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := New(l.config(Auth{AppRole: &AppRole{Mount: auth, RoleID: "certd", SecretID: fixed(c.secret)}}), slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if err := works(t, v, mount); !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), c.secret) {
				t.Errorf("got %v", err)
			}
		})
	}
	if text := log.String(); !strings.Contains(text, "level=ERROR") || strings.Contains(text, wrapped) {
		t.Errorf("the log: %s", text)
	}
}

func TestLoginByToken(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	good := l.token(t, nil, policy)
	bare := l.token(t, nil, l.policyText(t, `path "`+mount+`/keys/+" { capabilities = ["read"] } path "`+mount+`/sign/+" { capabilities = ["update"] }`))
	dead := l.token(t, nil, policy)
	l.must(t, "POST", "auth/token/revoke", map[string]string{"token": dead})
	for _, c := range []struct {
		name  string
		token string
		want  error
		says  string
	}{
		{"with the shipped policy", good, nil, ""},
		{"that may not even look itself up", bare, nil, ""},
		{"that was revoked", dead, rotation.ErrDenied, "put a new one there"},
		{"that never was one", "hvs.nonsense", rotation.ErrDenied, ""},
		{"that is empty", " \n", rotation.ErrDenied, "empty"},
		{"with a line break in it", "hvs.a\nhvs.b", rotation.ErrDenied, "characters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "token"), []byte(c.token+"\n"))
			for how, auth := range map[string]Auth{"given": {Token: fixed(c.token)}, "in a file": {TokenFile: file}} {
				err := works(t, l.open(t, auth), mount)
				if !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.says) || len(c.token) > 3 && strings.Contains(err.Error(), c.token)) {
					t.Errorf("%s: got %v, want %v that says %q", how, err, c.want, c.says)
				}
			}
		})
	}
}

// A token that dies is replaced: a read goes on, a signature is told to be
// tried again, since one request is one entry in Vault's audit log.
func TestTokenThatDies(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	file := write(t, filepath.Join(t.TempDir(), "token"), []byte(l.token(t, nil, policy)))
	v := l.open(t, Auth{TokenFile: file})
	keys := v.Transit(mount)
	opened, err := keys.OpenKey(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	kill := func() {
		t.Helper()
		s, err := v.keeper.session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.must(t, "POST", "auth/token/revoke", map[string]string{"token": s.token})
	}
	kill()
	write(t, file, []byte(l.token(t, nil, policy)))
	if _, err := keys.OpenKey(t.Context(), "a", nil); err != nil {
		t.Errorf("reading with a dead token: %v", err)
	}
	kill()
	write(t, file, []byte(l.token(t, nil, policy)))
	if err := signs(t, opened); !errors.Is(err, rotation.ErrTryAgain) {
		t.Errorf("signing with a dead token: %v, want %v", err, rotation.ErrTryAgain)
	}
	if err := signs(t, opened); err != nil {
		t.Errorf("trying again: %v", err)
	}
	kill()
	if err := signs(t, opened); !errors.Is(err, rotation.ErrDenied) {
		t.Errorf("with no new token in the file: %v, want %v", err, rotation.ErrDenied)
	}
}

func TestLoginByJWT(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	auth := l.auth(t, "jwt")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	l.must(t, "POST", "auth/"+auth+"/config", map[string]any{"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}, "default_role": "certd"})
	l.must(t, "POST", "auth/"+auth+"/role/certd", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"vault"},
		"token_policies": []string{policy}, "token_no_default_policy": true, "token_ttl": "1h"})
	token := func(audience string) Secret { return fixed(jwt(t, key, audience, time.Now().Add(time.Hour))) }
	for _, c := range []struct {
		name, role string
		token      Secret
		want       error
	}{
		{"as it should be", "certd", token("vault"), nil},
		{"by the method's default role", "", token("vault"), nil},
		{"for somebody else", "certd", token("others"), rotation.ErrDenied},
		{"expired", "certd", fixed(jwt(t, key, "vault", time.Now().Add(-time.Hour))), rotation.ErrDenied},
		{"not a JWT", "certd", fixed("secretsecret"), rotation.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := works(t, l.open(t, Auth{JWT: &JWT{Mount: auth, Role: c.role, Token: c.token}}), mount)
			if !errors.Is(err, c.want) || err != nil && strings.Contains(err.Error(), "secretsecret") {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func jwt(t *testing.T, key *ecdsa.PrivateKey, audience string, exp time.Time) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := part(map[string]string{"alg": "ES256", "typ": "JWT"}) + "." +
		part(map[string]any{"sub": "certd", "aud": audience, "exp": exp.Unix(), "iat": exp.Add(-2 * time.Hour).Unix()})
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// Vault asks a Kubernetes API server what a ServiceAccount's token is worth;
// here one that only knows TokenReviews.
func TestLoginByKubernetes(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct{ Token string }
		}
		_ = json.NewDecoder(r.Body).Decode(&review)
		good := strings.HasPrefix(review.Spec.Token, "eyJ")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": map[string]any{
			"authenticated": good, "user": map[string]any{"username": "system:serviceaccount:certd:certd", "uid": "1", "groups": []string{"system:serviceaccounts"}}}})
	}))
	t.Cleanup(api.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := func(account string) string {
		part := func(v any) string {
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return base64.RawURLEncoding.EncodeToString(text)
		}
		text := part(map[string]string{"alg": "ES256"}) + "." + part(map[string]any{"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:certd:" + account,
			"exp": time.Now().Add(time.Hour).Unix(), "nbf": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-time.Hour).Unix(), "kubernetes.io": map[string]any{"namespace": "certd", "serviceaccount": map[string]string{"name": account, "uid": "1"}}})
		digest := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	auth := l.auth(t, "kubernetes")
	l.must(t, "POST", "auth/"+auth+"/config", map[string]any{"kubernetes_host": api.URL, "kubernetes_ca_cert": ca, "token_reviewer_jwt": token("reviewer"), "disable_local_ca_jwt": true})
	l.must(t, "POST", "auth/"+auth+"/role/certd", map[string]any{"bound_service_account_names": "certd", "bound_service_account_namespaces": "certd",
		"token_policies": []string{policy}, "token_no_default_policy": true, "token_ttl": "1h"})
	file := filepath.Join(t.TempDir(), "token")
	login := func() error {
		return works(t, l.open(t, Auth{Kubernetes: &Kubernetes{Mount: auth, Role: "certd", TokenFile: file}}), mount)
	}
	write(t, file, []byte(token("certd")))
	if err := login(); err != nil {
		t.Fatal(err)
	}
	write(t, file, []byte(token("other")))
	if err := login(); !errors.Is(err, rotation.ErrDenied) {
		t.Errorf("another ServiceAccount: %v, want %v", err, rotation.ErrDenied)
	}
	write(t, file, []byte(token("certd")))
	api.Close()
	if err := login(); !errors.Is(err, rotation.ErrUnavailable) || !strings.Contains(err.Error(), "could not reach the Kubernetes API") {
		t.Errorf("with the API server away: %v, want %v", err, rotation.ErrUnavailable)
	}
}

func TestLoginByCertificate(t *testing.T) {
	l := openLab(t)
	mount, policy := l.signer(t)
	auth := l.auth(t, "cert")
	dir := t.TempDir()
	certFile, keyFile := clientCertificate(t, dir, "certd")
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	l.must(t, "POST", "auth/"+auth+"/certs/certd", map[string]any{"certificate": string(text), "token_policies": []string{policy}, "token_no_default_policy": true, "token_ttl": "1h"})
	for _, role := range []string{"", "certd"} {
		if err := works(t, l.open(t, Auth{Cert: &Cert{Mount: auth, Role: role, CertFile: certFile, KeyFile: keyFile}}), mount); err != nil {
			t.Errorf("role %q: %v", role, err)
		}
	}
	v := l.open(t, Auth{Cert: &Cert{Mount: auth, CertFile: certFile, KeyFile: keyFile}})
	clientCertificate(t, dir, "another")
	if err := works(t, v, mount); !errors.Is(err, rotation.ErrDenied) {
		t.Errorf("with a certificate Vault does not know: %v", err)
	}
	if _, err := New(l.config(Auth{Cert: &Cert{CertFile: certFile, KeyFile: filepath.Join(dir, "none")}}), testLog(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its key: %v", err)
	}
}

func clientCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		write(t, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
