// Package kube is a Kubernetes cluster reached with client-go.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/net"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// FieldManager is who certd is in managedFields.
const FieldManager = "certd"

// Config describes one cluster and the way to it.
type Config struct {
	Cluster     string // its name in certd's configuration
	Namespace   string // of the Linkerd control plane
	TrustDomain string

	Access Access

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

	core   corev1.CoreV1Interface
	apps   appsv1.AppsV1Interface
	events eventsv1.EventsV1Interface
	meta   metadata.Interface // for watches: they need no private keys
	server string             // for texts

	mu        sync.Mutex
	known     map[string]object // by name of the managed object, as last read or written
	version   string
	versionAt time.Time
	hidden    string // what part of linkerd-identity could not be seen, as last logged
}

// object is what certd remembers of one it has read or written.
type object struct{ uid, revision string }

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
	rc, err := cfg.Access.restConfig()
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	rc.UserAgent = "certd"
	rc.QPS = -1    // client-go's default of 5 a second would delay repairs
	rc.Timeout = 0 // it is per attempt, and it would end watches: contexts bound each call
	rc.WarningHandler = rest.NoWarnings{}
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: set up TLS: %w", cfg.Cluster, err)
	}
	// An API server does not redirect; one that does would have certd call
	// hosts of its choice, with its credentials.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Cluster{cfg: cfg, log: log.With("cluster", cfg.Cluster), http: hc, server: rc.Host, known: map[string]object{}}
	if c.core, err = corev1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.apps, err = appsv1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.events, err = eventsv1.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	if c.meta, err = metadata.NewForConfigAndClient(rc, hc); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", cfg.Cluster, err)
	}
	return c, nil
}

// Close implements rotation.Cluster.
func (c *Cluster) Close() error {
	net.CloseIdleConnectionsFor(c.http.Transport)
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
func (c *Cluster) remember(name string, o object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[name] = o
}

func (c *Cluster) recall(name string) object {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[name]
}
