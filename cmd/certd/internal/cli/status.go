package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

const apiVersion = rotation.APIVersion

type statusOptions struct {
	names    []string
	selector string
	all      bool
	watch    bool
	live     bool
	output   output
}

func (a *App) statusCommand() *cobra.Command {
	var o statusOptions
	var format string
	formats := []string{"table", "wide", "short", "json", "yaml", "jsonpath"}
	cmd := &cobra.Command{
		Use:   "status [CLUSTER...]",
		Short: "The fleet at a glance: what is wrong, how long there is, what comes next",
		Long: "The fleet at a glance, from the daemon, or from its journal if none answers.\n" +
			"The exit code is the state: 0 ok, 1 warning, 2 critical, 3 unknown.",
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.names = args
			if o.output, err = outputOf(format, formats...); err != nil {
				return err
			}
			if o.watch && o.output.format != "table" && o.output.format != "wide" {
				return usage("--watch goes with -o table and -o wide only")
			}
			if o.watch {
				return a.watch(cmd.Context(), o)
			}
			err = a.status(cmd.Context(), o)
			if err != nil && codeOf(err) == exitFailed && !errors.As(err, new(exit)) {
				// 1 would read as a warning, and what is known is nothing.
				a.report(err)
				return exit(exitUnknown)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "only clusters whose `labels` match, as in kubectl -l")
	f.BoolVarP(&o.all, "all", "A", false, "a row for each cluster, and every problem, however many there are")
	f.BoolVarP(&o.watch, "watch", "w", false, "look again every 2 s until interrupted")
	f.BoolVar(&o.live, "live", false, "ask the clusters themselves")
	outputFlag(cmd, &format, formats...)
	return cmd
}

// look returns the wanted part of the fleet's status.
func (a *App) look(ctx context.Context, o statusOptions) (st rotation.FleetStatus, note string, err error) {
	if o.live {
		if a.Live == nil {
			return st, "", usage("--live: not supported yet")
		}
		st, err = a.Live(ctx, a.configPath)
	} else {
		st, note, err = ask(ctx, a, func(ctx context.Context, s api.Service) (rotation.FleetStatus, error) { return s.Status(ctx) })
	}
	if err != nil {
		return st, "", err
	}
	st, err = narrowed(st, o.names, o.selector)
	return st, note, err
}

func (a *App) status(ctx context.Context, o statusOptions) error {
	st, note, err := a.look(ctx, o)
	if err != nil {
		return err
	}
	s := a.style()
	switch {
	case o.output.format == "short":
		a.tell(short(st, s.now))
	case o.output.machine():
		if note != "" {
			a.aside(note)
		}
		if err := a.document(o.output, st); err != nil {
			return err
		}
	default:
		a.tell(a.statusLines(s, o, st, note)...)
	}
	if code := stateCode(st.State); code != exitOK {
		return exit(code)
	}
	return nil
}

// working refuses the status of a certd that stands by: what the fleet is like, another one
// knows.
func working(st rotation.FleetStatus, err error) (rotation.FleetStatus, error) {
	if e := st.Election; err == nil && e != nil && e.Role == rotation.RoleStandby {
		err = fmt.Errorf("%s; ask the one that leads: %w", e.Sentence(), api.ErrNotNow)
	}
	return st, err
}

func (a *App) statusLines(s style, o statusOptions, st rotation.FleetStatus, note string) []string {
	if e := st.Election; e != nil && e.Role == rotation.RoleStandby {
		return []string{s.clean(st.Fleet + ": " + e.Sentence())}
	}
	return statusView{style: s, doc: st, note: note, all: o.all || len(o.names) > 0, wide: o.output.format == "wide"}.lines()
}

// stateCode is the exit code of a state, as monitoring plugins have it.
func stateCode(s rotation.State) int {
	switch s {
	case rotation.StateOK:
		return exitOK
	case rotation.StateWarning:
		return 1
	case rotation.StateCritical:
		return 2
	}
	return exitUnknown
}

// chosen returns the names of the clusters that names and selector ask for;
// all if they ask for nothing.
func chosen(clusters []rotation.ClusterStatus, names []string, selector string) (map[string]bool, error) {
	sel, err := labels.Parse(selector)
	if err != nil {
		return nil, usage("-l %s: %v", selector, err)
	}
	for _, n := range names {
		if !slices.ContainsFunc(clusters, func(c rotation.ClusterStatus) bool { return c.Name == n }) {
			have := make([]string, len(clusters))
			for i, c := range clusters {
				have[i] = c.Name
			}
			return nil, usage("there is no cluster %q; the fleet has %s", n, nameList(have))
		}
	}
	set := map[string]bool{}
	for _, c := range clusters {
		if (len(names) == 0 || slices.Contains(names, c.Name)) && sel.Matches(labels.Set(c.Labels)) {
			set[c.Name] = true
		}
	}
	if selector != "" && len(set) == 0 {
		return nil, usage("-l %s: no cluster matches", selector)
	}
	return set, nil
}

func nameList(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return names(list, 8)
}

// narrowed is the status of a part of the fleet, with the state and the time
// left of that part. What is wrong with the whole fleet is wrong here, too.
func narrowed(st rotation.FleetStatus, names []string, selector string) (rotation.FleetStatus, error) {
	if e := st.Election; len(names) == 0 && selector == "" || e != nil && e.Role == rotation.RoleStandby {
		return st, nil
	}
	set, err := chosen(st.Clusters, names, selector)
	if err != nil {
		return st, err
	}
	st.Clusters = slices.DeleteFunc(slices.Clone(st.Clusters), func(c rotation.ClusterStatus) bool { return !set[c.Name] })
	st.Conclude()
	return st, nil
}

// cycleStalled is from which age of the last cycle on alerts fire
// (CertdCycleStalled).
const cycleStalled = 30 * time.Minute

// short is one line for a monitoring plugin, with performance data
// ('label'=value[unit];[warn];[crit]), thresholds where there are any.
func short(st rotation.FleetStatus, now time.Time) string {
	s := style{ascii: true}
	what := "all " + count(st.Summary.Clusters, "cluster") + " ok"
	if e := st.Election; e != nil && e.Role == rotation.RoleStandby {
		what = e.Sentence()
	} else if problems := likewise(gather(st.Findings, st.Clusters)); len(problems) > 0 {
		p := problems[0]
		what = strings.TrimSpace(which(p.clusters) + " " + p.Message)
		if more := len(problems) - 1; more > 0 {
			what += fmt.Sprintf(", and %s more", count(more, "problem"))
		}
	}
	// The bar begins the performance data.
	what = strings.ReplaceAll(s.clean(what), "|", "/")
	line := fmt.Sprintf("CERTD %s - %s", strings.ToUpper(string(st.State)), what)
	if at := st.NothingBreaksBefore; at != nil && at.After(now) {
		line += fmt.Sprintf(" (%s left)", coarse(at.Sub(now)))
	}
	sum := st.Summary
	line += fmt.Sprintf(" | clusters=%d ok=%d warning=%d;0 critical=%d;;0 unknown=%d", sum.Clusters, sum.OK, sum.Warning, sum.Critical, sum.Unknown)
	if at := st.NothingBreaksBefore; at != nil {
		line += fmt.Sprintf(" min_expiry=%ds%s", int64(at.Sub(now)/time.Second), least(st))
	}
	if d := st.Daemon; d != nil && d.LastCycleAt != nil {
		line += fmt.Sprintf(" cycle_age=%ds;%d;%d", int64(now.Sub(*d.LastCycleAt)/time.Second), int64(check.CyclesEvery/time.Second), int64(cycleStalled/time.Second))
	}
	return line
}

// least are the thresholds of the time that is left to what breaks first: renewed
// by then (RenewalOverdue), and what a repair may take (IssuerBelowFloor). Only
// issuers have them.
func least(st rotation.FleetStatus) string {
	first := st.FirstToBreak
	if first == nil || first.Kind != "issuer" {
		return ""
	}
	i := slices.IndexFunc(st.Clusters, func(c rotation.ClusterStatus) bool { return c.Name == first.Cluster })
	if i < 0 || st.Clusters[i].Issuer == nil {
		return ""
	}
	warn, critical := "", ""
	if by := st.Clusters[i].Issuer.MustRenewBy; by != nil {
		warn = fmt.Sprintf("%d:", int64(first.At.Sub(*by)/time.Second))
	}
	if floor := st.Clusters[i].Issuer.FloorSeconds; floor > 0 {
		critical = fmt.Sprintf("%d:", floor)
	}
	return ";" + warn + ";" + critical
}

// watch looks again and again: a terminal is redrawn, a pipe gets a line for
// each change.
func (a *App) watch(ctx context.Context, o statusOptions) error {
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	var last map[string]string
	lastErr := ""
	for first := true; ; first = false {
		st, note, err := a.look(ctx, o)
		switch {
		case ctx.Err() != nil:
			return interrupted("nothing was changed")
		case err != nil && (first || errors.Is(err, api.ErrUsage)):
			return err
		case a.Terminal:
			lines := a.height()
			s := a.style()
			if err != nil {
				a.redraw(s.wrap(s.mark(markCritical)+" ", "  ", s.clean(err.Error())), lines, first)
			} else {
				a.redraw(a.statusLines(s, o, st, note), lines, first)
			}
		case err != nil:
			if text := err.Error(); text != lastErr {
				a.report(err)
				lastErr = text
			}
		default:
			lastErr = ""
			last = a.changes(st, last)
		}
		select {
		case <-ctx.Done():
			return interrupted("nothing was changed")
		case <-tick.C:
		}
	}
}

// redraw puts lines where the last ones were: home, draw, clear what is left
// over. So nothing flickers, and nothing scrolls: what does not fit is cut off,
// and said to be.
func (a *App) redraw(lines []string, height int, first bool) {
	if room := height - 1; height > 1 && len(lines) > room {
		lines = append(slices.Clone(lines[:room-1]), fmt.Sprintf("%d more lines (certd status)", len(lines)-room+1))
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	if first {
		b.WriteString("\x1b[2J")
	}
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
	}
	fmt.Fprint(a.Stdout, b.String()+"\x1b[J")
}

// changes prints a line for each cluster that is not as it was last.
func (a *App) changes(st rotation.FleetStatus, last map[string]string) map[string]string {
	s := a.style()
	now := map[string]string{}
	v := statusView{style: s, doc: st}
	told := func(name, key, line string, m mark) {
		now[name] = key
		if last[name] != key {
			a.tell(v.wrap(s.now.In(s.zone).Format("15:04:05")+"  "+v.mark(m)+" "+v.clean(name)+"  ", "  ", line)...)
		}
	}
	fleet := []string{string(st.State)}
	for _, f := range st.Findings {
		fleet = append(fleet, v.clean(f.Message))
	}
	told(st.Fleet, strings.Join(fleet, "; "), strings.Join(fleet, "; "), markOf(st.State))
	for _, c := range st.Clusters {
		key := []string{string(c.State), c.Mode}
		line := string(c.State)
		if c.Mode != "managed" {
			line += " mode=" + v.clean(c.Mode)
		}
		if c.Issuer != nil && c.Issuer.Delivered != nil {
			loaded := v.loaded(c).text
			key = append(key, c.Issuer.Delivered.Serial, loaded)
			line += fmt.Sprintf(" issuer=%s loaded=%s", brief(v.clean(c.Issuer.Delivered.Serial)), loaded)
			if left := usableUntil(c.Issuer).Sub(s.now); left > 0 {
				line += " " + span(left)
			} else {
				line += " ended"
			}
		}
		if len(c.Webhooks) > 0 {
			for _, w := range c.Webhooks {
				if w.Delivered != nil {
					key = append(key, w.Delivered.Serial)
				}
			}
			served := servedOf(c)
			key = append(key, served)
			line += fmt.Sprintf(" webhooks=%d served=%s", len(c.Webhooks), served)
			switch end := firstEnd(c); {
			case end == nil:
			case end.After(s.now):
				line += " " + span(end.Sub(s.now))
			default:
				line += " ended"
			}
		}
		if p := c.Proxies; p != nil {
			// Pods come and go all day; it is news when others are stale.
			key = append(key, fmt.Sprint(p.Stale, p.Problem != ""))
			line += " proxies=" + strings.ReplaceAll(v.proxies(c).text, " ", "")
		}
		for _, f := range c.Findings {
			key = append(key, f.ID)
			line += "; " + v.clean(f.Message)
		}
		told(c.Name, strings.Join(key, " "), line, markOf(c.State))
	}
	return now
}

// interrupted ends a command that Ctrl-C stopped, saying what state things
// are in.
func interrupted(state string) error {
	return hinted{fmt.Errorf("interrupted; %s", state), context.Canceled, ""}
}
