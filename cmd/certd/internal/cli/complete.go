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

// completeReceivers offers the receivers of notifications that the daemon has.
func (a *App) completeReceivers(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	if st, err := a.askStatus(cmd); err == nil && st.Daemon != nil && len(args) == 0 {
		for _, r := range st.Daemon.Receivers {
			list = append(list, r.Name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// completeApproval offers what waits for an approval.
func (a *App) completeApproval(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	if st, err := a.askStatus(cmd); err == nil && len(args) == 0 && st.Trust.Rotation != nil {
		if p := st.Trust.Rotation.Approval; p != nil && p.By == "" {
			list = append(list, p.Of)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

// askClusters asks the daemon only.
func (a *App) askClusters(cmd *cobra.Command) []rotation.ClusterStatus {
	st, err := a.askStatus(cmd)
	if err != nil {
		return nil
	}
	return st.Clusters
}

// askStatus asks the daemon only, as the shell waits.
func (a *App) askStatus(cmd *cobra.Command) (rotation.FleetStatus, error) {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return rotation.FleetStatus{}, err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	return api.NewClient(socket).Status(ctx)
}
