package rotation

import (
	"errors"
	"slices"
	"testing"
)

// Who is linked and is not the fleet's, by whatever name Links call it, is named;
// what could not be seen is not taken for nobody.
func TestOutsidersAreNamed(t *testing.T) {
	f := Fleet{Policy: FleetPolicy{Clusters: []Policy{{Cluster: "east"}, {Cluster: "prod-west", KnownAs: "west"}}}}
	for _, row := range []struct {
		name string
		o    Outside
		want []string
	}{
		{"nobody", Outside{}, nil},
		{"the fleet's own", Outside{Links: []Link{{"mc/west", "west"}, {"mc/e", "east"}}}, nil},
		{"by the name that Links do not use", Outside{Links: []Link{{"mc/w", "prod-west"}}}, []string{`east: the cluster that Link mc/w calls "prod-west"`}},
		{"strangers", Outside{Links: []Link{{"mc/lab", "lab"}, {"mc/odd", ""}}, External: 3},
			[]string{`east: the cluster that Link mc/lab calls "lab"`, `east: the cluster that Link mc/odd calls ""`, "east: 3 ExternalWorkloads"}},
		{"not seen", Outside{Err: errors.New("no right")}, []string{"east: whom its mesh talks to outside could not be seen: no right"}},
	} {
		v := View{Policy: f.Policy.Clusters[0], Proxies: Proxies{Outside: row.o}}
		if got := f.beyond(v); !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
