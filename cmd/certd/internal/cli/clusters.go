package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// ClusterCommands is what the clusters commands work on; path is --config as
// given.
type ClusterCommands interface {
	// Clusters are those of the configuration; it asks nobody.
	Clusters(path string) ([]api.ConfiguredCluster, error)
	// TestClusters asks each of the named clusters whether certd can do its work
	// there, and changes nothing.
	TestClusters(ctx context.Context, path string, names []string) ([]api.ClusterTest, error)
	// Manifest is what to apply in a cluster so that certd may.
	Manifest(path string, r api.ManifestRequest) ([]byte, error)
}

func (a *App) clustersCommand() *cobra.Command {
	return noun("clusters", "The clusters: list them, test certd's rights there, print the manifest that grants them",
		a.clustersListCommand(), a.clustersTestCommand(), a.clustersRBACCommand())
}

// listed is a cluster of `certd clusters list`: as configured, and as last seen.
type listed struct {
	api.ConfiguredCluster
	Mode        string         `json:"mode,omitempty"`
	State       rotation.State `json:"state,omitempty"`
	LastContact *time.Time     `json:"lastContact,omitempty"`
	Version     string         `json:"version,omitempty"`
}

func (a *App) clustersListCommand() *cobra.Command {
	var format, selector string
	cmd := &cobra.Command{
		Use: "list", Short: "The clusters of the configuration, how they are reached, and when they were last seen", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml")
			if err != nil {
				return err
			}
			all, err := a.Clusters.Clusters(a.configPath)
			if err != nil {
				return err
			}
			picked, err := picked(all, nil, selector)
			if err != nil {
				return err
			}
			// What is not known yet, or by nobody that answers, is left out.
			st, note, err := ask(cmd.Context(), a, func(ctx context.Context, s api.Service) (rotation.FleetStatus, error) { return working(s.Status(ctx)) })
			if err != nil {
				note = "when they were last seen is not known: " + err.Error()
			}
			list := []listed{}
			for _, c := range picked {
				l := listed{ConfiguredCluster: c}
				if i := slices.IndexFunc(st.Clusters, func(s rotation.ClusterStatus) bool { return s.Name == c.Name }); i >= 0 {
					s := st.Clusters[i]
					l.Mode, l.State, l.LastContact, l.Version = s.Mode, s.State, s.LastContact, s.Version
				}
				list = append(list, l)
			}
			s := a.style()
			if note != "" {
				a.aside(s.clean(note))
			}
			if o.machine() {
				return a.document(o, struct {
					APIVersion string   `json:"apiVersion"`
					Kind       string   `json:"kind"`
					Items      []listed `json:"items"`
				}{apiVersion, "ClusterList", list})
			}
			a.tell(s.clusterList(list)...)
			return nil
		},
	}
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only clusters whose `labels` match, as in kubectl -l")
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}

func (s style) clusterList(list []listed) []string {
	if len(list) == 0 {
		return []string{"no clusters"}
	}
	cols := []column{{name: "CLUSTER"}, {name: "STATE"}, {name: "GROUPS", rank: 3}, {name: "NAMESPACE", rank: 4}, {name: "SEEN", rank: 2}, {name: "VERSION", rank: 5}, {name: "REACHED BY", rank: 1, least: 16}}
	rows := make([][]cell, 0, len(list))
	for _, l := range list {
		state, seen := text("-"), "-"
		if l.State != "" {
			word := s.clean(string(l.State))
			if l.Mode != string(rotation.Managed) {
				word += ", " + s.clean(l.Mode)
			}
			state = s.marked(markOf(l.State), word)
		}
		if l.LastContact != nil {
			seen = span(s.now.Sub(*l.LastContact)) + " ago"
		}
		rows = append(rows, []cell{text(s.clean(l.Name)), state, text(cmp.Or(s.clean(strings.Join(l.Groups, ", ")), "-")), text(s.clean(l.Namespace)), text(seen), text(cmp.Or(s.clean(l.Version), "-")), text(s.clean(l.Target))})
	}
	return s.table("", cols, rows)
}

// picked are the clusters that names and selector ask for, all if they ask for
// nothing.
func picked(all []api.ConfiguredCluster, names []string, selector string) (some []api.ConfiguredCluster, err error) {
	status := make([]rotation.ClusterStatus, len(all))
	for i, c := range all {
		status[i] = rotation.ClusterStatus{Name: c.Name, Labels: c.Labels}
	}
	set, err := chosen(status, names, selector)
	for _, c := range all {
		if set[c.Name] {
			some = append(some, c)
		}
	}
	return some, err
}

func (a *App) clustersTestCommand() *cobra.Command {
	var format, selector string
	cmd := &cobra.Command{
		Use: "test [CLUSTER...]", Short: "Can certd do its work there? Asked of each cluster, verb by verb",
		Long: `Looks at each cluster with certd's own credentials, as the daemon would, and asks its API server for every right that
certd uses there (SelfSubjectAccessReview). Nothing is changed, and no daemon is needed. -o wide lists the rights that
are granted, too. Exit 1 if a cluster is out of reach or a right is missing that certd needs.`,
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := outputOf(format, "table", "wide", "json", "yaml")
			if err != nil {
				return err
			}
			all, err := a.Clusters.Clusters(a.configPath)
			if err != nil {
				return err
			}
			some, err := picked(all, args, selector)
			if err != nil {
				return err
			}
			names := make([]string, len(some))
			for i, c := range some {
				names[i] = c.Name
			}
			tests, err := a.Clusters.TestClusters(cmd.Context(), a.configPath, names)
			switch {
			case errors.Is(err, context.Canceled):
				return interrupted("nothing was changed")
			case err != nil:
				return err
			}
			if o.machine() {
				err = a.document(o, struct {
					APIVersion string            `json:"apiVersion"`
					Kind       string            `json:"kind"`
					Items      []api.ClusterTest `json:"items"`
				}{apiVersion, "ClusterTests", tests})
			} else {
				a.tell(a.style().clusterTests(tests, o.format == "wide")...)
			}
			if err == nil && slices.ContainsFunc(tests, func(t api.ClusterTest) bool { return !fit(t) }) {
				return exit(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only clusters whose `labels` match, as in kubectl -l")
	outputFlag(cmd, &format, "table", "wide", "json", "yaml")
	return cmd
}

// fit says whether certd can do its work in a cluster, if not all that it could.
func fit(t api.ClusterTest) bool {
	return t.Reachable && t.Problem == "" && !slices.ContainsFunc(t.Rights, func(r api.ClusterRight) bool { return !r.Has && r.Lost == "" })
}

// clusterTests is `certd clusters test` as text. Clusters where all is well have a
// line each, as long as there are not too many.
func (s style) clusterTests(tests []api.ClusterTest, wide bool) (lines []string) {
	well := 0
	for _, t := range tests {
		if s.wellTested(t) && len(tests) > 2*smallFleet && !wide {
			well++
			continue
		}
		lines = append(lines, s.clusterTest(t, wide)...)
	}
	if well > 0 {
		lines = append(lines, fmt.Sprintf("%s %s: every right that certd uses is granted (-o wide)", s.mark(markOK), count(well, "cluster")))
	}
	if len(tests) == 0 {
		lines = append(lines, "no clusters")
	}
	return lines
}

// wellTested says whether nothing is missing at all.
func (s style) wellTested(t api.ClusterTest) bool {
	return t.Reachable && t.Problem == "" && !slices.ContainsFunc(t.Rights, func(r api.ClusterRight) bool { return !r.Has })
}

func (s style) clusterTest(t api.ClusterTest, wide bool) []string {
	m, said := markOK, "reachable"
	if t.Version != "" {
		said += ", " + s.clean(t.Version)
	}
	said += fmt.Sprintf(", a look takes %d ms", t.LookMilliseconds)
	if t.Version != "" {
		said += fmt.Sprintf(", its clock is %+.1f s off", float64(t.ClockSkewMilliseconds)/1000)
	}
	has := 0
	for _, r := range t.Rights {
		if r.Has {
			has++
		}
	}
	if n := len(t.Rights); n > 0 {
		said += fmt.Sprintf(", %d of %s granted", has, count(n, "right"))
	}
	switch {
	case !t.Reachable:
		m, said = markCritical, s.clean(t.Problem)
	case !fit(t):
		m = markCritical
	case has < len(t.Rights):
		m = markWarning
	}
	lines := s.wrap(s.mark(m)+" "+s.clean(t.Cluster)+"  ", "  ", said)
	if !t.Reachable {
		return append(lines, s.next("certd status "+s.clean(t.Cluster))...)
	}
	if t.Problem != "" {
		lines = append(lines, s.wrap("  "+s.mark(markCritical)+" ", "    ", s.clean(t.Problem))...)
	}
	var with []string
	for _, r := range t.Rights {
		what := s.clean(rightText(r))
		switch {
		case r.Has && wide:
			lines = append(lines, s.wrap("  "+s.mark(markOK)+" ", "    ", what)...)
		case !r.Has && r.Lost == "":
			lines = append(lines, s.wrap("  "+s.mark(markCritical)+" ", "    ", what+", which certd needs")...)
		case !r.Has:
			lines = append(lines, s.wrap("  "+s.mark(markWarning)+" ", "    ", what+"; without it "+s.clean(r.Lost))...)
		}
		if flag := withFlag(r.Manifest); !r.Has && flag != "" && !slices.Contains(with, flag) {
			with = append(with, flag)
		}
	}
	if has < len(t.Rights) {
		lines = append(lines, s.next(strings.TrimSpace("certd clusters rbac "+s.clean(t.Cluster)+" "+strings.Join(with, " "))+" | kubectl apply -f -")...)
	}
	return lines
}

// rightText reads as RBAC does: "patch deployments linkerd-identity in linkerd".
func rightText(r api.ClusterRight) string {
	what := r.Verb + " " + r.Resource
	if r.Group != "" {
		what += "." + r.Group
	}
	if r.Name != "" {
		what += " " + r.Name
	}
	if r.Namespace != "" {
		what += " in " + r.Namespace
	}
	return what
}

// withFlag is the flag of `clusters rbac` that brings a manifest; "" where the
// configuration does.
func withFlag(manifest string) string {
	switch manifest {
	case "certd-bootstrap.yaml":
		return "--bootstrap"
	case "certd-viz.yaml":
		return "--viz"
	case "certd-jaeger.yaml":
		return "--jaeger"
	case "certd-proxies.yaml":
		return "--proxies"
	}
	return ""
}

func (a *App) clustersRBACCommand() *cobra.Command {
	var r api.ManifestRequest
	cmd := &cobra.Command{
		Use: "rbac CLUSTER", Short: "The manifest that lets certd do its work there, ready for kubectl apply",
		Long: `Prints the Namespace and ServiceAccount certd and its roles in a cluster: what the configuration asks for there, in the
namespaces that it names, with the webhooks of your own; of the rest, what flags ask for. Each part says what it is for,
and what certd does without it. Admission policies come last: they narrow down what roles cannot, such as restarts to
the one annotation that a restart is. Nothing is changed, and nobody is asked.`,
		Example:           "  certd clusters rbac prod-eu-1 --viz --proxies | kubectl --context prod-eu-1 apply -f -",
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return hinted{errors.New("clusters rbac wants one cluster"), api.ErrUsage, cmd.CommandPath() + " --help"}
			}
			r.Cluster = args[0]
			text, err := a.Clusters.Manifest(a.configPath, r)
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(text)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.Bootstrap, "bootstrap", false, "Linkerd's namespace is not there yet, and certd is to create it")
	f.BoolVar(&r.Viz, "viz", false, "also for the viz extension")
	f.BoolVar(&r.Jaeger, "jaeger", false, "also for the jaeger extension")
	f.BoolVar(&r.Proxies, "proxies", false, "also to count what pods trust: the widest look that certd takes")
	f.BoolVar(&r.RestartWorkloads, "restart-workloads", false, "also to restart workloads while the trust anchor is changed (as trust.restartWorkloads: auto does)")
	f.BoolVar(&r.Policies, "policies", true, "also admission policies; --policies=false where Kubernetes is older than 1.30")
	return cmd
}
