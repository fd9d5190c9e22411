package cli

import (
	"context"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) debugNotifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "notify RECEIVER", Short: "Send a test to a receiver of notifications",
		Long: `Has the daemon send one message, marked as a test, to a receiver of notify.receivers, and says whether that has taken
it. It goes the way that notifications go, past those that wait. PagerDuty opens an incident for it and closes it at
once; in Alertmanager the alert CertdTest ends after five minutes.`,
		ValidArgsFunction: a.completeReceivers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s wants the name of one receiver, as under notify.receivers", cmd.CommandPath())
			}
			return a.testReceiver(cmd.Context(), args[0])
		},
	}
}

func (a *App) testReceiver(ctx context.Context, name string) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	reply, err := api.NewClient(socket).TestReceiver(ctx, api.ReceiverTest{Receiver: name})
	if err != nil {
		return a.daemonFor("this needs the daemon, and nothing was sent", err)
	}
	s := a.style()
	a.tell(s.wrap(s.mark(markOK)+" ", "  ", s.clean(reply.Receiver)+" has taken a test, "+s.clean(reply.ID)+"; see whether it arrived where people look")...)
	return nil
}
