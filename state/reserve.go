package state

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The reserve is a file of no use that takes up space while there is some.
// When the disk is full, Finish deletes it and so has room to record what
// came of the step in hand; Begin refuses new steps until it is there again.

const defaultReserve = 1 << 20

func (j *Journal) reserveSize() int64 {
	if j.options.Reserve == 0 {
		return defaultReserve
	}
	return max(j.options.Reserve, 0)
}

func (j *Journal) reservePath() string { return filepath.Join(filepath.Dir(j.path), reserveName) }

// fillReserve makes the reserve if it is not there. Its error wraps ErrFull
// where space is what is missing.
func (j *Journal) fillReserve() error {
	size := j.reserveSize()
	if size == 0 {
		return nil
	}
	j.reserve.Lock()
	defer j.reserve.Unlock()
	if info, err := os.Stat(j.reservePath()); err == nil && info.Size() >= size {
		return nil
	}
	err := writeReserve(j.reservePath(), size)
	if err == nil {
		return nil
	}
	os.Remove(j.reservePath())
	if isFull(err) {
		return fmt.Errorf("no room for the reserve of %d bytes: %w (%v)", size, ErrFull, err)
	}
	return fmt.Errorf("make the reserve: %w", err)
}

// writeReserve fills a file with bytes that no file system can compress away.
func writeReserve(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, file.Sync(), file.Close())
}

// spendReserve deletes the reserve, if there is one.
func (j *Journal) spendReserve() {
	j.reserve.Lock()
	defer j.reserve.Unlock()
	if os.Remove(j.reservePath()) == nil {
		// Space comes free when the name is gone for good. If it does not, it shows.
		_ = syncDir(filepath.Dir(j.reservePath()))
	}
}
