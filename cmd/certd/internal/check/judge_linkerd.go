package check

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"certd.internal/backends/kube"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// rights compares what certd uses in a cluster with what it may. What it can do
// without is a warning, and says what that is.
func (j *judgement) rights() (all []verdict) {
	for _, c := range j.Clusters {
		var of []verdict
		switch {
		case c.Policy.Directory:
			of = holds("")
		case c.Kube == nil && c.Err != nil:
			of = []verdict{{result: Unknown, say: "it could not be seen", follows: clusterReachable}}
		case c.Kube == nil:
			of = holds("")
		case errors.Is(c.Kube.RightsErr, rotation.ErrDenied):
			of = []verdict{{result: Error, runbook: "ClusterDenied", say: c.Kube.RightsErr.Error(), hint: "certd clusters test " + c.name()}}
		case c.Kube.RightsErr != nil:
			of = []verdict{{result: Unknown, say: c.Kube.RightsErr.Error(), hint: "certd clusters test " + c.name()}}
		default:
			j.settled(c.name(), "ClusterDenied", "WebhookDenied")
			if of = c.missing(); len(of) == 0 {
				of = holds("")
			}
		}
		for _, v := range of {
			v.cluster = c.name()
			all = append(all, v)
		}
	}
	return all
}

// missing tells of the rights that are missing, those of one file that cost the same
// together. What a Role would grant in a namespace that does not exist is not missing
// yet.
func (c Cluster) missing() (all []verdict) {
	type kind struct{ manifest, lost string }
	var order []kind
	of := map[kind][]kube.Right{}
	for _, r := range c.Kube.Missing {
		if c.Observed != nil && !c.Observed.Namespace && r.Namespace == c.Policy.Namespace && !c.Policy.CreateNamespace {
			continue
		}
		k := kind{r.Manifest, r.Lost}
		if of[k] == nil {
			order = append(order, k)
		}
		of[k] = append(of[k], r)
	}
	for _, k := range order {
		v := verdict{result: Error, runbook: "ClusterDenied", say: "it may not " + listed(verbs(of[k]), 5), hint: fmt.Sprintf("kubectl apply -f deploy/rbac/%s, or certd clusters rbac %s", k.manifest, c.name())}
		if k.lost != "" {
			v.result, v.say = Warning, v.say+": "+k.lost
		}
		if k.manifest == kube.ManifestProxies { // not to let certd look so widely is a choice
			v = held("", "but for %s: %s", k.manifest, k.lost)
		}
		all = append(all, v)
	}
	return all
}

// verbs writes rights with those that differ in the verb alone together.
func verbs(rights []kube.Right) (all []string) {
	var order []string
	of := map[string][]string{}
	for _, r := range rights {
		what := strings.TrimPrefix(r.String(), r.Verb+" ")
		if of[what] == nil {
			order = append(order, what)
		}
		of[what] = append(of[what], r.Verb)
	}
	for _, what := range order {
		all = append(all, strings.Join(of[what], "/")+" "+what)
	}
	return all
}

func (j *judgement) rightsExcess() []verdict {
	return j.eachKube(func(c Cluster) []verdict {
		switch {
		case c.Kube.RightsErr != nil:
			return []verdict{{result: Unknown, say: "it could not be seen", follows: "cluster-rights"}}
		case len(c.Kube.Excess) > 0:
			return []verdict{{result: Warning, say: "whoever steals its token may also " + listed(c.Kube.Excess, 5), hint: "narrow it down to deploy/rbac: certd clusters rbac " + c.name()}}
		case c.Kube.Narrowed != nil && !*c.Kube.Narrowed: // older API servers have no such policies
			return []verdict{held("", "but for certd-policy.yaml: no admission policies narrow down what its token is good for")}
		}
		return holds("")
	})
}

// eachKube judges clusters that were examined; folders have nothing of it.
func (j *judgement) eachKube(judge func(c Cluster) []verdict) []verdict {
	return j.each(func(c Cluster) []verdict {
		if c.Kube == nil {
			return nil
		}
		return judge(c)
	})
}

// eachLinkerd judges those where Linkerd was installed by its charts or its CLI.
func (j *judgement) eachLinkerd(judge func(c Cluster, l kube.Linkerd) []verdict) []verdict {
	return j.eachKube(func(c Cluster) []verdict {
		l := c.Kube.Linkerd
		switch {
		case !c.Observed.Namespace:
			return nil
		case c.Kube.LinkerdErr != nil && errors.Is(c.Kube.LinkerdErr, rotation.ErrDenied):
			return []verdict{{result: Unknown, say: "it could not be seen", follows: "cluster-rights"}}
		case c.Kube.LinkerdErr != nil:
			return []verdict{{result: Unknown, say: c.Kube.LinkerdErr.Error(), hint: "certd clusters test " + c.name()}}
		case !l.Found: // not yet, or by other means
			return nil
		case l.Problem != "":
			return []verdict{{result: Unknown, say: "ConfigMap linkerd-config: " + l.Problem, hint: "kubectl -n " + c.Policy.Namespace + " get configmap linkerd-config -o yaml"}}
		}
		return judge(c, l)
	})
}

// release is a version as Linkerd writes it: "stable-2.14.10", "edge-26.8.3",
// "enterprise-2.15.1".
var release = regexp.MustCompile(`^(?:(edge)-(\d+)\.(\d+)\.(\d+)|(?:[a-z]+-)?2\.(\d+)\.\d+)`)

// minor is the minor version of Linkerd 2 that a release is, or leads to; false where
// it is none that certd knows.
func minor(version string) (int, bool) {
	m := release.FindStringSubmatch(version)
	if m == nil {
		return 0, false
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n } // digits alone
	if m[1] == "" {
		return number(m[5]), true
	}
	// Edges are named by year, month and count: trust roots in a ConfigMap since
	// edge-21.7.5, compared by `linkerd check` with it since edge-21.12.4.
	switch at := number(m[2])*10000 + number(m[3])*100 + number(m[4]); {
	case at < 201200:
		return 9, true
	case at < 210705:
		return 10, true
	case at < 211204:
		return 11, true
	}
	return 12, true
}

func (j *judgement) linkerdVersion() []verdict {
	return j.eachLinkerd(func(_ Cluster, l kube.Linkerd) []verdict {
		const hint = "upgrade Linkerd; certd export helm-values knows the values of each version"
		n, known := minor(l.Version)
		switch {
		case !known:
			return []verdict{{result: Unknown, ignored: true, say: fmt.Sprintf("it is %q, which certd does not know", l.Version)}}
		case n < 10:
			return []verdict{{result: Error, say: l.Version + " is older than 2.10: its webhooks do not load new certificates", hint: hint}}
		case n == 10:
			return []verdict{{result: Warning, say: l.Version + " has its trust anchors from Helm's values alone: certd renews issuers and webhooks, and cannot give it a bundle", hint: hint}}
		case n == 11:
			return []verdict{{result: Warning, say: "`linkerd check --proxy` of " + l.Version + " compares pods with other anchors than those in the ConfigMap", hint: hint}}
		}
		return holds("%s", l.Version)
	})
}

func (j *judgement) externalCA() []verdict {
	return j.eachLinkerd(func(c Cluster, l kube.Linkerd) []verdict {
		if n, known := minor(l.Version); l.ExternalCA || known && n < 11 {
			return holds("")
		}
		return []verdict{{result: Warning, say: "identity.externalCA is false: the next upgrade writes the trust anchors of its values over the bundle", hint: upgrade(c)}}
	})
}

func (j *judgement) issuerScheme() []verdict {
	return j.eachLinkerd(func(c Cluster, l kube.Linkerd) []verdict {
		if l.Scheme == "kubernetes.io/tls" {
			return holds("")
		}
		return []verdict{{result: Warning, say: fmt.Sprintf("identity.issuer.scheme is %q: the next upgrade writes an issuer of its own over certd's", l.Scheme), hint: upgrade(c)}}
	})
}

func upgrade(c Cluster) string {
	return "helm upgrade with the values of certd export helm-values " + c.name()
}

// webhookSecrets asks of the control plane's webhooks alone: the extensions leave
// their values nowhere.
func (j *judgement) webhookSecrets() []verdict {
	return j.eachLinkerd(func(c Cluster, l kube.Linkerd) []verdict {
		var own []string
		seen := 0
		for _, w := range c.Observed.Webhooks {
			if external, known := l.External[w.Spec.Name]; known && w.Err == nil && len(w.Objects) > 0 && w.Renewer == "" {
				seen++
				if !external {
					own = append(own, w.Spec.Name)
				}
			}
		}
		switch {
		case seen == 0:
			return nil
		case len(own) > 0:
			return []verdict{{result: Warning, say: "externalSecret is false for " + listed(own, 3) + ": each upgrade makes certificates of its own, and resets the caBundle", hint: upgrade(c)}}
		}
		return holds("")
	})
}

// disabled is what Linkerd wants kube-system to bear where its webhooks may not be
// gone on without (linkerd2, pkg/healthcheck/healthcheck.go, l5d-injection-disabled).
const disabledLabel, disabledValue = "config.linkerd.io/admission-webhooks", "disabled"

func (j *judgement) kubeSystem() []verdict {
	return j.eachKube(func(c Cluster) []verdict {
		if c.Kube.LabelsErr != nil {
			return []verdict{{result: Unknown, say: c.Kube.LabelsErr.Error(), hint: "certd clusters test " + c.name()}}
		}
		strict := false
		for _, w := range c.Observed.Webhooks {
			for _, o := range w.Objects {
				strict = strict || !w.Spec.Own && o.Ref.Kind == rotation.KindMutating && !o.Ignores
			}
		}
		switch {
		case !strict:
			return nil // without them the API server goes on
		case c.Kube.Labels[disabledLabel] != disabledValue:
			return []verdict{{result: Warning, say: "its label " + disabledLabel + "=" + disabledValue + " is missing: where failurePolicy is Fail, its own pods wait for Linkerd's injector", hint: "kubectl label namespace kube-system " + disabledLabel + "=" + disabledValue}}
		}
		return holds("")
	})
}

// configuredAnchors are what `linkerd multicluster check` compares of linked
// clusters: neither ConfigMap nor Secret, but what they were installed with.
func (j *judgement) configuredAnchors() []verdict {
	groups := map[string][]string{}
	seen := 0
	for _, c := range j.Clusters {
		if c.Kube == nil || !c.Kube.Linkerd.Found || c.Kube.Linkerd.Problem != "" {
			continue
		}
		seen++
		groups[anchorSet(c.Kube.Linkerd.Anchors)] = append(groups[anchorSet(c.Kube.Linkerd.Anchors)], c.name())
	}
	switch {
	case seen < 2:
		return nil
	case len(groups) == 1:
		return holds("")
	}
	var who []string
	for _, names := range groups {
		who = append(who, listed(names, 2))
	}
	slices.Sort(who)
	return []verdict{{result: Warning, say: "identityTrustAnchorsPEM differs, and `linkerd multicluster check` fails where such clusters are linked: " + strings.Join(who, " | "),
		hint: "leave identityTrustAnchorsPEM empty in all: helm upgrade with the values of certd export helm-values"}}
}

// anchorSet tells sets of certificates apart, whatever their order.
func anchorSet(pem string) string {
	certs, _ := pki.ReadCertificates([]byte(pem))
	var sums []string
	for _, c := range certs {
		sums = append(sums, pki.Fingerprint(c))
	}
	slices.Sort(sums)
	return strings.Join(sums, " ")
}
