package webhook

import (
	"encoding/json"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tapAPI is as much of tap's API server as an APIService needs to be Available
// and clients to discover it.
func tapAPI(*Config) http.Handler {
	const group = "tap.linkerd.io/v1alpha1"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) })
	mux.HandleFunc("GET /apis/"+group, func(w http.ResponseWriter, _ *http.Request) {
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group}
		for _, name := range []string{"namespaces", "pods", "deployments", "daemonsets", "statefulsets"} {
			// Only what tap offers: else the garbage collector and whatever
			// deletes namespaces would want to list these.
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: name + "/tap", Kind: "Tap", Namespaced: name != "namespaces", Verbs: metav1.Verbs{"watch"}})
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(list)
	})
	return mux
}
