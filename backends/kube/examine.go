package kube

import (
	"context"
	"errors"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/yaml"

	"certd.internal/rotation"
)

// Examination is what a cluster says of certd's rights there and of how Linkerd was
// installed. Nothing is changed for it.
type Examination struct {
	Missing   []Right
	Excess    []string // "delete secrets in linkerd"
	RightsErr error
	// Narrowed says whether the admission policies that are shipped beside the rights are
	// in force; nil where that could not be learnt.
	Narrowed *bool

	Linkerd    Linkerd
	LinkerdErr error // linkerd-config cannot be read

	// Labels are kube-system's.
	Labels    map[string]string
	LabelsErr error
}

// Linkerd is how it was installed, as its charts and its CLI leave it in ConfigMap
// linkerd-config (linkerd2, charts/linkerd-control-plane/templates/config.yaml).
type Linkerd struct {
	Found      bool   // it was installed by one of them
	Problem    string // why its values cannot be read; "" if they can
	Version    string // "stable-2.14.10", "edge-26.8.3"
	ExternalCA bool   // identity.externalCA
	Scheme     string // identity.issuer.scheme
	Anchors    string // identityTrustAnchorsPEM
	// External says of each webhook of the control plane, by certd's name for it,
	// whether its Secret is left to others (externalSecret).
	External map[string]bool
}

// Examine asks for rights, and reads how Linkerd was installed. o is what was last
// observed.
func (c *Cluster) Examine(ctx context.Context, o rotation.Observation, f Features) Examination {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var e Examination
	var asking sync.WaitGroup
	asking.Go(func() {
		rights := c.rights(c.specs(o), f, o.Namespace)
		var err error
		if e.Missing, e.RightsErr = c.missing(ctx, rights); e.RightsErr == nil {
			e.Excess, err = c.excess(ctx, rights)
			e.RightsErr = errors.Join(e.RightsErr, err)
		}
	})
	asking.Go(func() {
		cm, err := c.core.ConfigMaps(c.cfg.Namespace).Get(ctx, linkerdConfig, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			e.LinkerdErr = c.fail(call{verb: "get", resource: "configmaps", name: linkerdConfig, in: c.cfg.Namespace}, err)
		default:
			e.Linkerd = readLinkerd(cm)
		}
	})
	asking.Go(func() {
		system, err := c.core.Namespaces().Get(ctx, "kube-system", metav1.GetOptions{})
		if err != nil {
			e.LabelsErr = c.fail(call{verb: "get", resource: "namespaces", name: "kube-system"}, err)
			return
		}
		e.Labels = map[string]string{}
		for k, v := range system.Labels {
			e.Labels[k] = v
		}
	})
	asking.Go(func() { e.Narrowed = c.narrowed(ctx) })
	asking.Wait()
	return e
}

// refusesOther is how certd-policy.yaml refuses a Secret that is not one of certd's.
const refusesOther = "certd may write no Secrets but those"

// narrowed asks for what the shipped admission policies refuse, as a dry run: to read
// policies would take one more right, and says less about what the API server does. It
// is nil where something else stands in the way, such as a right that is missing.
func (c *Cluster) narrowed(ctx context.Context) *bool {
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "certd-check"}}
	_, err := c.core.Secrets(c.cfg.Namespace).Create(ctx, other, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: FieldManager})
	refused := err != nil && strings.Contains(err.Error(), refusesOther)
	if err != nil && !refused {
		return nil
	}
	return &refused
}

// specs are the webhooks to look for, with what was observed of where they are.
func (c *Cluster) specs(o rotation.Observation) []rotation.WebhookSpec {
	specs := make([]rotation.WebhookSpec, 0, len(c.cfg.Webhooks))
	for _, spec := range c.cfg.Webhooks {
		for _, w := range o.Webhooks {
			if w.Spec.Name == spec.Name && len(w.Objects)+len(w.Spec.DNSNames) > 0 {
				spec = w.Spec
			}
		}
		if spec.Namespace == "" && !spec.Own && strings.HasPrefix(spec.Service, "linkerd-") {
			spec.Namespace = c.cfg.Namespace // the control plane's, whether it is there yet or not
		}
		specs = append(specs, spec)
	}
	return specs
}

// maxValues bounds the text of the values that is parsed.
const maxValues = 1 << 20

func readLinkerd(cm *corev1.ConfigMap) Linkerd {
	l := Linkerd{Found: true, External: map[string]bool{}}
	type webhook struct {
		ExternalSecret bool `json:"externalSecret"`
	}
	var values struct {
		Version  string `json:"linkerdVersion"`
		Anchors  string `json:"identityTrustAnchorsPEM"`
		Identity struct {
			ExternalCA bool `json:"externalCA"`
			Issuer     struct {
				Scheme string `json:"scheme"`
			} `json:"issuer"`
		} `json:"identity"`
		Injector webhook `json:"proxyInjector"`
		Profiles webhook `json:"profileValidator"`
		Policy   webhook `json:"policyValidator"`
	}
	text := cm.Data["values"]
	switch {
	case text == "":
		l.Problem = "it has no values"
	case len(text) > maxValues:
		l.Problem = "its values are longer than 1 MiB"
	default:
		if err := yaml.Unmarshal([]byte(text), &values); err != nil {
			l.Problem = "its values are of another form than any version's"
		}
	}
	if l.Problem != "" {
		return l
	}
	l.Version, l.Anchors = quoteText(values.Version), values.Anchors
	l.ExternalCA, l.Scheme = values.Identity.ExternalCA, quoteText(values.Identity.Issuer.Scheme)
	l.External["proxy-injector"], l.External["sp-validator"], l.External["policy-validator"] = values.Injector.ExternalSecret, values.Profiles.ExternalSecret, values.Policy.ExternalSecret
	return l
}
