package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

var (
	quiet    = slog.New(slog.DiscardHandler)
	loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9843}
	outside  = &net.TCPAddr{IP: net.IPv4zero, Port: 9843}
)

// shown are options that show something everywhere.
func shown() Options {
	return Options{
		Status: func(context.Context) (rotation.FleetStatus, error) {
			return rotation.FleetStatus{APIVersion: rotation.APIVersion, Kind: "FleetStatus", Fleet: "acme"}, nil
		},
		Bundle:  func(context.Context) ([]byte, error) { return []byte("-----BEGIN CERTIFICATE-----\n"), nil },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "certd_up 1\n") }),
		Live:    []Check{{"loop", well}},
		Ready:   []Check{{"config", well}, {"socket", well}},
		Log:     quiet,
	}
}

func well(context.Context) error { return nil }

func ask(t *testing.T, s *Server, at net.Addr, method, target string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	s.handler(at).ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatIsShown(t *testing.T) {
	s := NewServer(shown())
	for path, want := range map[string]struct{ kind, holds string }{
		"/metrics":       {"", "certd_up 1"},
		"/livez":         {"text/plain; charset=utf-8", "ok"},
		"/readyz":        {"text/plain; charset=utf-8", "ok"},
		"/healthz":       {"text/plain; charset=utf-8", "ok"},
		"/api/v1/status": {"application/json", `"fleet":"acme"`},
		"/bundle.pem":    {"application/x-pem-file", "BEGIN CERTIFICATE"},
		"/":              {"text/plain; charset=utf-8", "/bundle.pem"},
	} {
		r := ask(t, s, loopback, "GET", "http://localhost:9843"+path)
		if got := body(t, r); r.StatusCode != 200 || !strings.Contains(got, want.holds) || want.kind != "" && r.Header.Get("Content-Type") != want.kind {
			t.Errorf("%s: %s, %s, %q", path, r.Status, r.Header.Get("Content-Type"), got)
		}
		for header, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Referrer-Policy": "no-referrer"} {
			if r.Header.Get(header) != value {
				t.Errorf("%s: %s is %q", path, header, r.Header.Get(header))
			}
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if r := ask(t, s, loopback, method, "http://localhost:9843"+path); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %s", method, path, r.Status)
			}
		}
	}
	if r := ask(t, s, loopback, "GET", "http://localhost:9843/nothing"); r.StatusCode != 404 {
		t.Errorf("/nothing: %s", r.Status)
	}
	var st rotation.FleetStatus
	if err := json.NewDecoder(ask(t, s, loopback, "GET", "http://localhost/api/v1/status").Body).Decode(&st); err != nil || st.Kind != "FleetStatus" {
		t.Errorf("%+v, %v", st, err)
	}
}

// The page gets every path that nothing else has, and only to be read.
func TestAPageIsPluggedIn(t *testing.T) {
	o := shown()
	o.Page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'")
		io.WriteString(w, "page of "+r.URL.Path)
	})
	s := NewServer(o)
	for _, path := range []string{"/", "/clusters/east"} {
		r := ask(t, s, outside, "GET", path)
		if got := body(t, r); got != "page of "+path || r.Header.Get("Content-Security-Policy") != "default-src 'none'; style-src 'self'" {
			t.Errorf("%s: %q, %v", path, got, r.Header)
		}
	}
	if r := ask(t, s, outside, "POST", "/"); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.Status)
	}
	if got := body(t, ask(t, s, outside, "GET", "/livez")); got != "ok" {
		t.Errorf("/livez beside a page: %q", got)
	}
}

func TestThereIsNoBundleYet(t *testing.T) {
	o := shown()
	o.Bundle = func(context.Context) ([]byte, error) { return nil, nil }
	if r := ask(t, NewServer(o), loopback, "GET", "http://localhost/bundle.pem"); r.StatusCode != 404 || !strings.Contains(body(t, r), "certd init") {
		t.Errorf("%s", r.Status)
	}
}

func TestAnUnchangedBundleIsNotSentAgain(t *testing.T) {
	s := NewServer(shown())
	first := ask(t, s, outside, "GET", "/bundle.pem")
	r := httptest.NewRequest("GET", "/bundle.pem", nil)
	r.Header.Set("If-None-Match", first.Header.Get("ETag"))
	w := httptest.NewRecorder()
	s.handler(outside).ServeHTTP(w, r)
	if w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("%d with %d bytes", w.Code, w.Body.Len())
	}
}

func TestWhatCannotBeAnsweredSaysWhy(t *testing.T) {
	o := shown()
	o.Status = func(context.Context) (rotation.FleetStatus, error) {
		return rotation.FleetStatus{}, errors.New("read the journal: gone")
	}
	o.Bundle = func(context.Context) ([]byte, error) { panic("hvs.secret") }
	s := NewServer(o)
	if r := ask(t, s, outside, "GET", "/api/v1/status"); r.StatusCode != 500 || !strings.Contains(body(t, r), "read the journal: gone") {
		t.Errorf("status: %s", r.Status)
	}
	if r := ask(t, s, outside, "GET", "/bundle.pem"); r.StatusCode != 500 || strings.Contains(body(t, r), "hvs") {
		t.Errorf("a panic: %s", r.Status)
	}
}

// A page of another site that has its name point to 127.0.0.1 reads nothing.
func TestOtherNamesOfThisHostAreRefused(t *testing.T) {
	s := NewServer(shown())
	for host, want := range map[string]int{"localhost:9843": 200, "127.0.0.1:9843": 200, "[::1]:9843": 200, "localhost": 200, "certd.example": 421, "127.0.0.1.certd.example:9843": 421} {
		if r := ask(t, s, loopback, "GET", "http://"+host+"/api/v1/status"); r.StatusCode != want {
			t.Errorf("%s, where only this host can ask: %s", host, r.Status)
		}
		if r := ask(t, s, outside, "GET", "http://"+host+"/api/v1/status"); r.StatusCode != 200 {
			t.Errorf("%s, where everybody can ask: %s", host, r.Status)
		}
	}
}

// An answer that nobody gives is waited for by so many and for so long.
func TestAStuckAnswerHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, free := shown(), make(chan struct{})
		o.Status = func(context.Context) (rotation.FleetStatus, error) { <-free; return rotation.FleetStatus{}, nil }
		h := NewServer(o).handler(outside)
		status := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/status", nil))
			return w.Code
		}
		begun := time.Now()
		for range atOnce {
			if got := status(); got != http.StatusServiceUnavailable {
				t.Errorf("answered %d", got)
			}
		}
		if took := time.Since(begun); took != atOnce*answerTimeout {
			t.Errorf("%d answers that did not come took %s", atOnce, took)
		}
		begun = time.Now()
		if got := status(); got != http.StatusServiceUnavailable || time.Since(begun) > 0 {
			t.Errorf("one more: %d after %s", got, time.Since(begun))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/livez", nil))
		if w.Code != 200 {
			t.Errorf("/livez: %d", w.Code)
		}
		close(free)
		synctest.Wait()
		if got := status(); got != 200 {
			t.Errorf("afterwards: %d", got)
		}
	})
}

func TestListen(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String()); !errors.Is(err, api.ErrNotNow) || !strings.Contains(err.Error(), "listen on "+l.Addr().String()+" (server.listen): another process listens there; stop it, or name another port") {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := Listen("192.0.2.1:1234"); err == nil || !strings.Contains(err.Error(), "this host does not have that address") {
		t.Errorf("an address of somebody else: %v", err)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewServer(shown()).Serve(ctx, l) }()
	r, err := http.Get("http://" + l.Addr().String() + "/livez")
	if err != nil || r.StatusCode != 200 {
		t.Errorf("%v, %v", r, err)
	}
	if err == nil {
		r.Body.Close()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("somebody still listens")
	}
}
