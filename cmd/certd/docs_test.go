package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/docs/runbooks"
	"certd.internal/rotation"
)

// Each finding that certd can report has its line in the reference and a runbook,
// and neither has another.
func TestEachFindingIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reference/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` ").FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = true
	}
	// As they stand in the code: d.find(severity, "Id", …), Finding{ID: "Id", …}
	// and r.Problem("Id", …).
	use := regexp.MustCompile(`(?:\.(?:find|unseenWebhooks)\([a-zA-Z]+, |Finding\{ID: |\.Problem\(|\bid, (?:severity, )?fix :?= |\bid, severity, fix := )"([A-Za-z]+)"`)
	used := map[string]bool{}
	for _, folder := range []string{"../../rotation", "internal/daemon"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range use.FindAllStringSubmatch(string(text), -1) {
				used[m[1]] = true
			}
		}
	}
	if len(used) < 20 {
		t.Fatalf("only %d findings were found in the code: the test looks in the wrong place", len(used))
	}
	for id := range used {
		if !documented[id] {
			t.Errorf("finding %s is not in docs/reference/findings.md", id)
		}
	}
	if listed := rotation.FindingIDs(); !slices.IsSorted(listed) || len(listed) != len(documented) {
		t.Errorf("rotation.FindingIDs has %d, in order %v, and the reference has %d", len(listed), slices.IsSorted(listed), len(documented))
	}
	for id := range documented {
		if !slices.Contains(rotation.FindingIDs(), id) {
			t.Errorf("finding %s is not in rotation.FindingIDs: routes of notifications cannot name it", id)
		}
		if !used[id] {
			t.Errorf("docs/reference/findings.md has %s, which certd never reports", id)
		}
	}
	// Who is told of it can read what to do.
	for id := range documented {
		if _, ok := runbooks.Find(id); !ok {
			t.Errorf("no page in docs/runbooks names finding %s", id)
		}
	}
	for _, p := range runbooks.Pages() {
		for _, id := range p.Findings {
			if !documented[id] {
				t.Errorf("runbook %s is about finding %s, which certd never reports", p.Name, id)
			}
		}
	}
}

// Each claim of certd check has its line in the reference, which has no other and
// says of each whether --pre judges it.
func TestEachClaimIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/reference/check.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (✓?) ?\\|").FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = m[2]
	}
	for _, c := range check.Claims() {
		pre, ok := documented[c.ID]
		if !ok || (pre != "") != c.Pre {
			t.Errorf("claim %s (pre: %t) is in docs/reference/check.md: %t, with pre %q", c.ID, c.Pre, ok, pre)
		}
		delete(documented, c.ID)
	}
	for id := range documented {
		t.Errorf("docs/reference/check.md has %s, which certd never claims", id)
	}
}

// Whoever is told that a claim does not hold can read what to do, by the name that
// certd check prints; and no page is about a claim that there is not.
func TestEachClaimHasARunbook(t *testing.T) {
	claims := map[string]bool{}
	named := map[string]string{} // with what names it
	for _, c := range check.Claims() {
		claims[c.ID] = true
		named[c.Runbook] = "claim " + c.ID
		for _, id := range c.Findings {
			named[id] = "claim " + c.ID
		}
	}
	// As verdicts give others: runbook: "Id", and v.runbook, v.say = Error, "Id".
	given := regexp.MustCompile(`\brunbook\b[^"\n]*"([A-Za-z0-9-]+)"`)
	files, err := filepath.Glob("internal/check/judge_*.go")
	if err != nil {
		t.Fatal(err)
	}
	verdicts := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range given.FindAllStringSubmatch(string(text), -1) {
			verdicts++
			named[m[1]] = f
		}
	}
	if verdicts < 20 {
		t.Fatalf("only %d verdicts give a runbook: the test looks in the wrong place", verdicts)
	}
	for name, by := range named {
		if _, ok := runbooks.Find(name); !ok {
			t.Errorf("%s names runbook %s, which no page in docs/runbooks is", by, name)
		}
	}
	for _, p := range runbooks.Pages() {
		for _, id := range p.Checks {
			if !claims[id] {
				t.Errorf("runbook %s is about claim %s, which certd check never judges", p.Name, id)
			}
		}
	}
}

// What the threat model says is shown by a test, is: the test is there, and each threat
// has one.
func TestEachThreatHasATest(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "## Threats")
	table, _, _ = strings.Cut(table, "\n## ")
	threats := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.HasPrefix(strings.TrimSpace(cells[1]), "---") || strings.TrimSpace(cells[1]) == "threat" {
			continue
		}
		threats++
		names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(cells[3], -1)
		if len(names) == 0 {
			t.Errorf("nothing shows what stands against %q", strings.TrimSpace(cells[1]))
		}
		for _, m := range names {
			if !there[m[1]] {
				t.Errorf("%s is named, and there is no such test", m[1])
			}
		}
	}
	if threats < 15 {
		t.Errorf("%d threats were read", threats)
	}
}

// Each link of the documentation leads to a file, and to a heading in it where it names one.
func TestLinksOfTheDocumentationResolve(t *testing.T) {
	var pages []string
	for _, dir := range []string{"../..", "../../docs", "../../docs/*"} {
		found, err := filepath.Glob(dir + "/*.md")
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	// As GitHub makes anchors of headings.
	anchor := func(heading string) string {
		heading = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#"))), " ", "-")
		return regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(heading, "")
	}
	links := 0
	for _, page := range pages {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(readFile(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			path, at, _ := strings.Cut(m[1], "#")
			to := filepath.Join(filepath.Dir(page), path)
			if path == "" {
				to = page
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
			} else if at != "" && !slices.ContainsFunc(strings.Split(readFile(t, to), "\n"), func(line string) bool { return strings.HasPrefix(line, "#") && anchor(line) == at }) {
				t.Errorf("%s: %s: there is no such heading", page, m[1])
			}
		}
	}
	if links < 150 {
		t.Errorf("only %d links were found", links)
	}
}
