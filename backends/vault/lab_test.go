package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// lab is the real Vault that the tests share; they tell their things apart by
// unique names.
type lab struct {
	address, caFile, rootToken, auditLog string
	http                                 *http.Client
}

func openLab(t *testing.T) *lab {
	t.Helper()
	path := os.Getenv("CERTD_LAB")
	if path == "" {
		t.Fatal("CERTD_LAB does not name a lab: run these tests through `make test`")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vault struct {
			Address   string `json:"address"`
			CAFile    string `json:"caFile"`
			RootToken string `json:"rootToken"`
			AuditLog  string `json:"auditLog"`
		} `json:"vault"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	v := file.Vault
	l := &lab{address: v.Address, caFile: v.CAFile, rootToken: v.RootToken, auditLog: v.AuditLog}
	pool, err := newTransport(Config{Address: v.Address, CAFile: v.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.CloseIdleConnections)
	l.http = &http.Client{Transport: pool, Timeout: 30 * time.Second}
	return l
}

// unique makes a name that nothing in the lab has.
func unique(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])
}

// call makes a request as a person with curl would.
func (l *lab) call(t *testing.T, token, method, path string, body any) (int, map[string]any) {
	t.Helper()
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, l.address+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	resp, err := l.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			t.Fatalf("%s %s: %d %.200s", method, path, resp.StatusCode, answer)
		}
	}
	return resp.StatusCode, out
}

// must makes a request as root that has to succeed and returns its data.
func (l *lab) must(t *testing.T, method, path string, body any) map[string]any {
	t.Helper()
	status, out := l.call(t, l.rootToken, method, path, body)
	if status >= 300 {
		t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	data, _ := out["data"].(map[string]any)
	if data == nil {
		return out
	}
	return data
}

// mount mounts an engine for one test and returns where.
func (l *lab) mount(t *testing.T, engine string) string {
	t.Helper()
	path := unique("test-" + engine)
	l.must(t, "POST", "sys/mounts/"+path, map[string]any{"type": engine, "config": map[string]string{"max_lease_ttl": "87600h"}})
	t.Cleanup(func() {
		req, err := http.NewRequest("DELETE", l.address+"/v1/sys/mounts/"+path, nil)
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

// mountKV mounts a KV engine of version 2 for one test and returns where.
func (l *lab) mountKV(t *testing.T) string {
	t.Helper()
	path := unique("test-kv")
	l.must(t, "POST", "sys/mounts/"+path, map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	t.Cleanup(func() { l.call(t, l.rootToken, "DELETE", "sys/mounts/"+path, nil) })
	return path
}

// policy writes a policy from deploy/vault with its mounts replaced.
func (l *lab) policy(t *testing.T, file string, replace ...string) string {
	t.Helper()
	return l.policyText(t, shipped(t, file, replace...))
}

// mirrorPolicy is policy with the lines of the mirror, for the secret certd/FLEET
// in the KV engine mounted at kv.
func (l *lab) mirrorPolicy(t *testing.T, file, kv, fleet string, replace ...string) string {
	t.Helper()
	return l.policyText(t, withMirror(t, shipped(t, file, replace...), kv, fleet))
}

// shipped is a policy of deploy/vault with its mounts replaced.
func shipped(t *testing.T, file string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/vault/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), `"`+replace[i]+`/`) {
			t.Fatalf("%s does not mention the mount %s", file, replace[i])
		}
	}
	return strings.NewReplacer(quoted(replace)...).Replace(string(text))
}

// withMirror takes the # away, as the policy's own comment says.
func withMirror(t *testing.T, text, kv, fleet string) string {
	t.Helper()
	granted := 0
	text = regexp.MustCompile(`(?ms)^# path "secret/.*?^# \}$`).ReplaceAllStringFunc(text, func(lines string) string {
		granted++
		return regexp.MustCompile(`(?m)^# `).ReplaceAllString(lines, "")
	})
	if granted != 2 {
		t.Fatalf("%d paths of the mirror's are in the policy", granted)
	}
	return strings.NewReplacer(`"secret/`, `"`+kv+`/`, `/FLEET"`, `/`+fleet+`"`).Replace(text)
}

func quoted(pairs []string) []string {
	out := make([]string, len(pairs))
	for i, p := range pairs {
		out[i] = `"` + p + `/`
	}
	return out
}

func (l *lab) policyText(t *testing.T, text string) string {
	t.Helper()
	name := unique("test-policy")
	l.must(t, "PUT", "sys/policies/acl/"+name, map[string]string{"policy": text})
	return name
}

// token makes a token with these policies alone.
func (l *lab) token(t *testing.T, extra map[string]any, policies ...string) string {
	t.Helper()
	body := map[string]any{"policies": policies, "ttl": "1h", "no_default_policy": true, "no_parent": true}
	for k, v := range extra {
		body[k] = v
	}
	return l.must(t, "POST", "auth/token/create", body)["auth"].(map[string]any)["client_token"].(string)
}

func fixed(secret string) Secret { return func() ([]byte, error) { return []byte(secret), nil } }

// config is certd's way to the lab with a given token.
func (l *lab) config(auth Auth) Config {
	return Config{Address: l.address, CAFile: l.caFile, Auth: auth}
}

// open connects certd to the lab.
func (l *lab) open(t *testing.T, auth Auth) *Vault {
	t.Helper()
	v, err := New(l.config(auth), testLog(t))
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

func (l *lab) asRoot(t *testing.T) *Vault { return l.open(t, Auth{Token: fixed(l.rootToken)}) }

// testLog shows certd's log only where a test fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
