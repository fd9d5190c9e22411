package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// RBAC's words for the kinds of objects that hold a caBundle.
const (
	mutatingResource   = "mutatingwebhookconfigurations"
	validatingResource = "validatingwebhookconfigurations"
	apiServiceResource = "apiservices"
)

var (
	admission    = schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	registration = schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"}

	kinds = map[string]schema.GroupVersionResource{
		rotation.KindMutating:   admission.WithResource(mutatingResource),
		rotation.KindValidating: admission.WithResource(validatingResource),
		rotation.KindAPIService: registration.WithResource(apiServiceResource),
	}
)

// servicePort is what an object that names no port calls.
const servicePort = 443

// What tells cert-manager's cainjector to fill in a caBundle (cert-manager:
// pkg/apis/certmanager/v1/types.go).
const (
	injectFromCertificate = "cert-manager.io/inject-ca-from"
	injectFromSecret      = "cert-manager.io/inject-ca-from-secret"
	injectAPIServer       = "cert-manager.io/inject-apiserver-ca"
)

// registered is what certd reads of an object that holds a caBundle, the same
// for all three kinds. (client-go has no types for APIServices, and of webhook
// configurations certd wants what both kinds share.)
type registered struct {
	kind     string
	Metadata metav1.ObjectMeta `json:"metadata"`
	Webhooks []entry           `json:"webhooks"`
	Spec     struct {
		clientConfig
		InsecureSkipTLSVerify bool `json:"insecureSkipTLSVerify"`
	} `json:"spec"` // of an APIService
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"` // likewise
}

// entry is one webhook of a configuration.
type entry struct {
	Name          string       `json:"name"`
	ClientConfig  clientConfig `json:"clientConfig"`
	FailurePolicy string       `json:"failurePolicy"`
}

// clientConfig says whom an API server calls, and by which CA it knows them.
type clientConfig struct {
	URL      *string  `json:"url"`
	Service  *service `json:"service"`
	CABundle []byte   `json:"caBundle"`
}

type service struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Port      *int32 `json:"port"`
}

// registered reads one object. One that does not exist calls nobody.
func (c *Cluster) registered(ctx context.Context, r rotation.ObjectRef) (registered, error) {
	kind, ok := kinds[r.Kind]
	if !ok {
		return registered{}, fmt.Errorf("%s: no kind that has a caBundle", r)
	}
	o := registered{kind: r.Kind}
	got, err := c.any.Resource(kind).Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.remember(ref{kind.Resource, "", r.Name}, object{})
		return o, nil
	}
	if err != nil {
		return o, c.fail(ref{kind.Resource, "", r.Name}.call("get"), err)
	}
	text, err := got.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return o, fmt.Errorf("read %s: %s", r, quote(err))
	}
	return o, nil
}

func (o registered) ref() ref { return ref{kinds[o.kind].Resource, "", o.Metadata.Name} }

// entries are those of a configuration, or the one that an APIService amounts
// to: the API server never goes on without that.
func (o registered) entries() []entry {
	if o.kind == rotation.KindAPIService {
		return []entry{{ClientConfig: o.Spec.clientConfig}}
	}
	return o.Webhooks
}

// calling are the entries that call the webhook.
func (o registered) calling(spec rotation.WebhookSpec) []entry {
	return slices.DeleteFunc(slices.Clone(o.entries()), func(e entry) bool { return !e.ClientConfig.calls(spec) })
}

// calls says whether it is the webhook that is called: its Service, in its
// namespace if that is known, or, where no Service is known, one of its names.
func (cc clientConfig) calls(spec rotation.WebhookSpec) bool {
	s := cc.Service
	switch {
	case spec.Service != "":
		return s != nil && s.Name == spec.Service && (spec.Namespace == "" || s.Namespace == spec.Namespace)
	case s != nil:
		return slices.Contains(spec.DNSNames, s.Name+"."+s.Namespace+".svc")
	}
	u, err := url.Parse(cc.url())
	return err == nil && u.Hostname() != "" && slices.Contains(spec.DNSNames, u.Hostname())
}

func (cc clientConfig) url() string {
	if cc.URL == nil {
		return ""
	}
	return *cc.URL
}

func (cc clientConfig) port() int32 {
	if cc.Service == nil || cc.Service.Port == nil {
		return servicePort
	}
	return *cc.Service.Port
}

// observed is the object as rotation sees it.
func (o registered) observed(spec rotation.WebhookSpec) rotation.WebhookObject {
	m := o.Metadata
	seen := rotation.WebhookObject{Ref: rotation.ObjectRef{Kind: o.kind, Name: m.Name}, Injector: injector(m.Annotations)}
	var names []string
	for i, e := range o.calling(spec) {
		text := e.ClientConfig.CABundle
		set := payload.CASet(text)
		switch {
		case i == 0:
			seen.CABundle, seen.CAText = set, bytes.Clone(text)
		default:
			seen.CABundle = seen.CABundle.Where(set.Contains)
			if !bytes.Equal(seen.CAText, text) {
				seen.CAText = nil
			}
		}
		seen.Ignores = seen.Ignores || e.FailurePolicy == string(admissionv1.Ignore)
		if e.Name != "" {
			names = append(names, e.Name)
		}
	}
	fields := caBundleFields(names)
	seen.WrittenAt = writtenAt(m.ManagedFields, fields)
	seen.ObjectState = rotation.ObjectState{
		Exists: true, Revision: m.ResourceVersion, Marks: payload.ReadMarks(m.Labels, m.Annotations),
		// The label, and whether the chart keeps the object, are the chart's.
		Writers: writers(m.ManagedFields, orAnnotations(fields, payload.AnnotationFleet, payload.AnnotationEpoch)),
	}
	return seen
}

// injector says from what cert-manager's cainjector is told to fill in the
// caBundle, "" if it is not.
func injector(annotations map[string]string) string {
	for _, told := range []struct{ annotation, from string }{
		{injectFromCertificate, "Certificate "},
		{injectFromSecret, "Secret "},
	} {
		if name := annotations[told.annotation]; name != "" {
			return quoteText(told.from + name)
		}
	}
	if annotations[injectAPIServer] == "true" {
		return "the API server's CA"
	}
	return ""
}

// available is the condition of an APIService that says whether it can be used;
// false where it has none yet.
func (o registered) available() (metav1.Condition, bool) {
	i := slices.IndexFunc(o.Status.Conditions, func(c metav1.Condition) bool { return c.Type == "Available" })
	if i < 0 {
		return metav1.Condition{}, false
	}
	return o.Status.Conditions[i], true
}
