package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"certd.internal/rotation"
)

// Contents says what a journal, or a copy of one, holds. All of it was read and
// verified.
type Contents struct {
	Fleet       string
	Schema      int
	Epoch       uint64
	Entries     uint64
	First, Last uint64    // seqs; both 0 if there are no entries
	Head        string    // hash of the last entry, as hex
	At          time.Time // when that was recorded; zero if there is none
	Anchors     []rotation.Anchor
	Change      *rotation.Change // nil: none is under way
	Clusters    int
	Pending     int // intents that nothing closed
	Bytes       int64
}

// Snapshot returns the file as it is between two writes. A write that comes
// meanwhile waits until the file is read into memory.
func (j *Journal) Snapshot() ([]byte, error) {
	const doing = "copy it"
	if err := j.unusable(); err != nil {
		return nil, explain(j.path, doing, err)
	}
	var data []byte
	err := j.guard(func() error {
		tx, err := j.db.Begin(!j.options.ReadOnly)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		data = make([]byte, tx.Size())
		if n, err := j.file.ReadAt(data, 0); err != nil {
			return fmt.Errorf("%d of its %d bytes could be read (%v): %w", n, len(data), err, ErrDamaged)
		}
		return nil
	})
	return data, explain(j.path, doing, err)
}

// SaveCopy puts a snapshot of fleet's journal into a file of mode 0600: written
// aside, on disk, and verified before the file has its name. It replaces a file
// that is there only with replace, and otherwise returns an error that wraps
// fs.ErrExist.
func SaveCopy(path, fleet string, snapshot []byte, replace bool) (c Contents, err error) {
	defer func() {
		if isFull(err) {
			err = fmt.Errorf("%w (%v)", ErrFull, err)
		}
		if err != nil {
			err = fmt.Errorf("save a copy of the journal in %s: %w", path, err)
		}
	}()
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, err
	case !info.Mode().IsRegular():
		return c, fmt.Errorf("it is there, and is no file: %w", fs.ErrExist)
	case !replace:
		return c, fmt.Errorf("there is a file already: %w", fs.ErrExist)
	}
	aside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*") // 0600
	if err != nil {
		return c, err
	}
	defer os.Remove(aside.Name())
	_, err = aside.Write(snapshot)
	if err = errors.Join(err, aside.Sync(), aside.Close()); err != nil {
		return c, err
	}
	if c, err = Inspect(aside.Name(), fleet); err != nil {
		return c, fmt.Errorf("what was written does not hold: %w", err)
	}
	if !replace {
		// A link fails if somebody else was quicker, where the file system has links.
		if err := os.Link(aside.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
			return c, cmp.Or(err, syncDir(filepath.Dir(path)))
		}
	}
	if err := os.Rename(aside.Name(), path); err != nil {
		return c, err
	}
	return c, syncDir(filepath.Dir(path))
}

// Inspect reads a copy of a journal wholly: its pages, the seal of each record,
// the hash chain, and what the records say. "" takes any fleet's. It refuses
// one that has what looks like a private key anywhere, in space that is free,
// too. No other process may write to the file. The errors are those of Open.
func Inspect(path, fleet string) (c Contents, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	if !info.Mode().IsRegular() {
		return c, fmt.Errorf("%s is no file: %w", path, ErrForeign)
	}
	file, err := os.Open(path)
	if err != nil {
		return c, err
	}
	j := &Journal{path: path, options: Options{Fleet: fleet, ReadOnly: true}, layout: currentLayout()}
	if err := j.openBolt(file); err != nil {
		return c, err
	}
	defer j.Close()
	if err := j.attach(); err != nil {
		return c, err
	}
	err = j.guard(func() error {
		data := make([]byte, info.Size())
		if _, err := file.ReadAt(data, 0); err != nil {
			return fmt.Errorf("read it (%v): %w", err, ErrDamaged)
		}
		if looksLikeKey(data) {
			return fmt.Errorf("something in it: %w", ErrKeyMaterial)
		}
		return nil
	})
	if err == nil {
		c, err = j.contents()
	}
	c.Bytes = info.Size()
	return c, err
}

// contents reads every record there is.
func (j *Journal) contents() (c Contents, err error) {
	tx, err := j.db.Begin(false)
	if err != nil {
		return c, err
	}
	defer tx.Rollback()
	err = j.guard(func() error {
		t, schema, err := j.begin(tx)
		if err != nil {
			return err
		}
		report, err := t.verifyChain()
		if err == nil && report.Problem != "" {
			err = fmt.Errorf("%s: %w", report.Problem, ErrDamaged)
		}
		if err = cmp.Or(err, t.checkSums()); err != nil {
			return err
		}
		c = Contents{Fleet: t.state.Fleet, Schema: schema.Version, Epoch: t.state.Epoch, Entries: report.Entries, First: report.First, Last: report.Last, Head: report.Head}
		return t.bucket(bucketEntries).ForEach(func(key, value []byte) error {
			e, err := t.entry(key, value)
			c.At = e.At
			return err
		})
	})
	if err != nil {
		return c, err
	}
	var errs []error
	read := func(err error) { errs = append(errs, err) }
	c.Anchors, err = j.Anchors()
	read(err)
	c.Change, err = j.Change()
	read(err)
	clusters, err := j.Clusters()
	c.Clusters = len(clusters)
	read(err)
	pending, err := j.Pending()
	c.Pending = len(pending)
	read(err)
	_, err = j.AllCertificates()
	read(err)
	_, err = j.Notifications()
	read(err)
	read(j.view("read the webhook CAs", func(t *txn) error { _, err := t.webhookCAs(nil); return err }))
	return c, errors.Join(errs...)
}

// Restoring says what takes the place of what.
type Restoring struct {
	From Contents
	// Present is the journal that is there now; nil: there is none, or, with
	// Unreadable, it cannot be read.
	Present    *Contents
	Unreadable error
	// Epoch is the restored journal's, and Aside where the present file is kept;
	// "" if there was none. Neither is known in a dry run.
	Epoch uint64
	Aside string
}

// Restore puts a copy of a journal, which it verifies wholly first, into the
// place of the one in dir. The present file is kept beside it, the epoch rises
// above both and above the clock's second, so that what an earlier daemon still
// writes does not land, and the history says by whom and why. Whenever this
// ends, the journal in dir is either one or the other. It wraps ErrLocked while
// another process holds the journal, and changes nothing in a dry run.
func Restore(dir, from string, o Options, actor, reason string, dryRun bool) (r Restoring, err error) {
	path := filepath.Join(dir, fileName)
	if r.From, err = Inspect(from, o.Fleet); err != nil {
		return r, fmt.Errorf("read the copy %s: %w", from, err)
	}
	if here, err := sameFile(from, path); err != nil || here {
		return r, cmp.Or(err, fmt.Errorf("%s is the journal in use, and no copy of it: %w", from, ErrForeign))
	}
	if !dryRun {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return r, err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, lockName)); err == nil || !dryRun {
		lock, err := lockDir(dir, o.LockTimeout)
		if err != nil {
			return r, explain(path, "put another in its place", err)
		}
		defer lock.Close()
	}
	switch present, err := Inspect(path, ""); {
	case err == nil:
		r.Present = &present
	case !errors.Is(err, fs.ErrNotExist):
		r.Unreadable = err
	}
	if dryRun {
		return r, nil
	}
	return r, r.replace(dir, from, o, actor, reason)
}

// Free says whether no process has the journal in dir for writing: an error wrapping
// ErrLocked says which one has. A directory that is not there is free.
func Free(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
		return nil
	}
	lock, err := lockDir(dir, 0)
	if err != nil {
		return explain(filepath.Join(dir, fileName), "take it", err)
	}
	return lock.Close()
}

// sameFile says whether two names mean one file. What does not exist is no file.
func sameFile(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(x, y), err
}

// replace makes the restored journal aside and moves it into its place.
func (r *Restoring) replace(dir, from string, o Options, actor, reason string) error {
	path := filepath.Join(dir, fileName)
	aside, err := os.MkdirTemp(dir, "certd.restore-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	err = copyFile(src, filepath.Join(aside, fileName))
	src.Close()
	if err != nil {
		if isFull(err) {
			err = fmt.Errorf("%w (%v)", ErrFull, err)
		}
		return fmt.Errorf("copy %s: %w", from, err)
	}
	made := o
	made.Reserve = -1
	j, err := Open(aside, made)
	if err != nil {
		return err
	}
	err = r.mark(j, actor, reason)
	if err = errors.Join(err, j.Close()); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		if r.Aside, err = keepAs(path, "replaced", j.Now()); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(aside, fileName), path); err != nil {
		return err
	}
	return errors.Join(syncDir(dir), handOver(dir))
}

// mark raises the epoch and enters what happened. A change of the trust anchor that is
// under way goes through its stages anew.
func (r *Restoring) mark(j *Journal, actor, reason string) error {
	seen := uint64(max(j.Now().Unix(), 0))
	what := fmt.Sprintf("restored from a copy with %d entries, head %s", r.From.Entries, r.From.Head)
	switch {
	case r.Present != nil:
		seen = max(seen, r.Present.Epoch)
		what += fmt.Sprintf("; it took the place of a journal with %d entries, head %s", r.Present.Entries, r.Present.Head)
	case r.Unreadable != nil:
		what += "; it took the place of a journal that could not be read"
	}
	var err error
	if r.Epoch, err = j.RaiseEpoch(seen); err != nil {
		return err
	}
	// Whatever clusters bear may be of after the copy, also with an epoch that it has.
	if err := j.update("restore", "forget what was seen", func(t *txn) error { t.state.Seen = 1; return nil }); err != nil {
		return err
	}
	out := rotation.Outcome{Result: rotation.OK}
	// What was proved by then may have come undone since: where the change was turned around,
	// issuers may be under the old anchor alone.
	if out.Change, err = j.Change(); err != nil {
		return err
	}
	if c := out.Change; c != nil && !c.Compromised {
		*c = c.Again(j.Now())
	}
	id, err := j.Begin(rotation.Intent{Step: rotation.StepRestore, Actor: actor, Reason: strings.TrimSuffix(what+": "+reason, ": ")})
	if err != nil {
		return err
	}
	return j.Finish(id, out)
}

// keepAs gives a file a second name, <path>.<word>-<time>, and returns that.
// Where the file system has no links, the file loses its first.
func keepAs(path, word string, now time.Time) (string, error) {
	name := path + "." + word + "-" + now.UTC().Format("20060102T150405Z")
	for n, target := 2, name; ; n++ {
		err := os.Link(path, target)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			err = os.Rename(path, target)
		}
		if !errors.Is(err, fs.ErrExist) {
			return target, err
		}
		target = fmt.Sprintf("%s-%d", name, n)
	}
}

// handOver gives what root has made in a directory to the directory's owner:
// the daemon, which must be able to write it.
func handOver(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	var errs []error
	for _, name := range []string{fileName, lockName} {
		errs = append(errs, os.Chown(filepath.Join(dir, name), int(owner.Uid), int(owner.Gid)))
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, fs.ErrNotExist) })
	return errors.Join(errs...)
}
