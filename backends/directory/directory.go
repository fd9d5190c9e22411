// Package directory is a cluster that is a folder of files: for trying certd
// out, for virtual machines, for whatever carries files on from there.
//
// An object is a folder, a data key a file, laid out as a kubelet lays out a
// volume, so that readers see a change in one step:
//
//	<dir>/<namespace>/.certd.lock
//	<dir>/<namespace>/<object>/..2026_11_24_10_30_00.123456789/tls.crt
//	                                                          /tls.key …
//	                                                          /.certd.json   label and annotations
//	                           ..data  -> ..2026_11_24_10_30_00.123456789
//	                           tls.crt -> ..data/tls.crt …
//
// A reader that needs two files of one moment reads ..data once (readlink) and
// both files in the folder it names.
package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// Config describes a directory cluster.
type Config struct {
	Cluster     string // its name in certd's configuration
	Dir         string
	Namespace   string // of the Linkerd control plane
	TrustDomain string
}

// Cluster is a folder that stands for a cluster.
type Cluster struct {
	issuer payload.Reader
	cfg    Config
	root   string // absolute, symlinks resolved as far as the path exists
	ns     string // <root>/<namespace>

	mu  sync.Mutex
	own map[string]string // object: what its files looked like after our last write
}

var _ rotation.Cluster = (*Cluster)(nil)

// New returns the cluster at cfg.Dir, which need not exist yet.
func New(cfg Config) (*Cluster, error) {
	if cfg.Dir == "" || cfg.Namespace == "" {
		return nil, fmt.Errorf("directory cluster %s: folder and namespace must be named", cfg.Cluster)
	}
	root, err := realPath(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("directory cluster %s: find folder %s: %w", cfg.Cluster, cfg.Dir, err)
	}
	return &Cluster{cfg: cfg, root: root, ns: filepath.Join(root, cfg.Namespace), own: map[string]string{}}, nil
}

// realPath resolves symlinks in the part of the path that exists.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return "", err
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

// Observe implements rotation.Cluster. It sees what a reader of the visible
// paths sees. Writers names the owner of a file that certd did not write: a
// folder keeps no other trace.
func (c *Cluster) Observe(ctx context.Context) (rotation.Observation, error) {
	o := rotation.Observation{At: time.Now(), Target: c.root}
	if err := ctx.Err(); err != nil {
		return o, fmt.Errorf("look at %s: %w: %w", c.ns, err, rotation.ErrUnavailable)
	}
	info, err := os.Stat(c.ns)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o, nil
	case err != nil:
		return o, c.fail("look at", c.ns, err)
	case !info.IsDir():
		return o, fmt.Errorf("look at %s: it is not a folder; move it away", c.ns)
	}
	o.Namespace = true
	bundle, err := c.read(rotation.BundleObject)
	if err != nil {
		return o, err
	}
	issuer, err := c.read(rotation.IssuerObject)
	if err != nil {
		return o, err
	}
	defer issuer.wipe()
	o.Bundle, o.BundleText = bundle.state(), payload.Text(bundle.data, payload.BundleKey)
	o.Issuer = issuer.state()
	if issuer.exists {
		o.IssuerFacts = c.issuer.Issuer(issuer.data, pki.Identity{Namespace: c.cfg.Namespace, TrustDomain: c.cfg.TrustDomain})
	}
	return o, nil
}

// Reread implements rotation.Cluster: all that there is to see is two files.
func (c *Cluster) Reread(ctx context.Context, _ rotation.Observation, _ string) (rotation.Observation, error) {
	return c.Observe(ctx)
}

// CreateNamespace implements rotation.Cluster: it makes the folders.
func (c *Cluster) CreateNamespace(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("create %s: %w: %w", c.ns, err, rotation.ErrUnavailable)
	}
	if err := os.MkdirAll(c.ns, 0o755); err != nil {
		return c.fail("create", c.ns, err)
	}
	if err := syncDir(c.root); err != nil {
		return c.fail("sync", c.root, err)
	}
	_ = syncDir(filepath.Dir(c.root)) // it may be somebody else's, and certd makes the folder again if it is lost
	return nil
}

// WriteBundle implements rotation.Cluster.
func (c *Cluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	return c.write(ctx, rotation.BundleObject, w.Revision, payload.BundleMarks(w), func(map[string][]byte) (map[string][]byte, error) {
		return payload.Bundle(w.Bundle), nil
	})
}

// WriteIssuer implements rotation.Cluster.
func (c *Cluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	c.issuer.Expect(w.Credential)
	return c.write(ctx, rotation.IssuerObject, w.Revision, payload.IssuerMarks(w), func(current map[string][]byte) (map[string][]byte, error) {
		return payload.IssuerData(w, current)
	})
}

// write is compare-and-set on one object, under a lock that other certds on
// this folder take, too.
func (c *Cluster) write(ctx context.Context, name, revision string, marks rotation.Marks, data func(map[string][]byte) (map[string][]byte, error)) (string, error) {
	if _, err := os.Stat(c.ns); err != nil {
		return "", c.fail("write "+name+" in", c.ns, err)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	have, err := c.read(name)
	if err != nil {
		return "", err
	}
	defer have.wipe()
	if have.revision != revision {
		return "", fmt.Errorf("write %s in %s: its files are not those the write was decided on: %w", name, c.ns, rotation.ErrChanged)
	}
	want, err := data(have.data)
	if err != nil {
		return "", err
	}
	if len(want) == 0 { // the marks alone: a folder is swapped as a whole
		for _, key := range payload.Keys(name) {
			if text, ok := have.data[key]; ok {
				want[key] = bytes.Clone(text)
			}
		}
	}
	defer payload.Wipe(want)
	if have.marks == marks && payload.Same(have.data, want) {
		return have.revision, nil
	}
	if err := c.swap(name, want, marks); err != nil {
		return "", err
	}
	// Only a look that finds what was written makes its signature our own:
	// somebody else may have written right after.
	sig, written := c.signature(name), revisionOf(name, want, marks)
	got, err := c.read(name)
	got.wipe()
	if err == nil && got.revision == written {
		c.mu.Lock()
		c.own[name] = sig
		c.mu.Unlock()
	}
	return written, nil
}

// Event implements rotation.Cluster; a folder has no place for events.
func (c *Cluster) Event(context.Context, rotation.Event) error { return nil }

// Close implements rotation.Cluster.
func (c *Cluster) Close() error { return nil }

// fail explains an error of the file system.
func (c *Cluster) fail(doing, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s: %w; give certd's user (uid %d) the right to: %w", doing, path, err, os.Geteuid(), rotation.ErrDenied)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w; nothing was changed, make room on this file system", doing, path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s %s: %w; mount it writable, or point the cluster at another folder", doing, path, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Errorf("%s %s: %w: %w", doing, path, err, rotation.ErrUnavailable)
	}
	return fmt.Errorf("%s %s: %w", doing, path, err)
}
