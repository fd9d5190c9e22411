package runbooks

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	columns = 80 // of a terminal that nobody has widened
	rows    = 60 // of a page: what a person takes in at night
)

// Whoever reads one page knows where to look in every other.
func TestEachPageHasTheForm(t *testing.T) {
	all := Pages()
	if len(all) < 30 {
		t.Fatalf("only %d pages: the test looks in the wrong place", len(all))
	}
	numbered := regexp.MustCompile(`(?m)^\d+\. `)
	for _, p := range all {
		t.Run(p.Name, func(t *testing.T) {
			lines := strings.Split(strings.TrimSuffix(p.Text, "\n"), "\n")
			if len(lines) > rows {
				t.Errorf("%d lines, at most %d", len(lines), rows)
			}
			for i, l := range lines {
				if len(l) > columns || strings.TrimRight(l, " ") != l || strings.ContainsFunc(l, func(r rune) bool { return r > 126 || r < 32 }) {
					t.Errorf("line %d is wider than %d columns, ends in a blank, or is not ASCII: %q", i+1, columns, l)
				}
			}
			if n := len(p.Summary); n == 0 || n > 50 || !strings.HasSuffix(p.Summary, ".") {
				t.Errorf("the summary %q is not a sentence of at most 50 characters", p.Summary)
			}
			sections := map[string]string{}
			var titles []string
			for _, s := range strings.Split(p.Text, "\n## ")[1:] {
				title, body, _ := strings.Cut(s, "\n")
				titles = append(titles, title)
				sections[title] = strings.Trim(body, "\n")
				if sections[title] == "" {
					t.Errorf("section %q is empty", title)
				}
			}
			if !slices.Equal(titles, Sections()) {
				t.Errorf("sections are %q, want %q", titles, Sections())
			}
			if n := len(commands(sections["Confirm"])); n < 2 || n > 3 {
				t.Errorf("%d commands confirm it, want two, and a third at most", n)
			}
			steps := numbered.Split(sections["Fix"], -1)[1:]
			if len(steps) == 0 {
				t.Error("Fix has no numbered step")
			}
			for i, s := range steps {
				if strings.Count(s, "\n   Undo: ") != 1 {
					t.Errorf("step %d of Fix does not say once how to undo it:\n%s", i+1, s)
				}
			}
		})
	}
}

// commands are the indented lines of a text, those that go on with a backslash or
// a pipe as one.
func commands(text string) (list []string) {
	goesOn := false
	for line := range strings.Lines("\n" + text) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, "    ") {
			continue
		}
		if !goesOn {
			list = append(list, line)
		}
		goesOn = strings.HasSuffix(line, `\`) || strings.HasSuffix(line, "|")
	}
	return list
}

// A name leads to one page, in capitals or not.
func TestNamesLeadToOnePage(t *testing.T) {
	seen := map[string]string{}
	for _, p := range Pages() {
		if len(p.Alerts)+len(p.Findings)+len(p.Checks) == 0 {
			t.Errorf("nothing leads to %s", p.Name)
		}
		for _, n := range p.Names() {
			if other := seen[strings.ToLower(n)]; other != "" {
				t.Errorf("%s leads to %s and to %s", n, other, p.Name)
			}
			seen[strings.ToLower(n)] = p.Name
			for _, asked := range []string{n, strings.ToLower(n), strings.ToUpper(n)} {
				if found, ok := Find(asked); !ok || found.Name != p.Name {
					t.Errorf("Find(%q) = %q, %v, want %q", asked, found.Name, ok, p.Name)
				}
			}
		}
	}
	if p, ok := Find("README"); ok {
		t.Errorf("the index is no runbook, but Find returns %q", p.Name)
	}
}

// What a page points to is there: files, and pages that it names by command.
func TestLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	page := regexp.MustCompile("certd runbook ([A-Z][A-Za-z]+)")
	file := regexp.MustCompile(`\b(?:docs|deploy)/[a-z0-9/-]+\.[a-z]+`)
	for _, p := range Pages() {
		for _, m := range link.FindAllStringSubmatch(p.Text, -1) {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s links to %s: %v", p.Name, m[1], err)
			}
		}
		for _, m := range file.FindAllString(p.Text, -1) {
			if _, err := os.Stat(filepath.Join("../..", m)); err != nil {
				t.Errorf("%s names %s: %v", p.Name, m, err)
			}
		}
		for _, m := range page.FindAllStringSubmatch(p.Text, -1) {
			if _, ok := Find(m[1]); !ok && m[1] != "ID" {
				t.Errorf("%s names runbook %s, which is not there", p.Name, m[1])
			}
		}
	}
}

func TestPagesWithoutTheFormAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"another title":     "# Y\n\nAbout.\n\nFindings: Y\n\n## What it means\n",
		"no section":        "# X\n\nAbout.\n\nFindings: X\n",
		"a line of no kind": "# X\n\nAbout.\n\nReasons: X\n\n## What it means\n",
	} {
		if _, err := parse("X", text); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	p, err := parse("X", "# X\n\nAbout\nit.\n\nAlerts: X, Y\nFindings: A\nFindings: B\n\n## What it means\n\nThat.\n")
	if err != nil || p.Summary != "About it." || !slices.Equal(p.Names(), []string{"A", "B", "X", "Y"}) {
		t.Errorf("got %q, %q, %v", p.Summary, p.Names(), err)
	}
}
