package alert

import (
	"fmt"
	"slices"
	"strings"

	"certd.internal/docs/runbooks"
)

// Index is the table of contents of docs/runbooks.
func Index() ([]byte, error) {
	pages := runbooks.Pages()
	page := func(name string) (string, error) {
		p, ok := runbooks.Find(name)
		if !ok {
			return "", fmt.Errorf("make the index of the runbooks: no page in docs/runbooks names %s", name)
		}
		return fmt.Sprintf("[%s](%s.md)", p.Name, p.Name), nil
	}
	var b strings.Builder
	b.WriteString(`<!-- Made by make generate from cmd/certd/internal/alert and the pages here; do not edit. -->
# Runbooks

A page for each alert, each finding of ` + "`certd status`" + `, and each claim of ` + "`certd check`" + ` that no finding is about.
certd prints them, too, wherever it is installed and whatever is down: ` + "`certd runbook NAME`" + `, where NAME is a page, an
alert, or the id of a finding or of a claim.

Commands of certd are typed where the daemon runs, by somebody who may use its socket. In those of kubectl CLUSTER stands
for your context of the cluster that certd calls so, and ` + "`linkerd`" + ` for the namespace of its control plane.

## Alerts

` + "`critical`" + ` is for now, at any hour; ` + "`warning`" + ` is for the next working day.

| alert | severity | fires when | runbook |
|---|---|---|---|
`)
	for _, a := range Alerts() {
		to, err := page(a.Name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.Name, a.Severity, a.When, to)
	}
	for _, kind := range []struct {
		title, column string
		ids           func(runbooks.Page) []string
	}{
		{"Findings", "finding", func(p runbooks.Page) []string { return p.Findings }},
		{"Checks", "claim", func(p runbooks.Page) []string { return p.Checks }},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| %s | runbook |\n|---|---|\n", kind.title, kind.column)
		var ids []string
		for _, p := range pages {
			ids = append(ids, kind.ids(p)...)
		}
		slices.Sort(ids)
		for _, id := range ids {
			to, err := page(id)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", id, to)
		}
	}
	b.WriteString("\n## Pages\n\n| page | what it is about |\n|---|---|\n")
	for _, p := range pages {
		fmt.Fprintf(&b, "| [%s](%s.md) | %s |\n", p.Name, p.Name, p.Summary)
	}
	return []byte(b.String()), nil
}
