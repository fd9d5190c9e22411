package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// The files of a state directory.
const (
	fileName    = "certd.db"
	lockName    = "certd.lock"    // locked by the one process that writes, and holds its pid
	reserveName = "certd.reserve" // room for the step in hand on a full disk

	filePageSize = 4096 // on every machine alike, so that a file can move
)

// lockFile takes an advisory lock (flock) on an open file, trying until
// timeout is over. A timeout of zero tries once.
func lockFile(file *os.File, how int, timeout time.Duration) error {
	const pause = 20 * time.Millisecond
	for began := time.Now(); ; time.Sleep(pause) {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		case time.Since(began) >= timeout:
			return ErrLocked
		}
	}
}

// lockDir makes this process the one that writes in dir.
func lockDir(dir string, timeout time.Duration) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(lock, syscall.LOCK_EX, timeout); err != nil {
		lock.Close()
		return nil, holder(dir, err)
	}
	// The pid is for people; a full disk must not keep certd from starting.
	if err := lock.Truncate(0); err == nil {
		_, _ = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return lock, nil
}

// holder adds to ErrLocked which process it is, where that is known.
func holder(dir string, err error) error {
	text, readErr := os.ReadFile(filepath.Join(dir, lockName))
	pid, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if readErr != nil || parseErr != nil || !errors.Is(err, ErrLocked) {
		return err
	}
	return fmt.Errorf("%w (pid %d)", err, pid)
}

// openBolt opens a file that is locked already, after it has been checked. It
// closes the file on error. The file stays reachable beside bbolt, which
// cannot close it any more once it has panicked.
func (j *Journal) openBolt(file *os.File) error {
	info, err := file.Stat()
	if err == nil {
		err = checkPages(file, info.Size())
	}
	if err != nil {
		file.Close()
		return err
	}
	err = j.guard(func() (err error) {
		j.db, err = bbolt.Open(file.Name(), 0o600, &bbolt.Options{
			ReadOnly: j.options.ReadOnly,
			// A hash map finds free pages in a long list at once.
			FreelistType: bbolt.FreelistMapType,
			NoSync:       j.options.NoSync,
			NoStatistics: true,
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return file, nil },
		})
		return err
	})
	if err != nil {
		file.Close()
		return err
	}
	j.file = file
	return nil
}

// create makes an empty journal beside its place, complete and on disk, and
// moves it there: no other process, and no later start, sees half of one.
func create(path, fleet string, l layout, crash func(string)) error {
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := createFile(aside, fleet, l); err != nil {
		os.Remove(aside)
		return err
	}
	crash("create: before")
	if err := os.Rename(aside, path); err != nil {
		os.Remove(aside)
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	crash("create: after")
	return nil
}

func createFile(path, fleet string, l layout) (err error) {
	j := &Journal{path: path}
	var file *os.File
	err = j.guard(func() (err error) {
		j.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			PageSize: filePageSize, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				file, err = os.OpenFile(name, flag, mode)
				return file, err
			},
		})
		if err != nil {
			return err
		}
		return j.db.Update(func(tx *bbolt.Tx) error { return layOut(tx, l, fleet) })
	})
	if err == nil {
		err = errors.Join(file.Sync(), j.db.Close())
	} else if file != nil {
		file.Close()
	}
	if isFull(err) {
		return fmt.Errorf("%w (%v)", ErrFull, err)
	}
	return err
}

// syncDir puts the names in a directory on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// SetAside renames a damaged journal to certd.db.damaged-<time>, so that the
// next Open makes a new one, and returns its new path. It wraps ErrLocked
// while another process holds the journal.
func SetAside(dir string, now time.Time) (string, error) {
	path := filepath.Join(dir, fileName)
	lock, err := lockDir(dir, 0)
	if err != nil {
		return "", explain(path, "set it aside", err)
	}
	defer lock.Close()
	name := path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	target := name
	for n := 2; ; n++ {
		if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
			break
		}
		target = fmt.Sprintf("%s-%d", name, n)
	}
	err = os.Rename(path, target)
	if err == nil {
		err = syncDir(dir)
	}
	return target, explain(path, "set it aside", err)
}

// copyFile writes what src holds into a new file, 0600 and on disk.
func copyFile(src *os.File, path string) error {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, io.NewSectionReader(src, 0, 1<<62))
	return errors.Join(err, dst.Sync(), dst.Close())
}

// OpenCopy opens a copy of a journal that another process holds, for reading.
// The copy is made in scratch ("" = dir) and is gone when this returns; only
// the open file remains. The other process goes on writing meanwhile: certd
// copies anew until page by page and record by record the copy holds together.
func OpenCopy(dir, scratch string, o Options) (*Journal, error) {
	const attempts, pause = 20, 25 * time.Millisecond
	if scratch == "" {
		scratch = dir
	}
	path := filepath.Join(dir, fileName)
	o.ReadOnly = true
	var err error
	for n := range attempts {
		if n > 0 {
			time.Sleep(pause)
		}
		var j *Journal
		if j, err = openCopy(path, scratch, o); err == nil {
			return j, nil
		} else if !errors.Is(err, ErrDamaged) {
			break
		}
	}
	return nil, explain(path, "read a copy, since another process holds it", err)
}

func openCopy(path, scratch string, o Options) (*Journal, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	temp, err := os.CreateTemp(scratch, fileName+".copy-*")
	if err != nil {
		return nil, err
	}
	temp.Close()
	defer os.Remove(temp.Name())
	if err := copyFile(src, temp.Name()); err != nil {
		if isFull(err) {
			err = fmt.Errorf("%w (%v)", ErrFull, err)
		}
		return nil, err
	}
	file, err := os.Open(temp.Name())
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path, options: o, layout: currentLayout()}
	if err := j.openBolt(file); err != nil {
		return nil, err
	}
	if err := j.attach(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	if err := j.view("check the copy", (*txn).checkAll); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}
