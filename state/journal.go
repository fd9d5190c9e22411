package state

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"certd.internal/rotation"
)

// Options say how to open a journal.
type Options struct {
	// Fleet is whose journal it is. "" takes any that exists, and makes none.
	Fleet string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// ReadOnly changes nothing, on disk or in the journal's epoch.
	ReadOnly bool
	// LockTimeout is how long to wait for another process; zero does not wait.
	LockTimeout time.Duration
	// Reserve is how many bytes to keep free for the step in hand on a full
	// disk: 0 is 1 MiB, a negative number is none.
	Reserve int64
	// NoSync leaves it to the kernel when commits reach the disk. It is for
	// simulations of many years; after a power cut the journal may be damaged.
	NoSync bool
	// CrashPoint is called before and after each commit, for tests that crash
	// there: "create", "open", "begin", "finish", "cluster", "epoch", "notify"
	// or "prune", then ": before" or ": after".
	CrashPoint func(point string)
}

// Journal is the journal in a state directory. It is safe for concurrent use.
type Journal struct {
	path    string
	options Options
	layout  layout
	ours    []byte // the record of the layout's schema, as it stands in a file that has it
	created bool
	fleet   string
	epoch   atomic.Uint64

	db   *bbolt.DB
	file *os.File // the one bbolt works on
	lock *os.File // nil where nothing is written
	last lastState

	waiting    sync.Mutex
	waits      []*write   // for the commit that is under way to end
	committing sync.Mutex // held by who commits

	reserve sync.Mutex
	broken  atomic.Pointer[error] // why nothing works any more

	disk func() error // tests: what the disk says to a commit; nil otherwise
}

var _ rotation.Journal = (*Journal)(nil)

// Open opens the journal in dir. For writing, it makes both if they are not
// there, checks every page and record, and raises the epoch by one; one
// process at a time can do so. For reading, it needs a journal that exists
// (else the error wraps fs.ErrNotExist) and that no process writes; it leaves
// the chain to Entries and Verify, so that a broken one can be looked at.
//
// Errors wrap ErrLocked, ErrDamaged, ErrForeign, ErrNewer or ErrFull where
// that is what happened; the file is then as it was before.
func Open(dir string, o Options) (*Journal, error) {
	return open(dir, o, currentLayout())
}

func open(dir string, o Options, l layout) (*Journal, error) {
	j := &Journal{path: filepath.Join(dir, fileName), options: o, layout: l}
	opened := false
	defer func() {
		if !opened { // a panic at a crash point included
			j.Close()
		}
	}()
	if err := j.open(dir); err != nil {
		return nil, explain(j.path, "open", err)
	}
	opened = true
	return j, nil
}

func (j *Journal) open(dir string) (err error) {
	if j.ours, err = encode(j.layout.record()); err != nil {
		return err
	}
	if j.options.ReadOnly {
		file, err := os.Open(j.path)
		if err != nil {
			return err
		}
		if err := lockFile(file, syscall.LOCK_SH, j.options.LockTimeout); err != nil {
			file.Close()
			return holder(dir, err)
		}
		if err := j.openBolt(file); err != nil {
			return err
		}
		if err := j.attach(); err != nil {
			return err
		}
		return j.guard(func() error {
			return j.db.View(func(tx *bbolt.Tx) error {
				t, _, err := j.begin(tx)
				if err != nil {
					return err
				}
				return t.checkReading()
			})
		})
	}
	if err := j.openForWriting(dir); err != nil {
		return err
	}
	if err := j.attach(); err != nil {
		return err
	}
	return j.takeOver()
}

func (j *Journal) openForWriting(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if j.lock, err = lockDir(dir, j.options.LockTimeout); err != nil {
		return err
	}
	file, err := os.OpenFile(j.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if j.options.Fleet == "" {
			return err
		}
		if err := create(j.path, j.options.Fleet, j.layout, j.crashPoint); err != nil {
			return err
		}
		j.created = true
		file, err = os.OpenFile(j.path, os.O_RDWR, 0)
	}
	if err != nil {
		return err
	}
	// Readers hold it for moments.
	if err := lockFile(file, syscall.LOCK_EX, j.options.LockTimeout); err != nil {
		file.Close()
		return fmt.Errorf("a reader: %w", err)
	}
	if info, err := file.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		if err := file.Chmod(0o600); err != nil {
			file.Close()
			return err
		}
	}
	return j.openBolt(file)
}

// attach learns whose journal it is and refuses one that is not ours to read.
func (j *Journal) attach() error {
	return j.guard(func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			t, schema, err := j.begin(tx)
			if incompatible := j.layout.compatible(schema, j.options.ReadOnly); incompatible != nil {
				return incompatible
			}
			if err != nil {
				return err
			}
			if oldest := j.layout.reads; j.options.ReadOnly && schema.Version < j.layout.version && (oldest == 0 || schema.Version < oldest) {
				return fmt.Errorf("it has schema %d, and `certd run` has to bring it to %d first", schema.Version, j.layout.version)
			}
			if j.options.Fleet != "" && j.options.Fleet != t.state.Fleet {
				return fmt.Errorf("it belongs to fleet %q, and the configuration says %q: %w", t.state.Fleet, j.options.Fleet, ErrForeign)
			}
			j.fleet = t.state.Fleet
			j.epoch.Store(t.state.Epoch)
			return nil
		})
	})
}

// takeOver checks what is there, brings it to this schema, and raises the
// epoch, in one transaction.
func (j *Journal) takeOver() error {
	if err := j.keepOlder(); err != nil {
		return err
	}
	var epoch uint64
	j.crashPoint("open: before")
	err := j.guard(func() error {
		return j.db.Update(func(tx *bbolt.Tx) error {
			t, schema, err := j.begin(tx)
			if err != nil {
				return err
			}
			if schema.Version < j.layout.version {
				if err := j.layout.migrate(t, schema); err != nil {
					return err
				}
				t.strict = true
			}
			if err := t.checkAll(); err != nil {
				return err
			}
			if t.state.Seen == 0 { // until schema 8
				t.state.Seen = t.state.Epoch
			}
			if t.state.Epoch = max(t.state.Epoch, t.state.Seen); t.state.Epoch == math.MaxUint64 {
				return fmt.Errorf("the epoch is at its end: %w", ErrDamaged)
			}
			t.state.Epoch++
			epoch = t.state.Epoch
			return t.writeState()
		})
	})
	if err != nil {
		if isFull(err) {
			err = fmt.Errorf("%w (%v)", ErrFull, err)
		}
		return err
	}
	j.epoch.Store(epoch)
	j.crashPoint("open: after")
	// Without a reserve Begin refuses; the commands that only look still work.
	_ = j.fillReserve()
	return nil
}

// keepOlder copies a file that is about to be migrated to certd.db.schema-<n>:
// an older certd refuses what the newer one makes of it.
func (j *Journal) keepOlder() error {
	var version int
	err := j.guard(func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			_, schema, err := j.begin(tx)
			version = schema.Version
			return err
		})
	})
	if err != nil || version >= j.layout.version {
		return err
	}
	if err := copyFile(j.file, fmt.Sprintf("%s.schema-%d", j.path, version)); err != nil {
		return fmt.Errorf("keep a copy before migrating: %w", err)
	}
	return syncDir(filepath.Dir(j.path))
}

// checkAll proves that all records are what was written.
func (t *txn) checkAll() error {
	if report, err := t.verifyChain(); err != nil {
		return err
	} else if report.Problem != "" {
		return fmt.Errorf("%s: %w", report.Problem, ErrDamaged)
	}
	if err := t.checkSums(); err != nil {
		return err
	}
	return t.checkCommit()
}

// checkReading is what a reader checks: all but the chain, which is left to Entries
// and Verify.
func (t *txn) checkReading() error {
	err := t.checkSums()
	if err != nil {
		return err
	}
	if err = t.checkCommit(); err == nil {
		return nil
	}
	if report, broken := t.verifyChain(); broken == nil && report.Problem != "" {
		return nil // somebody wrote to it, and Verify says where
	}
	return err
}

// Created tells whether this Open made a new journal.
func (j *Journal) Created() bool { return j.created }

// Fleet is the fleet the journal belongs to.
func (j *Journal) Fleet() string { return j.fleet }

// Size is the size of the file in bytes, 0 if it cannot be told.
func (j *Journal) Size() int64 {
	info, err := os.Stat(j.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Close lets others use the journal. Closing twice is no error.
func (j *Journal) Close() error {
	closed := ErrClosed
	if !j.broken.CompareAndSwap(nil, &closed) && errors.Is(j.unusable(), ErrClosed) {
		return nil
	}
	var errs []error
	switch {
	case errors.Is(j.unusable(), ErrClosed) && j.db != nil:
		errs = append(errs, j.db.Close())
	case j.file != nil:
		// bbolt may hold its own locks since it panicked; closing the file
		// releases the one that matters to others.
		errs = append(errs, j.file.Close())
		j.broken.Store(&closed)
	}
	if j.lock != nil {
		errs = append(errs, j.lock.Close())
	}
	return errors.Join(errs...)
}

// Epoch implements [rotation.Journal].
func (j *Journal) Epoch() uint64 { return j.epoch.Load() }

// RaiseEpoch implements [rotation.Journal].
func (j *Journal) RaiseEpoch(seen uint64) (uint64, error) {
	var epoch uint64
	err := j.update("epoch", "raise the epoch", func(t *txn) error {
		epoch = t.state.Epoch
		if seen < epoch {
			return errUnchanged
		}
		if seen == math.MaxUint64 {
			return fmt.Errorf("no epoch is larger than %d", seen)
		}
		t.state.Epoch = seen + 1
		epoch = t.state.Epoch
		return nil
	})
	if err != nil {
		return j.Epoch(), err
	}
	j.epoch.Store(epoch)
	return epoch, nil
}

// SawEpoch implements [rotation.Journal].
func (j *Journal) SawEpoch(seen uint64) (before uint64, err error) {
	err = j.update("saw", "remember an epoch", func(t *txn) error {
		before = t.state.Seen
		if seen <= before {
			return errUnchanged
		}
		t.state.Seen = seen
		return nil
	})
	return before, err
}

// Now implements rotation.Journal.
func (j *Journal) Now() time.Time {
	if j.options.Now != nil {
		return utc(j.options.Now())
	}
	return utc(time.Now())
}
