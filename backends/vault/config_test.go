package vault

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigIsChecked(t *testing.T) {
	token := Auth{Token: fixed("t")}
	for _, c := range []struct {
		name   string
		config Config
		says   string // "": it is fine
	}{
		{"https", Config{Address: "https://vault.example:8200", Auth: token}, ""},
		{"https below a path", Config{Address: "https://gateway.example/vault", Auth: token}, ""},
		{"http on this machine", Config{Address: "http://127.0.0.1:8200", Auth: token}, ""},
		{"http on this machine by IPv6", Config{Address: "http://[::1]:8200", Auth: token}, ""},
		{"http on this machine by name", Config{Address: "http://localhost:8200", Auth: token}, ""},
		{"http across the network", Config{Address: "http://vault.example:8200", Auth: token}, "use https"},
		{"http to a name that only begins like this machine", Config{Address: "http://127.0.0.1.example:8200", Auth: token}, "use https"},
		{"http to another address", Config{Address: "http://10.0.0.1:8200", Auth: token}, "use https"},
		{"no address", Config{Auth: token}, "https://HOST:PORT"},
		{"no scheme", Config{Address: "vault.example:8200", Auth: token}, "https://HOST:PORT"},
		{"a password in the address", Config{Address: "https://me:secretsecret@vault.example", Auth: token}, "more than"},
		{"no way to log in", Config{Address: "https://vault.example"}, "0 ways"},
		{"two ways to log in", Config{Address: "https://vault.example", Auth: Auth{TokenFile: "x", JWT: &JWT{}}}, "2 ways"},
		{"a client certificate without key", Config{Address: "https://vault.example", ClientCertFile: "x", Auth: token}, "its key's"},
		{"a time-out below zero", Config{Address: "https://vault.example", Timeout: -1, Auth: token}, "time-out"},
		{"a CA file that is not there", Config{Address: "https://vault.example", CAFile: "/nonexistent/ca.pem", Auth: token}, "no such file"},
		{"a CA text that is none", Config{Address: "https://vault.example", CAPEM: []byte("x"), Auth: token}, "no certificate"},
		{"a CA folder that is empty", Config{Address: "https://vault.example", CAPath: t.TempDir(), Auth: token}, "no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := New(c.config, testLog(t))
			if err == nil {
				err = v.Close()
			}
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secretsecret")):
				t.Errorf("got %v, want an error that says %q", err, c.says)
			}
		})
	}
}

func TestFillFromEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		have Config
		env  map[string]string
		want Config
		says string
	}{
		{"everything", Config{}, map[string]string{"VAULT_ADDR": "https://a", "VAULT_NAMESPACE": "n", "VAULT_CACERT": "c", "VAULT_CLIENT_CERT": "cc", "VAULT_CLIENT_KEY": "ck",
			"VAULT_TLS_SERVER_NAME": "s", "VAULT_CLIENT_TIMEOUT": "30s"},
			Config{Address: "https://a", Namespace: "n", CAFile: "c", ClientCertFile: "cc", ClientKeyFile: "ck", TLSServerName: "s", Timeout: 30 * time.Second}, ""},
		{"the configuration wins", Config{Address: "https://a", Namespace: "n", CAFile: "c", Timeout: time.Second},
			map[string]string{"VAULT_ADDR": "https://b", "VAULT_NAMESPACE": "m", "VAULT_CACERT": "d", "VAULT_CAPATH": "p", "VAULT_CLIENT_TIMEOUT": "9"},
			Config{Address: "https://a", Namespace: "n", CAFile: "c", Timeout: time.Second}, ""},
		{"OpenBao's names win over Vault's", Config{}, map[string]string{"VAULT_ADDR": "https://b", "BAO_ADDR": "https://a"}, Config{Address: "https://a"}, ""},
		{"a CA as text", Config{}, map[string]string{"VAULT_CACERT_BYTES": "pem", "VAULT_CAPATH": "p"}, Config{CAPEM: []byte("pem")}, ""},
		{"a folder of CAs", Config{}, map[string]string{"VAULT_CAPATH": "p"}, Config{CAPath: "p"}, ""},
		{"a time-out in seconds", Config{}, map[string]string{"VAULT_CLIENT_TIMEOUT": "45"}, Config{Timeout: 45 * time.Second}, ""},
		{"a time-out that is none", Config{}, map[string]string{"VAULT_CLIENT_TIMEOUT": "soon"}, Config{}, "VAULT_CLIENT_TIMEOUT"},
		{"a time-out of zero", Config{}, map[string]string{"VAULT_CLIENT_TIMEOUT": "0"}, Config{}, "VAULT_CLIENT_TIMEOUT"},
		{"verification switched off", Config{}, map[string]string{"VAULT_SKIP_VERIFY": "true"}, Config{}, "VAULT_SKIP_VERIFY"},
		{"verification switched off in OpenBao's way", Config{}, map[string]string{"BAO_SKIP_VERIFY": "1"}, Config{}, "SKIP_VERIFY"},
		{"verification not switched off", Config{}, map[string]string{"VAULT_SKIP_VERIFY": "false"}, Config{}, ""},
		{"a proxy that is none", Config{}, map[string]string{"VAULT_PROXY_ADDR": "secretsecret"}, Config{}, "VAULT_PROXY_ADDR"},
		{"a token is nobody's business here", Config{}, map[string]string{"VAULT_TOKEN": "hvs.x"}, Config{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.have
			err := got.FillFromEnvironment(func(name string) string { return c.env[name] })
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secretsecret") {
					t.Errorf("got %v, want an error that says %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Address != c.want.Address || got.Namespace != c.want.Namespace || got.CAFile != c.want.CAFile || got.CAPath != c.want.CAPath || string(got.CAPEM) != string(c.want.CAPEM) ||
				got.TLSServerName != c.want.TLSServerName || got.ClientCertFile != c.want.ClientCertFile || got.ClientKeyFile != c.want.ClientKeyFile || got.Timeout != c.want.Timeout || got.Auth.Token != nil {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestProxyFromEnvironment(t *testing.T) {
	var c Config
	err := c.FillFromEnvironment(func(name string) string {
		return map[string]string{"VAULT_PROXY_ADDR": "http://proxy.example:3128", "VAULT_HTTP_PROXY": "http://other.example"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: "vault.example"}})
	if err != nil || u.Host != "proxy.example:3128" {
		t.Errorf("got %v %v", u, err)
	}
}

// vault/api reads VAULT_ variables by itself; none of them reaches a request.
func TestEnvironmentDoesNotGetBehindTheConfiguration(t *testing.T) {
	f := newFake(t)
	var seen []http.Header
	f.on = func(_ http.ResponseWriter, r *http.Request) bool {
		seen = append(seen, r.Header.Clone())
		return false
	}
	for name, value := range map[string]string{"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "hvs.environment", "VAULT_NAMESPACE": "environment", "VAULT_HEADERS": `{"X-Extra":"environment"}`,
		"VAULT_WRAP_TTL": "1h", "VAULT_SKIP_VERIFY": "true", "VAULT_MAX_RETRIES": "9", "VAULT_RATE_LIMIT": "0.001:1", "VAULT_AGENT_ADDR": "https://127.0.0.1:1", "VAULT_PROXY_ADDR": "http://127.0.0.1:1"} {
		t.Setenv(name, value)
	}
	if _, err := f.open(t).Transit("certd-transit").OpenKey(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range seen {
		if h.Get("X-Vault-Token") != fakeToken || h.Get("X-Vault-Namespace") != "" || h.Get("X-Extra") != "" || h.Get("X-Vault-Wrap-TTL") != "" || h.Get("X-Vault-Request") != "true" {
			t.Errorf("headers: %v", h)
		}
	}
	if len(seen) != 3 { // look up the token, read the key, ask for capabilities
		t.Errorf("%d requests", len(seen))
	}
}

func TestNamespace(t *testing.T) {
	for _, c := range []struct {
		name, edition string // the JSON member by which they differ
		says          string
	}{
		{"Vault Enterprise", `,"enterprise":true`, ""},
		{"OpenBao", ``, ""},
		{"community Vault, which ignores namespaces", `,"enterprise":false`, "remove keys.vault.namespace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			f.on = func(w http.ResponseWriter, r *http.Request) bool {
				health := r.URL.Path == "/v1/sys/health"
				if got := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/"); (got == "team-a") == health {
					t.Errorf("%s: namespace %q", r.URL.Path, got)
				}
				if health {
					_, _ = w.Write([]byte(`{"initialized":true,"version":"1.21.0"` + c.edition + `}`))
				}
				return health
			}
			config := f.config()
			config.Namespace = "team-a/"
			v, err := New(config, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			_, err = v.Transit("certd-transit").OpenKey(t.Context(), "a", nil)
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A folder of CAs may hold other files too.
func TestCAPath(t *testing.T) {
	f := newFake(t)
	c := f.config()
	dir := t.TempDir()
	for name, text := range map[string][]byte{"ca.pem": c.CAPEM, "README": []byte("CAs")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.CAPEM, c.CAPath = nil, dir
	v, err := New(c, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, err := v.Transit("certd-transit").OpenKey(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
}
