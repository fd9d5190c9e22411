package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) verifyCommand() *cobra.Command {
	var format string
	var logs []string
	cmd := &cobra.Command{
		Use: "verify", Short: "Judge certd's promises on the fleet as it is: who accepts whom, and until when", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Has the daemon look at every cluster, count the meshed pods and read the flags of the anchors' keys now, and judges
each of certd's promises by that. For each ordered pair of clusters it says whether pods of the one accept the
certificates that workloads of the other present, until when, or why not: by every issuer whose leaves may still live
and every bundle that a pod may hold. What could not be seen is unknown, and named with its age.

The exit code is the worst of the verdicts: 0 ok, 1 warning, 2 critical, 3 where nothing is wrong and not all could be
seen. It takes as long as the slowest cluster, 20 s at most, and changes nothing.

With --vault-audit-log it holds the history against Vault's audit log instead, with a daemon or without: each signature
that Vault gave with a key of the fleet's has to be in the history (else 2), and each in the history in the log, where
that covers its time (else 1). They are joined by Vault's request id. Give the option for each file of a rotated log, - for
standard input.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml")
			if err != nil {
				return err
			}
			if len(logs) > 0 {
				err = a.auditLogs(cmd.Context(), logs, o)
			} else {
				err = a.verifyFleet(cmd.Context(), o)
			}
			if err != nil && codeOf(err) == exitFailed && !errors.As(err, new(exit)) {
				// 1 would read as a warning, and what is known is nothing.
				a.report(err)
				return exit(exitUnknown)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&logs, "vault-audit-log", nil, "hold the history against this audit log of Vault's (`file`)")
	cobra.CheckErr(cmd.MarkFlagFilename("vault-audit-log"))
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}

func (a *App) verifyFleet(ctx context.Context, o output) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	doc, err := api.NewClient(socket).Verification(ctx)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("nothing was changed")
	case err != nil:
		return a.daemonFor("the daemon has the clusters looked at, and there is no verdict without it", err)
	}
	if o.machine() {
		err = a.document(o, doc)
	} else {
		a.tell(verifyView{a.style(), doc}.lines()...)
	}
	if code := stateCode(doc.State); err == nil && code != exitOK {
		return exit(code)
	}
	return err
}
