package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const namespace = "linkerd"

func identity() pki.Identity { return pki.Identity{Namespace: namespace, TrustDomain: "cluster.local"} }

func open(t testing.TB, dir string) *Cluster {
	t.Helper()
	c, err := New(Config{Cluster: "vm-pool", Dir: dir, Namespace: namespace, TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write puts a file in the place of whatever is there, or into the file the
// link there leads to.
func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		os.Remove(path) // a link that leads nowhere
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCluster(t *testing.T) {
	backendtest.TestCluster(t, func(t *testing.T) (rotation.Cluster, backendtest.Hands) {
		dir := filepath.Join(t.TempDir(), "vm-pool")
		object := func(name string) string { return filepath.Join(dir, namespace, name) }
		data := func(t testing.TB, name string) map[string][]byte {
			entries, err := os.ReadDir(object(name))
			if err != nil {
				return nil
			}
			found := map[string][]byte{}
			for _, e := range entries {
				if text, err := os.ReadFile(filepath.Join(object(name), e.Name())); err == nil {
					found[e.Name()] = text
				}
			}
			return found
		}
		return open(t, dir), backendtest.Hands{
			Identity: identity(),
			Edit: func(t testing.TB, name string, edit func(map[string][]byte)) {
				before, after := data(t, name), data(t, name)
				if after == nil {
					after = map[string][]byte{}
				}
				edit(after)
				for key := range before {
					if _, kept := after[key]; !kept {
						os.Remove(filepath.Join(object(name), key))
					}
				}
				for key, text := range after {
					if old, was := before[key]; !was || string(old) != string(text) {
						write(t, filepath.Join(object(name), key), text)
					}
				}
			},
			StripMarks: func(t testing.TB, name string) {
				if err := os.Remove(filepath.Join(object(name), dataLink, markFile)); err != nil {
					t.Fatal(err)
				}
			},
			Delete: func(t testing.TB, name string) {
				if err := os.RemoveAll(object(name)); err != nil {
					t.Fatal(err)
				}
			},
			Data:  data,
			Again: func(t testing.TB) rotation.Cluster { return open(t, dir) },
		}
	})
}

// filled is a cluster with both objects, and the way to write more.
type filled struct {
	*Cluster
	t       *testing.T
	anchors *backendtest.Anchors
	issuer  string // folder of the issuer
}

func filledCluster(t *testing.T) *filled {
	t.Helper()
	f := &filled{Cluster: open(t, t.TempDir()), t: t, anchors: backendtest.NewAnchors(t, identity())}
	f.issuer = filepath.Join(f.ns, rotation.IssuerObject)
	if err := f.CreateNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteBundle(t.Context(), rotation.BundleWrite{Fleet: "acme", Bundle: f.anchors.Bundle(t)}); err != nil {
		t.Fatal(err)
	}
	f.renew()
	return f
}

// renew writes a new issuer over whatever is there.
func (f *filled) renew() {
	f.t.Helper()
	o, err := f.Observe(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	cred := f.anchors.Issuer(f.t)
	w := rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Serial: pki.Serial(cred.Chain()[0]), Credential: &cred, Bundle: f.anchors.Bundle(f.t)}
	if _, err := f.WriteIssuer(f.t.Context(), w); err != nil {
		f.t.Fatal(err)
	}
}

// layout wants the folder to be as after an undisturbed write.
func (f *filled) layout() {
	f.t.Helper()
	entries, err := os.ReadDir(f.issuer)
	if err != nil {
		f.t.Fatal(err)
	}
	folders := 0
	for _, e := range entries {
		switch {
		case e.Name() == dataLink:
		case strings.HasPrefix(e.Name(), ".."):
			if folders++; !e.IsDir() {
				f.t.Errorf("%s was left behind", e.Name())
			}
		default:
			if target, err := os.Readlink(filepath.Join(f.issuer, e.Name())); err != nil || target != filepath.Join(dataLink, e.Name()) {
				f.t.Errorf("%s leads to %q, %v", e.Name(), target, err)
			}
		}
	}
	if folders != 1 {
		f.t.Errorf("%d data folders; want 1", folders)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(f.issuer, payload.TLSCert), filepath.Join(f.issuer, payload.TLSKey)); err != nil {
		f.t.Errorf("the pair cannot be read: %v", err)
	}
}

func TestSecretFilesAreTheOwnersAlone(t *testing.T) {
	f := filledCluster(t)
	f.layout()
	want := map[string]os.FileMode{f.issuer: 0o700, filepath.Join(f.issuer, dataLink): 0o700}
	for _, key := range append(payload.IssuerKeys(), filepath.Join(dataLink, markFile)) {
		want[filepath.Join(f.issuer, key)] = 0o600
	}
	want[filepath.Join(f.ns, rotation.BundleObject)] = 0o755
	want[filepath.Join(f.ns, rotation.BundleObject, payload.BundleKey)] = 0o644
	for path, mode := range want {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o; want %o", path, info.Mode().Perm(), mode)
		}
	}
}

// What a crash, a person or another program may leave in the folder of an
// issuer: the next write puts all of it right.
func TestNextWriteMendsTheLayout(t *testing.T) {
	for _, row := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"a crash left a data folder", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "..2020_01_01_00_00_00.1", payload.TLSKey), []byte("old key"))
		}},
		{"a crash left the link before its swap", func(t *testing.T, dir string) {
			if err := os.Symlink("..nowhere", filepath.Join(dir, nextLink)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a file took a link's place", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, payload.TLSKey)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, payload.TLSKey), []byte("theirs"))
		}},
		{"a folder took a link's place", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, payload.TLSCert)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, payload.TLSCert, "file"), []byte("theirs"))
		}},
		{"..data is gone", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				t.Fatal(err)
			}
		}},
		{"..data became a folder", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, dataLink, payload.TLSCert), []byte("theirs"))
		}},
		{"..data leads to itself", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, dataLink)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(dataLink, filepath.Join(dir, dataLink)); err != nil {
				t.Fatal(err)
			}
		}},
		{"all links are gone", func(t *testing.T, dir string) {
			for _, key := range payload.IssuerKeys() {
				if err := os.Remove(filepath.Join(dir, key)); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := filledCluster(t)
			row.damage(t, f.issuer)
			f.renew()
			f.layout()
		})
	}
}

// A certd that died during a write left the former key, or one that never came into use.
// The next one clears that away at its start, and nothing that is somebody else's.
func TestWhatACrashLeftIsClearedAway(t *testing.T) {
	f := filledCluster(t)
	for path, text := range map[string]string{
		"..2020_01_01_00_00_00.1/" + markFile:                  "{}",
		"..2020_01_01_00_00_00.1/" + payload.TLSKey:            "the former key",
		"..2020_01_01_00_00_00.2/" + markFile:                  "half a mar",
		"..2020_01_01_00_00_00.3_of_another/" + payload.TLSKey: "theirs",
	} {
		write(t, filepath.Join(f.issuer, path), []byte(text))
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(f.issuer, "..2020_01_01_00_00_00.4"), 0o700),
		os.Symlink("..nowhere", filepath.Join(f.issuer, nextLink)),
		os.Symlink("..nowhere", filepath.Join(f.issuer, "..tls.key_tmp")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := f.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error)
	go func() { watched <- open(t, f.root).Watch(ctx, func() {}) }()
	hidden := func() (names []string) {
		entries, err := os.ReadDir(f.issuer)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..20") || strings.HasSuffix(e.Name(), "_tmp") {
				names = append(names, e.Name())
			}
		}
		return names
	}
	for len(hidden()) > 2 { // across a system call, so in real time; the test's own limit ends it
		runtime.Gosched()
	}
	stop()
	<-watched
	if left := hidden(); len(left) != 2 || left[0] != "..2020_01_01_00_00_00.3_of_another" {
		t.Errorf("left are %q", left)
	}
	after, err := f.Observe(t.Context())
	if err != nil || after.Issuer.Revision != before.Issuer.Revision || after.IssuerFacts.Problem != "" {
		t.Errorf("the issuer is another one: %+v, %v", after.Issuer, err)
	}
}

func TestReaderNeverSeesATornPair(t *testing.T) {
	f := filledCluster(t)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		read := 0
		defer func() { done <- read }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			target, err := os.Readlink(filepath.Join(f.issuer, dataLink))
			if err != nil {
				t.Errorf("there was a moment without data: %v", err)
				return
			}
			dir := filepath.Join(f.issuer, target)
			crt, err1 := os.ReadFile(filepath.Join(dir, payload.TLSCert))
			key, err2 := os.ReadFile(filepath.Join(dir, payload.TLSKey))
			if os.IsNotExist(err1) || os.IsNotExist(err2) {
				continue // swapped away meanwhile: read ..data again
			}
			if _, err := tls.X509KeyPair(crt, key); err != nil {
				t.Errorf("torn pair: %v", err)
				return
			}
			read++
		}
	}()
	for range 50 {
		f.renew()
	}
	close(stop)
	if read := <-done; read == 0 && !t.Failed() {
		t.Error("the reader never got to read")
	}
}

func TestObserveIsNotHeldUpByWhatIsNoFile(t *testing.T) {
	f := filledCluster(t)
	path := filepath.Join(f.issuer, payload.TLSCert)
	for name, damage := range map[string]func() error{
		"a pipe":         func() error { return syscall.Mkfifo(path, 0o600) },
		"a folder":       func() error { return os.Mkdir(path, 0o700) },
		"an endless one": func() error { return os.Symlink("/dev/zero", path) },
		"a loop":         func() error { return os.Symlink(path, path) },
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		o, err := f.Observe(t.Context())
		if err != nil || !o.Issuer.Exists {
			t.Errorf("%s: exists %t, %v", name, o.Issuer.Exists, err)
		}
	}
	f.renew()
	f.layout()
}

func TestTargetIsOneForAllPathsToAFolder(t *testing.T) {
	dir := t.TempDir()
	alias := filepath.Join(t.TempDir(), "alias")
	if err := os.Symlink(dir, alias); err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, path := range []string{filepath.Join(dir, "new"), filepath.Join(alias, "new"), filepath.Join(alias, "x", "..", "new")} {
		o, err := open(t, path).Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, o.Target)
	}
	if targets[0] != targets[1] || targets[1] != targets[2] {
		t.Errorf("targets %q differ", targets)
	}
}

func TestFileSystemErrorsSayWhatToDo(t *testing.T) {
	c := open(t, t.TempDir())
	for _, row := range []struct {
		err  error
		is   error
		says string
	}{
		{syscall.EACCES, rotation.ErrDenied, "uid"},
		{syscall.ENOSPC, syscall.ENOSPC, "make room"},
		{syscall.EDQUOT, syscall.EDQUOT, "make room"},
		{syscall.EROFS, syscall.EROFS, "mount it writable"},
		{syscall.ESTALE, rotation.ErrUnavailable, "stale"},
	} {
		err := c.fail("write", "/srv/x", &os.PathError{Op: "open", Path: "/srv/x", Err: row.err})
		if !errors.Is(err, row.is) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%v became %q; want it to say %q", row.err, err, row.says)
		}
	}
}

// An edit through the link is seen, though no link changed.
func TestEditThroughTheLinkIsNamed(t *testing.T) {
	f := filledCluster(t)
	write(t, filepath.Join(f.issuer, payload.CACert), []byte("theirs\n"))
	o, err := f.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("uid %d", os.Geteuid()); len(o.Issuer.Writers) != 1 || o.Issuer.Writers[0].Name != want {
		t.Errorf("writers %v; want %s", o.Issuer.Writers, want)
	}
	if len(o.Bundle.Writers) > 0 {
		t.Errorf("writers %v of a bundle nobody touched", o.Bundle.Writers)
	}
}

func TestWriterWaitsForTheLock(t *testing.T) {
	f := filledCluster(t)
	other := open(t, f.root)
	unlock, err := other.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	w := rotation.BundleWrite{Fleet: "acme", Bundle: f.anchors.Bundle(t)}
	if _, err := f.WriteBundle(ctx, w); !errors.Is(err, rotation.ErrUnavailable) {
		t.Errorf("error %v; want ErrUnavailable", err)
	}
	unlock()
	if _, err := f.WriteBundle(t.Context(), w); !errors.Is(err, rotation.ErrChanged) {
		t.Errorf("error %v; want ErrChanged, since the bundle exists", err)
	}
}

func TestNoWebhooksRunInAFolder(t *testing.T) {
	c := filledCluster(t)
	spec := rotation.LinkerdWebhooks()[0]
	_, secretErr := c.WriteWebhook(t.Context(), rotation.WebhookWrite{Spec: spec})
	_, caBundleErr := c.WriteCABundle(t.Context(), rotation.CABundleWrite{Spec: spec, Object: spec.Objects[0]})
	restartErr := c.Restart(t.Context(), spec.Namespace, rotation.ObjectRef{Kind: "Deployment", Name: spec.Service})
	for call, err := range map[string]error{"Secret": secretErr, "caBundle": caBundleErr, "restart": restartErr} {
		if !errors.Is(err, rotation.ErrUnsupported) || !strings.Contains(err.Error(), spec.Name) {
			t.Errorf("%s: %v; want ErrUnsupported and the webhook's name", call, err)
		}
	}
	if found := c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{spec}); found == nil || len(found) > 0 {
		t.Errorf("a probe found %v", found)
	}
	if o, err := c.Observe(t.Context()); err != nil || o.Webhooks != nil {
		t.Errorf("webhooks %v, %v; want none", o.Webhooks, err)
	}
}
