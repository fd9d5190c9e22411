package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// completeClusters offers the fleet's clusters that are not named yet.
func (a *App) completeClusters(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	for _, c := range a.askClusters(cmd) {
		if !slices.Contains(args, c.Name) {
			list = append(list, c.Name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// completeParts offers clusters and, once one is typed, the parts of it.
func (a *App) completeParts(cmd *cobra.Command, word string) (list []cobra.Completion) {
	for _, c := range a.askClusters(cmd) {
		if !strings.HasPrefix(word, c.Name+"/") {
			list = append(list, c.Name)
			continue
		}
		list = append(list, c.Name+"/issuer", c.Name+"/bundle")
		for _, w := range c.Webhooks {
			list = append(list, c.Name+"/webhook/"+w.Name)
		}
	}
	return list
}

// askClusters asks the daemon only, as the shell waits.
func (a *App) askClusters(cmd *cobra.Command) []rotation.ClusterStatus {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	st, err := api.NewClient(socket).Status(ctx)
	if err != nil {
		return nil
	}
	return st.Clusters
}
