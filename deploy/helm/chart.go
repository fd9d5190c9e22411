// Package helm is certd's Helm chart and what is made from it and for it. It is a Go
// module of its own: Helm is needed to render the chart, and not to run certd.
package helm

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// chartFolder is the chart's, below the repository's root.
const chartFolder = "deploy/helm/certd"

// rbacFiles are those of deploy/rbac that the chart carries.
var rbacFiles = []string{"certd.yaml", "certd-bootstrap.yaml", "certd-viz.yaml", "certd-jaeger.yaml", "certd-proxies.yaml", "certd-restart-workloads.yaml", "certd-lease.yaml", "certd-policy.yaml"}

// A File is one that is made from others in the repository.
type File struct {
	Path string // below the repository's root
	Text []byte
}

// Files are all that are made, of the repository at root: the chart's copies, then the
// manifests that the chart with these copies makes.
func Files(root string) ([]File, error) {
	c, err := loader.Load(filepath.Join(root, chartFolder))
	if err != nil {
		return nil, fmt.Errorf("load the chart: %w", err)
	}
	// Copies that are older than what they are made of do not count.
	c.Files = slices.DeleteFunc(c.Files, func(f *common.File) bool { return strings.HasPrefix(f.Name, "files/") })
	carries := map[string]string{"files/certd.rules.yaml": "deploy/alerts/certd.rules.yaml"}
	for _, name := range rbacFiles {
		carries["files/rbac/"+name] = "deploy/rbac/" + name
	}
	var files []File
	for name, of := range carries {
		text, err := os.ReadFile(filepath.Join(root, of))
		if err != nil {
			return nil, fmt.Errorf("read what the chart carries: %w", err)
		}
		c.Files = append(c.Files, &common.File{Name: name, Data: text})
		files = append(files, File{path.Join(chartFolder, name), text})
	}
	manifests, err := manifests(root, c)
	if err != nil {
		return nil, err
	}
	return append(files, File{"deploy/manifests/certd.yaml", manifests}), nil
}

// manifests are for people without Helm.
func manifests(root string, c *chart.Chart) ([]byte, error) {
	values, err := os.ReadFile(filepath.Join(root, "deploy/manifests/values.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read the values of the manifests: %w", err)
	}
	objects, err := Render(c, values, Release{Name: "certd", Namespace: "certd"})
	if err != nil {
		return nil, err
	}
	out := []byte("# Made by make generate from the chart in deploy/helm/certd, with values.yaml beside this\n" +
		"# file; do not edit.\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: certd\n")
	for line := range bytes.Lines(objects) {
		// Helm has nothing to do with them.
		if s := string(bytes.TrimSpace(line)); !strings.HasPrefix(s, "app.kubernetes.io/managed-by: ") && !strings.HasPrefix(s, "helm.sh/chart: ") && !strings.HasPrefix(s, "# Source: ") {
			out = append(out, line...)
		}
	}
	return out, nil
}

// Release is what an installation is called, and where it is.
type Release struct {
	Name, Namespace string
	Kubernetes      string // its version; the oldest that can have all of the chart if empty
}

// kubernetes has all that the chart uses where it is there, such as admission policies.
const kubernetes = "v1.30.0"

// Render is what helm template prints for values as YAML: without NOTES.txt, in the
// order of templates, each document after a line "---" and its template's name.
func Render(c *chart.Chart, values []byte, r Release) ([]byte, error) {
	rendered, err := templates(c, values, r)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range rendered {
			if !yield(name) {
				return
			}
		}
	})
	// A ServiceAccount is there before what runs as it.
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	var out bytes.Buffer
	for _, name := range names {
		text := strings.TrimSpace(rendered[name])
		if text == "" || path.Base(name) == "NOTES.txt" || strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		for doc := range strings.SplitSeq("\n"+text+"\n", "\n---\n") {
			if doc = strings.TrimSpace(doc); doc != "" {
				fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", name, doc)
			}
		}
	}
	return out.Bytes(), nil
}

func rank(template string) int {
	if i := slices.Index([]string{"serviceaccount.yaml", "rbac.yaml", "configmap.yaml"}, path.Base(template)); i >= 0 {
		return i
	}
	return 99
}

// templates is what each template makes, by its name.
func templates(c *chart.Chart, values []byte, r Release) (map[string]string, error) {
	var given map[string]any
	if err := yaml.Unmarshal(values, &given); err != nil {
		return nil, fmt.Errorf("read the values: %w", err)
	}
	version, err := common.ParseKubeVersion(cmp.Or(r.Kubernetes, kubernetes))
	if err != nil {
		return nil, fmt.Errorf("read the version of Kubernetes: %w", err)
	}
	can := common.DefaultCapabilities.Copy()
	can.KubeVersion = *version
	all, err := util.ToRenderValues(c, given, common.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, IsInstall: true, Revision: 1}, can)
	if err != nil {
		return nil, fmt.Errorf("take the values over: %w", err)
	}
	rendered, err := engine.Render(c, all)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	return rendered, nil
}
