package alert

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// board is what the tests read of the dashboard.
type board struct {
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
	Panels []struct {
		ID         int
		Type       string
		Title      string
		GridPos    struct{ X, Y, W, H int }
		Datasource struct{ UID string }
		Targets    []struct{ RefID, Expr string }
	}
}

func dashboard(t *testing.T) board {
	t.Helper()
	text, err := Dashboard()
	if err != nil {
		t.Fatal(err)
	}
	var d board
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The dashboard as Grafana reads it: panels with ids of their own that do not lie on
// one another, queries with metrics and variables that are there.
func TestTheDashboardHolds(t *testing.T) {
	d := dashboard(t)
	defined := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		defined[v.Name] = true
	}
	ids, taken, queries := map[int]bool{}, map[[2]int]string{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: id %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s does not fit into 24 columns: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s has no data source that can be chosen, or no query", p.Title)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			queries++
			if refs[q.RefID] {
				t.Errorf("%s: two queries are called %s", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			for _, problem := range unknown(q.Expr) {
				t.Errorf("%s: %s", p.Title, problem)
			}
			if !strings.Contains(q.Expr, `job="$job"`) {
				t.Errorf("%s shows all fleets at once: %s", p.Title, q.Expr)
			}
			for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !defined[m[1]] {
					t.Errorf("%s uses variable %s, which is not defined", p.Title, m[0])
				}
			}
		}
	}
	if queries < 30 {
		t.Errorf("only %d queries were seen: the test looks in the wrong place", queries)
	}
}

// Prometheus itself (promtool) evaluates each query of the dashboard, and each rule, in
// a world that has two fleets, two certd in one of them, two clusters, and every metric
// with every label: none of them fails, and each of the dashboard's has an answer.
func TestEachExpressionIsAnswered(t *testing.T) {
	var rules []any
	var want []any
	set := strings.NewReplacer("$job", "certd", "$cluster", ".*", "$__rate_interval", "5m")
	for _, p := range dashboard(t).Panels {
		for _, q := range p.Targets {
			name := fmt.Sprintf("dashboard:panel_%d:%s", p.ID, strings.ToLower(q.RefID))
			rules = append(rules, map[string]any{"record": name, "expr": set.Replace(q.Expr)})
			// 0 if there is an answer, else 1: an answer's own value is of no interest here.
			want = append(want, map[string]any{"expr": "absent(" + name + ") or vector(0)", "eval_time": "30m", "exp_samples": []any{map[string]any{"labels": "{}", "value": 0}}})
		}
	}
	dir := t.TempDir()
	put(t, dir, "rules.yaml", Rules)
	put(t, dir, "dashboard.yaml", func() ([]byte, error) {
		return yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	})
	put(t, dir, "tests.yaml", func() ([]byte, error) {
		return yaml.Marshal(map[string]any{"rule_files": []string{"rules.yaml", "dashboard.yaml"}, "evaluation_interval": "1m", "tests": []any{
			map[string]any{"interval": "1m", "input_series": world(), "promql_expr_test": want},
		}})
	})
	promtool(t, dir, "test", "rules", "tests.yaml")
}

// world has samples of each metric, with two values of each label.
func world() (series []any) {
	values := map[string][]string{"kind": {"issuer", "webhook", "anchor"}, "result": {"ok", "error"}, "trust": {"current", "stale"}, "phase": {"idle", "restart"}, "seen_in": {"secret", "identity"}, "id": {"KeysDenied", "Deposed"}, "severity": {"warning", "critical"}}
	add := func(name, labels, samples string) {
		series = append(series, map[string]any{"series": name + "{" + labels + "}", "values": samples})
	}
	for _, m := range Metrics() {
		sets := []string{`job="certd", instance="a"`, `job="certd", instance="b"`, `job="other", instance="a"`}
		for _, l := range m.Labels {
			of := values[l]
			if of == nil {
				of = []string{l + "1", l + "2"}
			}
			var more []string
			for _, s := range sets {
				for _, v := range of {
					more = append(more, fmt.Sprintf("%s, %s=%q", s, l, v))
				}
			}
			sets = more
		}
		for _, s := range sets {
			switch {
			case m.Type == "counter":
				add(m.Name, s, "0+1x40")
			case m.Type == "histogram":
				for i, le := range []string{"0.1", "1", "+Inf"} {
					add(m.Name+"_bucket", fmt.Sprintf("%s, le=%q", s, le), fmt.Sprintf("0+%dx40", i+1))
				}
				add(m.Name+"_sum", s, "0+1x40")
				add(m.Name+"_count", s, "0+3x40")
			case strings.HasSuffix(m.Name, "_timestamp_seconds"):
				add(m.Name, s, "900x40") // passed at the time that is asked for
			case m.Name == "certd_cluster_up", m.Name == "certd_vault_up":
				add(m.Name, s, "0x40") // something fires
			default:
				add(m.Name, s, "1x40")
			}
		}
	}
	return series
}
