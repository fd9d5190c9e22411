package kube

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// labCluster is one real API server of the lab.
type labCluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"` // of an admin
}

// lab returns the first cluster of the lab that this test run shares, with a
// client that may do everything there. Each test takes namespaces of its own.
func lab(t testing.TB) (labCluster, *rest.Config, *kubernetes.Clientset) {
	t.Helper()
	path := os.Getenv("CERTD_LAB")
	if path == "" {
		t.Fatal("this test needs real API servers: run it through make test (CERTD_LAB is not set)")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Clusters []labCluster `json:"clusters"`
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Clusters) == 0 {
		t.Fatalf("%s: %d clusters, %v", path, len(file.Clusters), err)
	}
	rc, err := clientcmd.BuildConfigFromFlags("", file.Clusters[0].Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	rc.QPS, rc.WarningHandler = -1, rest.NoWarnings{}
	admin, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	return file.Clusters[0], rc, admin
}

// newNamespaceName is one that no other test uses.
func newNamespaceName() string { return "linkerd-" + strings.ToLower(rand.Text()[:10]) }
