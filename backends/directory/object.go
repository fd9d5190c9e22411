package directory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

const (
	dataLink = "..data"
	nextLink = "..data_tmp"
	markFile = ".certd.json"
	lockFile = ".certd.lock"
)

// metadata is the form of .certd.json: what would be metadata of a Kubernetes
// object. It lies beside the data so that one swap changes both.
type metadata struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	// SHA256 is over the data certd wrote: another digest tells of another
	// writer.
	SHA256 string `json:"sha256"`
}

// contents is one object as a reader finds it.
type contents struct {
	exists   bool
	data     map[string][]byte
	marks    rotation.Marks
	revision string
	writers  []rotation.Writer
}

func (o contents) state() rotation.ObjectState {
	return rotation.ObjectState{Exists: o.exists, Revision: o.revision, Marks: o.marks, Writers: o.writers}
}

func (o contents) wipe() { payload.Wipe(o.data) }

// read reads the keys certd owns through the paths that readers use. A file
// that cannot be a data key (a folder, a pipe, larger than any object) counts
// as absent.
func (c *Cluster) read(name string) (contents, error) {
	dir := filepath.Join(c.ns, name)
	o := contents{data: map[string][]byte{}}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, c.fail("read", dir, err)
	}
	for _, e := range entries {
		o.exists = o.exists || e.Name() == dataLink || !strings.HasPrefix(e.Name(), "..")
	}
	if !o.exists {
		return o, nil
	}
	var newest os.FileInfo
	for _, key := range payload.Keys(name) {
		text, info, err := readFile(filepath.Join(dir, key))
		if err != nil {
			return o, c.fail("read", filepath.Join(dir, key), err)
		}
		if info == nil {
			continue
		}
		o.data[key] = text
		if newest == nil || info.ModTime().After(newest.ModTime()) {
			newest = info
		}
	}
	text, _, err := readFile(filepath.Join(dir, dataLink, markFile))
	if err != nil {
		return o, c.fail("read", filepath.Join(dir, dataLink, markFile), err)
	}
	var m metadata
	if json.Unmarshal(text, &m) == nil { // unreadable marks are marks that are gone
		o.marks = payload.ReadMarks(m.Labels, m.Annotations)
	}
	o.revision = revisionOf(name, o.data, o.marks)
	if digest(name, o.data) != m.SHA256 && newest != nil {
		o.writers = []rotation.Writer{{Name: owner(newest), At: newest.ModTime()}}
	}
	return o, nil
}

// readFile reads a regular file of at most an object's size; otherwise info
// is nil.
func readFile(path string) ([]byte, os.FileInfo, error) {
	// Without O_NONBLOCK opening a pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if nothingThere(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > payload.MaxSize {
		return nil, nil, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, payload.MaxSize))
	if err != nil {
		return nil, nil, err
	}
	return text, info, nil
}

// nothingThere is about paths that lead nowhere or in a circle, and sockets.
func nothingThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENXIO)
}

func owner(info os.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("uid %d", s.Uid)
	}
	return "another program"
}

// digest is over names, presence and bytes of the keys certd owns.
func digest(name string, data map[string][]byte) string {
	h := sha256.New()
	for _, key := range payload.Keys(name) {
		text, ok := data[key]
		fmt.Fprintf(h, "%s %t %d\n", key, ok, len(text))
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// revisionOf depends on contents alone: whoever writes the same again leaves
// the same revision.
func revisionOf(name string, data map[string][]byte, m rotation.Marks) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %q %q %d %t %t", digest(name, data), m.Fleet, m.Serial, m.Epoch, m.Keep, m.Label))
	return hex.EncodeToString(h[:16])
}

// swap puts data and marks in place in one step and clears away what earlier
// attempts left. Keys of others that lie in the data folder move along.
func (c *Cluster) swap(name string, data map[string][]byte, marks rotation.Marks) (err error) {
	dir := filepath.Join(c.ns, name)
	dirMode, fileMode := fs.FileMode(0o755), fs.FileMode(0o644)
	if name == rotation.IssuerObject {
		dirMode, fileMode = 0o700, 0o600
	}
	if err := os.Mkdir(dir, dirMode); err == nil {
		err = errors.Join(os.Chmod(dir, dirMode), syncDir(c.ns)) // the umask may have taken bits away
		if err != nil {
			return c.fail("prepare", dir, err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return c.fail("create", dir, err)
	}
	next, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05.*"))
	if err != nil {
		return c.fail("create a folder in", dir, err)
	}
	swapped := false
	defer func() {
		if !swapped {
			os.RemoveAll(next)
		}
	}()
	if err := fill(filepath.Join(dir, dataLink), next, name, data, marks, fileMode); err != nil {
		return c.fail("fill", next, err)
	}
	if err := errors.Join(os.Chmod(next, dirMode), syncDir(next)); err != nil {
		return c.fail("sync", next, err)
	}
	if _, err := os.Stat(filepath.Join(dir, dataLink)); err == nil {
		// A file that took a link's place would not follow the swap, and its
		// readers would find one key of the old pair beside one of the new.
		if err := link(dir, name); err != nil {
			return c.fail("link keys in", dir, err)
		}
	}
	tmp := filepath.Join(dir, nextLink)
	if err := errors.Join(os.RemoveAll(tmp), os.Symlink(filepath.Base(next), tmp)); err != nil {
		return c.fail("link", tmp, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, dataLink)); err == nil && info.IsDir() {
		if err := os.RemoveAll(filepath.Join(dir, dataLink)); err != nil { // rename replaces no folder
			return c.fail("replace", filepath.Join(dir, dataLink), err)
		}
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return c.fail("swap", filepath.Join(dir, dataLink), err)
	}
	swapped = true
	if err := errors.Join(link(dir, name), syncDir(dir)); err != nil {
		return fmt.Errorf("%w: %w", c.fail("link keys in", dir, err), rotation.ErrOutcomeUnknown)
	}
	c.clear(dir, filepath.Base(next))
	return nil
}

// fill writes the new data folder and syncs each file in it.
func fill(old, next, name string, data map[string][]byte, marks rotation.Marks, mode fs.FileMode) error {
	text, err := json.Marshal(metadata{Labels: payload.Labels(marks), Annotations: payload.Annotations(marks), SHA256: digest(name, data)})
	if err != nil {
		return err
	}
	files := map[string][]byte{markFile: append(text, '\n')}
	for key, text := range data {
		files[key] = text
	}
	entries, err := os.ReadDir(old)
	if err != nil && !nothingThere(err) {
		return err
	}
	for _, e := range entries {
		if _, ours := files[e.Name()]; ours || !e.Type().IsRegular() {
			continue
		}
		text, info, err := readFile(filepath.Join(old, e.Name()))
		if err != nil {
			return err
		}
		if info != nil {
			files[e.Name()] = text
		}
	}
	for _, key := range slices.Sorted(maps.Keys(files)) { // the mark first: whose the folder is
		text := files[key]
		if err := writeFile(filepath.Join(next, key), text, mode); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(text))
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// link makes each key a link into ..data, replacing whatever stands there.
func link(dir, name string) error {
	for _, key := range payload.Keys(name) {
		path, target := filepath.Join(dir, key), filepath.Join(dataLink, key)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
		tmp := filepath.Join(dir, ".."+key+"_tmp")
		if err := errors.Join(os.RemoveAll(tmp), os.Symlink(target, tmp), os.Rename(tmp, path)); err != nil {
			return err
		}
	}
	return nil
}

// clear removes the folder that was in use before and what crashes left. What
// cannot be removed now is removed at the next write.
func (c *Cluster) clear(dir, keep string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") && e.Name() != dataLink && e.Name() != keep {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// tidy removes what an earlier certd left that died during a write: the folder that
// was in use before, with the key of an issuer that has been replaced, or a new one that
// never came into use. Of others' folders it removes none.
func (c *Cluster) tidy(ctx context.Context) {
	const patience = time.Second
	for _, name := range []string{rotation.BundleObject, rotation.IssuerObject} {
		dir := filepath.Join(c.ns, name)
		if len(c.left(dir)) == 0 {
			continue
		}
		waiting, cancel := context.WithTimeout(ctx, patience)
		unlock, err := c.lock(waiting)
		cancel()
		if err != nil {
			return // whoever writes there clears it away
		}
		for _, path := range c.left(dir) {
			os.RemoveAll(path)
		}
		unlock()
	}
}

// left are the data folders in dir that are certd's, or empty, and not in use, and links
// that were to be renamed.
func (c *Cluster) left(dir string) (paths []string) {
	used, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(e.Name(), "..") || e.Name() == dataLink || e.Name() == filepath.Base(used) {
			continue
		}
		if e.Type() == fs.ModeSymlink && strings.HasSuffix(e.Name(), "_tmp") {
			paths = append(paths, path)
			continue
		}
		files, err := os.ReadDir(path)
		if err == nil && (len(files) == 0 || slices.ContainsFunc(files, func(f fs.DirEntry) bool { return f.Name() == markFile })) {
			paths = append(paths, path)
		}
	}
	return paths
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock keeps other certds from writing here at the same time. The lock goes
// with its holder: a crash leaves none behind.
func (c *Cluster) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(c.ns, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, c.fail("open", path, err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if ctx.Err() == nil {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			if err == nil {
				return func() { f.Close() }, nil
			}
			if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
				f.Close()
				return nil, c.fail("lock", path, err)
			}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w; another certd may be writing there: %w", path, ctx.Err(), rotation.ErrUnavailable)
		case <-tick.C:
		}
	}
}
