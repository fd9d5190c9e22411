package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// objects is what a cluster has, as its informers would tell.
type objects struct{ secrets, configMaps cache.Indexer }

func newProjector(t *testing.T) (projector, objects) {
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	o := objects{index(), index()}
	return projector{root: t.TempDir(), secrets: listers.NewSecretLister(o.secrets), configMaps: listers.NewConfigMapLister(o.configMaps)}, o
}

func (o objects) secret(t *testing.T, labels map[string]string, data map[string]string) {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "issuer", Labels: labels}, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	if err := o.secrets.Add(s); err != nil {
		t.Fatal(err)
	}
}

// secretPod mounts Secret issuer as volume issuer.
func secretPod(change func(*corev1.SecretVolumeSource)) *corev1.Pod {
	mode := int32(0o644)
	source := &corev1.SecretVolumeSource{SecretName: "issuer", DefaultMode: &mode}
	if change != nil {
		change(source)
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}, Volumes: []corev1.Volume{{Name: "issuer", VolumeSource: corev1.VolumeSource{Secret: source}}}}}
}

// look returns the files of a volume and where ..data points.
func look(t *testing.T, p projector, volume string) (files map[string]string, data string) {
	t.Helper()
	dir := filepath.Join(p.podDir("linkerd", "p"), volume)
	data, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err != nil || target != "..data/"+e.Name() {
			t.Errorf("%s points to %q (%v), not through ..data", e.Name(), target, err)
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(content)
	}
	return files, data
}

func TestAVolumeIsSwappedOnlyWhenItsPayloadChanges(t *testing.T) {
	p, cluster := newProjector(t)
	pod := secretPod(nil)
	project := func() (map[string]string, string) {
		t.Helper()
		if err := p.project(pod); err != nil {
			t.Fatal(err)
		}
		return look(t, p, "issuer")
	}
	cluster.secret(t, nil, map[string]string{"tls.crt": "one", "tls.key": "key"})
	files, first := project()
	if len(files) != 2 || files["tls.crt"] != "one" || files["tls.key"] != "key" {
		t.Fatalf("files: %v", files)
	}
	cluster.secret(t, map[string]string{"edited": "yes"}, map[string]string{"tls.crt": "one", "tls.key": "key"})
	if _, again := project(); again != first {
		t.Error("a changed label swapped the files")
	}
	cluster.secret(t, nil, map[string]string{"tls.crt": "two"})
	files, second := project()
	if second == first || len(files) != 1 || files["tls.crt"] != "two" {
		t.Errorf("after a change: %v in %s", files, second)
	}
	if _, err := os.Stat(filepath.Join(p.podDir("linkerd", "p"), "issuer", first)); !os.IsNotExist(err) {
		t.Errorf("the old files are still there: %v", err)
	}
}

func TestWhatAVolumeShows(t *testing.T) {
	yes := true
	for _, test := range []struct {
		name   string
		data   map[string]string // nil: no such Secret
		change func(*corev1.SecretVolumeSource)
		want   string // names of the files, or what the error says
	}{
		{"every key of the Secret", map[string]string{"a": "1", "b": "2"}, nil, "a b"},
		{"the items asked for, under their paths", map[string]string{"a": "1", "b": "2"},
			func(s *corev1.SecretVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "b", Path: "c"}} }, "c"},
		{"nothing of an optional Secret that is not there", nil, func(s *corev1.SecretVolumeSource) { s.Optional = &yes }, ""},
		{"an error where the Secret is not there", nil, nil, `volume "issuer": secret "issuer" not found`},
		{"an error where an item is not there", map[string]string{"a": "1"},
			func(s *corev1.SecretVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "b", Path: "c"}} }, "references non-existent secret key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, cluster := newProjector(t)
			if test.data != nil {
				cluster.secret(t, nil, test.data)
			}
			if err := p.project(secretPod(test.change)); err != nil {
				if test.want == "" || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v, want %q", err, test.want)
				}
				return
			}
			files, _ := look(t, p, "issuer")
			var names []string
			for _, name := range []string{"a", "b", "c"} {
				if _, ok := files[name]; ok {
					names = append(names, name)
				}
			}
			if got := strings.Join(names, " "); got != test.want || len(files) != len(names) {
				t.Errorf("files %v, want %q", files, test.want)
			}
		})
	}
}
