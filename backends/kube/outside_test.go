package kube

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

func jsonAnswer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(text))
	}
}

// Whom the mesh talks to beyond its own pods is read in whatever version the
// cluster has of the kinds; what may not be read is not taken for nothing.
func TestOutside(t *testing.T) {
	const links, external = "/apis/multicluster.linkerd.io", "/apis/workload.linkerd.io"
	group := func(version string) http.HandlerFunc {
		return jsonAnswer(`{"kind":"APIGroup","apiVersion":"v1","preferredVersion":{"groupVersion":"x/` + version + `","version":"` + version + `"}}`)
	}
	list := jsonAnswer(`{"kind":"LinkList","apiVersion":"multicluster.linkerd.io/v1alpha3","metadata":{},"items":[
		{"kind":"Link","apiVersion":"multicluster.linkerd.io/v1alpha3","metadata":{"namespace":"linkerd-multicluster","name":"west"},"spec":{"targetClusterName":"west"}},
		{"kind":"Link","apiVersion":"multicluster.linkerd.io/v1alpha3","metadata":{"namespace":"linkerd-multicluster","name":"odd"},"spec":{}}]}`)
	vms := jsonAnswer(`{"kind":"ExternalWorkloadList","apiVersion":"workload.linkerd.io/v1beta1","metadata":{"remainingItemCount":41},"items":[
		{"kind":"ExternalWorkload","apiVersion":"workload.linkerd.io/v1beta1","metadata":{"namespace":"vms","name":"a"}}]}`)
	both := []rotation.Link{{Name: "linkerd-multicluster/west", Target: "west"}, {Name: "linkerd-multicluster/odd"}}
	for _, row := range []struct {
		name    string
		answers map[string]http.HandlerFunc
		want    rotation.Outside
		says    string // of the error
	}{
		{"neither kind is known", nil, rotation.Outside{}, ""},
		{"links, no workloads", map[string]http.HandlerFunc{links: group("v1alpha3"), links + "/v1alpha3/links": list}, rotation.Outside{Links: both}, ""},
		{"both", map[string]http.HandlerFunc{links: group("v1alpha1"), links + "/v1alpha1/links": list, external: group("v1beta1"), external + "/v1beta1/externalworkloads": vms},
			rotation.Outside{Links: both, External: 42}, ""},
		{"the group has other kinds", map[string]http.HandlerFunc{links: group("v2")}, rotation.Outside{}, ""},
		{"no right to links", map[string]http.HandlerFunc{links: group("v1alpha3"), links + "/v1alpha3/links": status(403, "Forbidden", `User "x" cannot list resource "links"`)},
			rotation.Outside{}, `the verb "list" on "links" is missing; grant it: kubectl apply -f deploy/rbac/certd-proxies.yaml`},
		{"no right to workloads", map[string]http.HandlerFunc{external: group("v1beta1"), external + "/v1beta1/externalworkloads": status(403, "Forbidden", `User "x" cannot list resource "externalworkloads"`)},
			rotation.Outside{}, `the verb "list" on "externalworkloads" is missing; grant it: kubectl apply -f deploy/rbac/certd-proxies.yaml`},
		{"the server is not well", map[string]http.HandlerFunc{links: status(500, "InternalError", "etcdserver: leader changed")}, rotation.Outside{}, "get /apis/multicluster.linkerd.io"},
		{"an answer of another form", map[string]http.HandlerFunc{links: jsonAnswer(`[]`)}, rotation.Outside{}, "of another form"},
	} {
		c := fakeServer(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
			if answer := row.answers[r.URL.Path]; answer != nil {
				answer(w, r)
				return
			}
			status(404, "NotFound", "not here")(w, r)
		})
		got := c.outside(t.Context())
		if err := got.Err; (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v, want %q", row.name, err, row.says)
		}
		if strings.Contains(row.name, "no right") && !errors.Is(got.Err, rotation.ErrDenied) {
			t.Errorf("%s: %v", row.name, got.Err)
		}
		got.Err = nil
		if d := cmp.Diff(row.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, d)
		}
	}
}
