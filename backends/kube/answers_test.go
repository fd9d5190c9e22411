package kube

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// quietServer is a TLS server that does not log what clients do to it.
func quietServer(handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return s
}

// fakeServer answers as handler says, over TLS.
func fakeServer(t testing.TB, timeout time.Duration, handler http.HandlerFunc) *Cluster {
	t.Helper()
	s := quietServer(handler)
	t.Cleanup(s.Close)
	return openFake(t, timeout, &api.Cluster{Server: s.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})})
}

func openFake(t testing.TB, timeout time.Duration, at *api.Cluster) *Cluster {
	t.Helper()
	cfg := api.NewConfig()
	cfg.Clusters["c"] = at
	cfg.AuthInfos["u"] = &api.AuthInfo{Token: "s3cr3t-t0ken"}
	cfg.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	text, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Cluster: "c", Namespace: "linkerd", TrustDomain: "cluster.local", Access: Access{Data: text}, RequestTimeout: timeout}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func status(code int, reason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code})
	}
}

func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang answers nothing until the client goes, which a server notices only
// once it has read the request.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	panic(http.ErrAbortHandler) // to return would be an empty answer, which may still come before the end
}

// What an answer means to the caller: to a look, and to a write that was
// about to make the bundle.
func TestAnswers(t *testing.T) {
	for _, row := range []struct {
		name        string
		answer      http.HandlerFunc
		look, write error
		says        string
	}{
		{"too many requests", status(429, "TooManyRequests", "slow down"), rotation.ErrUnavailable, rotation.ErrUnavailable, "slow down"},
		{"unavailable", status(503, "ServiceUnavailable", "shutting down"), rotation.ErrUnavailable, rotation.ErrUnavailable, "shutting down"},
		{"an internal error", status(500, "InternalError", "etcdserver: leader changed"), rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, "leader changed"},
		{"a time-out in the server", status(504, "Timeout", "request did not complete"), rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, "did not complete"},
		{"a gateway's error page", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); fmt.Fprint(w, "<html>") }, rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, ""},
		{"an admission webhook that is down", status(500, "InternalError", `failed calling webhook "x": connection refused`), rotation.ErrUnavailable, rotation.ErrUnavailable, "webhook"},
		{"credentials refused", status(401, "Unauthorized", "Unauthorized"), rotation.ErrDenied, rotation.ErrDenied, "refused the credentials"},
		{"a verb that is missing", status(403, "Forbidden", `x is forbidden: User "y" cannot do that`), rotation.ErrDenied, rotation.ErrDenied, "kubectl apply -f deploy/rbac/certd.yaml"},
		{"a policy's refusal", status(403, "Forbidden", "denied by policy"), rotation.ErrDenied, rotation.ErrDenied, "denied by policy"},
		{"a conflict", status(409, "AlreadyExists", "it exists"), nil, rotation.ErrChanged, "it exists"},
		{"no answer to the request", drop, rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, ""},
		{"an endless one", hang, rotation.ErrUnavailable, rotation.ErrOutcomeUnknown, ""},
		{"text for a terminal", status(503, "x", "red\x1b[31m\nsecond line"), rotation.ErrUnavailable, rotation.ErrUnavailable, "second line"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusTemporaryRedirect)
		}, errAny, errAny, ""},
		{"more than certd reads", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"`)
			for range 5 << 10 {
				fmt.Fprint(w, strings.Repeat("x", 1<<10))
			}
			fmt.Fprint(w, `"}}`)
		}, rotation.ErrUnavailable, nil, "larger than 2 MiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			check := func(what string, err, want error) {
				t.Helper()
				switch {
				case want == nil:
					return
				case err == nil || want != errAny && !errors.Is(err, want):
					t.Errorf("%s: error %v; want %v", what, err, want)
				case !strings.Contains(err.Error(), row.says):
					t.Errorf("%s: error %q does not say %q", what, err, row.says)
				case strings.Contains(err.Error(), "s3cr3t") || strings.ContainsAny(err.Error(), "\x1b\n"):
					t.Errorf("%s: error %q", what, err)
				}
			}
			patience := 300 * time.Millisecond // client-go repeats what got no answer for as long as it may
			if row.says != "" {
				patience = 10 * time.Second
			}
			c := fakeServer(t, patience, row.answer)
			_, err := c.Observe(t.Context())
			check("look", err, row.look)
			c = fakeServer(t, patience, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					status(404, "NotFound", "gone")(w, r)
					return
				}
				row.answer(w, r)
			})
			_, err = c.WriteBundle(t.Context(), rotation.BundleWrite{Fleet: "acme", Bundle: pki.Bundle{}})
			check("write", err, row.write)
		})
	}
}

var errAny = errors.New("any error")

func TestNobodyListens(t *testing.T) {
	dead := quietServer(drop)
	dead.Close()
	cfg := strings.ReplaceAll(goodKubeconfig, "https://127.0.0.1:1", dead.URL)
	c, err := New(Config{Cluster: "c", Namespace: "linkerd", Access: Access{Data: []byte(cfg)}, RequestTimeout: 500 * time.Millisecond}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := c.Observe(t.Context()); !errors.Is(err, rotation.ErrUnavailable) {
		t.Errorf("look: %v; want ErrUnavailable", err)
	}
	if err := c.CreateNamespace(t.Context()); !errors.Is(err, rotation.ErrUnavailable) || errors.Is(err, rotation.ErrOutcomeUnknown) {
		t.Errorf("write: %v; want ErrUnavailable, since it cannot have happened", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("took %s: client-go's repeats outlast the operation's deadline", took)
	}
}

// One that takes connections and never answers is named once, in words.
func TestNobodyAnswers(t *testing.T) {
	c := fakeServer(t, 200*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := c.Observe(t.Context())
	if !errors.Is(err, rotation.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if text := err.Error(); strings.Count(text, c.server) != 1 || !strings.Contains(text, "no answer before the deadline") || strings.Contains(text, "context deadline") {
		t.Errorf("it says: %s", text)
	}
}

func TestServerOfAnotherCA(t *testing.T) {
	s := quietServer(drop)
	defer s.Close()
	c, err := New(Config{Cluster: "c", Namespace: "linkerd", Access: Access{Data: []byte(strings.Replace(goodKubeconfig, "https://127.0.0.1:1", s.URL, 1))}, RequestTimeout: time.Minute}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateNamespace(t.Context()); !errors.Is(err, rotation.ErrUnavailable) || !strings.Contains(err.Error(), "certificate-authority-data") {
		t.Errorf("error %v; want ErrUnavailable and what to compare", err)
	}
}

func TestClockSkew(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 900e6, time.UTC)
	for _, row := range []struct {
		name   string
		server time.Duration // its clock minus ours
		trip   time.Duration
		skew   time.Duration // rounded to seconds
	}{
		{"clocks agree", 0, 20 * time.Millisecond, 0},
		{"the answer took long", 0, 8 * time.Second, 0},
		{"it is two hours ahead", 2 * time.Hour, 20 * time.Millisecond, 2 * time.Hour},
		{"it is a day behind", -24 * time.Hour, time.Second, -24 * time.Hour},
		{"it is behind by less than can be told", -400 * time.Millisecond, 20 * time.Millisecond, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			var c clock
			c.note(now.Add(row.server+row.trip/2).Format(http.TimeFormat), now, now.Add(row.trip))
			if got := c.skew.Round(time.Second); got != row.skew {
				t.Errorf("skew %s; want %s", got, row.skew)
			}
		})
	}
	var c clock
	if c.note("yesterday", now, now); c.skew != 0 || !c.date.IsZero() {
		t.Errorf("a Date that is none gave %+v", c)
	}
}

func TestWatchOutlivesTheServersEnd(t *testing.T) {
	begun := make(chan struct{}, 100)
	c := fakeServer(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/secrets") {
			begun <- struct{}{}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200) // and the stream ends
	})
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	go c.Watch(ctx, func() {})
	for range 3 {
		select {
		case <-begun:
		case <-ctx.Done():
			t.Fatal("the watch was not taken up again")
		}
	}
}

// The namespace is watched while it is not there, and no longer.
func TestTheNamespaceIsWatchedWhileItIsNotThere(t *testing.T) {
	var there, watches atomic.Int64
	begun, ended := make(chan struct{}, 100), make(chan struct{}, 100)
	c := fakeServer(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Has("watch"):
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			if strings.HasSuffix(r.URL.Path, "/namespaces") {
				watches.Add(1)
				begun <- struct{}{}
				defer func() { ended <- struct{}{} }()
			}
			<-r.Context().Done()
		case r.URL.Path == "/api/v1/namespaces/kube-system" || r.URL.Path == "/api/v1/namespaces/linkerd" && there.Load() == 1:
			fmt.Fprint(w, namespaceJSON)
		default:
			status(404, "NotFound", "not found")(w, r)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { c.Watch(ctx, func() {}) })
	look := func(is int64) {
		there.Store(is)
		if o, err := c.Observe(t.Context()); err != nil || o.Namespace != (is == 1) {
			t.Fatalf("the namespace is seen: %t, %v", o.Namespace, err)
		}
	}
	for range 2 {
		look(1)
		look(0)
		<-begun
		look(0)
		look(1)
		<-ended
	}
	stop()
	watching.Wait()
	if n := watches.Load(); n != 2 {
		t.Errorf("%d watches were begun, for the two times that it was not there", n)
	}
}

// A watch tells of what no look has shown: neither its beginning nor an event is news by
// itself.
func TestWatchTellsWhatNoLookHasShown(t *testing.T) {
	event := func(kind, revision string) string {
		return fmt.Sprintf(`{"type":%q,"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":%q}}}`, kind, revision)
	}
	of := func(events ...string) []string { return events }
	issuer, bundle := ref{"secrets", "linkerd", rotation.IssuerObject}, ref{"configmaps", "linkerd", rotation.BundleObject}
	around := ref{"namespaces", "", "linkerd"}
	for name, row := range map[string]struct {
		about  ref
		seen   map[ref]object
		failed bool // the last look
		events []string
		told   int
	}{
		"as it was seen":                  {issuer, map[ref]object{issuer: {"u", "7"}}, false, of(event("ADDED", "7")), 0},
		"another revision":                {issuer, map[ref]object{issuer: {"u", "7"}}, false, of(event("ADDED", "8")), 1},
		"one after another":               {bundle, map[ref]object{bundle: {"u", "7"}}, false, of(event("ADDED", "7"), event("MODIFIED", "8"), event("MODIFIED", "9")), 2},
		"bookmarks":                       {bundle, map[ref]object{bundle: {"u", "7"}}, false, of(event("ADDED", "7"), event("BOOKMARK", "8")), 0},
		"deleted":                         {bundle, map[ref]object{bundle: {"u", "7"}}, false, of(event("ADDED", "7"), event("DELETED", "8")), 1},
		"seen to be gone already":         {bundle, map[ref]object{bundle: {}}, false, of(event("DELETED", "8")), 0},
		"never looked at":                 {bundle, nil, false, of(event("ADDED", "7")), 1},
		"never looked at, and not there":  {bundle, nil, false, nil, 1},
		"seen, and gone before the watch": {bundle, map[ref]object{bundle: {"u", "7"}}, false, nil, 1},
		"not there":                       {bundle, map[ref]object{bundle: {}}, false, nil, 0},
		"not there, and made":             {bundle, map[ref]object{bundle: {}}, false, of(event("ADDED", "7")), 1},
		"the cluster answers again":       {issuer, map[ref]object{issuer: {"u", "7"}}, true, of(event("ADDED", "7")), 1},
		"it answers again, nothing there": {issuer, map[ref]object{issuer: {}}, true, nil, 1},
		"a namespace with another label":  {around, map[ref]object{around: {revision: present}}, false, of(event("ADDED", "7"), event("MODIFIED", "8")), 0},
		"a namespace that is made":        {around, map[ref]object{around: {}}, false, of(event("ADDED", "7")), 1},
		"a namespace that goes":           {around, map[ref]object{around: {revision: present}}, false, of(event("ADDED", "7"), event("DELETED", "8")), 1},
		"what is not metadata":            {issuer, map[ref]object{issuer: {"u", "7"}}, false, of(`{"type":"ADDED","object":{"kind":"Status","apiVersion":"v1","metadata":{}}}`), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Cluster{cfg: Config{Namespace: "linkerd"}, known: row.seen, unseen: row.failed}
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				defer stop()
				stream, server := io.Pipe()
				context.AfterFunc(ctx, func() { stream.CloseWithError(ctx.Err()) })
				go io.WriteString(server, strings.Join(row.events, "\n"))
				var told atomic.Int64
				f := &follower{c: c, about: row.about, changed: func() { told.Add(1) }, events: events{stream: stream}}
				f.expect(ctx)
				for f.events.wait() && f.tell(ctx) {
				}
				if f.told != (row.events != nil) {
					t.Errorf("an event was told: %t", f.told)
				}
				if n := int(told.Load()); n != row.told {
					t.Errorf("it was told %d times; want %d", n, row.told)
				}
			})
		})
	}
}

// The event may be there before the look that shows the same.
func TestWatchWaitsForTheLookUnderWay(t *testing.T) {
	c := &Cluster{cfg: Config{Namespace: "linkerd"}, known: map[ref]object{}}
	c.looking.RLock()
	said := make(chan bool, 1)
	go func() { said <- c.news(c.managed(rotation.IssuerObject), "7") }()
	for c.looking.TryRLock() { // nobody waits for the look to end
		c.looking.RUnlock()
		select {
		case <-said:
			t.Fatal("it waits for no look")
		default:
		}
	}
	c.remember(c.managed(rotation.IssuerObject), object{"u", "7"})
	c.looking.RUnlock()
	if <-said {
		t.Error("what the look shows is told as news")
	}
}

// Who keeps an object that certd has not written is told by Linkerd's own configuration,
// also where that object alone is read again.
func TestRereadTellsWhoKeepsTheObject(t *testing.T) {
	c := fakeServer(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		data := `{"ca-bundle.crt":"x"}`
		if name == linkerdConfig {
			data = `{"values":"identity: {externalCA: false}"}`
		}
		fmt.Fprintf(w, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"uid":"1","resourceVersion":"1"},"data":%s}`, name, data)
	})
	o, err := c.Reread(t.Context(), rotation.Observation{Identity: &rotation.Identity{}}, rotation.BundleObject)
	if err != nil || o.Bundle.Keeper == nil || o.Bundle.Keeper.Kind != rotation.KeeperCLI {
		t.Errorf("keeper %+v, %v; want Linkerd's CLI", o.Bundle.Keeper, err)
	}
}
