package kubelet

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// The files of a running pod follow its Secret with the lag of its kubelet, or
// of its annotation; a pod waits for a Secret that is not there.
func TestFilesFollowWithALag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := fake.NewClientset()
		k, err := New(client, informers.NewSharedInformerFactory(client, 0), Options{Root: t.TempDir(), Nodes: 1, Lag: 10 * time.Second, ReadyDelay: time.Second, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		content := func(pod string) string {
			b, err := os.ReadFile(filepath.Join(k.projects.podDir("linkerd", pod), "issuer", "tls.crt"))
			if err != nil {
				return ""
			}
			return string(b)
		}
		phase := func(pod string) corev1.PodPhase {
			p, err := client.CoreV1().Pods("linkerd").Get(ctx, pod, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return p.Status.Phase
		}
		at := func(since time.Time, d time.Duration) {
			time.Sleep(d - time.Since(since)) // virtual time
			synctest.Wait()
		}
		for name, lag := range map[string]string{"usual": "", "slow": "30s"} {
			pod := secretPod(nil)
			pod.Name, pod.UID, pod.Spec.NodeName = name, "uid", "lab-node-0"
			if lag != "" {
				pod.Annotations = map[string]string{"lab/projection-lag": lag}
			}
			if _, err := client.CoreV1().Pods("linkerd").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		at(begin, 5*time.Second)
		if got := phase("usual"); got != corev1.PodPending {
			t.Errorf("without its Secret the pod is %s", got)
		}

		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "issuer"}, Data: map[string][]byte{"tls.crt": []byte("one")}}
		if _, err := client.CoreV1().Secrets("linkerd").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		created := time.Now()
		at(created, 2*time.Second)
		for _, pod := range []string{"usual", "slow"} {
			if content(pod) != "one" || phase(pod) != corev1.PodRunning {
				t.Errorf("%s: file %q, %s, want it to run with the Secret", pod, content(pod), phase(pod))
			}
		}

		secret.Data["tls.crt"] = []byte("two")
		if _, err := client.CoreV1().Secrets("linkerd").Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		changed := time.Now()
		for _, moment := range []struct {
			after       time.Duration
			usual, slow string
		}{{9 * time.Second, "one", "one"}, {11 * time.Second, "two", "one"}, {29 * time.Second, "two", "one"}, {31 * time.Second, "two", "two"}} {
			at(changed, moment.after)
			if u, s := content("usual"), content("slow"); u != moment.usual || s != moment.slow {
				t.Errorf("after %v: usual %q, slow %q, want %q and %q", moment.after, u, s, moment.usual, moment.slow)
			}
		}
	})
}
