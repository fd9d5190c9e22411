package page

import (
	"cmp"
	"fmt"
	"html/template"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

const (
	ok       = string(rotation.StateOK)
	warning  = string(rotation.StateWarning)
	critical = string(rotation.StateCritical)
	unknown  = string(rotation.StateUnknown)
)

const (
	mostProblems  = 8  // that are told in full
	mostNamed     = 12 // clusters that are named for one problem
	mostLifetimes = 8  // of issuers and webhooks, on the first page
	mostWaiting   = 6
	mostPlanned   = 8
	mostEvents    = 12
)

// sign is the sign beside a word, the same as on a terminal.
func sign(state string) string {
	switch state {
	case ok:
		return "✓"
	case warning:
		return "!"
	case critical:
		return "✗"
	}
	return "?"
}

// word is a state as one of four words: what is none of them is not known.
func word(s rotation.State) string {
	switch s {
	case rotation.StateOK, rotation.StateWarning, rotation.StateCritical:
		return string(s)
	}
	return unknown
}

// layout is what every page has.
type layout struct {
	Root    string // the way to the first page, for links
	Fleet   string
	Version string
	Title   string
	State   string
	Sign    string
	Lost    string // why what is shown is not what is now; "": it is
	Seen    stamp  // as of when
	Foot    string // what certd says of itself
}

// Icon is a picture of the state for the browser's tab.
func (l layout) Icon() template.URL {
	fill, mark := "6a4aa5", "M11.5 12.5a4.5 4.5 0 1 1 6 4.2c-1 .5-1.5 1.1-1.5 2.3M16 22.6v.4"
	switch l.State {
	case ok:
		fill, mark = "1d7044", "M9 16.5l5 5 9-11"
	case warning:
		fill, mark = "8a5a00", "M16 8v10M16 22.5v.5"
	case critical:
		fill, mark = "b3261e", "M10.5 10.5l11 11M21.5 10.5l-11 11"
	}
	return template.URL("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Ccircle cx='16' cy='16' r='16' fill='%23" + fill +
		"'/%3E%3Cpath d='" + mark + "' fill='none' stroke='%23fff' stroke-width='3.5' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E")
}

// A stamp is a moment, both absolute and by how far it is away.
type stamp struct {
	At  time.Time
	Abs string
	Rel string
}

func (d drawing) stamp(t time.Time) stamp {
	return stamp{At: t.UTC(), Abs: d.When(t), Rel: d.Until(t)}
}

// past is the stamp of what was.
func (d drawing) past(t time.Time) stamp {
	s := d.stamp(t)
	if s.Rel == "now" {
		s.Rel = "just now"
	}
	return s
}

func (d drawing) pastOf(t *time.Time) *stamp {
	if t == nil {
		return nil
	}
	s := d.past(*t)
	return &s
}

func (s stamp) ISO() string { return s.At.Format(time.RFC3339) }

func (d drawing) stampOf(t *time.Time) *stamp {
	if t == nil {
		return nil
	}
	s := d.stamp(*t)
	return &s
}

// keyNames are the names that keys have in the key backend.
func keyNames(st rotation.FleetStatus) (names []string) {
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if st.Trust.Active != nil {
		add(st.Trust.Active.Key.Name)
	}
	for _, a := range st.Trust.Others {
		add(a.Key.Name)
	}
	for _, c := range st.Clusters {
		if c.WebhookCA != nil {
			add(c.WebhookCA.Key.Name)
		}
	}
	// The longer first: one may begin as another does.
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return names
}

// clean makes text from outside fit to be shown: one line, without the names of
// keys and without PEM. That it is escaped, is the templates' business.
func (d drawing) clean(text string) string {
	text = words.Clean(text)
	for _, name := range d.secret {
		text = withoutWord(text, name)
	}
	return pem.ReplaceAllString(text, "(PEM left out)")
}

var pem = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*-----.*?(-----END [A-Z0-9 ]*-----|$)`)

// withoutWord leaves a name out of a text where it stands by itself.
func withoutWord(text, name string) string {
	inside := func(b byte) bool {
		return b == '-' || b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
	}
	var s strings.Builder
	for {
		i := strings.Index(text, name)
		if i < 0 {
			return s.String() + text
		}
		end := i + len(name)
		if i > 0 && inside(text[i-1]) || end < len(text) && inside(text[end]) {
			s.WriteString(text[:end])
		} else {
			s.WriteString(text[:i] + "(a key)")
		}
		text = text[end:]
	}
}

// layout is what surrounds a page; lost is why the source gave no newer status.
func (d drawing) layout(lost error) layout {
	st := d.st
	l := layout{Root: d.root, Fleet: d.clean(st.Fleet), Version: d.clean(st.Version), State: word(st.State), Seen: d.stamp(st.ObservedAt)}
	l.Seen.Abs = strings.TrimSpace(d.Second(st.ObservedAt))
	problems := words.Gather(st.Findings, st.Clusters)
	said := l.State
	if len(problems) > 0 {
		said = words.Count(len(problems), "problem")
	}
	if lost != nil {
		l.State, said = unknown, "no answer"
		l.Lost = "certd runs and cannot say how the fleet is: " + d.clean(lost.Error()) + ". What follows is what it knew " + words.Span(d.Now.Sub(st.ObservedAt)) + " ago."
	}
	l.Sign = sign(l.State)
	l.Title = l.Sign + " " + said + " · " + l.Fleet
	foot := []string{"no cycle yet"}
	if c := st.Daemon; c != nil {
		if c.LastCycleAt != nil {
			foot[0] = "last cycle " + words.Span(st.ObservedAt.Sub(*c.LastCycleAt)) + " earlier"
		}
		if !c.StartedAt.IsZero() {
			foot = append(foot, "running for "+words.Span(d.Now.Sub(c.StartedAt)))
		}
	}
	l.Foot = strings.Join(foot, " · ")
	return l
}

// A verdict is what comes first.
type verdict struct {
	Word     string // "warning, 2 problems"
	Breaking string
	Was      bool // it is an old one
}

func (d drawing) verdict(st rotation.FleetStatus) verdict {
	long, _ := d.Breaking(st)
	return verdict{Word: words.Verdict(st.State, len(words.Gather(st.Findings, st.Clusters))), Breaking: d.clean(long)}
}

// A link leads to a cluster's page.
type link struct{ Name, Href string }

func (d drawing) link(name string) link {
	return link{d.clean(name), d.root + "clusters/" + url.PathEscape(name)}
}

// A problem is a finding, what leads to its end, and what to type.
type problem struct {
	State, Sign string
	Clusters    []link
	More        int // clusters that are not named
	Message     string
	By          *stamp
	Commands    []string
}

func (d drawing) problems(all []words.Problem) (shown []problem, more int) {
	for i, p := range all {
		if i == mostProblems {
			return shown, len(all) - i
		}
		v := problem{State: word(p.Severity), Message: d.clean(p.Message), By: d.stampOf(p.Deadline)}
		v.Sign = sign(v.State)
		for j, name := range p.Clusters {
			if j == mostNamed {
				v.More = len(p.Clusters) - j
				break
			}
			v.Clusters = append(v.Clusters, d.link(name))
		}
		if p.Fix != "" {
			v.Commands = append(v.Commands, d.command(p.Fix))
		}
		if runbook := d.runbook(p.Finding); runbook != "" {
			v.Commands = append(v.Commands, d.clean(runbook))
		}
		shown = append(shown, v)
	}
	return shown, 0
}

// defaultConfig is found without being named.
const defaultConfig = "/etc/certd/certd.yaml"

// command is something to type, with the configuration that this certd goes by
// where certd would not find it by itself.
func (d drawing) command(text string) string {
	text = d.clean(text)
	if c := d.st.Daemon; c != nil && c.ConfigFile != "" && c.ConfigFile != defaultConfig && strings.HasPrefix(text, "certd ") && !strings.Contains(text, " --config ") {
		file := d.clean(c.ConfigFile)
		if strings.ContainsFunc(file, func(r rune) bool {
			return !strings.ContainsRune("/._-+", r) && (r < '0' || r > '9') && (r|32 < 'a' || r|32 > 'z')
		}) {
			file = "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
		}
		text += " --config " + file
	}
	return text
}

// A fact is one of the few numbers that answer how long there is.
type fact struct {
	Label, Value, Detail string
	Cluster              *link
}

func (d drawing) facts() []fact {
	first := fact{Label: "First to break", Value: "nothing known"}
	if at, b := d.st.NothingBreaksBefore, d.st.FirstToBreak; at != nil && b != nil {
		what := d.clean(b.Kind)
		if b.Kind != "issuer" {
			what += " " + d.clean(b.Name)
		}
		first.Detail = what + ", " + d.Day(*at)
		if left := at.Sub(d.Now); left > 0 {
			first.Value = words.Span(left)
			first.Detail += ", even if certd stops now"
		} else if first.Label, first.Value = "Broken", "now"; b.Kind != "webhook" || b.At.Before(d.st.ObservedAt) {
			first.Label, first.Value = "Broken since", words.Span(left)
		}
		if b.Cluster != "" {
			l := d.link(b.Cluster)
			first.Cluster = &l
		}
	}
	next := fact{Label: "Next action", Value: "none planned"}
	if what, at := words.Next(d.st.Clusters); at != nil {
		next.Value, next.Detail = d.Until(*at), d.clean(what[0])
		if next.Value != "now" {
			next.Detail += ", " + d.When(*at)
		}
		if more := len(what) - 1; more > 0 {
			next.Detail += fmt.Sprintf(", and %d more", more)
		}
	}
	anchor := fact{Label: "Trust anchor", Value: "none yet"}
	if a := d.st.Trust.Active; a != nil {
		anchor.Value, anchor.Detail = words.Span(a.NotAfter.Sub(d.Now)), d.clean(a.ID)+", until "+a.NotAfter.In(d.Zone).Format("2 Jan 2006")
		if !a.NotAfter.After(d.Now) {
			anchor.Value, anchor.Detail = "ended", d.clean(a.ID)+", on "+d.Day(a.NotAfter)
		} else if r := d.st.Trust.RenewAt; r != nil && r.After(d.Now) {
			anchor.Detail += "; its renewal is due " + d.Day(*r)
		}
	} else if len(d.st.Trust.Others) > 0 {
		anchor.Value, anchor.Detail = "not certd's", "the clusters trust what they came with"
	}
	return []fact{first, next, anchor}
}

// front is the first page.
type front struct {
	layout
	Verdict   verdict
	Problems  []problem
	More      int // problems that are not told
	Facts     []fact
	Summary   string
	Groups    []group
	Trust     trust
	Lives     []life
	StillUsed bool
	MoreLife  int
	Plan      plan
	Recent    events
}

func (d drawing) front(l layout) front {
	f := front{layout: l, Verdict: d.verdict(d.st), Facts: d.facts(), Groups: d.groups(), Trust: d.trust()}
	f.Verdict.Was = l.Lost != ""
	f.Problems, f.More = d.problems(words.Gather(d.st.Findings, d.st.Clusters))
	sum := d.st.Summary
	f.Summary = words.Count(sum.Clusters, "cluster") + ": " + counts(sum)
	f.Lives, f.MoreLife = d.lives()
	f.StillUsed = stillUsed(f.Lives)
	return f
}

// counts says how many clusters are how, leaving out what none is.
func counts(s rotation.Summary) string {
	var all []string
	for _, c := range []struct {
		n    int
		word string
	}{{s.Critical, critical}, {s.Warning, warning}, {s.Unknown, unknown}, {s.OK, ok}} {
		if c.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", c.n, c.word))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// A group is the clusters of one group of the configuration.
type group struct {
	Name   string // "": all there are
	Counts string
	Tiles  []tile
	worst  int
}

// A tile is one cluster.
type tile struct {
	link
	ID          string // of the element: the same in each drawing
	State, Sign string
	Left        string // until the first of what it has ends
	end         *time.Time
}

// groupOf is the group that a cluster is shown in: of several the last, whose
// settings win.
func groupOf(c rotation.ClusterStatus) string {
	if n := len(c.Groups); n > 0 {
		return c.Groups[n-1]
	}
	return ""
}

func (d drawing) groups() (groups []group) {
	at, sums := map[string]int{}, []rotation.Summary{}
	for n, c := range d.st.Clusters {
		name := groupOf(c)
		i, seen := at[name]
		if !seen {
			i, at[name] = len(groups), len(groups)
			groups, sums = append(groups, group{Name: d.clean(name)}), append(sums, rotation.Summary{})
		}
		groups[i].Tiles = append(groups[i].Tiles, d.tile(n, c))
		groups[i].worst = max(groups[i].worst, words.Gravity(c.State))
		count(&sums[i], c.State)
	}
	for i := range groups {
		groups[i].Counts = counts(sums[i])
		if groups[i].Name == "" && len(groups) > 1 {
			groups[i].Name = "no group"
		}
		slices.SortStableFunc(groups[i].Tiles, func(a, b tile) int {
			ga, gb := words.Gravity(rotation.State(a.State)), words.Gravity(rotation.State(b.State))
			if ga != gb || ga == 0 {
				return cmp.Compare(gb, ga)
			}
			return compareEnds(a.end, b.end)
		})
	}
	slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(b.worst, a.worst) })
	return groups
}

func count(s *rotation.Summary, state rotation.State) {
	s.Clusters++
	switch state {
	case rotation.StateOK:
		s.OK++
	case rotation.StateWarning:
		s.Warning++
	case rotation.StateCritical:
		s.Critical++
	default:
		s.Unknown++
	}
}

// compareEnds puts the earlier first, and what has no end last.
func compareEnds(a, b *time.Time) int {
	switch {
	case a != nil && b != nil:
		return a.Compare(*b)
	case a != nil:
		return -1
	case b != nil:
		return 1
	}
	return 0
}

func (d drawing) tile(n int, c rotation.ClusterStatus) tile {
	t := tile{link: d.link(c.Name), ID: fmt.Sprintf("c%d", n), State: word(c.State), end: firstEnd(c)}
	t.Sign = sign(t.State)
	if t.end != nil {
		t.Left = "ended"
		if left := t.end.Sub(d.Now); left > 0 {
			t.Left = words.Coarse(left)
		}
	}
	return t
}

// firstEnd is when the first of a cluster's certificates ends; nil where none is
// known.
func firstEnd(c rotation.ClusterStatus) (first *time.Time) {
	if c.Issuer != nil && c.Issuer.Delivered != nil {
		end := words.IssuerUsableUntil(c.Issuer)
		first = &end
	}
	if end := firstWebhookEnd(c); end != nil && (first == nil || end.Before(*first)) {
		first = end
	}
	return first
}

func firstWebhookEnd(c rotation.ClusterStatus) (first *time.Time) {
	for _, w := range c.Webhooks {
		if end := w.UsableUntil(); end != nil && (first == nil || end.Before(*first)) {
			first = end
		}
	}
	return first
}

// A plan is what comes next.
type plan struct {
	Items   []planItem
	Until   string // as far as the plan goes
	Problem string
}

type planItem struct {
	At      stamp
	Cluster *link
	What    string
	Why     string
}

// planned is the next of each kind of step; of one cluster where it is named.
func (d drawing) planned(doc rotation.Plan, known bool, err error, cluster string) plan {
	p := plan{Until: d.Day(doc.Until)}
	if err != nil {
		p.Problem = "certd does not say what comes next: " + d.clean(err.Error())
	}
	if !known {
		return p
	}
	seen := map[string]bool{}
	for _, item := range words.Together(doc.Items) {
		if key := item.Cluster + "\n" + item.What(); seen[key] || cluster != "" && item.Cluster != cluster {
			continue
		} else if seen[key] = true; len(p.Items) == mostPlanned {
			break
		}
		v := planItem{At: d.stamp(item.At), What: d.clean(item.What()), Why: d.clean(item.Reason)}
		if item.Cluster != "" && cluster == "" {
			l := d.link(item.Cluster)
			v.Cluster = &l
		}
		p.Items = append(p.Items, v)
	}
	return p
}

// events are entries of the history, the newest first. Signatures that went well are
// left out: what they were for has an entry of its own.
type events struct {
	Items   []event
	Problem string
}

type event struct {
	At          stamp
	Who         string
	Cluster     *link
	What        string
	State, Sign string
	Result      string
	Why         string
}

func (d drawing) events(doc rotation.HistoryList, known bool, err error, cluster string) (e events) {
	if err != nil {
		e.Problem = "certd does not say what was done: " + d.clean(err.Error())
	}
	if !known {
		return e
	}
	for _, h := range doc.Items {
		if h.Key != "" && !slices.Contains(d.secret, h.Key) {
			d.secret = append(slices.Clone(d.secret), h.Key)
		}
	}
	for _, h := range slices.Backward(doc.Items) {
		if h.Step == rotation.StepSign && h.Outcome == rotation.OK {
			continue
		}
		if len(e.Items) == mostEvents {
			break
		}
		v := event{At: d.past(h.At), Who: d.clean(h.Actor), What: d.clean(strings.TrimSpace(string(h.Step) + " " + h.Webhook)), Result: d.clean(string(h.Outcome)), Why: d.clean(h.Reason)}
		v.At.Abs = strings.TrimSpace(d.Moment(h.At))
		if h.Outcome != rotation.OK && h.Detail != "" {
			v.Why = d.clean(h.Detail)
		}
		switch h.Outcome {
		case rotation.OK:
			v.State, v.Sign = ok, sign(ok)
		case rotation.Failed:
			v.State, v.Sign = critical, sign(critical)
		case rotation.Abandoned:
			v.State, v.Sign = "", "⋅"
		default:
			v.State, v.Sign = unknown, sign(unknown)
		}
		if h.Cluster != "" && cluster == "" {
			l := d.link(h.Cluster)
			v.Cluster = &l
		}
		e.Items = append(e.Items, v)
	}
	return e
}
