// Package page is certd's status page: what certd status, plan and history say, for
// a browser. It is drawn on the server from those documents, reads nothing else,
// works without JavaScript and loads nothing from anywhere.
package page

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

const (
	statusFresh = time.Second
	planFresh   = 5 * time.Second // it costs most
	// planAhead is how far the page looks ahead from what comes next: for a fleet of
	// 500 clusters the plan of a quarter takes seconds, of a week a tenth of that.
	planAhead = 7 * 24 * time.Hour
	// recentEntries is how many entries of the history are asked for, more than are
	// shown.
	recentEntries = 4 * mostEvents
)

// A Source is where the page gets its documents from. It may hang: nobody waits
// long for it, and the last documents are shown with their age.
type Source interface {
	Status(context.Context) (rotation.FleetStatus, error)
	Plan(ctx context.Context, until time.Time, ifStopped bool) (rotation.Plan, error)
	History(context.Context, api.HistoryQuery) (rotation.HistoryList, error)
}

// Options are what a Page needs.
type Options struct {
	Source Source
	// Runbook returns the command that prints what to know about a finding, "" where
	// there is none. Nil: there is none.
	Runbook func(rotation.Finding) string
	// Zone is the one that times are shown in; nil: UTC.
	Zone *time.Location
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Page answers at "/", "/clusters" and "/clusters/NAME".
type Page struct {
	options Options
	mux     *http.ServeMux
	pages   *template.Template
	digest  string // of the styles
	status  remembered[rotation.FleetStatus]
	plan    remembered[rotation.Plan]
	recent  remembered[rotation.HistoryList]

	mu       sync.Mutex
	clusters map[string]*remembered[rotation.HistoryList] // the history of each
}

// New returns a page that shows what the options' source says.
func New(o Options) *Page {
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Runbook == nil {
		o.Runbook = func(rotation.Finding) string { return "" }
	}
	sum := sha256.Sum256([]byte(style))
	p := &Page{options: o, mux: http.NewServeMux(), pages: template.Must(template.New("pages").Parse(markup)),
		digest: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]), clusters: map[string]*remembered[rotation.HistoryList]{}}
	p.status = remembered[rotation.FleetStatus]{ask: o.Source.Status, fresh: statusFresh}
	p.plan = remembered[rotation.Plan]{fresh: planFresh, ask: func(ctx context.Context) (rotation.Plan, error) {
		from := o.Now()
		if st, known, _ := p.status.get(ctx); known {
			if _, next := words.Next(st.Clusters); next != nil && next.After(from) {
				from = *next
			}
		}
		return o.Source.Plan(ctx, from.Add(planAhead), false)
	}}
	p.recent = remembered[rotation.HistoryList]{fresh: statusFresh, ask: func(ctx context.Context) (rotation.HistoryList, error) {
		return o.Source.History(ctx, api.HistoryQuery{Limit: recentEntries})
	}}
	p.mux.HandleFunc("GET /{$}", p.front)
	p.mux.HandleFunc("GET /clusters", p.table)
	p.mux.HandleFunc("GET /clusters/{name}", p.cluster)
	p.mux.HandleFunc("GET /", p.nowhere)
	return p
}

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// history is the history of a cluster that is in the fleet.
func (p *Page) history(st rotation.FleetStatus, cluster string) *remembered[rotation.HistoryList] {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.clusters[cluster]
	if h == nil {
		for name := range p.clusters { // those of clusters that are gone
			if _, there := find(st, name); !there {
				delete(p.clusters, name)
			}
		}
		h = &remembered[rotation.HistoryList]{fresh: statusFresh, ask: func(ctx context.Context) (rotation.HistoryList, error) {
			return p.options.Source.History(ctx, api.HistoryQuery{Cluster: cluster, Limit: recentEntries})
		}}
		p.clusters[cluster] = h
	}
	return h
}

func find(st rotation.FleetStatus, cluster string) (int, bool) {
	i := slices.IndexFunc(st.Clusters, func(c rotation.ClusterStatus) bool { return c.Name == cluster })
	return i, i >= 0
}

// drawing is one drawing of a page.
type drawing struct {
	words.Clock
	st      rotation.FleetStatus
	runbook func(rotation.Finding) string
	secret  []string // names of keys, which are no business of a reader's
	root    string   // the way to "/", for links: "" or "../"
}

// begin reads the status. Where there is none, it answers itself and returns false.
func (p *Page) begin(w http.ResponseWriter, r *http.Request, root string) (d drawing, l layout, ok bool) {
	st, known, err := p.status.get(r.Context())
	d = drawing{Clock: words.Clock{Now: p.options.Now(), Zone: p.options.Zone}, st: st, runbook: p.options.Runbook, root: root}
	d.secret = keyNames(st)
	if !known {
		l = layout{Root: root, State: unknown, Sign: sign(unknown), Title: sign(unknown) + " no answer · certd"}
		if err != nil {
			l.Lost = "certd runs and cannot say how the fleet is: " + d.clean(err.Error()) + "."
		}
		p.send(w, http.StatusServiceUnavailable, "nothing", struct{ layout }{l})
		return d, l, false
	}
	return d, d.layout(err), true
}

func (p *Page) front(w http.ResponseWriter, r *http.Request) {
	d, l, ok := p.begin(w, r, "")
	if !ok {
		return
	}
	plan, planned, planErr := p.plan.get(r.Context())
	recent, listed, listErr := p.recent.get(r.Context())
	v := d.front(l)
	v.Plan = d.planned(plan, planned, planErr, "")
	v.Recent = d.events(recent, listed, listErr, "")
	p.send(w, http.StatusOK, "front", v)
}

func (p *Page) table(w http.ResponseWriter, r *http.Request) {
	if d, l, ok := p.begin(w, r, ""); ok {
		p.send(w, http.StatusOK, "table", d.table(l))
	}
}

func (p *Page) cluster(w http.ResponseWriter, r *http.Request) {
	d, l, ok := p.begin(w, r, "../")
	if !ok {
		return
	}
	name := r.PathValue("name")
	i, there := find(d.st, name)
	if !there {
		l.Title = "no such cluster · " + l.Fleet
		p.send(w, http.StatusNotFound, "nowhere", struct{ layout }{l})
		return
	}
	plan, planned, planErr := p.plan.get(r.Context())
	past, listed, listErr := p.history(d.st, name).get(r.Context())
	v := d.cluster(l, d.st.Clusters[i])
	v.Plan = d.planned(plan, planned, planErr, name)
	if what, at := words.NextOf(d.st.Clusters[i]); len(v.Plan.Items) == 0 && at != nil { // later than the plan goes
		v.Plan.Items = []planItem{{At: d.stamp(*at), What: d.clean(what)}}
	}
	v.Recent = d.events(past, listed, listErr, name)
	p.send(w, http.StatusOK, "cluster", v)
}

func (p *Page) nowhere(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "there is no such page; the fleet is at /", http.StatusNotFound)
}

//go:embed page.html
var markup string

//go:embed page.css
var style string

//go:embed refresh.js
var refresh string

// send draws a page and answers with it.
func (p *Page) send(w http.ResponseWriter, status int, name string, view any) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		p.fail(w, fmt.Errorf("make a nonce: %w", err))
		return
	}
	// The script counts by the nonce alone, which what a name or an error smuggled in
	// would not have. Styles count by their digest, as renewal needs it: what a page
	// fetches is under the policy of that page, and has another nonce.
	n := base64.RawURLEncoding.EncodeToString(nonce)
	var body bytes.Buffer
	err := p.pages.ExecuteTemplate(&body, name, sheet{Nonce: n, Style: template.CSS(style), Script: template.JS(refresh), View: view})
	if err != nil {
		p.fail(w, fmt.Errorf("draw the page %s: %w", name, err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+p.digest+"'; script-src 'nonce-"+n+"'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(body.Bytes()); err != nil {
		p.options.Log.Debug("page not delivered", "err", err)
	}
}

// fail answers with a fault of certd's own.
func (p *Page) fail(w http.ResponseWriter, err error) {
	p.options.Log.Error("page not drawn", "err", err)
	http.Error(w, "certd met a fault of its own drawing this page; certd status says how the fleet is", http.StatusInternalServerError)
}

// A sheet is a view with what surrounds it.
type sheet struct {
	Nonce  string
	Style  template.CSS
	Script template.JS
	View   any
}
