package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
)

type pauseOptions struct {
	names    []string
	selector string
	limit    string
	reason   string
	dryRun   bool
	yes      bool
	resume   bool
}

func (a *App) pauseCommand() *cobra.Command {
	o := pauseOptions{}
	cmd := &cobra.Command{
		Use: "pause [CLUSTER...] [-l LABELS] --reason TEXT", Short: "Have certd leave clusters alone for a while", ValidArgsFunction: a.completeClusters,
		Long: `Has certd write nothing in the clusters, or in none of the fleet where no cluster is named: no scheduled renewal, no
repair of labels, no restart, no stage of a change of the trust anchor. It goes on watching, and says in certd status
what waits.

A pause never lets a certificate end. At the floor (mustRenewBy in certd status -o json) what is there is renewed all
the same, and what no longer serves is mended: an issuer that is gone, a caBundle that refuses its webhook.

Without --for it lasts until certd resume.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return a.pause(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "clusters whose `labels` match, as in kubectl -l")
	f.StringVar(&o.limit, "for", "", "how long, as in 4h or 2d; then certd goes on by itself")
	f.StringVar(&o.reason, "reason", "", "why; whoever is on call reads it")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be paused")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	return cmd
}

func (a *App) resumeCommand() *cobra.Command {
	o := pauseOptions{resume: true}
	cmd := &cobra.Command{
		Use: "resume [CLUSTER...] [-l LABELS]", Short: "End a pause", ValidArgsFunction: a.completeClusters,
		Long: `Ends the pause of the clusters, or where none is named all there are, the fleet's too. What is due is done at once.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return a.pause(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "clusters whose `labels` match, as in kubectl -l")
	f.StringVar(&o.reason, "reason", "", "why, for the history")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be resumed")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	return cmd
}

func (a *App) pause(ctx context.Context, o pauseOptions) error {
	req := api.PauseRequest{Resume: o.resume, Reason: o.reason}
	if !o.resume && strings.TrimSpace(o.reason) == "" {
		return usage("say why, with --reason: whoever is on call reads it")
	}
	if o.limit != "" {
		limit, err := config.ParseDuration(o.limit)
		if err != nil {
			return usage("--for %q %v", o.limit, err)
		}
		if req.Seconds = int64(limit.Seconds()); req.Seconds < 1 {
			return usage("--for %q is less than a second", o.limit)
		}
	}
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	if len(o.names) > 0 || o.selector != "" {
		st, err := working(daemon.Status(ctx))
		if err != nil {
			return a.needsDaemon(err)
		}
		set, err := chosen(st.Clusters, o.names, o.selector)
		if err != nil {
			return err
		}
		for _, c := range st.Clusters {
			if set[c.Name] && (!o.resume || o.selector == "" || c.Pause != nil && !c.Pause.Fleet) {
				req.Clusters = append(req.Clusters, c.Name)
			}
		}
		if len(req.Clusters) == 0 {
			return usage("no cluster is meant")
		}
	}
	ask := req
	ask.DryRun = true
	would, err := daemon.Pause(ctx, ask)
	if err != nil {
		return a.needsDaemon(err)
	}
	if o.dryRun {
		a.paused(o, would)
		a.aside("Nothing was changed.")
		return nil
	}
	if !o.yes {
		question := "Leave " + whatPauses(req.Clusters) + " alone?"
		if o.resume {
			question = "Go on in " + whatPauses(pausedNames(would.Ended)) + "?"
		}
		if err := a.confirm(ctx, question, "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.Pause(ctx, req)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request; certd status shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	a.paused(o, reply)
	a.aside(a.style().next("certd status")...)
	return nil
}

// paused tells what is paused now, or what is not any more, and how to undo that.
func (a *App) paused(o pauseOptions, r api.PauseReply) {
	s := a.style()
	list, m := r.Pauses, markWaiting
	if o.resume {
		list, m = r.Ended, markOK
	}
	for _, p := range list {
		name := p.Cluster
		if name == "" {
			name = "the fleet"
		}
		text := "is left alone until certd resume; the floors hold all the same"
		switch {
		case o.resume:
			text = fmt.Sprintf("was paused by %s (%s); what is due is done now", p.By, p.Reason)
		case p.Until != nil:
			text = "is left alone until " + s.when(*p.Until) + "; the floors hold all the same"
		}
		a.tell(s.wrap(s.mark(m)+" "+s.clean(name)+"  ", "    ", s.clean(text))...)
	}
	if o.dryRun {
		return
	}
	undo := "certd resume " + strings.Join(pausedNames(list), " ")
	if o.resume {
		undo = "certd pause " + strings.Join(pausedNames(list), " ") + " --reason TEXT"
	}
	a.aside(a.undo(undo)...)
}

func pausedNames(all []api.Pause) (list []string) {
	for _, p := range all {
		if p.Cluster != "" {
			list = append(list, p.Cluster)
		}
	}
	return list
}

func whatPauses(clusters []string) string {
	if len(clusters) == 0 {
		return "the whole fleet"
	}
	return names(clusters, 8)
}
