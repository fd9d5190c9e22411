package page

import (
	"slices"
	"time"

	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

// A life is the lifetime of one certificate, or of several alike, from its
// beginning to its end, with marks on it.
type life struct {
	Cluster *link
	What    string
	Ends    string // how long it lasts
	Due     string // when it is renewed
	State   string // ended, late, soon or well
	Bar     bar
	end     time.Time
}

// A bar is drawn a thousand units wide, from notBefore to notAfter. Marks are at
// -1 where they are unknown, or outside. Used is the end of a former certificate
// that is still in use.
type bar struct{ Now, Due, Floor, Used int }

func (d drawing) bar(from, to time.Time, due, floor, used *time.Time) bar {
	at := func(t time.Time) int {
		whole := to.Sub(from)
		if whole <= 0 {
			return 1000
		}
		return int(max(0, min(1, float64(t.Sub(from))/float64(whole))) * 1000)
	}
	mark := func(t *time.Time) int {
		if t == nil || t.Before(from) || t.After(to) {
			return -1
		}
		return at(*t)
	}
	return bar{Now: at(d.Now), Due: mark(due), Floor: mark(floor), Used: mark(used)}
}

// life draws one. due is when it is to be renewed by schedule, next when it will
// be, and floor when it has to be at any hour; each may be unknown.
func (d drawing) life(what string, from, to time.Time, due, next, floor *time.Time) life {
	l := life{What: d.clean(what), end: to, Bar: d.bar(from, to, due, floor, nil), State: "well", Ends: words.Span(to.Sub(d.Now)) + " left"}
	switch {
	case !to.After(d.Now):
		l.State, l.Ends = "ended", "ended "+d.Until(to)
	case floor != nil && !floor.After(d.Now):
		l.State = "late"
	case due != nil && !due.After(d.Now):
		l.State = "soon"
	}
	switch {
	case next != nil && !next.After(d.Now):
		l.Due = "renewal now"
	case next != nil:
		l.Due = "renewal " + d.When(*next)
	case due != nil && !due.After(d.Now):
		l.Due = "renewal due since " + d.Day(*due)
	case due != nil:
		l.Due = "renewal due " + d.Day(*due)
	}
	return l
}

func (d drawing) anchorLife(a rotation.AnchorStatus, renewAt *time.Time) life {
	return d.life("trust anchor "+a.ID, a.NotBefore, a.NotAfter, renewAt, nil, nil)
}

// anchorLives are the anchors that certd knows, the active one first.
func (d drawing) anchorLives() (all []life) {
	if a := d.st.Trust.Active; a != nil {
		all = append(all, d.anchorLife(*a, d.st.Trust.RenewAt))
	}
	for _, a := range d.st.Trust.Others {
		all = append(all, d.anchorLife(a, nil))
	}
	return all
}

func (d drawing) issuerLife(c rotation.ClusterStatus) *life {
	i := c.Issuer
	if i == nil || i.Delivered == nil {
		return nil
	}
	l := d.life("issuer", i.Delivered.NotBefore, i.Delivered.NotAfter, i.RenewAt, i.NextRun, i.MustRenewBy)
	if end := words.IssuerUsableUntil(i); end.Before(i.Delivered.NotAfter) {
		l.former(d, "the one in use", end)
		l.Bar = d.bar(i.Delivered.NotBefore, i.Delivered.NotAfter, i.RenewAt, i.MustRenewBy, &end)
	}
	return &l
}

// former says that what counts is a certificate from before, which ends earlier.
func (l *life) former(d drawing, which string, end time.Time) {
	l.end, l.State, l.Ends = end, "late", which+": "+words.Span(end.Sub(d.Now))+" left"
	if !end.After(d.Now) {
		l.State, l.Ends = "ended", which+" ended "+d.Until(end)
	}
}

// stillUsed says whether a former certificate is marked on any of the bars.
func stillUsed(lives []life) bool {
	return slices.ContainsFunc(lives, func(l life) bool { return l.Bar.Used >= 0 })
}

// webhookLife is the one of a cluster's webhooks that ends first, for all of them.
func (d drawing) webhookLife(c rotation.ClusterStatus) *life {
	var first *rotation.WebhookStatus
	known := 0
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		if w.Delivered == nil {
			continue
		}
		known++
		if first == nil || w.UsableUntil().Before(*first.UsableUntil()) {
			first = w
		}
	}
	if first == nil {
		return nil
	}
	what := "webhook " + first.Name
	if known > 1 {
		what = words.Count(known, "webhook")
	}
	l := d.oneWebhook(*first, what)
	return &l
}

func (d drawing) oneWebhook(w rotation.WebhookStatus, what string) life {
	l := d.life(what, w.Delivered.NotBefore, w.Delivered.NotAfter, w.RenewAt, w.NextRun, w.MustRenewBy)
	if end := w.UsableUntil(); end != nil && end.Before(w.Delivered.NotAfter) {
		l.former(d, "the one served", *end)
		l.Bar = d.bar(w.Delivered.NotBefore, w.Delivered.NotAfter, w.RenewAt, w.MustRenewBy, end)
	}
	return l
}

// lives are the anchors, and of the clusters' chains those that end first.
func (d drawing) lives() (shown []life, more int) {
	var chains []life
	for _, c := range d.st.Clusters {
		for _, l := range []*life{d.issuerLife(c), d.webhookLife(c)} {
			if l != nil {
				to := d.link(c.Name)
				l.Cluster = &to
				chains = append(chains, *l)
			}
		}
	}
	slices.SortStableFunc(chains, func(a, b life) int { return a.end.Compare(b.end) })
	if more = len(chains) - mostLifetimes; more <= 2 { // a line saying so is not shorter
		more = 0
	}
	return append(d.anchorLives(), chains[:len(chains)-more]...), more
}
