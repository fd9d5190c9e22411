package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/rotation"
)

// installIdentity has the lab run its linkerd-identity, two replicas, in a
// cluster, until the test ends.
func (s *site) installIdentity(i int, args ...string) {
	s.t.Helper()
	b, err := os.ReadFile(os.Getenv("CERTD_LAB"))
	if err != nil {
		s.t.Fatal(err)
	}
	var l struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(b, &l); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/%d/exe", l.PID), append([]string{"install-identity", "-kubeconfig", s.lab.Clusters[i].Kubeconfig, "-namespace", s.ns}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("install linkerd-identity: %v\n%s", err, out)
	}
	s.t.Cleanup(func() {
		now := metav1.DeletePropagationForeground
		if err := s.kube[i].AppsV1().Deployments(s.ns).Delete(context.Background(), "linkerd-identity", metav1.DeleteOptions{PropagationPolicy: &now}); err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	})
}

func (s *site) pods(i int) []corev1.Pod {
	list, err := s.kube[i].CoreV1().Pods(s.ns).List(context.Background(), metav1.ListOptions{LabelSelector: "linkerd.io/control-plane-component=identity"})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// Delivered is not in use: what the replicas of linkerd-identity have loaded
// is read from each of them, and a replica that missed an issuer is seen.
func TestUptakeIsProvedPerReplica(t *testing.T) {
	s := newSite(t, 1, daily)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	s.installIdentity(0)
	s.eventually(30*time.Second, func() string {
		for _, p := range s.pods(0) {
			if p.Status.Phase != corev1.PodRunning {
				return p.Name + " is " + string(p.Status.Phase)
			}
		}
		return ""
	})
	d.term() // a start looks at once, and not at the next regular look
	s.run()

	issuer := func() rotation.IssuerStatus {
		st, _ := s.status()
		if st.Clusters[0].Issuer == nil {
			return rotation.IssuerStatus{}
		}
		return *st.Clusters[0].Issuer
	}
	loaded := func(want string) func() string {
		return func() string {
			is := issuer()
			if is.Loaded == nil || is.Loaded.State != want {
				b, _ := json.Marshal(is)
				return fmt.Sprintf("want %q: %s", want, b)
			}
			return ""
		}
	}
	s.eventually(90*time.Second, loaded("yes"))
	if is := issuer(); is.Loaded.Evidence != "metric" || is.Loaded.At == nil || is.Loaded.NotAfter.Sub(is.Delivered.NotAfter).Abs() > 5*time.Second {
		t.Errorf("loaded %+v, delivered until %s", *is.Loaded, is.Delivered.NotAfter)
	}

	// A new issuer, and both replicas take it up.
	before := issuer().Delivered.Serial
	out := s.must("rotate", "issuer", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--wait", "--reason", "drill")
	if !strings.Contains(out, s.lab.Clusters[0].Name) {
		t.Errorf("rotate says %q", out)
	}
	if after := issuer().Delivered.Serial; after == before {
		t.Error("rotate --wait came back before the new issuer was there")
	}
	s.eventually(30*time.Second, loaded("yes"))

	// One replica stops watching; the next issuer reaches the other only.
	pods := s.pods(0)
	if len(pods) != 2 {
		t.Fatalf("%d replicas", len(pods))
	}
	if _, err := s.kube[0].CoreV1().Pods("linkerd").Patch(context.Background(), pods[0].Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"lab/ignore-reloads":"true"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.must("rotate", "issuer", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--wait", "--reason", "drill")
	s.eventually(30*time.Second, loaded("no"))

	// People who look at the Secret see what was done to it.
	events, err := s.kube[0].CoreV1().Events("linkerd").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + rotation.IssuerObject})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range events.Items {
		found = found || e.Reason == "CertdIssuerRotated" && strings.Contains(e.Message, "drill")
	}
	if !found {
		t.Errorf("no Event CertdIssuerRotated on the Secret among %d", len(events.Items))
	}
	for _, e := range s.history() {
		if strings.Contains(e.Reason, "drill") && e.Step == rotation.StepIssuer && !strings.HasSuffix(e.Actor, "@cli") {
			t.Errorf("the history says that %s asked", e.Actor)
		}
	}
}
