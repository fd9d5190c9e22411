package state

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// What a caller decides by.
var (
	// ErrLocked: another process uses the journal.
	ErrLocked = errors.New("another process holds the journal")
	// ErrDamaged: what is in the file cannot be what certd wrote. Nothing is
	// read from it, and nothing written. SetAside makes room for a new one.
	ErrDamaged = errors.New("the journal is damaged")
	// ErrForeign: the file belongs to another fleet or another program.
	ErrForeign = errors.New("not this fleet's journal")
	// ErrNewer: a later certd wrote the file.
	ErrNewer = errors.New("a newer certd wrote the journal")
	// ErrFull: there is no room on the disk. Nothing was written.
	ErrFull = errors.New("no space left for the journal")
	// ErrReadOnly: the journal was opened for reading.
	ErrReadOnly = errors.New("the journal is open for reading only")
	// ErrClosed: the journal was closed, or a disk error made it unusable.
	ErrClosed = errors.New("the journal is closed")
	// ErrNotPending: no open intent has this id.
	ErrNotPending = errors.New("no such open intent")
	// ErrKeyMaterial: a text that was to be recorded looks like a private key.
	ErrKeyMaterial = errors.New("it looks like a private key, which the journal never holds")
)

// advice says what a person can do about err.
func advice(err error) string {
	switch {
	case errors.Is(err, ErrDamaged):
		return "keep the file for whoever looks into it, and start certd with it moved away: " +
			"it learns its position from the clusters and the key backend"
	case errors.Is(err, ErrForeign):
		return "point stateDir at this fleet's own directory"
	case errors.Is(err, ErrNewer):
		return "run the certd that wrote it, or a later one"
	case errors.Is(err, ErrFull):
		return "free some space there; certd goes on by itself"
	case errors.Is(err, ErrLocked):
		return "stop the other certd, or point this one at its own state directory"
	}
	return ""
}

// explain adds to err which journal it is about, what was being done, and
// what to do next.
func explain(path, doing string, err error) error {
	if err == nil {
		return nil
	}
	if todo := advice(err); todo != "" {
		return fmt.Errorf("journal %s: %s: %w; %s", path, doing, err, todo)
	}
	return fmt.Errorf("journal %s: %s: %w", path, doing, err)
}

// damaged says which record is wrong and how.
func damaged(bucket string, key []byte, what string) error {
	return fmt.Errorf("bucket %s, key %s: %s: %w", bucket, keyText(bucket, key), what, ErrDamaged)
}

// isFull tells whether err means that the disk, the quota or the limit on the
// size of files is used up. bbolt flattens some errors to text.
func isFull(err error) bool {
	if err == nil {
		return false
	}
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			return true
		}
	}
	return errors.Is(err, ErrFull)
}
