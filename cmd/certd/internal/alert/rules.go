package alert

import (
	"fmt"
	"time"

	"github.com/goccy/go-yaml"

	"certd.internal/docs/runbooks"
)

const generated = "# Made by make generate from cmd/certd/internal/alert; do not edit.\n"

// rule is a rule as Prometheus reads it.
type rule struct {
	Record      string        `yaml:"record,omitempty"`
	Alert       string        `yaml:"alert,omitempty"`
	Expr        string        `yaml:"expr"`
	For         string        `yaml:"for,omitempty"`
	Labels      yaml.MapSlice `yaml:"labels,omitempty"`
	Annotations yaml.MapSlice `yaml:"annotations,omitempty"`
}

type group struct {
	Name  string `yaml:"name"`
	Rules []rule `yaml:"rules"`
}

// groups are the recording rules and those of alerts. An alert that no runbook names is an error: its page is
// what people are to read, under the page's own name, which is also that of its file.
func groups(alerts []Alert) ([]group, error) {
	g := group{Name: "certd"}
	for _, r := range Records() {
		g.Rules = append(g.Rules, rule{Record: r.Name, Expr: r.Expr})
	}
	for _, a := range alerts {
		page, ok := runbooks.Find(a.Name)
		if !ok {
			return nil, fmt.Errorf("make the alert rules: no page in docs/runbooks names %s", a.Name)
		}
		command := "certd runbook " + page.Name
		if a.ByFinding {
			command = "certd runbook {{ $labels.id }}"
		}
		r := rule{Alert: a.Name, Expr: a.Expr,
			Labels:      yaml.MapSlice{{Key: "severity", Value: string(a.Severity)}},
			Annotations: yaml.MapSlice{{Key: "summary", Value: a.Summary}, {Key: "description", Value: a.Description}, {Key: "runbook", Value: command}}}
		if a.For > 0 {
			r.For = wait(a.For)
		}
		g.Rules = append(g.Rules, r)
	}
	return []group{g}, nil
}

// wait is a duration as rules have it: "5m", "1h".
func wait(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dm", d/time.Minute)
}

// Rules is a rule file of Prometheus.
func Rules() ([]byte, error) { return ruleFile(Alerts()) }

func ruleFile(alerts []Alert) ([]byte, error) {
	all, err := groups(alerts)
	if err != nil {
		return nil, err
	}
	return encode(yaml.MapSlice{{Key: "groups", Value: all}})
}

// PrometheusRule is the same as an object of the Prometheus Operator.
func PrometheusRule() ([]byte, error) {
	all, err := groups(Alerts())
	if err != nil {
		return nil, err
	}
	return encode(yaml.MapSlice{
		{Key: "apiVersion", Value: "monitoring.coreos.com/v1"},
		{Key: "kind", Value: "PrometheusRule"},
		{Key: "metadata", Value: yaml.MapSlice{
			{Key: "name", Value: "certd"},
			{Key: "labels", Value: yaml.MapSlice{{Key: "app.kubernetes.io/name", Value: "certd"}}},
		}},
		{Key: "spec", Value: yaml.MapSlice{{Key: "groups", Value: all}}},
	})
}

func encode(doc any) ([]byte, error) {
	text, err := yaml.MarshalWithOptions(doc, yaml.Indent(2), yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
	if err != nil {
		return nil, fmt.Errorf("encode the alert rules as YAML: %w", err)
	}
	return append([]byte(generated), text...), nil
}
