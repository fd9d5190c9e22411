package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"certd.internal/rotation"
)

// Mirror is one secret of a KV engine of version 2, written by check-and-set.
// Nothing in it is secret. The document is one string in it, under "document": Vault
// would read large numbers in an object of its own as floating point.
type Mirror struct {
	vault *Vault
	mount string
	path  string
}

var _ rotation.Mirror = (*Mirror)(nil)

// Mirror returns the document at path in the KV engine (version 2) mounted at
// mount.
func (v *Vault) Mirror(mount, path string) *Mirror {
	return &Mirror{vault: v, mount: strings.Trim(mount, "/"), path: strings.Trim(path, "/")}
}

const mirrorPolicy = "certd-run.hcl"

// errNoMirror: nothing was ever written there, or its newest version is deleted.
var errNoMirror = errors.New("nothing is there")

// Load implements rotation.Mirror.
func (m *Mirror) Load(ctx context.Context) ([]byte, uint64, error) {
	path := m.mount + "/data/" + m.path
	r, err := m.vault.do(ctx, call{op: "read-mirror", doing: "read the mirror " + path, path: path, capability: "read", policy: mirrorPolicy, absent: errNoMirror})
	if errors.Is(err, errNoMirror) {
		version, err := m.Version(ctx)
		return nil, version, err
	}
	if err != nil {
		return nil, 0, err
	}
	var data struct {
		Data struct {
			Document *string `json:"document"`
		} `json:"data"`
		Metadata struct {
			Version uint64 `json:"version"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || data.Metadata.Version == 0 {
		return nil, 0, fmt.Errorf("read the mirror %s: the answer is not that of a KV engine of version 2 (%v); vault secrets list shows what %s is", path, err, m.mount)
	}
	if data.Data.Document == nil {
		return nil, 0, fmt.Errorf("read the mirror %s: it has no field \"document\": something else than certd wrote it; vault kv metadata get -mount=%s %s shows when, and keys.vault.mirror may name another path", path, m.mount, m.path)
	}
	return []byte(*data.Data.Document), data.Metadata.Version, nil
}

// Version implements rotation.Mirror.
func (m *Mirror) Version(ctx context.Context) (uint64, error) {
	path := m.mount + "/metadata/" + m.path
	r, err := m.vault.do(ctx, call{op: "read-mirror-version", doing: "read the version of the mirror " + path, path: path, capability: "read", policy: mirrorPolicy, absent: errNoMirror})
	if errors.Is(err, errNoMirror) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var data struct {
		Current *uint64 `json:"current_version"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || data.Current == nil {
		return 0, fmt.Errorf("read the version of the mirror %s: the answer is not that of a KV engine of version 2 (%v); vault secrets list shows what %s is", path, err, m.mount)
	}
	return *data.Current, nil
}

// Save implements rotation.Mirror. It is one request, never repeated.
func (m *Mirror) Save(ctx context.Context, doc []byte, was uint64) (uint64, error) {
	path := m.mount + "/data/" + m.path
	capability := "update"
	if was == 0 { // what a KV engine has no record of yet, is created
		capability = "create"
	}
	r, err := m.vault.do(ctx, call{
		op: "write-mirror", doing: "write the mirror " + path, path: path, capability: capability, policy: mirrorPolicy, once: true,
		body: map[string]any{"options": map[string]any{"cas": was}, "data": map[string]string{"document": string(doc)}},
	})
	if err != nil {
		return 0, err
	}
	var data struct {
		Version uint64 `json:"version"`
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || data.Version == 0 {
		return 0, fmt.Errorf("write the mirror %s: the answer has no version (%v): %w", path, err, rotation.ErrOutcomeUnknown)
	}
	return data.Version, nil
}
