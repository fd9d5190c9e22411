package web

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Whatever is asked over TCP, nothing but reading is answered, no page of another site reads
// along on a loopback address, and no request ends in a panic.
func FuzzServer(f *testing.F) {
	for _, seed := range []struct{ method, path, query, host, header string }{
		{"GET", "/livez", "verbose", "localhost:9843", ""}, {"GET", "/readyz", "verbose&exclude=socket", "127.0.0.1", ""}, {"GET", "/api/v1/status", "", "[::1]:1", ""},
		{"HEAD", "/bundle.pem", "", "localhost", "bytes=0-10,-5"}, {"GET", "/bundle.pem", "", "", `"x", W/"y"`}, {"POST", "/api/v1/status", "", "localhost", ""},
		{"GET", "/", "%zz=&a;b", "evil.example", "x"}, {"CONNECT", "*", "", "a:b:c", ""}, {"GET", "/../metrics", "", "localhost", "gzip"}, {"GET", "/readyz/socket", "", "localhost", ""},
	} {
		f.Add(seed.method, seed.path, seed.query, seed.host, seed.header)
	}
	f.Fuzz(func(t *testing.T, method, path, query, host, header string) {
		var log bytes.Buffer
		o := shown()
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := NewServer(o)
		for _, at := range []net.Addr{loopback, outside} {
			w := httptest.NewRecorder()
			r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host, RequestURI: path, RemoteAddr: "127.0.0.1:1",
				Header: http.Header{"Range": {header}, "If-None-Match": {header}, "Accept-Encoding": {header}, "Accept": {header}}, Body: io.NopCloser(strings.NewReader(header))}
			s.handler(at).ServeHTTP(w, r.WithContext(t.Context()))
			reading := method == http.MethodGet || method == http.MethodHead
			if w.Code < 300 && !reading {
				t.Errorf("%q %q is answered with %d", method, path, w.Code)
			}
			if w.Code < 300 && at == loopback && !localHost(host) {
				t.Errorf("%q is answered as the name of this host", host)
			}
			if w.Code == http.StatusOK && path == "/api/v1/status" && method == http.MethodGet && !json.Valid(w.Body.Bytes()) {
				t.Errorf("the status is no JSON: %q", w.Body)
			}
			if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("%q %q: sniffing is allowed: %q", method, path, got)
			}
		}
		if strings.Contains(log.String(), "panic") {
			t.Errorf("%q %q: %s", method, path, &log)
		}
	})
}
