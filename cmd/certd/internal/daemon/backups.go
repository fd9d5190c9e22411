package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/state"
)

const (
	// backupLook is how often it is looked whether a backup is due.
	backupLook = time.Minute
	// backupAgain lies between tries after one that failed.
	backupAgain = 10 * time.Minute
	// backupTime is how the names of backups tell when they were made, in UTC.
	backupTime = "20060102T150405Z"
)

// backups saves the journal by the schedule that the configuration has.
type backups struct {
	policy  func() *config.Backup // nil: no backups
	fleet   string
	journal interface{ Snapshot() ([]byte, error) }
	told    interface {
		Problem(id string, err error)
		Solved(ids ...string)
	}
	log *slog.Logger

	failedAt time.Time // zero: the last one did not fail
}

// run saves until ctx ends. A firing that was missed is made good at once. What
// was saved last shows in the folder, so that nothing has to be remembered.
func (b *backups) run(ctx context.Context) {
	tick := time.NewTicker(backupLook)
	defer tick.Stop()
	for {
		b.look(time.Now().UTC())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look saves if that is due.
func (b *backups) look(now time.Time) {
	p := b.policy()
	if p == nil {
		b.failedAt = time.Time{}
		b.told.Solved("BackupFailed")
		return
	}
	if !b.failedAt.IsZero() && now.Sub(b.failedAt).Abs() < backupAgain {
		return
	}
	there, err := b.there(p.Dir)
	if last := len(there) - 1; err == nil && last >= 0 && p.Schedule.Next(there[last]).After(now) && !there[last].After(now) {
		return
	}
	file := filepath.Join(p.Dir, b.name(now))
	var c state.Contents
	if err == nil {
		c, err = b.save(p.Dir, file)
	}
	if err == nil {
		err = b.drop(p, append(there, now.Truncate(time.Second)))
	}
	if err != nil {
		b.failedAt = now
		err = fmt.Errorf("the journal was to be saved in %s (backup.dir), and was not: %w", p.Dir, err)
		b.log.Error("backup failed", "dir", p.Dir, "err", err)
		b.told.Problem("BackupFailed", err)
		return
	}
	b.failedAt = time.Time{}
	b.told.Solved("BackupFailed")
	b.log.Info("journal saved", "file", file, "entries", c.Entries, "head", c.Head)
}

func (b *backups) save(dir, file string) (c state.Contents, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, err
	}
	data, err := b.journal.Snapshot()
	if err != nil {
		return c, err
	}
	c, err = state.SaveCopy(file, b.fleet, data, false)
	if errors.Is(err, fs.ErrExist) { // by a daemon that has just ended
		return state.Inspect(file, b.fleet)
	}
	return c, err
}

// name is certd-FLEET-TIME.db.
func (b *backups) name(at time.Time) string {
	return "certd-" + b.fleet + "-" + at.UTC().Format(backupTime) + ".db"
}

// there is when the fleet's backups in a folder were made, the oldest first.
func (b *backups) there(dir string) (times []time.Time, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		stamp := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "certd-"+b.fleet+"-"), ".db")
		if at, err := time.Parse(backupTime, stamp); err == nil && e.Name() == b.name(at) && e.Type().IsRegular() {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, err
}

// drop deletes the oldest backups beyond those that are kept, and nothing else
// that is in the folder.
func (b *backups) drop(p *config.Backup, there []time.Time) error {
	there = slices.CompactFunc(there, time.Time.Equal)
	var errs []error
	for _, at := range there[:max(0, len(there)-p.Keep)] {
		errs = append(errs, os.Remove(filepath.Join(p.Dir, b.name(at))))
	}
	return errors.Join(errs...)
}
