package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

func (a *App) planCommand() *cobra.Command {
	var format, until string
	var ifStopped, exitCode bool
	cmd := &cobra.Command{
		Use: "plan", Short: "What will happen, when and why; what breaks first if certd stops", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml")
			if err != nil {
				return err
			}
			ahead, err := config.ParseDuration(until)
			if err != nil {
				return usage("--until %q %v", until, err)
			}
			if ahead > horizon {
				return usage("--until %s: plans reach 20 years at most", until)
			}
			end := a.Now().Add(ahead).UTC().Truncate(time.Second)
			plan, note, err := ask(cmd.Context(), a, func(ctx context.Context, s api.Service) (rotation.Plan, error) {
				return s.Plan(ctx, end, ifStopped)
			})
			if err != nil {
				return err
			}
			if o.machine() {
				if note != "" {
					a.aside(note)
				}
				if err := a.document(o, plan); err != nil {
					return err
				}
			} else {
				a.tell(planView{style: a.style(), doc: plan, note: note, ifStopped: ifStopped}.lines()...)
			}
			if exitCode && len(plan.Items) > 0 {
				return exit(exitPending)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&until, "until", "90d", "how far ahead, as in 36h, 90d, 10y")
	f.BoolVar(&ifStopped, "if-stopped", false, "also what would end, and when, if certd stopped now")
	f.BoolVar(&exitCode, "exit-code", false, "exit 2 if changes are pending")
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}
