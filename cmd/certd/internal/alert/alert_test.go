package alert

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certd.internal/docs/runbooks"
)

// Each alert leads to a page, and a page to an alert that is there, a finding or a
// check.
func TestAlertsAndRunbooksAreInStep(t *testing.T) {
	for _, a := range Alerts() {
		p, ok := runbooks.Find(a.Name)
		if !ok || !slices.Contains(p.Alerts, a.Name) {
			t.Errorf("no page in docs/runbooks names alert %s", a.Name)
		}
	}
	for _, p := range runbooks.Pages() {
		for _, name := range p.Alerts {
			if !slices.ContainsFunc(Alerts(), func(a Alert) bool { return a.Name == name }) {
				t.Errorf("runbook %s is about alert %s, which is not there", p.Name, name)
			}
		}
	}
}

// A finding that an alert names is one that certd reports.
func TestAlertsNameFindingsThatAreThere(t *testing.T) {
	var ids []string
	for _, p := range runbooks.Pages() {
		ids = append(ids, p.Findings...)
	}
	seen := 0
	for _, a := range Alerts() {
		named := a.Findings
		for _, m := range regexp.MustCompile(`\bid(?:=|=~|!~)"([^"]*)"`).FindAllStringSubmatch(a.Expr, -1) {
			named = append(named, strings.Split(m[1], "|")...)
		}
		for _, id := range named {
			seen++
			if !slices.Contains(ids, id) {
				t.Errorf("%s: there is no finding %s", a.Name, id)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d findings were seen: the test looks in the wrong place", seen)
	}
}

// What is in the repository is what the table makes.
func TestGeneratedFilesAreUpToDate(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		have, err := os.ReadFile(filepath.Join("../../../..", f.Path))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(have, f.Text) {
			t.Errorf("%s is out of date: make generate", f.Path)
		}
	}
}

// A misspelt name in a rule would be silence.
func TestRulesUseMetricsThatAreThere(t *testing.T) {
	for _, r := range Records() {
		for _, problem := range unknown(r.Expr) {
			t.Errorf("%s: %s", r.Name, problem)
		}
	}
	for _, a := range Alerts() {
		for _, problem := range unknown(a.Expr) {
			t.Errorf("%s: %s", a.Name, problem)
		}
	}
	text, err := Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := Rules()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range Metrics() {
		if !strings.Contains(string(text)+string(rules), m.Name) {
			t.Errorf("nothing uses %s", m.Name)
		}
	}
	for _, expr := range []string{`certd_cluster_upp == 0`, `certd_cluster_up{clutser="a"}`, `max by (clutser) (certd_cluster_up)`, `certd:left:seconds`, `certd_rotation_duration_seconds`} {
		if unknown(expr) == nil {
			t.Errorf("%s was not noticed", expr)
		}
	}
}

var (
	name     = regexp.MustCompile(`\bcertd[_:][a-z0-9_:]+`)
	selector = regexp.MustCompile(`\b(certd[_:][a-z0-9_:]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`\b(?:by|on|group_left|group_right|without|ignoring) \(([^)]*)\)`)
)

// unknown are the metrics and labels of an expression that are not in the table.
func unknown(expr string) (problems []string) {
	labels := map[string][]string{}
	every := []string{"job", "instance", "le", "alertname", "severity"} // the last two of ALERTS
	for _, m := range Metrics() {
		names := []string{m.Name}
		if m.Type == "histogram" {
			names = []string{m.Name + "_bucket", m.Name + "_sum", m.Name + "_count"}
		}
		for _, n := range names {
			labels[n] = append([]string{"job", "instance", "le"}, m.Labels...)
		}
		every = append(every, m.Labels...)
	}
	for _, r := range Records() {
		labels[r.Name] = []string{"job", "cluster", "kind", "name"}
	}
	for _, n := range name.FindAllString(expr, -1) {
		if labels[n] == nil {
			problems = append(problems, n+" is no metric of certd's")
		}
	}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels[m[1]], l[1]) {
				problems = append(problems, m[1]+" has no label "+l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); l != "" && !slices.Contains(every, l) {
				problems = append(problems, "no metric has the label "+l)
			}
		}
	}
	return problems
}
