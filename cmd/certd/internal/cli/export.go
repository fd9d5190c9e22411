package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) exportCommand() *cobra.Command {
	return noun("export", "What other tools need to know of a cluster", a.helmValuesCommand())
}

// The charts of Linkerd that have something to do with certificates.
const (
	chartControlPlane = "linkerd-control-plane" // from 2.12
	chartLinkerd2     = "linkerd2"              // until 2.11
	chartViz          = "linkerd-viz"
	chartJaeger       = "linkerd-jaeger" // until 2.18
)

func (a *App) helmValuesCommand() *cobra.Command {
	var chart, release, format string
	var where placement
	charts := []string{chartControlPlane, chartLinkerd2, chartViz, chartJaeger}
	cmd := &cobra.Command{
		Use:   "helm-values CLUSTER",
		Short: "Helm values that leave to certd what is certd's",
		Long: `Prints the values of Linkerd's Helm charts with which Helm leaves alone what certd keeps in the cluster: the trust
bundle, the issuer, the webhooks' certificates and the CA they are checked against. Nothing in them is secret.

Without --chart it prints a YAML document for each chart, each beginning with the command that uses it. Helm reads
one document from a file, so give each chart its own:

  certd export helm-values prod-eu-1 --chart linkerd-control-plane > certd-values.yaml
  helm upgrade --install linkerd-control-plane linkerd/linkerd-control-plane -n linkerd -f own.yaml -f certd-values.yaml

certd's file comes last. Keep it for later upgrades: without it Helm makes certificates of its own again. From 2.12
on the values stay the same for good. Those of 2.10 and 2.11 hold the webhook CA, and those of 2.10 the trust anchors,
so they are to be printed anew before each upgrade.`,
		Example: `  certd export helm-values prod-eu-1
  certd export helm-values prod-eu-1 --linkerd stable-2.14.1 --chart linkerd-viz`,
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := outputOf(format, "yaml"); err != nil {
				return err
			}
			if len(args) != 1 {
				return hinted{errors.New("export helm-values wants one cluster"), api.ErrUsage, cmd.CommandPath() + " --help"}
			}
			rules, err := rulesOf(release)
			if err != nil {
				return err
			}
			wanted, err := rules.charts(chart)
			if err != nil {
				return err
			}
			of, note, err := ask(cmd.Context(), a, func(ctx context.Context, s api.Service) (api.ClusterExport, error) { return s.Export(ctx, args[0]) })
			if err != nil {
				return err
			}
			var documents []string
			for _, name := range wanted {
				text, err := rules.document(name, of, where)
				if err != nil {
					return err
				}
				documents = append(documents, text)
			}
			if note != "" {
				a.aside(note)
			}
			a.tell(strings.TrimSuffix(strings.Join(documents, "---\n"), "\n"))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&chart, "chart", "", "one `chart` alone: "+strings.Join(charts, ", "))
	f.StringVar(&release, "linkerd", "", "Linkerd's `version`, such as 2.14, stable-2.14.1 or edge-25.2.1 (default: the newest that certd knows)")
	f.StringVar(&where.viz, "viz-namespace", "linkerd-viz", "`namespace` of linkerd-viz")
	f.StringVar(&where.jaeger, "jaeger-namespace", "linkerd-jaeger", "`namespace` of linkerd-jaeger")
	outputFlag(cmd, &format, "yaml")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("chart", cobra.FixedCompletions(charts, cobra.ShellCompDirectiveNoFileComp)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("linkerd", cobra.NoFileCompletions))
	return cmd
}

// placement is where the extensions are installed.
type placement struct{ viz, jaeger string }

// chartRules are those of Linkerd 2.<minor>.
type chartRules struct{ minor int }

const oldestMinor, newestMinor = 10, 20

// rulesOf reads a version of Linkerd; "" is the newest known.
func rulesOf(version string) (chartRules, error) {
	if version == "" {
		return chartRules{newestMinor}, nil
	}
	bad := func() (chartRules, error) {
		return chartRules{}, usage("--linkerd %q is no version of Linkerd, such as 2.14, stable-2.14.1 or edge-25.2.1", version)
	}
	number, edge := strings.CutPrefix(version, "edge-")
	if !edge {
		number = strings.TrimPrefix(strings.TrimPrefix(version, "stable-"), "v")
	}
	var parts []int
	for part := range strings.SplitSeq(number, ".") {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return bad()
		}
		parts = append(parts, int(n))
	}
	switch {
	case edge && len(parts) == 3:
		return edgeRules(version, parts[0], parts[1])
	case edge || len(parts) < 2 || len(parts) > 3 || parts[0] != 2:
		return bad()
	case parts[1] < oldestMinor:
		return chartRules{}, usage("--linkerd %s: certd works with Linkerd 2.%d and later", version, oldestMinor)
	case parts[1] > newestMinor:
		return chartRules{}, usage("--linkerd %s: certd knows the charts of Linkerd 2.%d to 2.%d; leave --linkerd out for the newest rules", version, oldestMinor, newestMinor)
	}
	return chartRules{parts[1]}, nil
}

// edgeRules are those of an edge release, edge-<year>.<month>.<n>. The charts
// changed from one edge release to the next before 2.12, so that a date does
// not tell what they take.
func edgeRules(version string, year, month int) (chartRules, error) {
	switch at := 12*year + month; {
	case month < 1 || month > 12:
		return chartRules{}, usage("--linkerd %q is no edge release: its name is edge-YEAR.MONTH.NUMBER", version)
	case at < 12*22+9:
		return chartRules{}, usage("--linkerd %s: edge releases are known from edge-22.9.1 on; name the stable release whose charts it has", version)
	case at < 12*25+10: // linkerd-jaeger was removed on 1 October 2025
		return chartRules{18}, nil
	}
	return chartRules{newestMinor}, nil
}

func (r chartRules) String() string { return fmt.Sprintf("2.%d", r.minor) }

// What the charts of a version take.
func (r chartRules) splitCharts() bool     { return r.minor >= 12 } // linkerd2 became linkerd-crds and linkerd-control-plane
func (r chartRules) injectsCA() bool       { return r.minor >= 12 } // injectCaFromSecret; before only caBundle
func (r chartRules) externalCA() bool      { return r.minor >= 11 } // the bundle is a ConfigMap; before only a value
func (r chartRules) policyValidator() bool { return r.minor >= 11 }
func (r chartRules) jaeger() bool          { return r.minor <= 18 }

// charts are those to print: the one asked for, or all there are.
func (r chartRules) charts(only string) ([]string, error) {
	there := []string{chartLinkerd2, chartViz}
	if r.splitCharts() {
		there[0] = chartControlPlane
	}
	if r.jaeger() {
		there = append(there, chartJaeger)
	}
	switch {
	case only == "":
		return there, nil
	case slices.Contains(there, only):
		return []string{only}, nil
	case !slices.Contains([]string{chartControlPlane, chartLinkerd2, chartJaeger}, only):
		return nil, usage("--chart %q: certd has values for %s", only, strings.Join(there, ", "))
	}
	return nil, usage("--chart %s: Linkerd %s has no such chart; it has %s", only, r, strings.Join(there, ", "))
}

// document is the values file of one chart.
func (r chartRules) document(chart string, of api.ClusterExport, where placement) (string, error) {
	if of.Directory {
		return "", usage("cluster %s is a folder of files: no chart is installed there", of.Cluster)
	}
	values, namespace, err := r.values(chart, of, where)
	if err != nil {
		return "", err
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		return "", fmt.Errorf("write the values of %s: %w", chart, err)
	}
	command := fmt.Sprintf("certd export helm-values %s --chart %s", of.Cluster, chart)
	if r.minor != newestMinor {
		command += " --linkerd " + r.String()
	}
	if namespace == where.viz && where.viz != "linkerd-viz" {
		command += " --viz-namespace " + where.viz
	}
	if namespace == where.jaeger && where.jaeger != "linkerd-jaeger" {
		command += " --jaeger-namespace " + where.jaeger
	}
	head := fmt.Sprintf("# %s for cluster %s. To use it:\n#   %s |\n#     helm upgrade --install %s linkerd/%[1]s -n %[5]s -f -\n", chart, of.Cluster, command, chart, namespace)
	if !of.Webhooks {
		head += "# Webhooks are not certd's here (webhooks.manage: none): Helm goes on making their certificates.\n"
	}
	return head + string(text), nil
}

// values are what one chart needs, and the namespace it goes to.
func (r chartRules) values(chart string, of api.ClusterExport, where placement) (values map[string]any, namespace string, err error) {
	values = map[string]any{}
	webhooks := map[string]string{} // the value's name → the Secret
	switch chart {
	case chartControlPlane, chartLinkerd2:
		namespace = of.Namespace
		webhooks["proxyInjector"] = "linkerd-proxy-injector-k8s-tls"
		webhooks["profileValidator"] = "linkerd-sp-validator-k8s-tls"
		if r.policyValidator() {
			webhooks["policyValidator"] = "linkerd-policy-validator-k8s-tls"
		}
		identity := map[string]any{"issuer": map[string]any{"scheme": "kubernetes.io/tls"}}
		values["identity"], values["identityTrustDomain"], values["identityTrustAnchorsPEM"] = identity, of.TrustDomain, ""
		if r.externalCA() {
			identity["externalCA"] = true
		} else if of.BundlePEM == "" {
			return nil, "", hinted{fmt.Errorf("the charts of Linkerd %s take the trust anchors as a value, and there is none yet", r), api.ErrNotNow, "certd init"}
		} else {
			values["identityTrustAnchorsPEM"] = of.BundlePEM
		}
	case chartViz:
		namespace = where.viz
		values["linkerdNamespace"], values["identityTrustDomain"] = of.Namespace, of.TrustDomain
		webhooks["tap"], webhooks["tapInjector"] = "tap-k8s-tls", "tap-injector-k8s-tls"
	case chartJaeger:
		namespace = where.jaeger
		values["linkerdNamespace"] = of.Namespace
		webhooks["webhook"] = "jaeger-injector-k8s-tls"
	}
	if !of.Webhooks {
		return values, namespace, nil
	}
	for name, secret := range webhooks {
		value := map[string]any{"externalSecret": true}
		switch {
		case r.injectsCA():
			value["injectCaFromSecret"] = namespace + "/" + secret
		case of.WebhookCAPEM == "":
			return nil, "", hinted{fmt.Errorf("the charts of Linkerd %s take the webhook CA as a value, and cluster %s has none yet: certd makes it when it first sees a webhook there; "+
				"install the chart without these values, then upgrade it with them", r, of.Cluster), api.ErrNotNow, "certd status " + of.Cluster}
		default:
			value["caBundle"] = of.WebhookCAPEM
		}
		values[name] = value
	}
	return values, namespace, nil
}
