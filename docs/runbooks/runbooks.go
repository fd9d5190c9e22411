// Package runbooks holds the runbooks, a page each, so that certd can print them
// where nothing else can be reached.
package runbooks

import (
	"cmp"
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed *.md
var files embed.FS

// Sections are the headings of each page, in their order.
func Sections() []string {
	return []string{"What it means", "How long you have", "Confirm", "Fix", "If that fails", "Why it happened"}
}

// A Page is one runbook.
type Page struct {
	Name    string // of its file, without .md
	Summary string // its first sentence: what it is about
	Text    string // Markdown, lines of 80 characters at most, ASCII
	// What leads to it: names of alerts, ids of findings and of checks.
	Alerts, Findings, Checks []string
}

// Names are all that the page can be asked for by.
func (p Page) Names() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat([]string{p.Name}, p.Alerts, p.Findings, p.Checks))))
}

// Pages returns all runbooks, by name. It panics if a page has not the form that
// the tests hold all of them to.
func Pages() []Page {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // an embedded folder is there
	}
	var all []Page
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".md")
		if name == "README" {
			continue
		}
		text, err := files.ReadFile(e.Name())
		if err != nil {
			panic(err)
		}
		p, err := parse(name, string(text))
		if err != nil {
			panic(err)
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Page) int { return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return all
}

// parse reads what stands above the first section: the name, the summary, and what
// leads here ("Alerts: A, B").
func parse(name, text string) (Page, error) {
	p := Page{Name: name, Text: text}
	head, _, ok := strings.Cut(text, "\n## ")
	title, rest, _ := strings.Cut(head, "\n\n")
	if !ok || title != "# "+name {
		return p, fmt.Errorf("runbook %s.md: it does not begin with %q, a summary and sections", name, "# "+name)
	}
	summary, rest, _ := strings.Cut(rest, "\n\n")
	p.Summary = strings.Join(strings.Fields(summary), " ")
	for line := range strings.Lines(rest) {
		kind, list, ok := strings.Cut(strings.TrimSpace(line), ": ")
		names := strings.Split(list, ", ")
		switch {
		case strings.TrimSpace(line) == "":
		case ok && kind == "Alerts":
			p.Alerts = append(p.Alerts, names...)
		case ok && kind == "Findings":
			p.Findings = append(p.Findings, names...)
		case ok && kind == "Checks":
			p.Checks = append(p.Checks, names...)
		default:
			return p, fmt.Errorf("runbook %s.md: line %q is neither Alerts, Findings nor Checks", name, strings.TrimSpace(line))
		}
	}
	return p, nil
}

// Find returns the page that name leads to, whatever its case.
func Find(name string) (Page, bool) {
	for _, p := range Pages() {
		for _, n := range p.Names() {
			if strings.EqualFold(n, name) {
				return p, true
			}
		}
	}
	return Page{}, false
}
