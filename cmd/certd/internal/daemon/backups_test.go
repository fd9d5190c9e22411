package daemon

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
	"certd.internal/state"
)

// standing are the findings that stand.
type standing map[string]string

func (s standing) Problem(id string, err error) { s[id] = err.Error() }
func (s standing) Solved(ids ...string) {
	for _, id := range ids {
		delete(s, id)
	}
}

// A copy a day, of which three are kept; nothing else in the folder is touched.
// A firing that was missed is made good at the start, by one copy; one that
// fails is a finding, tried again every ten minutes until it works.
func TestBackupsBySchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, err := state.Open(t.TempDir(), state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if err := rotation.Started(j, rotation.StepStart, "started"); err != nil {
			t.Fatal(err)
		}
		daily, err := rotation.ParseSchedule("0 4 * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "backups")
		p, findings := &config.Backup{Dir: dir, Schedule: daily, Keep: 3}, standing{}
		b := &backups{policy: func() *config.Backup { return p }, fleet: "acme", journal: j, told: findings, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		files := func() (names []string) {
			all, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if strings.HasSuffix(e.Name(), ".db") && strings.HasPrefix(e.Name(), "certd-acme-2") {
					names = append(names, e.Name())
				}
			}
			return names
		}
		looks := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(backupLook) {
				b.look(time.Now().UTC())
			}
		}
		looks(time.Hour)
		if got := files(); len(got) != 1 {
			t.Fatalf("after the start: %v", got)
		}
		if c, err := state.Inspect(filepath.Join(dir, files()[0]), "acme"); err != nil || c.Entries != 1 {
			t.Errorf("the copy: %+v, %v", c, err)
		}
		strangers := []string{"certd-acme-by-hand.db", "certd-acme-eu-20250101T000000Z.db", "notes.txt"}
		for _, name := range strangers {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		looks(24 * time.Hour)
		if got := files(); len(got) != 2 || !strings.Contains(got[1], "T040") {
			t.Errorf("after a day: %v", got)
		}
		time.Sleep(100 * time.Hour) // certd does not run
		looks(time.Hour)
		if got := files(); len(got) != 3 {
			t.Errorf("four firings were missed: %v", got)
		}
		looks(10 * 24 * time.Hour)
		if got := files(); len(got) != 3 {
			t.Errorf("%d were to be kept: %v", p.Keep, got)
		}
		for _, name := range strangers {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("somebody else's file: %v", err)
			}
		}
		if len(findings) > 0 {
			t.Errorf("%v", findings)
		}
		// The folder turns into a file: not even root can write there.
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		looks(25 * time.Hour)
		if why := findings["BackupFailed"]; !strings.Contains(why, dir) || !strings.Contains(why, "not a directory") {
			t.Errorf("%v", findings)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		looks(backupAgain + backupLook)
		if got := files(); len(got) != 1 || len(findings) > 0 {
			t.Errorf("the disk is back: %v, %v", got, findings)
		}
		p = nil
		looks(48 * time.Hour)
		if got := files(); len(got) != 1 {
			t.Errorf("without backup in the configuration: %v", got)
		}
	})
}
