package kube

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// endless is an answer that never ends.
type endless struct{ http.RoundTripper }

func (endless) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(endlessly{})}, nil
}

type endlessly struct{}

func (endlessly) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("x"), len(p))), nil }

// A watch that never ends is ended, so that it is begun anew; any other answer is refused.
func TestNoAnswerIsEndless(t *testing.T) {
	read := func(url string) (int64, error) {
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := bounded{endless{}}.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		return io.Copy(io.Discard, resp.Body)
	}
	if n, err := read("https://c/api/v1/secrets?watch=true"); n != maxWatched || err != nil {
		t.Errorf("a watch: %d bytes, %v", n, err)
	}
	if n, err := read("https://c/api/v1/secrets"); n > maxAnswer || err == nil {
		t.Errorf("another answer: %d bytes, %v", n, err)
	}
}

// A header is bounded, too, also where the kubeconfig names the CA by its file, as a pod's own
// service account does.
func TestALargeHeaderIsRefused(t *testing.T) {
	s := quietServer(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 30 {
			w.Header().Set("X-"+strings.Repeat("a", i+1), strings.Repeat("y", 4000))
		}
	})
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]*api.Cluster{
		"the CA in the kubeconfig": {Server: s.URL, CertificateAuthorityData: ca},
		"the CA in a file":         {Server: s.URL, CertificateAuthority: file},
	} {
		_, err := openFake(t, time.Second, at).Observe(t.Context())
		if err == nil || !strings.Contains(err.Error(), "header") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// A cluster that could not be seen costs one request, until it can be again.
func TestALookAfterOneInVainAsksOneThing(t *testing.T) {
	var asked atomic.Int64
	c := fakeServer(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		status(500, "InternalError", "not well")(w, r)
	})
	look := func() int64 {
		asked.Store(0)
		if _, err := c.Observe(t.Context()); err == nil {
			t.Error("it is seen")
		}
		return asked.Load()
	}
	if n := look(); n < 4 {
		t.Errorf("the first look asks %d things", n)
	}
	if n := look(); n != 1 {
		t.Errorf("the second look asks %d things", n)
	}
}

// Events without end are read one at a time, and a while apart.
func TestEventsAreReadAWhileApart(t *testing.T) {
	var told atomic.Int64
	c := fakeServer(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, `{"type":"MODIFIED","object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x","resourceVersion":"1"}}}`+"\n"); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*eventPause)
	defer cancel()
	_ = c.Watch(ctx, func() { told.Add(1) })
	if n := told.Load(); n < 2 || n > 2*(1+10) { // two watches, each as it begins and every 100 ms
		t.Errorf("it was told %d times of a change", n)
	}
}
