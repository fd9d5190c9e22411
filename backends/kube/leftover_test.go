package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"certd.internal/rotation"
)

// lists answers with pods in the order of their names, as an API server does: those that the
// field selector takes, a page of them where there is a limit.
func lists(t testing.TB, pods ...corev1.Pod) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		selector, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
		if err != nil {
			t.Error(err)
			return
		}
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
		for _, p := range pods {
			if selector.Matches(fields.Set{"status.phase": string(p.Status.Phase)}) {
				list.Items = append(list.Items, p)
			}
		}
		slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		if limit, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil && limit > 0 && len(list.Items) > limit {
			list.Items, list.Continue = list.Items[:limit], "more"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	}
}

func podsOf(n int, prefix string, phase corev1.PodPhase) (pods []corev1.Pod) {
	for i := range n {
		pods = append(pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%03d", prefix, i)}, Status: corev1.PodStatus{Phase: phase, Reason: "Evicted"}})
	}
	return pods
}

// What a node under pressure has evicted stays for long, as pods that are over: the ones that
// run are seen however many there are of it, and where not all of those are looked at, that
// is no proof about the others.
func TestReplicasAmongEvictedPods(t *testing.T) {
	evicted := podsOf(100, "a", corev1.PodFailed)
	for _, row := range []struct {
		name    string
		running int
	}{{"three", 3}, {"as many as are asked", maxReplicas}, {"one more", maxReplicas + 1}} {
		t.Run("linkerd-identity: "+row.name, func(t *testing.T) {
			c := identityServer(t, map[string]http.HandlerFunc{"/pods": lists(t, append(podsOf(row.running, "b", corev1.PodRunning), evicted...)...)})
			o, err := c.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			known, unknown := 0, 0
			for _, r := range o.Identity.Replicas {
				if r.NotAfter.IsZero() {
					unknown++
				} else {
					known++
				}
			}
			if want := min(row.running, maxReplicas); known != want || unknown != row.running-want {
				t.Errorf("%d replicas seen, %d unknown: %+v", known, unknown, o.Identity.Replicas)
			}
		})
	}
	for _, row := range []struct {
		name    string
		running int
	}{{"two", 2}, {"as many as are asked", maxWebhookReplicas}, {"one more", maxWebhookReplicas + 1}} {
		t.Run("a webhook: "+row.name, func(t *testing.T) {
			answer := lists(t, append(podsOf(row.running, "b", corev1.PodRunning), evicted...)...)
			c := fakeServer(t, 2*time.Second, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/pods") {
					answer(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"kind":"Service","apiVersion":"v1","spec":{"selector":{"a":"b"},"ports":[{"port":443}]}}`)
			})
			found := c.webhookReplicas(t.Context(), rotation.WebhookSpec{Name: "w", Service: "w", Namespace: "linkerd"})
			others := slices.ContainsFunc(found, func(r rotation.WebhookReplica) bool { return strings.Contains(r.Evidence, "not looked at") })
			if row.running > maxWebhookReplicas != others || len(found) != row.running {
				t.Errorf("%d replicas, that there are others is told: %t; want %d: %+v", len(found), others, row.running, found)
			}
		})
	}
}
