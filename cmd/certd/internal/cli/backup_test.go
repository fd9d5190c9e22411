package cli

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
)

// shelf stands for the daemon package's files: it has backups, and a journal
// that a daemon may hold.
type shelf struct {
	there  map[string]bool
	held   bool
	broken error
	asked  []api.RestoreRequest
}

func (s *shelf) SaveBackup(_, file string, snapshot api.Snapshot, replace bool) (api.BackupReply, error) {
	if s.there[file] && !replace {
		return api.BackupReply{}, fmt.Errorf("save a copy of the journal in %s: %w", file, fs.ErrExist)
	}
	s.there[file] = true
	return api.BackupReply{APIVersion: apiVersion, Kind: "JournalBackup", File: "/backup/" + file, JournalCopy: aCopy(40)}, nil
}

func (s *shelf) RestoreBackup(_ string, r api.RestoreRequest) (api.RestoreReply, error) {
	s.asked = append(s.asked, r)
	present := aCopy(52)
	reply := api.RestoreReply{File: "/backup/" + r.File, StateDir: "/var/lib/certd", DryRun: r.DryRun, Copy: aCopy(40), Present: &present}
	switch {
	case s.broken != nil:
		return reply, s.broken
	case s.held && r.DryRun:
		reply.Daemon, reply.Present = "another process holds the journal (pid 812)", nil
	case s.held:
		return reply, fmt.Errorf("another process holds the journal: %w", api.ErrNotNow)
	case !r.DryRun:
		reply.Epoch, reply.Aside = 1795884527, "/var/lib/certd/certd.db.replaced-20261128T164846Z"
	}
	return reply, nil
}

func (s *shelf) Recover(_ context.Context, _ string, r api.RecoverRequest) (api.RecoverReply, error) {
	reply := api.RecoverReply{StateDir: "/var/lib/certd", DryRun: r.DryRun, Mirror: &api.RecoveredMirror{Records: 2, Holder: "old, pid 7"}, Journal: aCopy(3), Unreadable: "page 3 is damaged",
		Clusters: []api.RecoveredCluster{{Name: "prod-eu-1"}, {Name: "prod-us-1", Problem: "no answer"}}, WebhookCAs: 1}
	switch {
	case s.broken != nil:
		return reply, s.broken
	case s.held && r.DryRun:
		reply.Daemon = "another process holds the journal (pid 812)"
	case s.held:
		return reply, fmt.Errorf("another process holds the journal (pid 812): %w", api.ErrNotNow)
	case !r.DryRun:
		reply.Epoch, reply.Aside = 1795884527, "/var/lib/certd/certd.db.replaced-20261128T164846Z"
	}
	return reply, nil
}

func aCopy(entries uint64) api.JournalCopy {
	return api.JournalCopy{Fleet: "acme-mesh", Schema: 5, Epoch: 1795884501, Entries: entries, First: 1, Last: entries, Head: digest, At: now.Add(-26 * time.Hour), Clusters: 3, Bytes: 57344,
		Change: "g1 to g2, stage bridge", Anchors: []api.CopiedAnchor{{ID: "g2", State: api.AnchorTrusted}, {ID: "g1", State: api.AnchorActive}}}
}

func TestBackupAndRestore(t *testing.T) {
	s := &shelf{there: map[string]bool{}}
	for _, row := range []struct {
		sentence string
		before   func(*App)
		args     []string
		code     int
		out, err string
	}{
		{"a copy is made, and how to go back to it is told", nil, []string{"backup", "a.db"}, 0, "✓ the journal is saved and verified\n  file     /backup/a.db\n  entries  40, the last is number 40 of", "stop the daemon, then certd restore /backup/a.db"},
		{"a file that is there is not replaced unless that is said", nil, []string{"backup", "a.db"}, 64, "", "--force"},
		{"with --force it is", nil, []string{"backup", "a.db", "--force"}, 0, "anchors  g2 trusted, g1 active\n  change   g1 to g2, stage bridge", ""},
		{"a script gets the document", nil, []string{"backup", "b.db", "-o", "json"}, 0, `"entries": 40`, ""},
		{"no file is named", nil, []string{"backup"}, 64, "", "one file"},
		{"two files are named", nil, []string{"restore", "a.db", "b.db"}, 64, "", "one file"},
		{"a rehearsal says what would be lost", nil, []string{"restore", "a.db", "--dry-run"}, 0, "It has 12 entries more", "Nothing was changed."},
		{"without a terminal nothing is replaced", nil, []string{"restore", "a.db"}, 64, "", "add --yes"},
		{"it is asked for first", func(a *App) { a.Interactive, a.Stdin = true, strings.NewReader("no\n") }, []string{"restore", "a.db"}, 1, "", "nothing was changed"},
		{"what comes next and how to undo it is told", func(a *App) { a.Interactive, a.Stdin = true, strings.NewReader("yes\n") }, []string{"restore", "a.db"}, 0,
			"the journal in /var/lib/certd is the one saved in /backup/a.db\n  epoch    1795884527\n  kept     /var/lib/certd/certd.db.replaced-20261128T164846Z", "→ certd run\n  Undo: with the daemon stopped, certd restore"},
		{"a script gets what was restored", nil, []string{"restore", "a.db", "--yes", "-o", "json", "--reason", "new disk"}, 0, `"aside": "/var/lib`, ""},
		{"a rehearsal of a recovery says what was found, and what was not", nil, []string{"recover", "--dry-run"}, 0, "✓ mirror  2 records, written by old, pid 7\n✓ prod-eu-1  looked at\n! prod-us-1  not known: no answer; certd run learns of it", "Nothing was changed."},
		{"without a terminal nothing is rebuilt", nil, []string{"recover"}, 64, "", "add --yes"},
		{"what comes after a recovery and how to undo it is told", nil, []string{"recover", "--yes"}, 0, "webhooks 1 webhook CA\n", "→ certd run\n  Undo: with the daemon stopped, certd restore"},
		{"a daemon runs while the journal is to be rebuilt", func(*App) { s.held = true }, []string{"recover", "--yes"}, 75, "", "pid 812"},
		{"a daemon runs", func(*App) { s.held = true }, []string{"restore", "a.db", "--yes"}, 75, "", "pid 812"},
		{"a rehearsal while it runs says so", nil, []string{"restore", "a.db", "--dry-run"}, 75, "The copy  /backup/a.db, verified", "stop certd run"},
		{"a copy that does not hold", func(*App) { s.held, s.broken = false, fmt.Errorf("entry 7: it does not match its hash") }, []string{"restore", "a.db", "--yes"}, 1, "", "entry 7"},
	} {
		a, out, errs := testApp()
		a.Backups = s
		a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
			return &scripted{st: healthy("prod-eu-1")}, "", func() error { return nil }, nil
		}
		if row.before != nil {
			row.before(a)
		}
		code := a.run(t.Context(), row.args)
		if code != row.code || !strings.Contains(out.String(), row.out) || !strings.Contains(strings.Join(strings.Fields(errs.String()), " "), strings.Join(strings.Fields(row.err), " ")) {
			t.Errorf("%s: exit %d\n%s%s", row.sentence, code, out, errs)
		}
	}
	done := 0
	for _, r := range s.asked {
		if !r.DryRun {
			done++
		}
	}
	if last := s.asked[len(s.asked)-1]; done != 2 || !last.DryRun || last.Actor == "" {
		t.Errorf("%d of the requests were to be carried out, two of them asked for: %+v", done, s.asked)
	}
}
