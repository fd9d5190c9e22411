// Package kube is a Kubernetes cluster reached with client-go.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// probeNamespace is certd's own in the shipped manifests.
const probeNamespace = "certd"

// FieldManager is who certd is in managedFields.
const FieldManager = "certd"

// Config describes one cluster and the way to it.
type Config struct {
	Cluster     string // its name in certd's configuration
	Namespace   string // of the Linkerd control plane
	TrustDomain string

	Access Access

	// Webhooks are those to look for, Linkerd's and the user's own.
	Webhooks []rotation.WebhookSpec
	// ProbeNamespace is where the objects of dry runs would be created; "certd"
	// if empty. It has to exist for the functional checks of webhooks to tell.
	ProbeNamespace string

	// Projection is from a change of an object until every kubelet shows it to the
	// pods it starts; 3 min if zero.
	Projection time.Duration

	// RequestTimeout bounds each operation as a whole, client-go's own repeats
	// included; 10 s if zero. Evidence from replicas gets half of it.
	RequestTimeout time.Duration
}

// Cluster is a Kubernetes cluster. It keeps no cache: every look is live.
type Cluster struct {
	issuer payload.Reader
	cfg    Config
	log    *slog.Logger
	http   *http.Client
	access func() *rotation.Credential  // by which certd is let in
	stream func() (*http.Client, error) // HTTP/1.1, for connections that are switched to another protocol; few need it

	core   corev1.CoreV1Interface
	apps   appsv1.AppsV1Interface
	events eventsv1.EventsV1Interface
	auth   authorizationv1.AuthorizationV1Interface
	meta   metadata.Interface // for objects of whose content nothing is read
	any    dynamic.Interface  // for kinds that client-go has no types for, or that differ in nothing certd reads
	server string             // for texts

	podPage int64 // how many pods a census asks for at a time

	looking sync.RWMutex // held for reading while a look is under way, until what it has seen is known
	writing sync.Mutex   // held while a write is under way, until it is known which revision it has made

	mu        sync.Mutex
	known     map[ref]object                // managed objects as last read or written
	sights    map[string]sight              // webhooks by name, as last observed
	moved     chan struct{}                 // closed and replaced when other objects are to be watched: a webhook's Secret elsewhere, the namespace
	unreached map[types.UID]time.Time       // when a pod's address last did not answer
	jobs      map[string]rotation.ObjectRef // what has made the Jobs of the last census, by namespace/name
	version   string
	versionAt time.Time
	installed installed
	unseen    bool                  // the last look failed
	hidden    string                // what part of linkerd-identity could not be seen, as last logged
	scheme    string                // of the issuer, as linkerd-identity was last seen to be told
	answered  *rotation.Observation // the issuer alone, as the answer to its last write shows it; nil: somebody has looked since
}

// object is what certd remembers of one it has read or written.
type object struct{ uid, revision string }

// present is the revision of a namespace that exists: nothing else of it is looked at.
const present = "present"

var _ rotation.Cluster = (*Cluster)(nil)

// New prepares the way to a cluster; it sends nothing. Kubeconfigs that would
// run programs or skip the check of the server's certificate are refused.
func New(cfg Config, log *slog.Logger) (*Cluster, error) {
	if cfg.Namespace == "" {
		return nil, fmt.Errorf("cluster %s: the namespace of Linkerd must be named", cfg.Cluster)
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = 10 * time.Second
	}
	if cfg.ProbeNamespace == "" {
		cfg.ProbeNamespace = probeNamespace
	}
	rc, err := cfg.Access.restConfig()
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	rc.UserAgent = "certd"
	rc.QPS = -1    // client-go's default of 5 a second would delay repairs
	rc.Timeout = 0 // it is per attempt, and it would end watches: contexts bound each call
	rc.WarningHandler = rest.NoWarnings{}
	if rc.Proxy == nil {
		rc.Proxy = http.ProxyFromEnvironment // as by default; named, client-go makes a transport for this cluster alone
	}
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		if own := transportOf(next); own != nil {
			own.MaxResponseHeaderBytes = maxHeader
			own.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: maxAnswer, MaxReceiveBufferPerConnection: maxUnread,
				MaxDecoderHeaderTableSize: headerTable, MaxEncoderHeaderTableSize: headerTable}
		}
		return bounded{newOneDial(next)}
	})
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: set up TLS: %w", cfg.Cluster, err)
	}
	// An API server does not redirect; one that does would have certd call
	// hosts of its choice, with its credentials.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Cluster{cfg: cfg, log: log.With("cluster", cfg.Cluster), http: hc, server: rc.Host, podPage: podsPerPage,
		known: map[ref]object{}, sights: map[string]sight{}, moved: make(chan struct{}), unreached: map[types.UID]time.Time{}}
	c.access = func() *rotation.Credential { return cfg.Access.credential(rc) }
	c.stream = sync.OnceValues(func() (*http.Client, error) { return streamClient(rc) })
	if c.core, err = corev1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.apps, err = appsv1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.events, err = eventsv1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.auth, err = authorizationv1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.meta, err = metadata.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.any, err = dynamic.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	return c, nil
}

// transportOf is what makes the connections, nil where that is something of another kind.
// Where a CA stands in a file, client-go wraps it, and clones it when the file changes.
func transportOf(rt http.RoundTripper) *http.Transport {
	for {
		switch t := rt.(type) {
		case *http.Transport:
			return t
		case net.RoundTripperWrapper:
			rt = t.WrappedRoundTripper()
		default:
			return nil
		}
	}
}

// Close implements rotation.Cluster.
func (c *Cluster) Close() error {
	net.CloseIdleConnectionsFor(c.http.Transport)
	stream, err := c.stream()
	if err != nil {
		return fmt.Errorf("cluster %s: set up TLS: %w", c.cfg.Cluster, err)
	}
	net.CloseIdleConnectionsFor(stream.Transport)
	return nil
}

// bound gives one operation its deadline.
func (c *Cluster) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(quiet(ctx), c.cfg.RequestTimeout)
}

// quiet keeps client-go from logging past certd's own logger; what it would
// say is in the errors.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, klog.Logger{}) }

// remember keeps what an object was when certd last read or wrote it, so that
// a watch can tell news from echoes. Zero: it does not exist.
func (c *Cluster) remember(r ref, o object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[r] = o
}

func (c *Cluster) recall(r ref) object {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[r]
}

// ref names an object among all that certd manages: RBAC's word for its kind,
// its namespace ("" for cluster-scoped), its name.
type ref struct{ resource, in, name string }

// call is a request about the object.
func (r ref) call(verb string) call {
	return call{verb: verb, resource: r.resource, name: r.name, in: r.in, write: verb == "create" || verb == "patch"}
}

// around is the namespace of these.
func (c *Cluster) around() ref { return ref{"namespaces", "", c.cfg.Namespace} }

// managed is one of the two objects of Linkerd's own namespace.
func (c *Cluster) managed(name string) ref {
	if name == rotation.IssuerObject {
		return ref{"secrets", c.cfg.Namespace, name}
	}
	return ref{"configmaps", c.cfg.Namespace, name}
}
