package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) adoptCommand() *cobra.Command {
	var reason string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use: "adopt CLUSTER...", Short: "Take over meshes that already run", ValidArgsFunction: a.completeClusters,
		Long: `Has certd look after clusters that have trust material which it did not make: installed by linkerd install, by Helm,
with cert-manager and trust-manager, or by hand. What is there stays, to the byte: nothing is restarted, and no pod
comes to trust anything else.

certd puts its annotations and a label on the trust bundle and on the issuer's Secret, and adds to the Secret the names
that one of Linkerd's two schemes would miss. It looks after the webhooks as before, and says who else writes there.

If the trust anchor's key is not in the key backend, certd cannot renew the issuer: it ends when it ends. certd trust
rotate then brings the mesh to an anchor in the key backend without the old key; certd trust import brings the key in,
if you have it.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("adopt: name the clusters to take over; certd status shows which are watched")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.adopt(cmd.Context(), api.AdoptRequest{Clusters: args, Reason: reason, DryRun: dryRun}, yes)
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, for the history")
	f.BoolVar(&dryRun, "dry-run", false, "say what is there, and what would be written")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *App) adopt(ctx context.Context, req api.AdoptRequest, yes bool) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	s := a.style()
	plan := req
	plan.DryRun = true
	would, err := daemon.Adopt(ctx, plan)
	if err != nil {
		return a.needsDaemon(err)
	}
	var fit []string
	refused := false
	for _, r := range would.Results {
		lines := s.adoptLines(r)
		if r.Refused != "" {
			refused = true
		} else {
			fit = append(fit, r.Cluster)
		}
		if req.DryRun || r.Refused != "" {
			a.tell(lines...)
		} else {
			a.aside(lines...)
		}
	}
	switch {
	case refused:
		return fmt.Errorf("nothing was taken over: %w", api.ErrNotNow)
	case req.DryRun:
		a.aside("Nothing was changed.")
		return nil
	case !yes:
		if err := a.confirm(ctx, "Take over "+names(fit, 8)+"?", "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.Adopt(ctx, req)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request; certd status shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	for _, r := range reply.Results {
		if r.Refused != "" {
			refused = true
			a.tell(s.wrap(s.mark(markCritical)+" "+s.clean(r.Cluster)+"  ", "    ", s.clean(r.Refused))...)
			continue
		}
		a.tell(s.wrap(s.mark(markOK)+" "+s.clean(r.Cluster)+"  ", "    ", "taken over; its trust anchor is "+s.clean(r.Anchor.ID)+", sha256 "+s.clean(r.Anchor.SHA256))...)
	}
	if refused {
		return exit(exitFailed)
	}
	a.aside(s.next("certd status")...)
	a.aside(a.undo("take the cluster out of the configuration; what runs there goes on as before.")...)
	return nil
}

// adoptLines say what taking a cluster over means.
func (v style) adoptLines(r api.AdoptResult) []string {
	if r.Refused != "" {
		return v.wrap(v.mark(markCritical)+" "+v.clean(r.Cluster)+"  ", "    ", v.clean(r.Refused))
	}
	lines := v.wrap(v.mark(markWaiting)+" "+v.clean(r.Cluster)+"  ", "    ", fmt.Sprintf("trust anchor %s %q, until %s", v.clean(r.Anchor.ID), v.clean(r.Anchor.Subject), v.when(r.Anchor.NotAfter)))
	if r.Ends != nil {
		lines = append(lines, v.wrap("    ", "    ", "its issuer ends "+v.when(*r.Ends))...)
	}
	for _, w := range r.Writes {
		lines = append(lines, v.wrap("    writes ", "      ", v.clean(w))...)
	}
	for _, n := range r.Notes {
		lines = append(lines, v.wrap("    "+v.mark(markWarning)+" ", "      ", v.clean(n))...)
	}
	return lines
}
