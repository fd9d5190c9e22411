package metrics

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"certd.internal/cmd/certd/internal/alert"
)

// What rules and the dashboard ask for is there: under its name, of its type, with
// its labels.
func TestAlertsAskForWhatIsThere(t *testing.T) {
	type metric struct {
		kind   string
		labels []string
	}
	there := map[string]metric{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(certd_[a-z_]+)` \\| ([a-z]+) \\| ([a-z_, ]*) \\|").FindAllStringSubmatch(string(Reference()), -1) {
		labels := strings.Split(strings.ReplaceAll(m[3], " ", ""), ",")
		slices.Sort(labels)
		there[m[1]] = metric{m[2], slices.DeleteFunc(labels, func(l string) bool { return l == "" })}
	}
	for _, m := range alert.Metrics() {
		has, ok := there[m.Name]
		labels := slices.Clone(m.Labels)
		slices.Sort(labels)
		if !ok || has.kind != m.Type || !slices.Equal(has.labels, labels) {
			t.Errorf("%s: alerts know a %s with %q, and there is a %q with %q", m.Name, m.Type, labels, has.kind, has.labels)
		}
	}
}
