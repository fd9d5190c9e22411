package rotation

import (
	"crypto/x509"
	"time"

	"certd.internal/pki"
)

// Kinds of objects that name a CA by which the API server knows a webhook or
// an aggregated API server.
const (
	KindMutating   = "MutatingWebhookConfiguration"
	KindValidating = "ValidatingWebhookConfiguration"
	KindAPIService = "APIService"
)

// ObjectRef names an object of the cluster, or of a namespace known from the
// context.
type ObjectRef struct{ Kind, Name string }

func (r ObjectRef) String() string { return r.Kind + "/" + r.Name }

// CheckKind is how a webhook is asked, as its users do, whether it works.
type CheckKind string

// The functional checks. Each is a dry run that leaves nothing behind. What is
// to be refused passes the schema of its CRD and breaks a rule that only the
// validator knows (linkerd2: pkg/profiles/profiles.go,
// policy-controller/src/admission.rs).
const (
	CheckNone        CheckKind = ""             // nothing is known of what it does
	CheckInjected    CheckKind = "injected"     // a pod comes back with a proxy
	CheckTapped      CheckKind = "tapped"       // a pod comes back with viz.linkerd.io/tap-enabled
	CheckTraced      CheckKind = "traced"       // a pod comes back with jaeger.linkerd.io/tracing-enabled
	CheckBadTimeout  CheckKind = "bad-timeout"  // a ServiceProfile whose timeout is no duration is refused
	CheckBadNetworks CheckKind = "bad-networks" // a NetworkAuthentication that excepts what it does not include is refused
	CheckAvailable   CheckKind = "available"    // the APIService is Available
)

// WebhookSpec says where a webhook, or an aggregated API server, has its
// certificate and which objects must hold the CA of it.
type WebhookSpec struct {
	Name    string // "proxy-injector"; in a cluster no two are alike
	Service string // that Objects call
	// Namespace is that of the Service and of the Secret. Empty: wherever the
	// Service is that Objects call; filled in once they were seen.
	Namespace string
	Secret    string // its name
	// DNSNames are the names to serve under, the one that the API server
	// verifies first. Empty: <Service>.<Namespace>.svc; filled in likewise.
	DNSNames []string
	Objects  []ObjectRef
	Check    CheckKind
	Own      bool // the configuration names it: it has to be there
}

// LinkerdWebhooks are those of Linkerd 2.10 and later with its extensions
// (linkerd2: charts/linkerd-control-plane/templates/proxy-injector-rbac.yaml
// and destination-rbac.yaml, viz/charts/linkerd-viz/templates/tap-rbac.yaml and
// tap-injector-rbac.yaml, jaeger/charts/linkerd-jaeger/templates/rbac.yaml up
// to 2.18). The names are the charts' and not configurable, the namespaces are.
func LinkerdWebhooks() []WebhookSpec {
	return []WebhookSpec{
		{Name: "proxy-injector", Service: "linkerd-proxy-injector", Secret: "linkerd-proxy-injector-k8s-tls", Check: CheckInjected,
			Objects: []ObjectRef{{KindMutating, "linkerd-proxy-injector-webhook-config"}}},
		{Name: "sp-validator", Service: "linkerd-sp-validator", Secret: "linkerd-sp-validator-k8s-tls", Check: CheckBadTimeout,
			Objects: []ObjectRef{{KindValidating, "linkerd-sp-validator-webhook-config"}}},
		{Name: "policy-validator", Service: "linkerd-policy-validator", Secret: "linkerd-policy-validator-k8s-tls", Check: CheckBadNetworks,
			Objects: []ObjectRef{{KindValidating, "linkerd-policy-validator-webhook-config"}}},
		{Name: "tap", Service: "tap", Secret: "tap-k8s-tls", Check: CheckAvailable,
			Objects: []ObjectRef{{KindAPIService, "v1alpha1.tap.linkerd.io"}}},
		{Name: "tap-injector", Service: "tap-injector", Secret: "tap-injector-k8s-tls", Check: CheckTapped,
			Objects: []ObjectRef{{KindMutating, "linkerd-tap-injector-webhook-config"}}},
		{Name: "jaeger-injector", Service: "jaeger-injector", Secret: "jaeger-injector-k8s-tls", Check: CheckTraced,
			Objects: []ObjectRef{{KindMutating, "linkerd-jaeger-injector-webhook-config"}}},
	}
}

// Webhook is what one look told of a webhook. It holds no private key.
type Webhook struct {
	// Spec with what the objects told filled in. Where none of them exists,
	// the component is not installed, and of the rest only Err has a meaning.
	Spec    WebhookSpec
	Objects []WebhookObject // those of Spec.Objects that exist and call the Service

	Secret    ObjectState
	WrittenAt time.Time // when certd last changed the Secret; zero: never, or not known
	Facts     pki.ServingFacts
	Reload    string // what WriteWebhook last gave as Reload

	// Renewer names who issues into this Secret by itself, "" if nobody: a
	// Certificate of cert-manager's that exists ("Certificate linkerd/injector").
	Renewer string
	// Err says why it could not be seen; then nothing else is known of it. It
	// wraps ErrDenied where that is what happened.
	Err error
}

// WebhookObject is one object that holds a caBundle.
type WebhookObject struct {
	Ref ObjectRef
	ObjectState
	// CABundle is what the API server makes of the caBundle, CAText its text.
	// Where several entries call the Service and differ, CABundle is what all
	// of them hold, and CAText is nil.
	CABundle pki.CASet
	CAText   []byte
	// WrittenAt is when certd last changed the object; zero: never, or not known.
	WrittenAt time.Time
	// Ignores: failurePolicy is Ignore in some entry, so that the API server
	// goes on without the webhook and tells nobody.
	Ignores bool
	// Injector is set where cert-manager's cainjector is told to fill in the
	// caBundle, and says from what ("Secret linkerd/linkerd-proxy-injector-k8s-tls").
	Injector string
}

// WebhookEvidence is what a probe found: what is really served, and whether
// the webhook does what it is for.
type WebhookEvidence struct {
	At       time.Time // when the probe began, by certd's clock
	Replicas []WebhookReplica
	Check    WebhookCheck
	// Of is the state the evidence is about: see Webhook.state.
	Of string
}

// WebhookReplica is a pod behind the Service.
type WebhookReplica struct {
	Pod     string
	Ready   bool
	Started time.Time
	// Served is the chain it presented, the leaf first; nil: it could not be
	// seen, and Evidence says why.
	Served   []*x509.Certificate
	Evidence string // "tls" (dialled), "port-forward" (through the API server), or why there is none
	At       time.Time
	// Owner is what to roll out anew to have it replaced: a Deployment,
	// DaemonSet or StatefulSet; zero: nothing known.
	Owner ObjectRef
}

// WebhookCheck is the outcome of the functional check.
type WebhookCheck struct {
	State    string // "yes", "no" or "unknown"; "" where there is no check for it
	Evidence string // "dry-run pod", …, with what went wrong
	At       time.Time
}

// WebhookCA is one generation of a cluster's own webhook CA. Its ids are "w1",
// "w2" and so on.
type WebhookCA struct {
	Cluster string
	Anchor
}

// WebhookWrite publishes a serving certificate: tls.crt, tls.key and ca.crt in
// one update. A nil Credential keeps the pair that is in the Secret, proves
// that it belongs together, and rewrites only what stands beside it.
type WebhookWrite struct {
	Spec       WebhookSpec
	Revision   string // "" = the Secret does not exist
	Fleet      string
	Epoch      uint64
	Serial     string
	Credential *pki.Credential
	CAs        pki.CASet // for ca.crt
	// Reload, if not "", is put beside them under a key that no server reads:
	// a change of it makes the kubelet swap the files once more.
	Reload string
}

// CABundleWrite publishes a caBundle in one object, in each of its entries
// that call the Service.
type CABundleWrite struct {
	Spec     WebhookSpec
	Object   ObjectRef
	Revision string
	Fleet    string
	Epoch    uint64
	CAs      pki.CASet
}

// specOf returns what was observed of a webhook's place; a name alone where
// nothing was.
func (o *Observation) specOf(name string) WebhookSpec {
	if o != nil {
		for _, w := range o.Webhooks {
			if w.Spec.Name == name {
				return w.Spec
			}
		}
	}
	return WebhookSpec{Name: name}
}

// leafOf returns the certificate in a webhook's Secret, or nil.
func (o *Observation) leafOf(name string) *x509.Certificate {
	for _, w := range o.Webhooks {
		if w.Spec.Name == name && len(w.Facts.Chain) > 0 {
			return w.Facts.Chain[0]
		}
	}
	return nil
}
