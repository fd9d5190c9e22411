// Package check judges the claims of `certd check`: what must hold so that certd
// can do its work and `linkerd check` finds nothing. It looks at nothing itself:
// the verdicts depend on the evidence alone.
package check

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// Result is what came of a claim. Its words are those of `linkerd check`, and
// one more: what could not be seen is not taken to hold.
type Result string

// The results.
const (
	Success Result = "success"
	Warning Result = "warning"
	Error   Result = "error"
	Unknown Result = "unknown"
)

// gravity orders results: what is known to be wrong weighs more than what is not
// known.
func (r Result) gravity() int { return slices.Index([]Result{Success, Unknown, Warning, Error}, r) }

// Report is the document behind `certd check`. Its nouns are those of
// `linkerd check -o json`.
type Report struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"` // CheckReport
	Fleet      string         `json:"fleet"`
	ObservedAt time.Time      `json:"observedAt"`
	Source     string         `json:"source"` // daemon, or command where none was asked or none answered
	Pre        bool           `json:"pre"`
	State      rotation.State `json:"state"`
	Success    bool           `json:"success"` // no result is error
	Summary    Summary        `json:"summary"`
	Categories []Category     `json:"categories"`
}

// Summary counts claims by their results.
type Summary struct {
	Claims   int `json:"claims"`
	Hold     int `json:"hold"`
	Warnings int `json:"warnings"`
	Errors   int `json:"errors"`
	Unknown  int `json:"unknown"`
}

// Category holds the claims about one thing.
type Category struct {
	CategoryName string  `json:"categoryName"`
	About        string  `json:"about,omitempty"` // "Vault at https://vault.example:8200", how many clusters
	Checks       []Check `json:"checks"`
}

// Check is a claim and what came of it, in all clusters where it is about each.
type Check struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	Result      Result `json:"result"`
	// Error says what is wrong, or not known; Hint what to type or do about it.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Note is what was seen where it holds.
	Note string `json:"note,omitempty"`
	// Runbook is the name to give to `certd runbook`.
	Runbook string `json:"runbook"`
	// Ignored: what is not known here certd may not see by the rights it is
	// given, so that it does not count in State.
	Ignored bool `json:"ignored"`
	// Clusters is absent where the claim is not about each of them.
	Clusters *ClusterCount `json:"clusters,omitempty"`
	// Reasons are why it does not hold, what is alike together, the gravest first.
	Reasons []Reason `json:"reasons"`
}

// ClusterCount is in how many clusters a claim was judged, and holds.
type ClusterCount struct {
	Total int `json:"total"`
	Hold  int `json:"hold"`
}

// Reason is why a claim does not hold, or is not known to.
type Reason struct {
	Result   Result   `json:"result"`
	Error    string   `json:"error"`
	Hint     string   `json:"hint,omitempty"`
	Runbook  string   `json:"runbook"`
	Clusters []string `json:"clusters,omitempty"` // in which; absent where it is not about one
	// Follows is the claim that says more, where this could not be seen because
	// that does not hold.
	Follows string `json:"follows,omitempty"`
}

// verdict is what came of a claim: in a cluster, or as a whole.
type verdict struct {
	cluster string
	result  Result
	say     string // why it does not hold, or what was seen
	hint    string
	runbook string // other than the claim's
	follows string // the claim that says more
	ignored bool
}

// report enters what came of one claim. A claim about which nothing is to be
// said here, such as one about webhooks where there are none, is left out.
func (r *Report) add(c Claim, all []verdict) {
	if len(all) == 0 {
		return
	}
	i := slices.IndexFunc(r.Categories, func(k Category) bool { return k.CategoryName == c.Category })
	if i < 0 {
		i = len(r.Categories)
		r.Categories = append(r.Categories, Category{CategoryName: c.Category, Checks: []Check{}})
	}
	r.Categories[i].Checks = append(r.Categories[i].Checks, c.folded(all))
}

// folded makes one of the verdicts: the gravest counts, and each that is not
// success is told of.
func (c Claim) folded(all []verdict) Check {
	out := Check{ID: c.ID, Description: c.Says, Runbook: c.Runbook, Result: Success, Ignored: true, Reasons: []Reason{}}
	var notes []string
	failing := map[string]bool{}
	for _, v := range all {
		if v.cluster != "" {
			failing[v.cluster] = failing[v.cluster] || v.result != Success
		}
		if v.result == Success {
			notes = appendNew(notes, v.say)
			continue
		}
		out.Ignored = out.Ignored && v.ignored
		out.reason(Reason{v.result, v.say, v.hint, cmp.Or(v.runbook, c.Runbook), nil, v.follows}, v.cluster)
	}
	slices.SortStableFunc(out.Reasons, func(a, b Reason) int { return b.Result.gravity() - a.Result.gravity() })
	if len(failing) > 0 {
		out.Clusters = &ClusterCount{Total: len(failing)}
		for _, fails := range failing {
			if !fails {
				out.Clusters.Hold++
			}
		}
	}
	if len(out.Reasons) == 0 {
		out.Ignored = false
		if len(notes) == 1 {
			out.Note = notes[0]
		}
		return out
	}
	out.Result, out.Runbook, out.Hint = out.Reasons[0].Result, out.Reasons[0].Runbook, out.Reasons[0].Hint
	out.Ignored = out.Ignored && out.Result == Unknown
	var texts []string
	for _, r := range out.Reasons {
		texts = append(texts, r.String())
	}
	out.Error = strings.Join(texts, "; ")
	return out
}

// reason adds one, to an alike one where there is one.
func (c *Check) reason(r Reason, cluster string) {
	i := slices.IndexFunc(c.Reasons, func(o Reason) bool {
		return o.Result == r.Result && o.Error == r.Error && (o.Clusters == nil) == (cluster == "")
	})
	if i < 0 {
		i = len(c.Reasons)
		c.Reasons = append(c.Reasons, r)
	}
	c.Reasons[i].Clusters = appendNew(c.Reasons[i].Clusters, cluster)
}

// Follows says whether all that keeps a claim from holding is told by another one.
func (c Check) Follows() bool {
	return c.Result != Success && !slices.ContainsFunc(c.Reasons, func(r Reason) bool { return r.Follows == "" })
}

// String names the clusters, if there are any, and says what is wrong.
func (r Reason) String() string {
	if len(r.Clusters) == 0 {
		return r.Error
	}
	return listed(r.Clusters, 3) + ": " + r.Error
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// conclude counts, and derives the state.
func (r *Report) conclude() {
	r.State, r.Success, r.Summary = rotation.StateOK, true, Summary{}
	worst := Success
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			r.Summary.Claims++
			switch c.Result {
			case Success:
				r.Summary.Hold++
			case Warning:
				r.Summary.Warnings++
			case Error:
				r.Summary.Errors++
			default:
				r.Summary.Unknown++
			}
			if !c.Ignored && c.Result.gravity() > worst.gravity() {
				worst = c.Result
			}
		}
	}
	switch worst {
	case Error:
		r.State, r.Success = rotation.StateCritical, false
	case Warning:
		r.State = rotation.StateWarning
	case Unknown:
		r.State = rotation.StateUnknown
	}
}

// Loads says whether the configuration does; where it does not, no other claim was
// judged.
func (r Report) Loads() bool {
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.ID == configValid {
				return c.Result == Success
			}
		}
	}
	return true
}

// Select says what is to be checked; zero: everything.
type Select struct {
	Clusters   []string
	Categories []string
	Version    string // of the command that asks
}

func (s Select) cluster(name string) bool {
	return name == "" || len(s.Clusters) == 0 || slices.Contains(s.Clusters, name)
}

// Category says whether claims of a category are wanted.
func (s Select) Category(name string) bool {
	return len(s.Categories) == 0 || slices.Contains(s.Categories, name)
}

// Judge judges all claims that are selected.
func Judge(e Evidence, s Select) Report {
	j := &judgement{Evidence: e, said: map[string]bool{}}
	r := Report{APIVersion: rotation.APIVersion, Kind: "CheckReport", Fleet: e.fleetName(), ObservedAt: e.Now.UTC().Truncate(time.Second),
		Source: cmp.Or(e.Source, "command"), Pre: e.Pre, Categories: []Category{}}
	for _, c := range Claims() {
		if e.Pre && !c.Pre || len(e.Problems) > 0 && c.ID != configValid {
			continue
		}
		all := j.judge(c)
		all = slices.DeleteFunc(all, func(v verdict) bool { return !s.cluster(v.cluster) })
		if s.Category(c.Category) {
			r.add(c, all)
		}
	}
	for i := range r.Categories {
		r.Categories[i].About = j.about(r.Categories[i].CategoryName)
	}
	r.conclude()
	return r
}
