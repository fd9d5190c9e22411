package vault

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"certd.internal/backends/backendtest"
	"certd.internal/rotation"
)

// kv answers as a KV engine of version 2 does, for one secret at secret/certd/x.
type kv struct {
	mu      sync.Mutex
	docs    []json.RawMessage // by version, from 1 on
	deleted bool              // the newest
}

func (e *kv) serve(w http.ResponseWriter, r *http.Request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.docs)
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
	case path == "secret/metadata/certd/x" && n == 0, path == "secret/data/certd/x" && r.Method == http.MethodGet && n == 0:
		refuse(w, 404)
	case path == "secret/metadata/certd/x":
		answer(w, map[string]any{"current_version": n, "max_versions": 0})
	case path == "secret/data/certd/x" && r.Method == http.MethodGet && e.deleted:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"request_id":"r","data":{"data":null,"metadata":{"version":2,"deletion_time":"2026-11-28T00:00:00Z","destroyed":false}}}`)
	case path == "secret/data/certd/x" && r.Method == http.MethodGet:
		answer(w, map[string]any{"data": e.docs[n-1], "metadata": map[string]any{"version": n}})
	case path == "secret/data/certd/x":
		var body struct {
			Options struct{ CAS *int }
			Data    json.RawMessage
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Options.CAS == nil {
			refuse(w, 400, "check-and-set parameter required for this call")
		} else if *body.Options.CAS != n {
			refuse(w, 400, "check-and-set parameter did not match the current version")
		} else {
			e.docs, e.deleted = append(e.docs, body.Data), false
			answer(w, map[string]any{"version": n + 1})
		}
	default:
		return false
	}
	return true
}

func (f *fake) mirror(t *testing.T) *Mirror { return f.open(t).Mirror("/secret/", "certd/x") }

func TestMirror(t *testing.T) {
	backendtest.TestMirror(t, func(t *testing.T) (one, other rotation.Mirror) {
		f := newFake(t)
		f.on = (&kv{}).serve
		return f.mirror(t), f.mirror(t)
	})
}

// A real Vault keeps the same promises.
func TestMirrorInTheLab(t *testing.T) {
	l := openLab(t)
	backendtest.TestMirror(t, func(t *testing.T) (one, other rotation.Mirror) {
		mount := l.mountKV(t)
		open := func() rotation.Mirror {
			v, err := New(Config{Address: l.address, CAFile: l.caFile, Auth: Auth{Token: fixed(l.rootToken)}}, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { v.Close() })
			return v.Mirror(mount, "certd/acme")
		}
		return open(), open()
	})
}

// A person deletes the newest version: what is written next follows on it.
func TestADeletedMirror(t *testing.T) {
	f, e := newFake(t), &kv{}
	f.on = e.serve
	m := f.mirror(t)
	for was := range uint64(2) {
		if _, err := m.Save(t.Context(), []byte(`{"epoch":1}`), was); err != nil {
			t.Fatal(err)
		}
	}
	e.deleted = true
	if doc, version, err := m.Load(t.Context()); doc != nil || version != 2 || err != nil {
		t.Errorf("%s, version %d, %v", doc, version, err)
	}
	if version, err := m.Save(t.Context(), []byte(`{"epoch":2}`), 2); version != 3 || err != nil {
		t.Errorf("version %d, %v", version, err)
	}
}

// An error names the path, and the policy that grants it.
func TestAMirrorThatIsRefused(t *testing.T) {
	f := newFake(t)
	f.on = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/secret/") {
			refuse(w, 403, "permission denied")
			return true
		}
		return false
	}
	m := f.mirror(t)
	_, err := m.Save(t.Context(), []byte(`{}`), 0)
	if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(err.Error(), "secret/data/certd/x") || !strings.Contains(err.Error(), "certd-run.hcl") {
		t.Errorf("%v", err)
	}
}
