package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/docs/runbooks"
)

func (a *App) runbookCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "runbook [NAME]",
		Short: "What to do about an alert, a finding or a check, a screen each",
		Long: "Prints what an alert, a finding or a check that does not hold means, how long there is, how to confirm it, what to\n" +
			"do with the undo of each step, and what if that fails. NAME is an alert (CertdIssuerNotLoaded), the id of a finding\n" +
			"(IssuerNotLoaded) or what certd check names (vault-audit), in capitals or not. Without a name it lists them all. It\n" +
			"asks nobody, and works anywhere.",
		Example: "  certd runbook\n  certd runbook IssuerNotLoaded",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return noArgs(cmd, args[1:])
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (list []cobra.Completion, _ cobra.ShellCompDirective) {
			if len(args) == 0 {
				for _, p := range runbooks.Pages() {
					for _, name := range p.Names() {
						list = append(list, cobra.CompletionWithDesc(name, p.Summary))
					}
				}
			}
			return list, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				a.tell(runbookList(runbooks.Pages())...)
				return nil
			}
			p, ok := runbooks.Find(args[0])
			if !ok {
				return noRunbook(args[0])
			}
			a.tell(runbookLines(p)...)
			return nil
		},
	}
}

// runbookList has a line for each page.
func runbookList(pages []runbooks.Page) []string {
	width := 0
	for _, p := range pages {
		width = max(width, len(p.Name))
	}
	var lines []string
	for _, p := range pages {
		lines = append(lines, fmt.Sprintf("%-*s  %s", width, p.Name, p.Summary))
	}
	return append(lines, "", "certd runbook NAME prints one, also by the name of an alert, finding or check")
}

// link is a link of Markdown, with its text.
var link = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)

// runbookLines is a page without what only Markdown needs: code keeps its marks,
// which tell it from the sentence around it. Lines are as wide as they were written,
// so that commands stay whole.
func runbookLines(p runbooks.Page) []string {
	var lines []string
	headed := false
	for line := range strings.Lines(p.Text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case headed && line == "": // a heading stands on what it is about
		case strings.HasPrefix(line, "#"):
			title := strings.TrimLeft(line, "# ")
			if strings.HasPrefix(line, "##") {
				title = strings.ToUpper(title)
			}
			lines = append(lines, title)
		default:
			lines = append(lines, link.ReplaceAllString(line, "$1"))
		}
		headed = strings.HasPrefix(line, "#")
	}
	return lines
}

// noRunbook refuses a name, with those that may be meant.
func noRunbook(name string) error {
	fix := "certd runbook"
	if like := runbooksLike(name); len(like) > 0 {
		fix += " " + strings.Join(like, ", or certd runbook ")
	}
	return hinted{fmt.Errorf("there is no runbook for %q", name), api.ErrUsage, fix}
}

// runbooksLike are up to four names that name may stand for.
func runbooksLike(name string) []string {
	similar := &cobra.Command{SuggestionsMinimumDistance: max(2, len(name)/4)}
	var like []string
	for _, p := range runbooks.Pages() {
		for _, n := range p.Names() {
			similar.AddCommand(&cobra.Command{Use: n, Run: func(*cobra.Command, []string) {}})
			if len(name) > 3 && strings.Contains(strings.ToLower(n), strings.ToLower(name)) {
				like = append(like, n)
			}
		}
	}
	if close := similar.SuggestionsFor(name); len(close) > 0 {
		like = close
	}
	slices.Sort(like)
	return like[:min(4, len(like))]
}
