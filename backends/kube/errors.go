package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"certd.internal/rotation"
)

// call is one request, as errors name it.
type call struct {
	verb     string // RBAC's word
	resource string // RBAC's word, with the subresource
	name     string
	in       string // namespace, "" for cluster-scoped
	write    bool
}

func (a call) String() string {
	s := a.verb + " " + a.resource
	if a.name != "" {
		s += " " + a.name
	}
	if a.in != "" {
		s += " in namespace " + a.in
	}
	return s
}

// fail explains why a call came to nothing, as one of rotation's errors where
// it is one. What the server said is quoted in part, without control
// characters: it is another party's text.
func (c *Cluster) fail(a call, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return c.unanswered(a, err)
	}
	said := quote(err)
	code := int(status.Status().Code)
	switch {
	case code == 401:
		return fmt.Errorf("%s: %s refused the credentials; renew them in the kubeconfig: %w", a, c.server, rotation.ErrDenied)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("%s: the namespace is being deleted; certd tries again when it is gone: %w", a, rotation.ErrUnavailable)
	case code == 403 && !strings.Contains(said, " cannot ") && !a.write:
		return fmt.Errorf("%s: %w (%s)", a, rotation.ErrDenied, said)
	case code == 403 && !strings.Contains(said, " cannot "):
		return fmt.Errorf("%s: refused by admission control (%s): %w", a, said, rotation.ErrDenied)
	case code == 403:
		return fmt.Errorf("%s: %w: the verb %q on %q is missing; grant it: kubectl apply -f deploy/rbac/%s (%s)", a, rotation.ErrDenied, a.verb, a.resource, c.manifest(a), said)
	case code == 409:
		return fmt.Errorf("%s: %w (%s)", a, rotation.ErrChanged, said)
	case code == 410:
		return fmt.Errorf("%s: the list expired before all of it was read (%s): %w", a, said, rotation.ErrUnavailable)
	case code == 404 && a.write:
		return fmt.Errorf("%s: it or its namespace is gone: %w", a, rotation.ErrChanged)
	case code == 429:
		return fmt.Errorf("%s: %s asks certd to slow down (%s): %w", a, c.server, said, rotation.ErrUnavailable)
	case code == 500 && strings.Contains(said, "failed calling webhook"):
		return fmt.Errorf("%s: an admission webhook of the cluster does not answer (%s): %w", a, said, rotation.ErrUnavailable)
	case code >= 500 && a.write && code != 503:
		return fmt.Errorf("%s: %s: %w", a, said, rotation.ErrOutcomeUnknown)
	case code >= 500:
		return fmt.Errorf("%s: %s: %w", a, said, rotation.ErrUnavailable)
	}
	return fmt.Errorf("%s: %s", a, said)
}

// manifest is the file of deploy/rbac that grants the right to make a call.
func (c *Cluster) manifest(a call) string {
	own := slices.ContainsFunc(c.cfg.Webhooks, func(spec rotation.WebhookSpec) bool {
		return spec.Own && slices.ContainsFunc(spec.Objects, func(o rotation.ObjectRef) bool {
			return a.in == "" && kinds[o.Kind].Resource == a.resource && o.Name == a.name
		})
	})
	switch {
	case own:
		return "certd-webhook.yaml"
	case a.resource == "leases":
		return ManifestLease
	case a.in == "" && slices.Contains([]string{"pods", linksKind.Resource, externalKind.Resource}, a.resource):
		return "certd-proxies.yaml"
	case a.resource == "jobs":
		return "certd-proxies.yaml"
	case slices.Contains([]string{"pods/eviction", "replicasets", "replicationcontrollers"}, a.resource):
		return "certd-restart-workloads.yaml"
	case a.verb == "get" && a.in != c.cfg.Namespace && slices.Contains([]string{"deployments", "statefulsets", "daemonsets"}, a.resource):
		return "certd-restart-workloads.yaml" // only RestartSince reads them
	case a.in == "", a.in == c.cfg.Namespace, a.in == c.cfg.ProbeNamespace:
		return "certd.yaml"
	case strings.HasSuffix(a.in, "viz"):
		return "certd-viz.yaml"
	case strings.HasSuffix(a.in, "jaeger"):
		return "certd-jaeger.yaml"
	}
	return "certd-webhook.yaml"
}

// unanswered is about calls that got no answer of an API server. A write may
// have happened unless the connection was never there.
func (c *Cluster) unanswered(a call, err error) error {
	kind := rotation.ErrUnavailable
	var dial *net.OpError
	var tlsErr *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	hint := ""
	switch {
	case errors.As(err, &tlsErr), errors.As(err, &unknown):
		hint = "; compare the kubeconfig's certificate-authority-data with the cluster's"
	case errors.As(err, &dial) && dial.Op == "dial":
	case a.write:
		kind = rotation.ErrOutcomeUnknown
	}
	if sent, ok := err.(*url.Error); ok { // what wraps one has more to say
		err = sent.Err // the address is named already
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s at %s: %w: %w", a, c.server, late{quote(err)}, kind)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s at %s: %s: %w: %w", a, c.server, quote(err), context.Canceled, kind)
	}
	return fmt.Errorf("%s at %s: %s%s: %w", a, c.server, quote(err), hint, kind)
}

// late is context.DeadlineExceeded in words for people, with what was said of it beside that.
type late struct{ said string }

func (l late) Error() string {
	const text = "no answer before the deadline"
	if l.said == context.DeadlineExceeded.Error() {
		return text
	}
	return text + " (" + l.said + ")"
}

func (l late) Unwrap() error { return context.DeadlineExceeded }

// quote makes another party's text fit for a log line.
func quote(err error) string { return quoteText(err.Error()) }

func quoteText(text string) string {
	const most = 400
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}
