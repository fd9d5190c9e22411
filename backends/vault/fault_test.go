package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certd.internal/rotation"
)

// fake answers as Vault does and can be told to misbehave in one kind of
// request. It is for what a shared real Vault cannot be brought to.
type fake struct {
	server *httptest.Server
	key    *ecdsa.PrivateKey
	// on answers a request instead of the fake; false leaves it to the fake.
	on    func(w http.ResponseWriter, r *http.Request) bool
	signs atomic.Int32
}

const fakeToken = "hvs.CAESIsecretsecretsecret"

func newFake(t *testing.T) *fake {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{key: key}
	f.server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	f.server.Config.ErrorLog = nil
	t.Cleanup(f.server.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/sign/") {
		f.signs.Add(1)
	}
	if f.on != nil && f.on(w, r) {
		return
	}
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/lookup-self"):
		answer(w, map[string]any{"ttl": 3600, "renewable": false})
	case strings.HasSuffix(path, "/capabilities-self"):
		answer(w, map[string]any{"capabilities": []string{"deny"}})
	case strings.Contains(path, "/keys/") && r.Method == http.MethodGet && strings.HasSuffix(path, "/new"):
		refuse(w, 404)
	case strings.Contains(path, "/keys/"):
		answer(w, f.record(nil))
	case strings.Contains(path, "/sign/"):
		answer(w, map[string]any{"signature": f.sign(r, f.key), "key_version": 1})
	default:
		refuse(w, 404, "no handler for route")
	}
}

// record is the fake key's, with changes.
func (f *fake) record(change map[string]any) map[string]any {
	der, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		panic(err)
	}
	rec := map[string]any{"type": "ecdsa-p256", "exportable": false, "allow_plaintext_backup": false, "supports_signing": true, "latest_version": 1,
		"min_encryption_version": 0, "min_decryption_version": 1, "auto_rotate_period": 0, "deletion_allowed": false,
		"keys": map[string]any{"1": map[string]any{"public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}}
	for k, v := range change {
		if v == nil {
			delete(rec, k)
		} else {
			rec[k] = v
		}
	}
	return rec
}

func (f *fake) sign(r *http.Request, key *ecdsa.PrivateKey) string {
	var body struct{ Input string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		panic(err)
	}
	digest, err := base64.StdEncoding.DecodeString(body.Input)
	if err != nil {
		panic(err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		panic(err)
	}
	return "vault:v1:" + base64.StdEncoding.EncodeToString(sig)
}

func answer(w http.ResponseWriter, data any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "11111111-2222", "data": data})
}

func refuse(w http.ResponseWriter, status int, texts ...string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": append([]string{}, texts...)})
}

func (f *fake) config() Config {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	return Config{Address: f.server.URL, CAPEM: ca, Auth: Auth{Token: fixed(fakeToken)}}
}

func (f *fake) open(t *testing.T) *Vault {
	t.Helper()
	v, err := New(f.config(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// dropped ends the connection after the request was read and before the answer
// is whole.
func dropped(part string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = buf.WriteString(part)
		_ = buf.Flush()
		_ = conn.Close()
	}
}

// What Vault, OpenBao and what stands before them answer, and what certd makes
// of it when it signs, and when it reads.
func TestFaults(t *testing.T) {
	status := func(status int, texts ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, texts...) }
	}
	page := func(status int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, "<html>you sent %s", r.Header.Get("X-Vault-Token"))
		}
	}
	for _, c := range []struct {
		name       string
		do         func(http.ResponseWriter, *http.Request)
		sign, read error
		says       string
	}{
		{"sealed", status(503, "Vault is sealed"), rotation.ErrUnavailable, rotation.ErrUnavailable, "vault operator unseal"},
		{"not initialised", status(503, "security barrier not initialized"), rotation.ErrUnavailable, rotation.ErrUnavailable, "vault operator init"},
		{"electing a leader", status(500, "local node not active but active cluster node not found"), rotation.ErrUnavailable, rotation.ErrUnavailable, "electing a leader"},
		{"over its rate limit", status(429, "request path \"x\": rate limit quota exceeded"), rotation.ErrUnavailable, rotation.ErrUnavailable, "quota"},
		{"over its rate limit and says how long", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			refuse(w, 429, "rate limit quota exceeded")
		}, rotation.ErrUnavailable, rotation.ErrUnavailable, "wait 7 s"},
		{"a stale performance standby", status(412, "required index state not present"), rotation.ErrUnavailable, rotation.ErrUnavailable, "412"},
		{"audit device full, maybe since it signed", status(500, "internal error"), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "audit log"},
		{"no leader any more while it wrote", status(500, "leadership lost while committing log"), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "leadership lost"},
		{"too busy to begin", status(503, "Server was too busy to handle the request, please try again later"), rotation.ErrUnavailable, rotation.ErrUnavailable, "too busy"},
		{"OpenBao's stale standby", status(400, "signing key not found"), rotation.ErrUnavailable, rotation.ErrUnavailable, "does not know the key"},
		{"a version that cannot sign", status(500, "requested version for signing is less than the minimum encryption key version"), rotation.ErrKeyUnfit, rotation.ErrKeyUnfit, "rotated"},
		{"OpenBao's soft-deleted key", status(500, "refusing to use soft-deleted key"), rotation.ErrKeyUnfit, rotation.ErrKeyUnfit, "withdrew"},
		{"no such mount", status(404, "no handler for route \"certd-transit/sign/a\". route entry not found."), nil, nil, "nothing is mounted"},
		{"a body too large", status(413, "request body too large"), nil, nil, "too large"},
		{"no right", status(403, "1 error occurred:\n\t* permission denied\n\n"), rotation.ErrDenied, rotation.ErrDenied, "the token lacks"},
		{"a proxy without Vault behind it", page(502), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "a proxy in between?"},
		{"a proxy that waited too long", page(504), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "a proxy in between?"},
		{"a proxy with no backend, or that lost it", page(503), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "a proxy in between?"},
		{"a proxy that refuses", page(403), rotation.ErrDenied, rotation.ErrDenied, "a proxy in between?"},
		{"an answer that is a page", page(200), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "not Vault's JSON"},
		{"a connection lost before the answer", dropped(""), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "was lost"},
		{"a connection lost within the answer", dropped("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"request_id\":"), rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "was lost"},
		{"an endless answer", func(w http.ResponseWriter, _ *http.Request) {
			for range maxAnswer/1024 + 10 {
				_, _ = w.Write(make([]byte, 1024))
			}
		}, rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, "longer than"},
		{"a redirect to another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/v1/x", http.StatusTemporaryRedirect)
		}, rotation.ErrUnavailable, rotation.ErrUnavailable, "https://elsewhere.example; certd follows no redirects"},
		{"an empty answer", func(http.ResponseWriter, *http.Request) {}, rotation.ErrOutcomeUnknown, rotation.ErrUnavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			keys := f.open(t).Transit("certd-transit")
			opened, err := keys.OpenKey(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				ours := strings.Contains(r.URL.Path, "certd-transit")
				if ours {
					c.do(w, r)
				}
				return ours
			}
			digest := sha256.Sum256([]byte("tbs"))
			sig, err := opened.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
			check(t, "sign", err, c.sign, c.says)
			if sig.ASN1 != nil {
				t.Error("a signature beside an error")
			}
			if n := f.signs.Load(); n != 1 {
				t.Errorf("%d requests to sign were sent, want 1", n)
			}
			_, err = keys.OpenKey(t.Context(), "a", nil)
			check(t, "open", err, c.read, c.says)
		})
	}
}

// check compares an error with the one sentinel it has to wrap, and no other.
func check(t *testing.T, what string, err, want error, says string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, s := range []error{rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, rotation.ErrTryAgain, rotation.ErrDenied, rotation.ErrKeyExists,
		rotation.ErrKeyNotFound, rotation.ErrKeyUnfit, rotation.ErrUnsupported} {
		if errors.Is(err, s) != (s == want) {
			t.Errorf("%s: %v: wraps %q: %t", what, err, s, errors.Is(err, s))
		}
	}
	text := err.Error()
	if !strings.Contains(text, says) {
		t.Errorf("%s: %v, want %q in it", what, err, says)
	}
	if strings.Contains(text, fakeToken) || strings.Contains(text, "\n") {
		t.Errorf("%s: the error has the token or a line break in it: %q", what, text)
	}
}

// Signatures by whoever stands between certd and Vault.
func TestSignaturesNobodyBelieves(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		signature func(f *fake, r *http.Request) any
		want      error
	}{
		{"by another key", func(f *fake, r *http.Request) any { return f.sign(r, other) }, rotation.ErrKeyUnfit},
		{"by another version", func(f *fake, r *http.Request) any {
			return strings.Replace(f.sign(r, f.key), "v1", "v2", 1)
		}, rotation.ErrKeyUnfit},
		{"of another digest", func(f *fake, _ *http.Request) any {
			digest := sha256.Sum256([]byte("another"))
			sig, _ := ecdsa.SignASN1(rand.Reader, f.key, digest[:])
			return sigPrefix + base64.StdEncoding.EncodeToString(sig)
		}, rotation.ErrKeyUnfit},
		{"not base64", func(*fake, *http.Request) any { return sigPrefix + "!" }, rotation.ErrKeyUnfit},
		{"missing", func(*fake, *http.Request) any { return nil }, rotation.ErrKeyUnfit},
		{"a number", func(*fake, *http.Request) any { return 1 }, rotation.ErrOutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			opened, err := f.open(t).Transit("certd-transit").OpenKey(t.Context(), "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				answer(w, map[string]any{"signature": c.signature(f, r)})
				return true
			}
			digest := sha256.Sum256([]byte("tbs"))
			sig, err := opened.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
			check(t, "sign", err, c.want, "")
			if sig.ASN1 != nil || sig.Request != "11111111-2222" {
				t.Errorf("beside the error: %+v", sig)
			}
		})
	}
}

// Records of keys that a real Vault gives only on OpenBao, or never.
func TestKeyRecords(t *testing.T) {
	for _, c := range []struct {
		name   string
		change map[string]any
		want   error
		says   string
	}{
		{"whole", nil, nil, ""},
		{"soft-deleted", map[string]any{"soft_deleted": true}, rotation.ErrKeyUnfit, "soft_deleted=true"},
		{"derived", map[string]any{"derived": true}, rotation.ErrKeyUnfit, "derived=true"},
		{"that cannot sign", map[string]any{"supports_signing": false}, rotation.ErrKeyUnfit, "supports_signing=false"},
		{"version 1 frozen", map[string]any{"min_encryption_version": 2}, rotation.ErrKeyUnfit, "min_encryption_version=2"},
		{"version 1 hidden", map[string]any{"min_decryption_version": 2}, rotation.ErrKeyUnfit, "min_decryption_version=2"},
		{"imported", map[string]any{"imported_key": true}, nil, ""},
		{"without the flag exportable", map[string]any{"exportable": nil}, rotation.ErrUnavailable, "not the whole record"},
		{"without the flag allow_plaintext_backup", map[string]any{"allow_plaintext_backup": nil}, rotation.ErrUnavailable, "not the whole record"},
		{"with a flag of another type", map[string]any{"exportable": "false"}, rotation.ErrUnavailable, "not the record"},
		{"without keys", map[string]any{"keys": nil}, rotation.ErrKeyUnfit, "no public key"},
		{"with a public key that is none", map[string]any{"keys": map[string]any{"1": map[string]any{"public_key": "x"}}}, rotation.ErrKeyUnfit, "not PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				ours := strings.Contains(r.URL.Path, "/keys/")
				if ours {
					answer(w, f.record(c.change))
				}
				return ours
			}
			_, err := f.open(t).Transit("certd-transit").OpenKey(t.Context(), "a", &f.key.PublicKey)
			if c.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			check(t, "open", err, c.want, c.says)
		})
	}
}

func TestTimeouts(t *testing.T) {
	f := newFake(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	c := f.config()
	c.Timeout = 300 * time.Millisecond
	v, err := New(c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	keys := v.Transit("certd-transit")
	opened, err := keys.OpenKey(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	f.on = func(_ http.ResponseWriter, r *http.Request) bool {
		stuck := strings.Contains(r.URL.Path, "/sign/") || strings.Contains(r.URL.Path, "/keys/") && (r.Method == http.MethodPut || strings.HasSuffix(r.URL.Path, "/a"))
		if stuck {
			<-release
		}
		return stuck
	}
	digest := sha256.Sum256([]byte("tbs"))
	_, err = opened.(rotation.DigestSigner).SignDigest(t.Context(), digest[:])
	check(t, "sign", err, rotation.ErrOutcomeUnknown, "in time")
	_, err = keys.CreateKey(t.Context(), "new")
	check(t, "create", err, rotation.ErrOutcomeUnknown, "in time")
	_, err = keys.OpenKey(t.Context(), "a", nil)
	check(t, "open", err, rotation.ErrUnavailable, "in time")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = opened.(rotation.DigestSigner).SignDigest(ctx, digest[:])
	check(t, "sign within less time", err, rotation.ErrOutcomeUnknown, "in time")
}

// Ways not to reach Vault at all: nothing was sent, so nothing has happened.
func TestUnreachable(t *testing.T) {
	f := newFake(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	free.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"nobody listens", func(c *Config) { c.Address = "https://" + closed }, "cannot be reached"},
		{"a certificate of another CA", func(c *Config) { c.CAPEM = nil }, "unknown CA"},
		{"a certificate for another name", func(c *Config) { c.TLSServerName = "vault.acme.example" }, "VAULT_TLS_SERVER_NAME"},
		{"no TLS there", func(c *Config) { c.Address = "https://" + plain.Listener.Addr().String() }, "does not speak TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := f.config()
			c.change(&config)
			v, err := New(config, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			_, err = v.Transit("certd-transit").CreateKey(t.Context(), "new")
			check(t, "create", err, rotation.ErrUnavailable, c.says)
			_, err = v.Health(t.Context())
			check(t, "health", err, rotation.ErrUnavailable, c.says)
		})
	}
}

// A proxy that replays an old answer to a create.
func TestCreateKeyWithAStrangeAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]any
		want   error
	}{
		"an exportable key":    {map[string]any{"exportable": true}, rotation.ErrKeyUnfit},
		"a key of old":         {map[string]any{"latest_version": 3}, rotation.ErrKeyUnfit},
		"an incomplete record": {map[string]any{"exportable": nil}, rotation.ErrOutcomeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				made := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/keys/")
				if made {
					answer(w, f.record(c.change))
				}
				return made
			}
			_, err := f.open(t).Transit("certd-transit").CreateKey(t.Context(), "new")
			check(t, "create", err, c.want, "")
		})
	}
}

func TestHealthOfSealedVault(t *testing.T) {
	f := newFake(t)
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Token") != "" {
			t.Error("a token was sent")
		}
		fmt.Fprintf(w, `{"initialized":true,"sealed":true,"standby":true,"server_time_utc":%d,"version":"2.6.2"}`, time.Now().Add(-time.Hour).Unix())
		return true
	}
	h, err := f.open(t).Health(t.Context())
	if err != nil || !h.Sealed || h.Skew > -59*time.Minute || h.Skew < -61*time.Minute || h.Version != "2.6.2" || h.NamespaceProblem != "" {
		t.Errorf("%+v %v", h, err)
	}
}

// Whoever stands between certd and Vault may refuse what is asked: a sidecar that has not
// read its rules yet, a firewall. That says nothing of the token, and the secret id that it
// was had for may not be good for another one.
func TestARefusalThatIsNotVaultsSparesTheToken(t *testing.T) {
	f := newFake(t)
	var logins atomic.Int32
	refusing := atomic.Bool{}
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case refusing.Load():
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "RBAC: access denied")
		case strings.HasSuffix(r.URL.Path, "/login"):
			if logins.Add(1) > 1 {
				refuse(w, 400, "invalid role or secret ID") // it was good for one login
				return true
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": fakeToken, "lease_duration": 3600, "renewable": true}})
		default:
			return false
		}
		return true
	}
	c := f.config()
	c.Auth = Auth{AppRole: &AppRole{RoleID: "certd", SecretID: fixed("once")}}
	v, err := New(c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	keys := v.Transit("certd-transit")
	if _, err := keys.OpenKey(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	refusing.Store(true)
	_, err = keys.OpenKey(t.Context(), "a", nil)
	check(t, "open while it is refused", err, rotation.ErrDenied, "a proxy in between?")
	refusing.Store(false)
	if _, err := keys.OpenKey(t.Context(), "a", nil); err != nil {
		t.Errorf("afterwards, with the token that there was: %v", err)
	}
	if n := logins.Load(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

// A token that was given, and could not be looked up for a reason that is not Vault's, is
// looked up at the next try: otherwise it would never be renewed.
func TestALookupThatWasRefusedOnTheWayIsMadeAgain(t *testing.T) {
	f := newFake(t)
	var refused atomic.Bool
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/lookup-self") || refused.Swap(true) {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "RBAC: access denied")
		return true
	}
	v := f.open(t)
	keys := v.Transit("certd-transit")
	_, err := keys.OpenKey(t.Context(), "a", nil)
	check(t, "open", err, rotation.ErrDenied, "a proxy in between?")
	v.keeper.mu.Lock()
	v.keeper.until = time.Time{} // loginPause is over
	v.keeper.mu.Unlock()
	if _, err := keys.OpenKey(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if v.TokenExpires().IsZero() {
		t.Error("certd does not know when its token ends")
	}
}
