package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
)

func (a *App) trustCommand() *cobra.Command {
	cmd := noun("trust", "The trust anchors, and the bundle of them", a.trustListCommand(), a.trustExportCommand(), a.trustRenewCommand(), a.trustRotateCommand(), a.trustImportCommand(), a.trustStatusCommand())
	cmd.AddCommand(a.steering()...)
	return cmd
}

func (a *App) trustListCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "list", Short: "Every generation of the trust anchor, the newest first", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Lists every generation of the trust anchor that the journal knows, the newest first, and in how many clusters'
bundles each was last seen. A generation is

  active    it signs the issuers, and is trusted
  trusted   it is trusted, and signs nothing new
  retired   it was taken out of every bundle
  unsigned  its key is made, or about to be, and it has no certificate yet`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml")
			if err != nil {
				return err
			}
			list, note, err := ask(cmd.Context(), a, func(ctx context.Context, s api.Service) (api.TrustList, error) { return s.Trust(ctx) })
			if err != nil {
				return err
			}
			if note != "" {
				a.aside(note)
			}
			s := a.style()
			switch {
			case o.machine():
				return a.document(o, list)
			case len(list.Items) == 0:
				a.tell("there is no trust anchor yet")
				a.aside(s.next("certd init")...)
			default:
				a.tell(s.anchors(list)...)
			}
			return nil
		},
	}
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}

// anchors is `certd trust list` as text.
func (v style) anchors(list api.TrustList) []string {
	cols := []column{{name: "ID"}, {name: "STATE"}, {name: "SUBJECT", rank: 6, least: 12}, {name: "FROM", rank: 5}, {name: "UNTIL", rank: 1}, {name: "CLUSTERS", rank: 3},
		{name: "SHA-256", rank: 1}, {name: "KEY", rank: 2, least: 24}, {name: "BACKEND", rank: 4}, {name: "EXPORTABLE", rank: 1}}
	date := func(t time.Time) string { return t.In(v.zone).Format("2 Jan 2006") }
	rows := make([][]cell, 0, len(list.Items))
	for _, t := range list.Items {
		subject, from, until, sha := "-", "-", text("-"), "-"
		if !t.NotAfter.IsZero() {
			subject, from, sha = v.clean(t.Subject), date(t.NotBefore), v.plain(fingerprint(v.clean(t.SHA256)))
			until = text(date(t.NotAfter))
			if !t.NotAfter.After(v.now) && t.Published() {
				until.sgr = markCritical.sgr
			}
		}
		in := fmt.Sprintf("%d of %d", t.Clusters, list.Clusters)
		if list.Unseen > 0 {
			in += fmt.Sprintf(", %d unseen", list.Unseen)
		}
		key, backend := cmp.Or(t.Key.Name, "-"), cmp.Or(t.Key.Backend, "-") // not there yet, or not in certd's hands
		rows = append(rows, []cell{text(v.clean(t.ID)), text(v.clean(t.State)), text(subject), text(from), until, text(in), text(sha),
			text(v.clean(key)), text(v.clean(backend)), exportable(t)})
	}
	return v.table("", cols, rows)
}

// exportable says whether a key could leave its backend. That one in a file
// can is how files are.
func exportable(t api.TrustAnchor) cell {
	switch {
	case t.Key.Backend == "":
		return text("-")
	case t.Key.Exportable && t.Key.Backend != "file":
		return cell{text: "YES", sgr: markCritical.sgr}
	case t.Key.Exportable && t.Key.Imported:
		return text("yes, imported")
	case t.Key.Exportable:
		return text("yes")
	case t.Key.Imported: // it cannot leave, and there may be copies
		return text("no, imported")
	}
	return text("no")
}

// fingerprint is enough of a digest to tell it from others: "9f2c 61ab … 41d7".
func fingerprint(hex string) string {
	if len(hex) <= 12 {
		return groups(hex, false)
	}
	return groups(hex[:8], false) + " … " + hex[len(hex)-4:]
}

func (a *App) trustExportCommand() *cobra.Command {
	var format string
	formats := []string{"pem", "spiffe"}
	cmd := &cobra.Command{
		Use:   "export [CLUSTER]",
		Short: "The trust bundle, for what else is to trust the fleet's workloads",
		Long: `Prints the fleet's trust bundle, which certd publishes in every cluster, the newest anchor first. Nothing in it is
secret. Anchors of partner meshes are not in it, whatever clusters trust them: it says whom to take for this fleet.

  pem      PEM, in the very form that certd publishes
  spiffe   a SPIFFE bundle: a JSON Web Key Set, as SPIFFE's federation takes it

A SPIFFE bundle stands for one trust domain and does not name it. With CLUSTER the trust domain of that cluster is
named on standard error.`,
		Example: `  certd trust export > anchors.pem
  certd trust export --format spiffe prod-eu-1 > bundle.json`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeClusters(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case format != "pem" && format != "spiffe":
				return usage("--format %s: not one of %s", format, strings.Join(formats, ", "))
			case len(args) > 1:
				return hinted{errors.New("trust export takes one cluster at most"), api.ErrUsage, cmd.CommandPath() + " --help"}
			}
			return a.trustExport(cmd.Context(), format, args)
		},
	}
	cmd.Flags().StringVar(&format, "format", "pem", "`format`: "+strings.Join(formats, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (a *App) trustExport(ctx context.Context, format string, cluster []string) error {
	type answer struct {
		anchors api.TrustList
		cluster api.ClusterExport
	}
	got, note, err := ask(ctx, a, func(ctx context.Context, s api.Service) (got answer, err error) {
		if len(cluster) > 0 {
			if got.cluster, err = s.Export(ctx, cluster[0]); err != nil {
				return got, err
			}
		}
		got.anchors, err = s.Trust(ctx)
		return got, err
	})
	if err != nil {
		return err
	}
	bundle, err := published(got.anchors)
	if err != nil {
		return err
	}
	text := string(bundle.PEM())
	if format == "spiffe" {
		if text, err = spiffeBundle(bundle, lastRetired(got.anchors)); err != nil {
			return err
		}
	}
	if note != "" {
		a.aside(note)
	}
	if format == "spiffe" && len(cluster) > 0 {
		s := a.style()
		a.aside(fmt.Sprintf("trust domain %s, of cluster %s", s.clean(got.cluster.TrustDomain), s.clean(got.cluster.Cluster)))
	}
	a.tell(strings.TrimSuffix(text, "\n"))
	return nil
}

// lastRetired is when an anchor was last taken out of use; zero if none was.
func lastRetired(list api.TrustList) (last time.Time) {
	for _, t := range list.Items {
		if t.RetiredAt.After(last) {
			last = t.RetiredAt
		}
	}
	return last
}

// published is the bundle of the fleet's anchors in use.
func published(list api.TrustList) (pki.Bundle, error) {
	var text strings.Builder
	for _, t := range list.Items {
		if t.Published() {
			text.WriteString(t.CertificatePEM)
		}
	}
	if text.Len() == 0 {
		return pki.Bundle{}, hint(errors.New("there is no trust anchor yet, and so no bundle"), "certd init")
	}
	b, err := pki.ParseBundle([]byte(text.String()))
	if err != nil {
		return b, fmt.Errorf("export the trust bundle: %w", err)
	}
	return b, nil
}

func (a *App) trustRenewCommand() *cobra.Command {
	var reason string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use: "renew", Short: "Give the trust anchor new dates", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Has the active trust anchor's key sign a new certificate of the same subject, and publishes it in place of the one
there is. Who trusts the one accepts what the other has signed, so no workload is restarted, now or later;
linkerd-identity is restarted by certd before the former certificate ends, since Go looks at an anchor's dates.
"linkerd check --proxy" warns of pods that still hold the former certificate until they are created anew.

certd does this by itself when trust.renewBefore is reached, unless trust.onDue is ask.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.renewTrust(cmd.Context(), reason, dryRun, yes) },
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, for the history")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be done")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *App) renewTrust(ctx context.Context, reason string, dryRun, yes bool) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	now, err := daemon.RenewTrust(ctx, api.RenewRequest{DryRun: true})
	if err != nil {
		return a.needsDaemon(err)
	}
	s := a.style()
	ends := "ends"
	if s.now.After(now.Before.NotAfter) {
		ends = "ended"
	}
	what := fmt.Sprintf("trust anchor %s, which %s on %s", s.clean(now.Before.ID), ends, s.when(now.Before.NotAfter))
	if dryRun {
		a.tell(s.wrap(s.mark(markWaiting)+" ", "  ", "would renew "+what+" with its own key "+s.clean(now.Before.Key.Name))...)
		a.aside("Nothing was changed.")
		return nil
	}
	if !yes {
		if err := a.confirm(ctx, "Renew "+what+"?", "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.RenewTrust(ctx, api.RenewRequest{Reason: reason})
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request and goes on; certd history shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	a.tell(s.wrap(s.mark(markOK)+" ", "  ", fmt.Sprintf("trust anchor %s now ends on %s; sha256 %s", s.clean(reply.After.ID), s.when(reply.After.NotAfter), s.clean(reply.After.SHA256)))...)
	a.aside(s.next("certd status")...)
	a.aside("  Undo: none is needed; what the former certificate is trusted for, this one is, too.")
	return nil
}
