package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// deadlines is a response writer that takes deadlines, as a connection's does.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error { return nil }

// Whatever is asked on the admin socket, the answer is one JSON document: what was asked
// for, or an error with an exit code; a token in a request is repeated nowhere, and who asks
// is who the kernel says it is.
func FuzzServer(f *testing.F) {
	for _, seed := range []struct{ method, path, query, body string }{
		{"GET", "/v1/status", "", ""}, {"GET", "/v1/plan", "until=2026-11-24T12:00:00Z&ifStopped=true", ""}, {"GET", "/v1/history", "limit=-1", ""},
		{"GET", "/v1/history", "since=x&after=18446744073709551616", ""}, {"GET", "/v1/check", "cluster=a&cluster=b&category=%zz", ""}, {"GET", "/v1/export", "cluster=../etc", ""},
		{"POST", "/v1/rotate", "", `{"target":"issuer","clusters":["east"],"reason":"x","actor":"root"}`}, {"POST", "/v1/trust/change", "", `{"order":"rotate","token":"hvs.the-token-of-the-fuzz-test"}`},
		{"POST", "/v1/init", "", `{"token":"hvs.the-token-of-the-fuzz-test","token":7}`}, {"POST", "/v1/adopt", "", `{"clusters":["east"]}{}`}, {"POST", "/v1/pause", "", `{"seconds":1e300,"clusters":["x"]}`},
		{"POST", "/v1/log-level", "", `[`}, {"PUT", "/v1/status", "", ""}, {"GET", "*", "", ""}, {"GET", "//v1/../v1/status", "", ""}, {"POST", "/v1/notify/test", "", `null`}, {"POST", "/v1/trust/renew", "", strings.Repeat(`[`, 20000)},
	} {
		f.Add(seed.method, seed.path, seed.query, []byte(seed.body))
	}
	socket := filepath.Join(f.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	const token = "hvs.the-token-of-the-fuzz-test"
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		var log bytes.Buffer
		s := NewServer(&scripted{}, slog.New(slog.NewJSONHandler(&log, nil)))
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Host: "certd", RequestURI: path}
		w := httptest.NewRecorder()
		s.handler(socket).ServeHTTP(deadlines{w}, r.WithContext(context.WithValue(t.Context(), peerKey{}, peer{uid: uint32(os.Geteuid())})))
		if w.Code >= 300 && w.Code < 400 { // the multiplexer mends a path
			return
		}
		var doc any
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Fatalf("%s %q: status %d, and no JSON: %q", method, path, w.Code, w.Body)
		}
		if w.Code != http.StatusOK {
			var no failure
			if err := json.Unmarshal(w.Body.Bytes(), &no); err != nil || no.Code == 0 || no.Text == "" {
				t.Errorf("%s %q: status %d says %s", method, path, w.Code, w.Body)
			}
		}
		if method != http.MethodPost && strings.Contains(log.String(), `"msg":"request"`) {
			t.Errorf("%s %q changes something: %s", method, path, &log)
		}
		// A reason may say anything; the token has a field of its own.
		var sent struct{ Token string }
		if json.Unmarshal(body, &sent) == nil && sent.Token == token && bytes.Count(body, []byte(token)) == 1 {
			if strings.Contains(w.Body.String(), token) || strings.Contains(log.String(), token) {
				t.Errorf("%s %q repeats the token: %s %s", method, path, w.Body, &log)
			}
		}
	})
}
