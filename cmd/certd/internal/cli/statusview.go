package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

const (
	// fewLines is what a healthy fleet is told in, whatever its size.
	fewLines = 15
	// smallFleet is up to how many clusters each has a row.
	smallFleet = 5
	// roomy is up to how many clusters there is room for the whole of TRUST, too.
	roomy = 3
	// mostRows is how many clusters of a large fleet have a row when unwell.
	mostRows = 6
	// mostProblems is how many are told in full.
	mostProblems = 10
)

// statusView is `certd status` as text: the verdict, the exceptions, the
// table, what comes next.
type statusView struct {
	style
	doc  rotation.FleetStatus
	note string // where the answer comes from, if not from the daemon
	all  bool   // a row for each cluster
	wide bool
	// terse has TRUST as one line at the foot.
	terse bool
}

func (v statusView) lines() []string {
	t := v.doc.Trust
	plain := !v.wide && t.Active != nil && len(t.Others) == 0 && !changing(v.doc)
	v.terse = plain && !v.all && len(v.doc.Clusters) > roomy
	lines := v.draw()
	if len(lines) > fewLines && plain && !v.all && v.doc.State == rotation.StateOK {
		v.terse = true
		lines = v.draw()
	}
	return lines
}

func (v statusView) draw() []string {
	problems := gather(v.doc.Findings, v.doc.Clusters)
	if !v.all {
		problems = likewise(problems)
	}
	lines := v.verdict(problems)
	lines = append(lines, v.problems(problems)...)
	if !v.terse {
		lines = append(lines, v.trust()...)
	}
	if !v.terse || len(problems) == 0 {
		lines = append(lines, "") // problems end with one
	}
	lines = append(lines, v.clusters()...)
	if v.all && len(v.doc.Clusters) == 1 {
		lines = append(lines, v.webhookSection(v.doc.Clusters[0])...)
		lines = append(lines, v.proxySection(v.doc.Clusters[0])...)
	}
	lines = append(lines, v.footer()...)
	return lines
}

func (v statusView) verdict(problems []problem) []string {
	word := string(v.doc.State)
	if len(problems) > 0 {
		word += ", " + count(len(problems), "problem")
	}
	m := markOf(v.doc.State)
	if r := v.doc.Trust.Rotation; changing(v.doc) {
		word += fmt.Sprintf(", trust change %d of %d", r.Number, r.Of)
		if m == markOK {
			m = markRunning
		}
	}
	fleet := clip(v.clean(v.doc.Fleet), v.prose()-3-cells(v.sign(m))-cells(word))
	head := fleet + "  " + v.mark(m) + " " + word
	used := cells(fleet) + 2 + cells(v.sign(m)) + 1 + cells(word)
	lines := []string{head}
	long, short := v.breaking()
	switch room := v.prose() - used - 3; {
	case long == "":
	case cells(long) <= room:
		lines[0] += "   " + long
	case cells(short) <= room:
		lines[0] += "   " + short
	default:
		lines = append(lines, v.wrap("", "", short)...)
	}

	parts := []string{v.doc.ObservedAt.In(v.zone).Format("Mon 2 Jan 2006 15:04 MST")}
	if v.doc.Version != "" {
		parts = append(parts, "certd "+v.clean(v.doc.Version))
	}
	switch v.doc.Source {
	case "journal":
		parts = append(parts, "from the journal")
	case "live":
		parts = append(parts, "asked the clusters")
	}
	context := v.plain(strings.Join(parts, " · "))
	lines = append(lines, clip(strings.Repeat(" ", max(0, min(43, v.prose()-cells(context))))+context, v.prose()))
	if v.note != "" {
		lines = append(lines, v.wrap("", "", v.clean(v.note))...)
	}
	return lines
}

// breaking says how long there is, at length and shorter.
func (v statusView) breaking() (long, short string) {
	at := v.doc.NothingBreaksBefore
	if at == nil {
		return "", ""
	}
	if left := at.Sub(v.now); left > 0 {
		short = fmt.Sprintf("nothing breaks before %s (%s)", v.day(*at), coarse(left))
		if slices.ContainsFunc(v.doc.Clusters, func(c rotation.ClusterStatus) bool { return c.Issuer == nil && outOfSight(c) }) {
			short = strings.Replace(short, "nothing", "nothing known", 1) // an issuer that nobody has seen may
			return short, short
		}
		return short + ", even if certd stops now", short
	}
	what := "something"
	if b := v.doc.FirstToBreak; b != nil {
		what = strings.TrimSpace(v.clean(b.Cluster) + " " + v.clean(b.Kind))
		if b.Kind == "webhook" {
			what += " " + v.clean(b.Name)
		}
		if b.Kind == "webhook" && !b.At.Before(v.doc.ObservedAt) {
			// Its time is not over, and yet it does not work.
			return what + " is refused by the API server", what + " is refused"
		}
	}
	short = fmt.Sprintf("%s ended %s", what, v.day(*at))
	return fmt.Sprintf("%s (%s ago)", short, span(v.now.Sub(*at))), short
}

func (v statusView) problems(problems []problem) []string {
	var lines []string
	shown := problems
	if !v.all && len(shown) > mostProblems {
		shown = shown[:mostProblems]
	}
	for _, p := range shown {
		lines = append(lines, v.problem(p)...)
	}
	if more := len(problems) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %s more (certd status -A)", count(more, "problem")))
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

func (v statusView) trust() []string {
	active := v.doc.Trust.Active
	if active == nil && len(v.doc.Trust.Others) == 0 {
		return []string{"TRUST", "  none     no trust anchor is known"}
	}
	lines := []string{"TRUST"}
	if active != nil {
		lines = append(lines, v.anchor("active", *active)...)
	}
	for i, a := range v.doc.Trust.Others {
		if i == 3 && !v.all {
			lines = append(lines, fmt.Sprintf("  and %d more (certd status -A)", len(v.doc.Trust.Others)-i))
			break
		}
		lines = append(lines, v.anchor("trusted", a)...)
	}
	if current, known := v.bundles(); known > 0 {
		text := fmt.Sprintf("current in %d of %s", current, count(len(v.doc.Clusters), "cluster"))
		if trusting, total := proxyTotal(v.doc.Clusters); total > 0 {
			text += v.plain(fmt.Sprintf(" · %s of %s %s", thousands(trusting), thousands(total), proxyWord(total)))
		}
		lines = append(lines, v.wrap("  bundle   ", "           ", text)...)
	}
	if changing(v.doc) {
		lines = append(append(lines, ""), v.changeStages()...)
	}
	return lines
}

// changing says whether the trust anchor is being changed.
func changing(doc rotation.FleetStatus) bool {
	return doc.Trust.Rotation != nil && doc.Trust.Rotation.Phase != "idle"
}

func (v statusView) anchor(role string, a rotation.AnchorStatus) []string {
	lead := fmt.Sprintf("  %-8s ", role)
	rest := strings.Repeat(" ", cells(lead))
	key := "key " + v.clean(whereKey(a.Key))
	lines := v.wrap(lead+v.clean(a.ID)+"  "+clip(v.clean(a.Subject), v.prose()/2)+"  ", rest, v.plain(groups(v.clean(a.SHA256), true)))
	return append(lines, v.wrap(rest, rest, v.plain(v.ends(a)+" · "+key))...)
}

// ends says until when an anchor is good.
func (v statusView) ends(a rotation.AnchorStatus) string {
	left := a.NotAfter.Sub(v.now)
	if left <= 0 {
		return "ended " + v.day(a.NotAfter)
	}
	return fmt.Sprintf("until %s (%s)", a.NotAfter.In(v.zone).Format("2 Jan 2006"), coarse(left))
}

// whereKey says where a key is and whether it could leave. That the key of an
// embedded backend is a file is no news; that Vault would hand one out is.
func whereKey(k rotation.KeyStatus) string {
	if k.Imported {
		k.Imported = false
		return whereKey(k) + ", imported"
	}
	switch {
	case k.Name == "":
		return "not in certd's hands: it came with a mesh"
	case k.Backend == "file":
		return k.Name + " in an encrypted file"
	case k.Exportable:
		return k.Name + " in " + k.Backend + ", EXPORTABLE"
	}
	return k.Name + " in " + k.Backend + ", not exportable"
}

// bundles counts the clusters whose bundle is the one to be, and those whose
// bundle is known.
func (v statusView) bundles() (current, known int) {
	for _, c := range v.doc.Clusters {
		if c.Bundle != nil {
			known++
			if c.Bundle.Current {
				current++
			}
		}
	}
	return current, known
}

func (v statusView) clusters() []string {
	switch all := v.doc.Clusters; {
	case len(all) == 0:
		return []string{"no clusters", ""}
	case v.all || len(all) <= smallFleet:
		return append(v.clusterTable(all), "")
	}
	return append(v.folded(), "")
}

// folded is a large fleet: a row for each cluster that is not well, as far as
// there is room, and one for each group.
func (v statusView) folded() (lines []string) {
	unwell := slices.DeleteFunc(slices.Clone(v.doc.Clusters), func(c rotation.ClusterStatus) bool { return c.State == rotation.StateOK })
	slices.SortStableFunc(unwell, func(a, b rotation.ClusterStatus) int {
		return cmp.Or(cmp.Compare(gravity(b.State), gravity(a.State)), compareEnds(breaksAt(a), breaksAt(b)))
	})
	if len(unwell) > 0 {
		lines = append(v.clusterTable(unwell[:min(len(unwell), mostRows)]), "")
	}
	lines = append(lines, v.groupTable()...)
	sum := v.doc.Summary
	if len(unwell) <= mostRows {
		return append(lines, fmt.Sprintf("%s ok (certd status -A)", areMore(sum.OK, len(unwell) > 0)))
	}
	return append(lines, v.wrap("", "", fmt.Sprintf("%s: %d ok, %d warning, %d critical, %d unknown (certd status -A)", count(sum.Clusters, "cluster"), sum.OK, sum.Warning, sum.Critical, sum.Unknown))...)
}

func areMore(n int, more bool) string {
	text := count(n, "cluster")
	if more {
		text = strings.Replace(text, "cluster", "more cluster", 1)
	}
	if n == 1 {
		return text + " is"
	}
	return text + " are"
}

func (v statusView) clusterTable(clusters []rotation.ClusterStatus) []string {
	managed := !slices.ContainsFunc(clusters, func(c rotation.ClusterStatus) bool { return c.Mode != "managed" })
	cols := []column{{name: "CLUSTER"}, {name: "ISSUER"}, {name: "LOADED", rank: 3}, {name: "BUNDLE", rank: 4}}
	webhooks := hasWebhooks(clusters)
	if webhooks {
		cols = append(cols, column{name: "WEBHOOKS", rank: 6})
	}
	proxies := hasProxies(clusters)
	if proxies {
		// Equal ranks go from the left: after WEBHOOKS, before how long it is
		// until what comes next.
		cols = append(cols, column{name: "PROXIES", rank: 5})
	}
	if !managed {
		cols = append(cols, column{name: "MODE", rank: 1})
	}
	if v.wide {
		cols = append(cols, column{name: "ISSUER UNTIL", rank: 6}, column{name: "SERIAL", rank: 9}, column{name: "ANCHOR", rank: 7}, column{name: "SEEN", rank: 5}, column{name: "VERSION", rank: 8})
	}
	cols = append(cols, column{name: "NEXT", rank: 2}, column{rank: 5})
	rows := make([][]cell, 0, len(clusters))
	for _, c := range clusters {
		row := []cell{text(v.clean(c.Name)), v.issuer(c), v.loaded(c), v.bundle(c)}
		if webhooks {
			row = append(row, v.webhooks(c))
		}
		if proxies {
			row = append(row, v.proxies(c))
		}
		if !managed {
			row = append(row, text(v.clean(c.Mode)))
		}
		if v.wide {
			until, serial, anchor, seen := "-", "-", "-", "-"
			if c.Issuer != nil && c.Issuer.Delivered != nil {
				d := c.Issuer.Delivered
				until, serial, anchor = v.moment(d.NotAfter), v.clean(d.Serial), cmp.Or(v.clean(d.Anchor), "-")
			}
			if c.LastContact != nil {
				seen = span(v.now.Sub(*c.LastContact)) + " ago"
			}
			row = append(row, text(until), text(serial), text(anchor), text(seen), text(cmp.Or(v.clean(c.Version), "-")))
		}
		at, in := "-", ""
		if step, t := nextOf(c); t != nil {
			at, in = v.moment(*t), v.until(*t)
			if t.Sub(v.now) < time.Second { // due, and not done yet
				at, in = "now", v.clean(step)
			}
		}
		rows = append(rows, append(row, text(at), text(in)))
	}
	return v.table("", cols, rows)
}

func (v statusView) issuer(c rotation.ClusterStatus) cell {
	m := markOf(issuerState(c))
	if c.Issuer == nil || c.Issuer.Delivered == nil {
		return v.marked(m, "none seen")
	}
	end := usableUntil(c.Issuer)
	if left := end.Sub(v.now); left > 0 {
		return v.marked(m, span(left))
	}
	return v.marked(m, "ended "+v.until(end))
}

// usableUntil is when the issuer stops: what identity has loaded counts where
// it ends earlier than what lies in the Secret.
func usableUntil(i *rotation.IssuerStatus) time.Time {
	end := i.Delivered.NotAfter
	if i.Loaded != nil && i.Loaded.NotAfter != nil && i.Loaded.NotAfter.Before(end) {
		end = *i.Loaded.NotAfter
	}
	return end
}

// nothing stands where nothing is known: that there is none, or that nobody could look.
func nothing(c rotation.ClusterStatus) cell {
	if outOfSight(c) {
		return text("?")
	}
	return text("-")
}

func outOfSight(c rotation.ClusterStatus) bool {
	return c.Reachable != nil && !*c.Reachable || c.Reachable == nil && c.State == rotation.StateUnknown
}

func (v statusView) loaded(c rotation.ClusterStatus) cell {
	if c.Issuer == nil || c.Issuer.Loaded == nil {
		return nothing(c)
	}
	switch c.Issuer.Loaded.State {
	case "yes":
		return text("yes")
	case "no":
		return cell{text: "OLD", sgr: markWarning.sgr}
	}
	return text("?")
}

func (v statusView) bundle(c rotation.ClusterStatus) cell {
	switch {
	case c.Bundle == nil:
		return nothing(c)
	case c.Bundle.Current:
		return text("ok")
	}
	return cell{text: "OLD", sgr: markWarning.sgr}
}

// nextOf is what comes next in a cluster, and when.
func nextOf(c rotation.ClusterStatus) (what string, at *time.Time) {
	if c.NextStep != nil {
		return strings.TrimSpace(string(c.NextStep.Step) + " " + c.NextStep.Webhook), &c.NextStep.At
	}
	if c.Mode == string(rotation.Watched) {
		return "", nil
	}
	earlier := func(step string, t *time.Time) {
		if t != nil && (at == nil || t.Before(*at)) {
			what, at = step, t
		}
	}
	if c.Issuer != nil {
		earlier(string(rotation.StepIssuer), c.Issuer.NextRun)
	}
	if c.WebhookCA != nil {
		earlier(string(rotation.StepWebhookCA), c.WebhookCA.NextRun)
	}
	for _, w := range c.Webhooks {
		earlier("webhooks", w.NextRun)
	}
	return what, at
}

func (v statusView) footer() []string {
	const lead, rest = "NEXT       ", "           "
	var trust []string
	if v.terse {
		a, of := *v.doc.Trust.Active, func(some, all int) string {
			if some == all {
				return "all " + thousands(all)
			}
			return thousands(some) + " of " + thousands(all)
		}
		current, _ := v.bundles()
		text := fmt.Sprintf("%s %s · bundle in %s clusters", v.clean(a.ID), v.ends(a), of(current, len(v.doc.Clusters)))
		if trusting, total := proxyTotal(v.doc.Clusters); total > 0 {
			text += fmt.Sprintf(", trusted by %s %s", of(trusting, total), proxyWord(total))
		}
		trust = v.wrap("TRUST      ", rest, v.plain(text))
	}
	var at *time.Time
	var what []string
	for _, c := range v.doc.Clusters {
		step, t := nextOf(c)
		if t != nil && t.Before(v.now) { // due, and not done yet
			t = &v.now
		}
		switch {
		case t == nil:
		case at == nil || t.Before(*at):
			at, what = t, []string{v.clean(c.Name) + ": " + v.clean(step)}
		case t.Equal(*at):
			what = append(what, v.clean(c.Name)+": "+v.clean(step))
		}
	}
	lines := []string{lead + "nothing is planned"}
	if at != nil {
		when, next := "now", what[0]
		if at.Sub(v.now) >= time.Second {
			when = fmt.Sprintf("%s (%s)", v.when(*at), v.until(*at))
		}
		if more := len(what) - 1; more > 0 {
			next += fmt.Sprintf(", and %d more", more)
		}
		if v.doc.Source == "journal" {
			when = "if certd ran: " + when
		}
		lines = v.wrap(lead+when+"  ", rest, next)
	}
	lines = append(trust, lines...)
	certd := "no daemon answers"
	if v.doc.Source == "live" {
		certd = "not asked; this is what the clusters say"
	}
	if d := v.doc.Daemon; d != nil {
		parts := []string{"no cycle yet"}
		if d.LastCycleAt != nil {
			parts[0] = "last cycle " + span(v.now.Sub(*d.LastCycleAt)) + " ago"
		}
		if !d.StartedAt.IsZero() {
			parts = append(parts, "running for "+span(v.now.Sub(d.StartedAt)))
		}
		if d.StoreBytes > 0 {
			parts = append(parts, "journal "+size(d.StoreBytes))
		}
		certd = v.plain(strings.Join(parts, " · "))
	}
	lines = append(lines, v.wrap("CERTD      ", rest, certd)...)
	if v.wide && len(v.doc.Recent) > 0 {
		lines = append(append(lines, "", "RECENT"), historyView{style: v.style, items: v.doc.Recent}.table("  ")...)
	}
	return lines
}

func size(bytes int64) string {
	switch {
	case bytes < 1<<20:
		return fmt.Sprintf("%d kB", (bytes+1023)>>10)
	case bytes < 1<<30:
		return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/(1<<30))
}
