package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// checkOptions are the flags of `certd check`.
type checkOptions struct {
	format string
	pre    bool
	sel    check.Select
	wait   time.Duration
	failOn string
}

func (a *App) checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use: "check", Short: "Claims that must hold, in the grammar of `linkerd check`, with what to do where one does not", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Judges claims about the configuration, the daemon, the key backend, every cluster, its certificates and who accepts
whom, and says what to type where one does not hold. The rules of ` + "`linkerd check`" + ` about certificates are among them,
for all clusters at once. The daemon looks at everything anew, with its own login; where none answers, this
command does.

With --pre it needs neither a daemon nor a trust anchor, and writes nothing anywhere: it shows whether certd init and
certd run will find what they need. It logs in to Vault as the daemon would, but spends no wrapped secret id.

The exit code is 0 where all claims hold, 1 with warnings, 2 where a claim does not hold, 3 where nothing is wrong and
not all could be seen. --fail-on error leaves warnings out. --wait tries again until nothing fails, for so long.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := outputOf(o.format, "table", "short", "json", "yaml")
			if err != nil {
				return err
			}
			err = a.checkFleet(cmd.Context(), out, o)
			if err != nil && codeOf(err) == exitFailed && !errors.As(err, new(exit)) {
				// 1 would read as a warning, and what is known is nothing.
				a.report(err)
				return exit(exitUnknown)
			}
			return err
		},
	}
	outputFlag(cmd, &o.format, "table", "short", "json", "yaml")
	f := cmd.Flags()
	f.BoolVar(&o.pre, "pre", false, "before there are a daemon and a trust anchor")
	f.StringSliceVar(&o.sel.Clusters, "cluster", nil, "only these `clusters`")
	f.StringSliceVar(&o.sel.Categories, "category", nil, "only these `categories`: "+strings.Join(check.Categories(), ", "))
	f.DurationVar(&o.wait, "wait", 0, "try again until nothing fails, for so `long`")
	f.StringVar(&o.failOn, "fail-on", "warning", "the least `result` that the exit code tells of: warning or error")
	complete := func(name string, values []string) {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	complete("category", check.Categories())
	complete("fail-on", []string{"warning", "error"})
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters))
	return cmd
}

func (a *App) checkFleet(ctx context.Context, out output, o checkOptions) error {
	switch {
	case o.failOn != "warning" && o.failOn != "error":
		return usage("--fail-on %s: not one of warning, error", o.failOn)
	case o.wait < 0:
		return usage("--wait %s: not a time to wait", o.wait)
	}
	for _, k := range o.sel.Categories {
		if !slices.Contains(check.Categories(), k) {
			return usage("--category %s: not one of %s", k, strings.Join(check.Categories(), ", "))
		}
	}
	o.sel.Version = a.Version.Version
	doc, err := a.judged(ctx, o)
	for until := a.Now().Add(o.wait); err == nil && o.exitCode(doc) != exitOK && a.Now().Before(until); {
		select {
		case <-ctx.Done():
			return interrupted("nothing was changed")
		case <-time.After(min(a.poll, until.Sub(a.Now()))):
		}
		doc, err = a.judged(ctx, o)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("nothing was changed")
	case err != nil:
		return err
	}
	if out.machine() {
		err = a.document(out, doc)
	} else {
		a.tell(checkView{a.style(), doc, out.format == "short"}.lines()...)
	}
	if code := o.exitCode(doc); err == nil && code != exitOK {
		return exit(code)
	}
	return err
}

// judged asks the daemon, and where none answers judges in this process.
func (a *App) judged(ctx context.Context, o checkOptions) (check.Report, error) {
	if o.pre {
		return a.Check(ctx, a.configPath, o.sel, true, "")
	}
	socket, err := a.Socket(a.configPath)
	if errors.Is(err, ErrConfig) {
		return a.Check(ctx, a.configPath, o.sel, false, "")
	}
	if err != nil {
		return check.Report{}, err
	}
	daemon := api.NewClient(socket)
	_, err = daemon.Status(ctx) // tells a daemon that hangs within 2 s
	if err == nil {
		return daemon.Check(ctx, o.sel)
	}
	if errors.Is(err, api.ErrNoDaemon) {
		return a.Check(ctx, a.configPath, o.sel, false, err.Error())
	}
	return check.Report{}, err
}

// exitCode is the state, or 78 where the configuration does not load.
func (o checkOptions) exitCode(doc check.Report) int {
	switch {
	case !doc.Loads():
		return exitConfig
	case doc.State == rotation.StateWarning && o.failOn == "error":
		return exitOK
	}
	return stateCode(doc.State)
}

// checkView is `certd check` as text.
type checkView struct {
	style
	doc   check.Report
	short bool // only what does not hold
}

const (
	claimWidth  = 62 // of a claim, before in how many clusters it holds
	mostReasons = 6  // told of one claim
	mostHints   = 3
)

func (v checkView) lines() []string {
	var lines []string
	for _, k := range v.doc.Categories {
		var part []string
		for _, c := range k.Checks {
			if !v.short || c.Result != check.Success && !c.Follows() && !c.Ignored {
				part = append(part, v.claim(c)...)
			}
		}
		if len(part) == 0 {
			continue
		}
		head := k.CategoryName
		if k.About != "" && !v.short {
			head += " (" + v.clean(k.About) + ")"
		}
		head = clip(head, v.prose())
		lines = append(lines, head, strings.Repeat("-", cells(head)))
		lines = append(append(lines, part...), "")
	}
	if v.short && v.width == 0 { // in a pipe, for a monitoring plugin: one line holds its performance data
		s := v.doc.Summary
		return append(lines, fmt.Sprintf("%s | claims=%d hold=%d warnings=%d;0 errors=%d;;0 unknown=%d", v.clean(v.sum()), s.Claims, s.Hold, s.Warnings, s.Errors, s.Unknown))
	}
	return append(lines, v.wrap("", "  ", v.clean(v.sum()))...)
}

func markOfCheck(r check.Result) mark {
	switch r {
	case check.Success:
		return markOK
	case check.Warning:
		return markWarning
	case check.Error:
		return markCritical
	}
	return markUnknown
}

// claim is one line where it holds; else what is wrong, where, and what to do. What
// another claim tells is not told again.
func (v checkView) claim(c check.Check) []string {
	m := markOfCheck(c.Result)
	head, holds, note := v.clean(c.Description), "", ""
	if c.Clusters != nil {
		holds = fmt.Sprintf("%d of %d", c.Clusters.Hold, c.Clusters.Total)
	}
	if c.Note != "" {
		note = v.clean("(" + c.Note + ")")
	}
	room := func(text string) bool { return v.width == 0 || cells(v.sign(m))+1+cells(text) <= v.prose() }
	beside := func(text string) string {
		return head + strings.Repeat(" ", max(2, claimWidth+2-cells(v.sign(m))-cells(head))) + text
	}
	switch both := strings.TrimSpace(holds + "  " + note); {
	case both == "":
	case room(beside(both)):
		head, note = beside(both), ""
	case holds != "" && room(beside(holds)):
		head = beside(holds)
	}
	lines := v.wrap(v.mark(m)+" ", "  ", head)
	if room(head) {
		lines = []string{v.mark(m) + " " + head}
	}
	if note != "" {
		lines = append(lines, v.wrap("    ", "    ", note)...)
	}
	if c.Result == check.Success || c.Follows() {
		return lines
	}
	told := slices.DeleteFunc(slices.Clone(c.Reasons), func(r check.Reason) bool { return r.Follows != "" })
	return append(lines, v.reasons(told)...)
}

// reasons says why, what to type, and where to read on.
func (v checkView) reasons(all []check.Reason) (lines []string) {
	for i, r := range all {
		if i == mostReasons {
			lines = append(lines, fmt.Sprintf("    and %d more (certd check -o json)", len(all)-i))
			break
		}
		lines = append(lines, v.wrap("    ", "      ", v.clean(r.String()))...)
	}
	var hints, books []string
	for _, r := range all {
		if r.Hint != "" && !slices.Contains(hints, r.Hint) && len(hints) < mostHints {
			hints = append(hints, r.Hint)
			lines = append(lines, v.next(v.clean(r.Hint))...)
		}
	}
	for _, r := range all {
		if !slices.Contains(books, r.Runbook) && len(books) < mostHints {
			books = append(books, r.Runbook)
			lines = append(lines, v.plain("  → ")+"certd runbook "+v.clean(r.Runbook))
		}
	}
	return lines
}

// sum is the last line.
func (v checkView) sum() string {
	s := v.doc.Summary
	text, does := fmt.Sprintf("%s: %d hold", count(s.Claims, "claim"), s.Hold), fmt.Sprintf("%d do not hold", s.Errors)
	if s.Errors == 1 {
		does = "1 does not hold"
	}
	for _, p := range []struct {
		n    int
		what string
	}{{s.Warnings, count(s.Warnings, "warning")}, {s.Errors, does}, {s.Unknown, fmt.Sprintf("%d could not be seen", s.Unknown)}} {
		if p.n > 0 {
			text += ", " + p.what
		}
	}
	if v.doc.Source == "command" && !v.doc.Pre && v.doc.Loads() {
		text += "; no daemon answered, so this command looked by itself"
	}
	return text
}
