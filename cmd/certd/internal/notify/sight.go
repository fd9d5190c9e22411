package notify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"certd.internal/rotation"
)

// key is what a finding is known by: several of one id in one cluster, such as
// of two webhooks, are one.
type key struct{ cluster, finding string }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.cluster, o.cluster), cmp.Compare(k.finding, o.finding))
}

// sight is what a status says of findings.
type sight struct {
	found    map[key]rotation.Finding
	labels   map[string]map[string]string // of each configured cluster
	obscured map[string]bool              // clusters of which not all can be known now
}

// sightOf reads a status. NotSeenYet is no finding to tell of: it says nothing
// about the cluster.
func sightOf(st rotation.FleetStatus) sight {
	s := sight{found: map[key]rotation.Finding{}, labels: map[string]map[string]string{}, obscured: map[string]bool{}}
	s.add("", st.Findings)
	for _, c := range st.Clusters {
		s.labels[c.Name] = c.Labels
		s.add(c.Name, c.Findings)
	}
	return s
}

// add enters the findings of one cluster. Of several with one id the gravest
// speaks, with the earliest deadline.
func (s sight) add(cluster string, findings []rotation.Finding) {
	times := map[key]int{}
	for _, f := range findings {
		if cluster != "" && obscures(f.ID) {
			s.obscured[cluster] = true
		}
		if f.ID == "NotSeenYet" {
			continue
		}
		k := key{cluster, f.ID}
		was, twice := s.found[k]
		times[k]++
		if twice && rank(was.Severity) >= rank(f.Severity) {
			f, was = was, f
		}
		if d := was.Deadline; d != nil && (f.Deadline == nil || d.Before(*f.Deadline)) {
			f.Deadline = d
		}
		s.found[k] = f
	}
	for k, n := range times {
		if f := s.found[k]; n > 1 {
			f.Message = fmt.Sprintf("%s (and %d more)", f.Message, n-1)
			s.found[k] = f
		}
	}
}

// obscures says whether a finding keeps others of its cluster from being seen,
// so that their absence means nothing.
func obscures(id string) bool {
	return slices.Contains([]string{"NotSeenYet", "NotSeenLately", "ClusterUnreachable", "ClusterDenied", "SameCluster", "Deposed", "ClockSkew"}, id)
}

// keys are those of what was found, in order.
func (s sight) keys() []key { return slices.SortedFunc(maps.Keys(s.found), key.compare) }

// rank orders severities as the state of a fleet does.
func rank(s rotation.State) int {
	return map[rotation.State]int{rotation.StateUnknown: 1, rotation.StateWarning: 2, rotation.StateCritical: 3}[s]
}
