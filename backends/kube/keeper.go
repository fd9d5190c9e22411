package kube

import (
	"cmp"
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/yaml"

	"certd.internal/rotation"
)

// Annotations and labels by which other programs know what they look after
// (trust-manager: pkg/apis/trust/v1alpha1 and pkg/apis/trustmanager/v1alpha2).
const (
	helmRelease     = "meta.helm.sh/release-name"
	helmNamespace   = "meta.helm.sh/release-namespace"
	certificateName = "cert-manager.io/certificate-name"
	trustBundle     = "trust.cert-manager.io/bundle"
	clusterBundle   = "trust-manager.io/bundle"
	injectedBundle  = "inject.trust-manager.io/bundle-name"
	argoTracking    = "argocd.argoproj.io/tracking-id"
	fluxName        = "kustomize.toolkit.fluxcd.io/name"
	fluxNamespace   = "kustomize.toolkit.fluxcd.io/namespace"
)

// keeper finds who is set up to write an object, by the traces that they leave
// on it. What a chart once owned and no longer renders still bears Helm's: that
// it does so no more, Linkerd's own configuration tells (see installed).
func keeper(m metav1.ObjectMeta) *rotation.Keeper {
	switch a, l := m.Annotations, m.Labels; {
	case a[certificateName] != "":
		return &rotation.Keeper{Kind: rotation.KeeperCert, Name: a[certificateName], Namespace: m.Namespace}
	case cmp.Or(l[clusterBundle], l[injectedBundle]) != "":
		return &rotation.Keeper{Kind: rotation.KeeperClusterBundle, Name: cmp.Or(l[clusterBundle], l[injectedBundle])}
	case l[trustBundle] != "":
		return &rotation.Keeper{Kind: rotation.KeeperBundle, Name: l[trustBundle]}
	case a[argoTracking] != "":
		app, _, _ := strings.Cut(a[argoTracking], ":")
		return &rotation.Keeper{Kind: rotation.KeeperArgo, Name: app}
	case l[fluxName] != "":
		return &rotation.Keeper{Kind: rotation.KeeperFlux, Name: l[fluxName], Namespace: l[fluxNamespace]}
	}
	if len(m.OwnerReferences) > 0 {
		switch o := m.OwnerReferences[0]; o.Kind {
		case "Bundle":
			return &rotation.Keeper{Kind: rotation.KeeperBundle, Name: o.Name}
		case "ClusterBundle":
			return &rotation.Keeper{Kind: rotation.KeeperClusterBundle, Name: o.Name}
		default:
			return &rotation.Keeper{Kind: o.Kind, Name: o.Name, Namespace: m.Namespace}
		}
	}
	if a := m.Annotations; a[helmRelease] != "" {
		return &rotation.Keeper{Kind: rotation.KeeperHelm, Name: a[helmRelease], Namespace: a[helmNamespace]}
	}
	return nil
}

// linkerdConfig is where Linkerd's charts and its CLI leave the values that they
// were installed with (linkerd2, charts/linkerd-control-plane/templates/config.yaml).
const linkerdConfig = "linkerd-config"

// installedFor is how long what was read of it is taken to hold.
const installedFor = time.Minute

// installed are the values that say whether Linkerd's charts render the two
// objects (linkerd2, charts/linkerd-control-plane/templates/identity.yaml).
type installed struct {
	known bool
	err   error // why they could not be read
	at    time.Time

	ExternalCA bool
	Scheme     string
}

func (c *Cluster) readInstalled(ctx context.Context) installed {
	c.mu.Lock()
	is := c.installed
	c.mu.Unlock()
	if time.Since(is.at) < installedFor {
		return is
	}
	is = installed{at: time.Now()}
	cm, err := c.core.ConfigMaps(c.cfg.Namespace).Get(ctx, linkerdConfig, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err): // not installed by chart or CLI
	case err != nil:
		is.err = c.fail(call{verb: "get", resource: "configmaps", name: linkerdConfig, in: c.cfg.Namespace}, err)
	default:
		is.read(cm)
	}
	c.mu.Lock()
	c.installed = is
	c.mu.Unlock()
	return is
}

func (is *installed) read(cm *corev1.ConfigMap) {
	var values struct {
		Identity struct {
			ExternalCA bool `json:"externalCA"`
			Issuer     struct {
				Scheme string `json:"scheme"`
			} `json:"issuer"`
		} `json:"identity"`
	}
	text := cm.Data["values"]
	if text == "" || len(text) > 1<<20 {
		return
	}
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		return // of another form than any version's; nothing is known
	}
	is.known, is.ExternalCA, is.Scheme = true, values.Identity.ExternalCA, values.Identity.Issuer.Scheme
}

// keepers refines who keeps the two objects by what Linkerd was installed with.
// Where certd owns their data, nobody asks.
func (c *Cluster) keepers(ctx context.Context, o *rotation.Observation) {
	if !o.Bundle.Exists && !o.Issuer.Exists || !o.BundleWrittenAt.IsZero() && !o.IssuerWrittenAt.IsZero() {
		return
	}
	is := c.readInstalled(ctx)
	refine := func(s *rotation.ObjectState, rendered bool) {
		byHelm := s.Keeper != nil && s.Keeper.Kind == rotation.KeeperHelm
		switch {
		case !s.Exists || s.Keeper != nil && !byHelm:
		case is.err != nil && !byHelm:
			s.Keeper = &rotation.Keeper{Kind: rotation.KeeperUnseen, Name: is.err.Error()}
		case !is.known:
		case !rendered:
			s.Keeper = nil
		case s.Keeper == nil:
			s.Keeper = &rotation.Keeper{Kind: rotation.KeeperCLI}
		}
	}
	refine(&o.Bundle, !is.ExternalCA)
	refine(&o.Issuer, is.Scheme != string(corev1.SecretTypeTLS))
}
