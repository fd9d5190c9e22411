package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

// completeClusters offers the fleet's clusters that are not named yet. It asks
// the daemon only, as the shell waits.
func (a *App) completeClusters(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	st, err := api.NewClient(socket).Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []cobra.Completion
	for _, c := range st.Clusters {
		if !slices.Contains(args, c.Name) {
			list = append(list, c.Name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
