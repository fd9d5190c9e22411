package page

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

// table is all clusters, a row each.
type table struct {
	layout
	Summary    string
	Rows       []row
	ByGroup    bool
	HasHooks   bool
	HasProxies bool
}

type row struct {
	tile
	Group    string
	Issuer   *life
	Webhooks *life
	Loaded   string
	Bundle   string
	Proxies  string
	Next     string
}

func (d drawing) table(l layout) table {
	t := table{layout: l, Summary: words.Count(d.st.Summary.Clusters, "cluster") + ": " + counts(d.st.Summary)}
	l.Title = "clusters · " + l.Fleet
	t.layout = l
	for n, c := range d.st.Clusters {
		r := row{tile: d.tile(n, c), Group: d.clean(groupOf(c)), Issuer: d.issuerLife(c), Webhooks: d.webhookLife(c), Loaded: "–", Bundle: "–", Proxies: "–", Next: "–"}
		if c.Issuer != nil && c.Issuer.Loaded != nil {
			r.Loaded = truth(c.Issuer.Loaded.State)
		}
		if c.Bundle != nil {
			if r.Bundle = "old"; c.Bundle.Current {
				r.Bundle = "current"
			}
		}
		if p := c.Proxies; p != nil {
			r.Proxies = words.Thousands(p.Current) + " of " + words.Thousands(p.Total)
			if p.Problem != "" {
				r.Proxies += " ?"
			}
			t.HasProxies = true
		}
		if what, at := words.NextOf(c); at != nil {
			r.Next = d.clean(what) + ", " + d.Until(*at)
		}
		t.ByGroup = t.ByGroup || r.Group != ""
		t.HasHooks = t.HasHooks || c.Webhooks != nil
		t.Rows = append(t.Rows, r)
	}
	slices.SortStableFunc(t.Rows, func(a, b row) int {
		if g := words.Gravity(rotation.State(b.State)) - words.Gravity(rotation.State(a.State)); g != 0 {
			return g
		}
		return strings.Compare(a.Name, b.Name)
	})
	return t
}

// truth is a state of evidence in words.
func truth(state string) string {
	switch state {
	case "yes":
		return "yes"
	case "no":
		return "no, the former one"
	}
	return "cannot be seen"
}

// clusterView is the page of one cluster.
type clusterView struct {
	layout
	Name      string
	Verdict   verdict
	Problems  []problem
	More      int
	Facts     []detail
	Truths    []truthCard
	Chain     []node
	Hooks     []node
	StillUsed bool
	Plan      plan
	Recent    events
	Commands  []string
}

// A detail is a name and what it is.
type detail struct {
	Name, Text string
	At         *stamp
}

// A truthCard is one of three: what was delivered, what is loaded, what was
// adopted. They drift apart, and each is seen by itself.
type truthCard struct {
	Name, About string
	Points      []point
	Commands    []string
	More        string
}

// A point is one thing that is so, is not, or cannot be told.
type point struct {
	State, Sign string // State "": nothing to judge
	Text        string
	At          *stamp
}

func (d drawing) point(state, text string) point {
	p := point{State: state, Text: d.clean(text), Sign: "⋅"}
	if state != "" {
		p.Sign = sign(state)
	}
	return p
}

// A node is a link of a chain, with those under it.
type node struct {
	Life  *life
	Text  string
	Note  string
	Under []node
}

func (d drawing) cluster(l layout, c rotation.ClusterStatus) clusterView {
	part := d.st
	part.Clusters = []rotation.ClusterStatus{c}
	part.Conclude()
	v := clusterView{layout: l, Name: d.clean(c.Name), Verdict: d.verdict(part)}
	v.Verdict.Was = l.Lost != ""
	if l.Lost == "" {
		v.State = word(part.State)
		v.Sign = sign(v.State)
	}
	v.Title = v.Sign + " " + v.Name + " · " + l.Fleet
	v.Problems, v.More = d.problems(words.Gather(part.Findings, part.Clusters))
	v.Facts = d.details(c)
	v.Truths = []truthCard{d.delivered(c), d.loaded(c), d.adopted(c)}
	v.Chain, v.Hooks = d.chain(c), d.hooks(c)
	v.StillUsed = marked(v.Chain) || marked(v.Hooks)
	for _, command := range []string{"certd status ", "certd inspect ", "certd history --cluster "} {
		v.Commands = append(v.Commands, d.command(command+c.Name))
	}
	return v
}

// marked says whether a former certificate is marked on any of the bars.
func marked(nodes []node) bool {
	return slices.ContainsFunc(nodes, func(n node) bool { return n.Life != nil && n.Life.Bar.Used >= 0 || marked(n.Under) })
}

func (d drawing) details(c rotation.ClusterStatus) (all []detail) {
	add := func(name, text string) {
		if text != "" {
			all = append(all, detail{Name: name, Text: d.clean(text)})
		}
	}
	add("mode", c.Mode)
	add("groups", strings.Join(c.Groups, ", "))
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		labels = append(labels, key+"="+c.Labels[key])
	}
	add("labels", strings.Join(labels, ", "))
	add("namespace", c.Namespace)
	add("Linkerd", c.Version)
	if c.LastContact != nil {
		all = append(all, detail{Name: "last seen", At: d.pastOf(c.LastContact)})
	} else {
		add("last seen", "never")
	}
	return all
}

// delivered is what lies in the cluster.
func (d drawing) delivered(c rotation.ClusterStatus) truthCard {
	t := truthCard{Name: "Delivered", About: "what lies in the cluster"}
	if i := c.Issuer; i == nil || i.Delivered == nil {
		t.Points = append(t.Points, d.point(unknown, "no issuer was seen"))
	} else {
		text, state := "issuer until "+d.Day(i.Delivered.NotAfter), ok
		if !i.Delivered.NotAfter.After(d.Now) {
			text, state = "issuer, ended "+d.Day(i.Delivered.NotAfter), critical
		}
		if i.Delivered.Anchor != "" {
			text += ", under " + i.Delivered.Anchor
			if i.Delivered.Second != "" {
				text += " and " + i.Delivered.Second
			}
		}
		t.Points = append(t.Points, d.point(state, text))
	}
	switch b := c.Bundle; {
	case b == nil:
		t.Points = append(t.Points, d.point(unknown, "no trust bundle was seen"))
	default:
		var ids []string
		for _, a := range b.Anchors {
			ids = append(ids, anchorName(a))
		}
		text, state := "trust bundle current: "+words.Names(ids, 5), ok
		if !b.Current {
			text, state = "trust bundle not as certd would have it: "+words.Names(ids, 5), warning
		}
		t.Points = append(t.Points, d.point(state, text))
	}
	if len(c.Webhooks) > 0 {
		accepted := 0
		for _, w := range c.Webhooks {
			if w.Delivered != nil && w.CABundle.Accepts {
				accepted++
			}
		}
		state := ok
		if accepted < len(c.Webhooks) {
			state = critical
		}
		t.Points = append(t.Points, d.point(state, fmt.Sprintf("%d of %s accepted by the API server", accepted, words.Count(len(c.Webhooks), "webhook"))))
	}
	return t
}

func anchorName(a rotation.AnchorRef) string {
	switch {
	case a.ID != "":
		return a.ID
	case a.Foreign != "":
		return "the partner mesh " + a.Foreign
	}
	return a.Subject
}

// loaded is what linkerd-identity signs with, and what webhooks serve.
func (d drawing) loaded(c rotation.ClusterStatus) truthCard {
	t := truthCard{Name: "Loaded", About: "what is in use"}
	if i := c.Issuer; i == nil || i.Loaded == nil {
		t.Points = append(t.Points, d.point("", "no linkerd-identity was seen that could load an issuer"))
	} else {
		var p point
		switch i.Loaded.State {
		case "yes":
			p = d.point(ok, "linkerd-identity signs with the issuer that was delivered ("+i.Loaded.Evidence+")")
		case "no":
			p = d.point(warning, "linkerd-identity still signs with a former issuer ("+i.Loaded.Evidence+")")
		default:
			p = d.point(unknown, "what linkerd-identity signs with cannot be seen: "+i.Loaded.Evidence)
		}
		p.At = d.pastOf(i.Loaded.At)
		t.Points = append(t.Points, p)
	}
	served, judged, seen := 0, 0, true
	for _, w := range c.Webhooks {
		if w.Served == nil {
			continue
		}
		judged++
		switch w.Served.State {
		case "yes":
			served++
		case "no":
		default:
			seen = false
		}
	}
	if judged > 0 {
		state := ok
		if served < judged {
			if state = warning; !seen {
				state = unknown
			}
		}
		t.Points = append(t.Points, d.point(state, fmt.Sprintf("%d of %s seen to serve what was delivered", served, words.Count(judged, "webhook"))))
	}
	return t
}

// mostOwners is how many owners of stale pods are named.
const mostOwners = 8

// adopted is what the proxies trust.
func (d drawing) adopted(c rotation.ClusterStatus) truthCard {
	t := truthCard{Name: "Adopted", About: "what the proxies trust"}
	p := c.Proxies
	if p == nil {
		t.Points = append(t.Points, d.point("", "no meshed pods were looked for"))
		return t
	}
	state := ok
	if p.Current < p.Total {
		state = warning
	}
	if p.Total > 0 || p.Problem == "" {
		now := d.point(state, words.Thousands(p.Current)+" of "+words.Thousands(p.Total)+" trust the bundle")
		if p.Total == 0 {
			now = d.point("", "no meshed pods are there")
		}
		now.At = d.pastOf(p.At)
		t.Points = append(t.Points, now)
	}
	if p.Stale > 0 {
		t.Points = append(t.Points, d.point(warning, words.Thousands(p.Stale)+" trust other anchors, since they were created before"))
	}
	if p.Unknown > 0 {
		t.Points = append(t.Points, d.point(unknown, words.Thousands(p.Unknown)+" cannot be told"))
	}
	if p.Problem != "" {
		t.Points = append(t.Points, d.point(unknown, p.Problem))
	}
	owners := words.StaleOwners(*p)
	for i, o := range owners {
		if i == mostOwners {
			t.More = fmt.Sprintf("and %d more: certd status %s", len(owners)-i, d.clean(c.Name))
			break
		}
		pods := words.Count(o.Pods, "pod")
		if command := rotation.RestartCommand(o.Owner()); command != "" {
			t.Commands = append(t.Commands, d.clean(command)+" # "+pods)
			continue
		}
		t.Points = append(t.Points, d.point("", fmt.Sprintf("%s/%s %s: %s, to be created anew: %s", o.Namespace, o.Kind, o.Name, pods, rotation.RestartAdvice(o.Owner()))))
	}
	return t
}

// chain is who vouches for the workloads: anchors, the issuer under them, leaves.
func (d drawing) chain(c rotation.ClusterStatus) []node {
	var under []node
	if l := d.issuerLife(c); l != nil {
		end := words.IssuerUsableUntil(c.Issuer)
		leaves := node{Text: "workload certificates", Note: "none can outlive " + d.When(end)}
		if !end.After(d.Now) {
			leaves.Note = "all ended " + d.When(end)
		}
		under = []node{{Life: l, Text: l.What, Under: []node{leaves}}}
	}
	if c.Bundle == nil {
		return under
	}
	signs := ""
	if c.Issuer != nil && c.Issuer.Delivered != nil {
		signs = c.Issuer.Delivered.Anchor
	}
	var roots []node
	for _, a := range c.Bundle.Anchors {
		n := node{Text: "trust anchor " + d.clean(anchorName(a)), Note: "until " + d.Day(a.NotAfter)}
		if known, renewAt := d.known(a.ID); known != nil {
			l := d.anchorLife(*known, renewAt)
			n.Life, n.Note = &l, d.clean(known.Subject)
		} else if !a.NotAfter.After(d.Now) {
			n.Note = "ended " + d.Day(a.NotAfter)
		}
		if a.ID != "" && a.ID == signs {
			n.Under, under = under, nil
		}
		roots = append(roots, n)
	}
	return append(roots, under...)
}

// known is an anchor that certd knows, by its id.
func (d drawing) known(id string) (*rotation.AnchorStatus, *time.Time) {
	if a := d.st.Trust.Active; a != nil && a.ID == id && id != "" {
		return a, d.st.Trust.RenewAt
	}
	for i := range d.st.Trust.Others {
		if a := &d.st.Trust.Others[i]; a.ID == id && id != "" {
			return a, nil
		}
	}
	return nil, nil
}

// hooks are the webhooks under their CA.
func (d drawing) hooks(c rotation.ClusterStatus) []node {
	var all []node
	for _, w := range c.Webhooks {
		n := node{Text: "webhook " + d.clean(w.Name), Note: d.clean(w.Kind)}
		if w.Mode != string(rotation.Managed) {
			n.Note += ", watched only: " + d.clean(w.Why)
		}
		if !w.CABundle.Accepts {
			n.Note += "; the API server does not accept what it serves"
		}
		if w.Served != nil && w.Served.State == "no" {
			n.Note += "; a pod still serves the former certificate"
		}
		if w.Check != nil && w.Check.State == "no" {
			n.Note += "; it does not do its work: " + d.clean(w.Check.Evidence)
		}
		if w.Delivered != nil {
			l := d.oneWebhook(w, n.Text)
			n.Life = &l
		} else {
			n.Note += "; no certificate was seen"
		}
		all = append(all, n)
	}
	if ca := c.WebhookCA; ca != nil {
		l := d.life("webhook CA "+ca.ID, ca.NotBefore, ca.NotAfter, ca.RenewAt, ca.NextRun, ca.MustRenewBy)
		return []node{{Life: &l, Text: "webhook CA " + d.clean(ca.ID), Note: d.clean(ca.Subject), Under: all}}
	}
	return all
}
