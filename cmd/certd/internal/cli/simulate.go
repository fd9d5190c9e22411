package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/simulate"
	"certd.internal/rotation"
)

func (a *App) simulateCommand() *cobra.Command {
	var format, until string
	var without []string
	var seed uint64
	cmd := &cobra.Command{
		Use: "simulate", Short: "Go through years of this configuration in virtual time", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Go through years of this configuration in virtual time.

certd's own decisions, loop, certificates and journal run against clusters and a key backend
in memory. Each cluster begins with a new Linkerd control plane (three replicas of
linkerd-identity and of each webhook) and 18 meshed pods. Nothing outside of this process is
asked or touched.

--without vault=7d (or certd=7d) has the key backend, or certd itself, be away for that long,
from a minute before an issuer is renewed. It can be repeated, one after another.

Exit status: 0 all promises held, 2 one did not.`,
		Example: "  certd simulate --until 1y\n  certd simulate --until 1y --without vault=7d --without certd=7d\n  certd simulate -o svg > years.svg",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml", "svg")
			if err != nil {
				return err
			}
			ahead, err := config.ParseDuration(until)
			if err != nil {
				return usage("--until %q %v", until, err)
			}
			if ahead > horizon {
				return usage("--until %s: simulations reach 20 years at most", until)
			}
			outages, err := outagesOf(without)
			if err != nil {
				return err
			}
			policy, err := a.Policy(a.configPath)
			if err != nil {
				return err
			}
			from := a.Now().UTC().Truncate(time.Second)
			options := simulate.Options{Policy: policy, From: from, Until: from.Add(ahead), Outages: outages, Seed: seed}
			if a.Interactive {
				options.Progress = func(at time.Time) { fmt.Fprintf(a.Stderr, "\r%s", at.Format("January 2006     ")) }
				defer fmt.Fprint(a.Stderr, "\r                    \r")
			}
			life, err := simulate.Run(cmd.Context(), options)
			if err != nil {
				return err
			}
			switch {
			case o.format == "svg":
				if err := simulate.SVG(a.Stdout, life); err != nil {
					return err
				}
			case o.machine():
				if err := a.document(o, life); err != nil {
					return err
				}
			default:
				a.tell(lifeView{a.style(), life}.lines()...)
			}
			if len(life.Violations) > 0 {
				return exit(exitPending)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&until, "until", "10y", "how far ahead, as in 36h, 90d, 10y")
	f.StringArrayVar(&without, "without", nil, "what is away, and for how long: `vault=7d` or certd=7d")
	f.Uint64Var(&seed, "seed", 1, "what chance decides by: the same seed is the same life")
	outputFlag(cmd, &format, "table", "json", "yaml", "svg")
	return cmd
}

func outagesOf(args []string) (all []simulate.Outage, err error) {
	for _, arg := range args {
		what, length, ok := strings.Cut(arg, "=")
		if !ok || what != simulate.Vault && what != simulate.Certd {
			return nil, usage("--without %s: not vault=DURATION or certd=DURATION, as in vault=7d", arg)
		}
		d, err := config.ParseDuration(length)
		if err != nil {
			return nil, usage("--without %s: %q %v", arg, length, err)
		}
		all = append(all, simulate.Outage{What: what, For: d})
	}
	return all, nil
}

// lifeView is `certd simulate` as text.
type lifeView struct {
	style
	doc simulate.Life
}

// mostLines is how many clusters, findings and violations are told one by one.
const mostLines = 20

func (v lifeView) lines() []string {
	length := rotation.FormatDuration(v.doc.Until.Sub(v.doc.From))
	lines := v.wrap(clip(v.clean(v.doc.Fleet), v.prose()-2)+"  ", "", fmt.Sprintf("%s of %s, from %s, in virtual time. Nothing was touched.", length, count(len(v.doc.Clusters), "cluster"), v.day(v.doc.From)))
	lines = append(lines, "")
	for _, o := range v.doc.Outages {
		lines = append(lines, v.wrap("", "  ", fmt.Sprintf("without %s from %s to %s", o.What, v.when(o.From), v.when(o.To)))...)
	}
	if len(v.doc.Outages) > 0 {
		lines = append(lines, "")
	}
	lines = append(lines, v.renewals()...)
	lines = append(lines, "")
	for _, an := range v.doc.Anchors {
		lines = append(lines, v.wrap("", "  ", fmt.Sprintf("trust anchor %s: a certificate from %s to %s", an.ID, v.day(an.NotBefore), v.day(an.NotAfter)))...)
	}
	s := v.doc.Signatures
	lines = append(lines, v.wrap("", "  ", fmt.Sprintf("signatures: %d for issuers, %d for webhooks, %d for CAs, %d to try the path", s.Issuers, s.Webhooks, s.CAs, s.Canaries))...)
	lines = append(lines, "")
	lines = append(lines, v.findings()...)
	for i, bad := range v.doc.Violations {
		if i == mostLines {
			lines = append(lines, fmt.Sprintf("and %d more: -o json has them all", len(v.doc.Violations)-i))
			break
		}
		where := ""
		if bad.Cluster != "" {
			where = " in " + v.clean(bad.Cluster)
		}
		times := ""
		if bad.Times > 1 {
			times = fmt.Sprintf(", %d times until %s", bad.Times, v.when(bad.Last))
		}
		lines = append(lines, v.wrap(v.mark(markCritical)+" ", "  ", fmt.Sprintf("%s did not hold%s, first on %s%s: %s", bad.Promise, where, v.when(bad.First), times, v.clean(bad.Text)))...)
	}
	if len(v.doc.Violations) > 0 {
		return lines
	}
	return append(lines, v.wrap(v.mark(markOK)+" ", "  ", "every promise held: no certificate lapsed, no handshake and no admission would have failed.")...)
}

// renewals tells of each cluster, or, where there are many, of those that came
// closest to their end.
func (v lifeView) renewals() []string {
	clusters := slices.Clone(v.doc.Clusters)
	if len(clusters) > mostLines {
		slices.SortStableFunc(clusters, func(a, b simulate.ClusterLife) int {
			return int(a.Issuer.LeastLeftSeconds/60 - b.Issuer.LeastLeftSeconds/60)
		})
		clusters = clusters[:mostLines]
	}
	cols := []column{{name: "CLUSTER"}, {name: "ISSUERS"}, {name: "LEAST LEFT"}, {name: "FLOOR", rank: 1}, {name: "WEBHOOKS"}, {name: "LEAST LEFT"}, {name: "FLOOR", rank: 1}, {name: "CAS", rank: 2}}
	var rows [][]cell
	for _, c := range clusters {
		row := []cell{text(v.clean(c.Name))}
		row = append(row, v.kind(c.Issuer)...)
		row = append(row, v.kind(c.Webhooks)...)
		cas := "-"
		if c.Webhooks.FloorSeconds > 0 {
			cas = fmt.Sprint(c.WebhookCA.Count)
		}
		rows = append(rows, append(row, text(cas)))
	}
	lines := v.table("", cols, rows)
	if n := len(v.doc.Clusters) - len(clusters); n > 0 {
		lines = append(lines, fmt.Sprintf("and %d more that had more left: -o json has them all", n))
	}
	return lines
}

func (v lifeView) kind(r simulate.Renewals) []cell {
	if r.FloorSeconds == 0 {
		return []cell{text("-"), text("-"), text("-")}
	}
	left := cell{text: "-"}
	if !r.LeastLeftAt.IsZero() {
		left.text = span(time.Duration(r.LeastLeftSeconds) * time.Second)
		switch {
		case r.LeastLeftSeconds <= 0:
			left.text, left.sgr = "ended "+left.text+" before", markCritical.sgr
		case r.LeastLeftSeconds < r.FloorSeconds:
			left.sgr = markWarning.sgr
		}
	}
	return []cell{text(fmt.Sprint(r.Count)), left, text(span(time.Duration(r.FloorSeconds) * time.Second))}
}

// findings are those that stood for a while; alike ones are told once.
func (v lifeView) findings() (lines []string) {
	type alike struct {
		rotation.State
		id, message string
	}
	var order []alike
	groups := map[alike][]simulate.Episode{}
	for _, e := range v.doc.Findings {
		key := alike{e.Worst, e.Finding, ""}
		if e.Cluster == "" {
			key.message = e.Message
		}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], e)
	}
	for i, key := range order {
		if i == mostLines {
			lines = append(lines, fmt.Sprintf("and %d more: -o json has them all", len(order)-i))
			break
		}
		all := groups[key]
		longest, stands := all[0], false
		clusters := map[string]bool{}
		length := func(e simulate.Episode) time.Duration {
			if e.To.IsZero() {
				return v.doc.Until.Sub(e.From)
			}
			return e.To.Sub(e.From)
		}
		for _, e := range all {
			stands = stands || e.To.IsZero()
			if e.Cluster != "" {
				clusters[e.Cluster] = true
			}
			if length(e) > length(longest) {
				longest = e
			}
		}
		where := ""
		if len(clusters) > 0 {
			where = " in " + count(len(clusters), "cluster")
		}
		text := fmt.Sprintf("%s%s: %s, first on %s, for %s at most", key.id, where, count(len(all), "time"), v.when(all[0].From), span(length(longest)))
		if stands {
			text += ", and at the end"
		}
		lines = append(lines, v.wrap(v.mark(markOf(key.State))+" ", "  ", text+": "+v.clean(longest.Message))...)
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}
