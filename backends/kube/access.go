package kube

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Access says how to reach a cluster: exactly one of File, Data and InCluster.
type Access struct {
	File      string // path of a kubeconfig
	Data      []byte // a kubeconfig; it may name other files by absolute path only
	Context   string // of the kubeconfig; its current-context if empty
	InCluster bool   // by the service account of the pod certd runs in
}

// restConfig refuses what would run programs on certd's host or trust any
// server: a kubeconfig often comes from the cluster's side, and what a cluster
// says may influence that cluster alone.
func (a Access) restConfig() (*rest.Config, error) {
	given := 0
	for _, is := range []bool{a.File != "", len(a.Data) > 0, a.InCluster} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("exactly one of kubeconfig file, kubeconfig data and inCluster must be given")
	}
	if a.InCluster {
		rc, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the service account of this pod: %w; inCluster works in a pod only", err)
		}
		return rc, nil
	}
	name, cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	use := a.Context
	if use == "" {
		use = cfg.CurrentContext
	}
	kctx := cfg.Contexts[use]
	switch {
	case use == "":
		return nil, fmt.Errorf("%s has no current-context; set kubeconfig.context", name)
	case kctx == nil:
		return nil, fmt.Errorf("%s has no context %q", name, use)
	case cfg.Clusters[kctx.Cluster] == nil:
		return nil, fmt.Errorf("%s: context %q names cluster %q, which is not there", name, use, kctx.Cluster)
	case cfg.AuthInfos[kctx.AuthInfo] == nil:
		return nil, fmt.Errorf("%s: context %q names user %q, which is not there", name, use, kctx.AuthInfo)
	}
	if err := checkCluster(cfg.Clusters[kctx.Cluster]); err != nil {
		return nil, fmt.Errorf("%s: cluster %q %w", name, kctx.Cluster, err)
	}
	if err := checkUser(cfg.AuthInfos[kctx.AuthInfo]); err != nil {
		return nil, fmt.Errorf("%s: user %q %w", name, kctx.AuthInfo, err)
	}
	if a.File == "" {
		if err := absolute(cfg.Clusters[kctx.Cluster], cfg.AuthInfos[kctx.AuthInfo]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	rc, err := clientcmd.NewDefaultClientConfig(*cfg, &clientcmd.ConfigOverrides{CurrentContext: use}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rc, nil
}

// load parses the kubeconfig. Errors of the YAML parser may quote the text,
// credentials included, so they are not passed on.
func (a Access) load() (name string, cfg *api.Config, err error) {
	if a.File == "" {
		cfg, err = clientcmd.Load(a.Data)
		if err != nil {
			return "", nil, errors.New("kubeconfig: is not a kubeconfig")
		}
		return "kubeconfig", cfg, nil
	}
	name = "kubeconfig " + a.File
	text, err := os.ReadFile(a.File)
	if err != nil {
		return "", nil, fmt.Errorf("read %s: %w", name, err)
	}
	if cfg, err = clientcmd.Load(text); err != nil {
		return "", nil, fmt.Errorf("%s: is not a kubeconfig (kubectl --kubeconfig %s config view tells more)", name, a.File)
	}
	for _, c := range cfg.Clusters {
		c.LocationOfOrigin = a.File
	}
	for _, u := range cfg.AuthInfos {
		u.LocationOfOrigin = a.File
	}
	if err := clientcmd.ResolveLocalPaths(cfg); err != nil {
		return "", nil, fmt.Errorf("%s: %w", name, err)
	}
	return name, cfg, nil
}

func checkCluster(c *api.Cluster) error {
	// The address stands in logs and errors, and this one's error quotes it not.
	if u, err := url.Parse(c.Server); err == nil && u.User != nil {
		return errors.New("has a server whose address holds a user name or a password: credentials belong to the user of the context")
	}
	switch {
	case c.InsecureSkipTLSVerify:
		return errors.New("sets insecure-skip-tls-verify: certd writes keys only to a server it can tell from others; give it certificate-authority-data instead")
	case !strings.HasPrefix(c.Server, "https://"):
		return fmt.Errorf("has server %q: only https:// is supported", c.Server)
	}
	return nil
}

func checkUser(u *api.AuthInfo) error {
	const instead = "certd runs no programs for credentials; use a service account's token or a client certificate"
	switch {
	case u.Exec != nil:
		return fmt.Errorf("uses the exec plugin %q: %s", u.Exec.Command, instead)
	case u.AuthProvider != nil:
		return fmt.Errorf("uses the auth-provider %q: %s", u.AuthProvider.Name, instead)
	}
	return nil
}

func absolute(c *api.Cluster, u *api.AuthInfo) error {
	for _, path := range []string{c.CertificateAuthority, u.ClientCertificate, u.ClientKey, u.TokenFile} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("names the file %q by a relative path: embed its content", path)
		}
	}
	return nil
}
