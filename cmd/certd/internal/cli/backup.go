package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

// BackupCommands is what backup and restore work with: the files, in this
// process.
type BackupCommands interface {
	// SaveBackup puts a snapshot into a file and verifies it; without replace, a
	// file that is there is an error wrapping fs.ErrExist.
	SaveBackup(configPath, file string, s api.Snapshot, replace bool) (api.BackupReply, error)
	// RestoreBackup puts a copy into the place of the journal. It wraps
	// api.ErrNotNow while a daemon has that.
	RestoreBackup(configPath string, r api.RestoreRequest) (api.RestoreReply, error)
	// Recover rebuilds the journal. It wraps api.ErrNotNow while a daemon has that.
	Recover(ctx context.Context, configPath string, r api.RecoverRequest) (api.RecoverReply, error)
}

func (a *App) backupCommand() *cobra.Command {
	var force bool
	var format string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Save a verified copy of the journal",
		Long: `Saves a copy of the journal in FILE: through the daemon if one runs, which goes on with its work, else from its
directory. FILE has its name only once all of the copy was read back and verified: each record's seal, the hash chain,
and that nothing in it looks like a private key. Nothing in a journal is secret; the file has mode 0600 all the same.

Keys are not in it: those are where keys.vault, keys.file or keys.kms has them, and want a backup of their own.`,
		Example: "  certd backup /backup/certd-$(date +%F).db",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			return a.backup(cmd.Context(), args[0], force, o)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it is there")
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("%s wants the name of one file", cmd.CommandPath())
	}
	return nil
}

func (a *App) backup(ctx context.Context, file string, force bool, o output) error {
	snapshot, note, err := ask(ctx, a, func(ctx context.Context, s api.Service) (api.Snapshot, error) { return s.Snapshot(ctx) })
	if err != nil {
		return err
	}
	if note != "" {
		a.aside(note)
	}
	reply, err := a.Backups.SaveBackup(a.configPath, file, snapshot, force)
	switch {
	case errors.Is(err, fs.ErrExist):
		return usage("%v; name another file, or add --force to replace it", err)
	case err != nil:
		return err
	case o.machine():
		return a.document(o, reply)
	}
	s := a.style()
	a.tell(s.wrap(fmt.Sprintf("%s  %s ", s.clean(reply.Fleet), s.mark(markOK)), "  ", "the journal is saved and verified")...)
	a.tell(s.fields([][2]string{{"file", reply.File}})...)
	a.tell(s.fields(s.copyFields(reply.JournalCopy))...)
	a.aside(s.wrap("  ", "  ", s.clean("To go back to it: stop the daemon, then "+a.command("restore "+reply.File)))...)
	return nil
}

// copyFields say what a copy of the journal holds.
func (v style) copyFields(c api.JournalCopy) [][2]string {
	entries := "none"
	if c.Entries > 0 {
		entries = fmt.Sprintf("%d, the last is number %d of %s", c.Entries, c.Last, v.when(c.At))
	}
	var anchors []string
	for _, t := range c.Anchors {
		anchors = append(anchors, t.ID+" "+t.State)
	}
	if len(anchors) == 0 {
		anchors = []string{"none"}
	}
	fields := [][2]string{{"entries", entries}}
	if c.Entries > 0 {
		fields = append(fields, [2]string{"head", groups(c.Head, false)})
	}
	fields = append(fields, [2]string{"epoch", fmt.Sprint(c.Epoch)}, [2]string{"anchors", strings.Join(anchors, ", ")})
	if c.Change != "" {
		fields = append(fields, [2]string{"change", c.Change})
	}
	return append(fields, [2]string{"clusters", fmt.Sprint(c.Clusters)}, [2]string{"size", fmt.Sprintf("%d KiB, schema %d", (c.Bytes+1023)/1024, c.Schema)})
}

// fields are lines with a name before each text.
func (v style) fields(list [][2]string) (lines []string) {
	const first, rest = "  %-9s", "           "
	for _, f := range list {
		lines = append(lines, v.wrap(fmt.Sprintf(first, f[0]), rest, v.clean(f[1]))...)
	}
	return lines
}

func (a *App) restoreCommand() *cobra.Command {
	var r api.RestoreRequest
	var yes bool
	var format string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Put a saved copy of the journal in the journal's place",
		Long: `Puts a copy that certd backup made in the place of the journal, with the daemon stopped. All of the copy is verified
first; it must be of this fleet. The present journal is kept beside it, also one that is damaged.

The restored journal gets an epoch above all earlier ones, so that nothing an earlier daemon still writes takes effect.
What happened since the copy was made is not lost in the world: certd run looks at the clusters and the key backend
and goes on from what they show.`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			r.File, r.Actor = args[0], api.Self()
			return a.restore(cmd.Context(), r, yes, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Reason, "reason", "", "why, for the history")
	f.BoolVar(&r.DryRun, "dry-run", false, "verify the copy, and say what would take the place of what")
	f.BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

func (a *App) restore(ctx context.Context, r api.RestoreRequest, yes bool, o output) error {
	s := a.style()
	plan := r
	plan.DryRun = true
	would, err := a.Backups.RestoreBackup(a.configPath, plan)
	if err != nil {
		return err
	}
	switch {
	case r.DryRun && o.machine():
		err = a.document(o, would)
	case r.DryRun:
		a.tell(s.restoreLines(would)...)
	case !yes:
		a.aside(s.restoreLines(would)...)
	}
	if err != nil {
		return err
	}
	if would.Daemon != "" {
		return hinted{fmt.Errorf("a certd has the journal, and restoring takes it away from under it: %s; nothing was changed", would.Daemon), api.ErrNotNow, "stop certd run, then: " + a.command("restore "+would.File)}
	}
	if r.DryRun {
		a.aside("Nothing was changed.")
		return nil
	}
	if !yes {
		if err := a.confirm(ctx, "Put this copy in the journal's place?", "yes"); err != nil {
			return err
		}
	}
	reply, err := a.Backups.RestoreBackup(a.configPath, r)
	switch {
	case err != nil:
		return err
	case o.machine():
		return a.document(o, reply)
	}
	a.tell(s.wrap(fmt.Sprintf("%s  %s ", s.clean(reply.Copy.Fleet), s.mark(markOK)), "  ", fmt.Sprintf("the journal in %s is the one saved in %s", s.clean(reply.StateDir), s.clean(reply.File)))...)
	a.replacedJournal(reply.Epoch, reply.Aside)
	return nil
}

// replacedJournal tells of a journal that has taken another one's place: what comes next,
// and how to undo it where that one is kept (aside; "": there was none).
func (a *App) replacedJournal(epoch uint64, aside string) {
	s := a.style()
	a.tell(s.fields([][2]string{{"epoch", fmt.Sprint(epoch)}})...)
	if aside != "" {
		a.tell(s.fields([][2]string{{"kept", aside}})...)
	}
	a.aside(s.next("certd run")...)
	if aside != "" {
		a.aside(s.wrap("  Undo: ", "  ", "with the daemon stopped, "+s.clean(a.command("restore "+aside)))...)
	}
}

// restoreLines say what would take the place of what.
func (v style) restoreLines(r api.RestoreReply) []string {
	lines := append(v.wrap("The copy  ", "  ", v.clean(r.File)+", verified"), v.fields(v.copyFields(r.Copy))...)
	switch {
	case r.Present != nil:
		lines = append(append(lines, v.wrap("The journal that is there  ", "  ", v.clean(r.StateDir))...), v.fields(v.copyFields(*r.Present))...)
		if newer := r.Present.Last - min(r.Present.Last, r.Copy.Last); newer > 0 {
			lines = append(lines, v.wrap("  "+v.mark(markWarning)+" ", "    ", fmt.Sprintf("It has %d entries more, from after %s. The history will not have them; certd learns from the clusters and the key backend what they brought about.", newer, v.since(r.Copy.At)))...)
		}
	case r.Unreadable != "":
		lines = append(lines, v.wrap("The journal that is there  ", "  ", "cannot be read: "+v.clean(r.Unreadable))...)
	case r.Daemon == "":
		lines = append(lines, v.wrap("There is no journal in ", "  ", v.clean(r.StateDir))...)
	}
	return lines
}

// since is when, or the beginning.
func (v style) since(t time.Time) string {
	if t.IsZero() {
		return "the beginning"
	}
	return v.when(t)
}
