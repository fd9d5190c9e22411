package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) recoverCommand() *cobra.Command {
	var r api.RecoverRequest
	var yes bool
	var format string
	cmd := &cobra.Command{
		Use: "recover", Short: "Rebuild a journal that is lost",
		Long: `Rebuilds the journal with the daemon stopped: from the mirror (keys.vault.mirror) where there is one, and from the
clusters, which are looked at and not written to. Nothing is believed that the key backend does not bear out: an
anchor is the fleet's own if its key is there. What only the journal knew, the history among it, does not come back.

A certd run that finds no journal does the same by itself. This command shows it first, keeps what is there, also a
damaged file, and gives the rebuilt journal an epoch above all earlier ones. If you have a backup, certd restore keeps the
history.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			r.Actor = api.Self()
			return a.recover(cmd.Context(), r, yes, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Reason, "reason", "", "why, for the history")
	f.BoolVar(&r.DryRun, "dry-run", false, "look at mirror and clusters, and say what the journal would hold")
	f.BoolVar(&yes, "yes", false, "do not ask")
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

func (a *App) recover(ctx context.Context, r api.RecoverRequest, yes bool, o output) error {
	s := a.style()
	if r.DryRun || !yes {
		plan := r
		plan.DryRun = true
		would, err := a.Backups.Recover(ctx, a.configPath, plan)
		if err != nil {
			return err
		}
		if would.Daemon != "" {
			return hinted{fmt.Errorf("a certd has the journal: %s; nothing was changed", would.Daemon), api.ErrNotNow, "stop certd run, then: " + a.command("recover")}
		}
		switch {
		case r.DryRun && o.machine():
			return a.document(o, would)
		case r.DryRun:
			a.tell(s.recoverLines(would)...)
			a.aside("Nothing was changed.")
			return nil
		}
		a.aside(s.recoverLines(would)...)
		if err := a.confirm(ctx, "Put the rebuilt journal in the journal's place?", "yes"); err != nil {
			return err
		}
	}
	reply, err := a.Backups.Recover(ctx, a.configPath, r)
	switch {
	case err != nil:
		return err
	case o.machine():
		return a.document(o, reply)
	}
	a.tell(s.recoverLines(reply)...)
	a.tell(s.wrap(fmt.Sprintf("%s  %s ", s.clean(reply.Journal.Fleet), s.mark(markOK)), "  ", "the journal in "+s.clean(reply.StateDir)+" is rebuilt")...)
	a.replacedJournal(reply.Epoch, reply.Aside)
	return nil
}

// recoverLines say what was found, and what the journal holds by that.
func (v style) recoverLines(r api.RecoverReply) (lines []string) {
	line := func(m mark, name, text string) {
		lines = append(lines, v.wrap(v.mark(m)+" "+v.clean(name)+"  ", "    ", v.clean(text))...)
	}
	switch m := r.Mirror; {
	case m == nil:
		line(markWaiting, "mirror", "none is configured (keys.vault.mirror); the clusters alone tell")
	case m.Problem != "":
		line(markWarning, "mirror", m.Problem)
	case m.Holder == "":
		line(markWaiting, "mirror", "nothing is there; the clusters alone tell")
	default:
		line(markOK, "mirror", fmt.Sprintf("%s, written by %s", count(m.Records, "record"), m.Holder))
	}
	for _, c := range r.Clusters {
		if c.Problem != "" {
			line(markWarning, c.Name, "not known: "+c.Problem+"; certd run learns of it when it answers")
		} else {
			line(markOK, c.Name, "looked at")
		}
	}
	lines = append(append(lines, "The journal as it is rebuilt"), v.fields(append(v.copyFields(r.Journal), [2]string{"webhooks", count(r.WebhookCAs, "webhook CA")}))...)
	switch {
	case r.Present != nil:
		lines = append(append(lines, v.wrap("The journal that is there, and is whole  ", "  ", v.clean(r.StateDir))...), v.fields(v.copyFields(*r.Present))...)
	case r.Unreadable != "":
		lines = append(lines, v.wrap("The journal that is there  ", "  ", "cannot be read: "+v.clean(r.Unreadable))...)
	}
	return lines
}
