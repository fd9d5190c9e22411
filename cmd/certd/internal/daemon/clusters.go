package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"certd.internal/backends/kube"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/deploy/rbac"
	"certd.internal/rotation"
)

// testsAtOnce bounds how many clusters are tested side by side.
const testsAtOnce = 16

// Clusters lists the clusters of the configuration.
func (d Daemon) Clusters(path string) ([]api.ConfiguredCluster, error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, err
	}
	list := []api.ConfiguredCluster{}
	for _, cc := range c.Clusters {
		p := cc.Policy
		list = append(list, api.ConfiguredCluster{Name: p.Cluster, Groups: append([]string{}, p.Groups...), Labels: p.Labels, Namespace: p.Namespace, Target: cc.Target()})
	}
	return list, nil
}

// TestClusters looks at the named clusters, and asks each for every right that
// certd uses there. It writes nothing.
func (d Daemon) TestClusters(ctx context.Context, path string, names []string) ([]api.ClusterTest, error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, err
	}
	var chosen []config.Cluster
	for _, name := range names {
		i := slices.IndexFunc(c.Clusters, func(cc config.Cluster) bool { return cc.Policy.Cluster == name })
		if i < 0 {
			return nil, fmt.Errorf("clusters test: cluster %q is not configured: %w", name, api.ErrUsage)
		}
		chosen = append(chosen, c.Clusters[i])
	}
	tests := make([]api.ClusterTest, len(chosen))
	slots, testing := make(chan struct{}, testsAtOnce), sync.WaitGroup{}
	log := d.Log(c.LogLevel, c.LogFormat)
	for i, cc := range chosen {
		testing.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			l := newLazyCluster(cc, log)
			defer l.Close()
			tests[i] = testCluster(ctx, l, cc, features(c, cc))
		})
	}
	testing.Wait()
	return tests, ctx.Err()
}

// features are what certd is configured to do in a cluster beyond the usual.
func features(c *config.Config, cc config.Cluster) kube.Features {
	f := kube.Features{CreateNamespace: cc.Policy.CreateNamespace, RestartWorkloads: c.Trust.Restarts}
	if e := c.Election; e.In(cc) {
		f.Lease.Namespace, f.Lease.Name = e.Namespace, e.Name
	}
	return f
}

func (f *fleet) features(p rotation.Policy) kube.Features {
	c := f.current()
	i := slices.IndexFunc(c.Clusters, func(cc config.Cluster) bool { return cc.Policy.Cluster == p.Cluster })
	if i < 0 { // no longer configured
		return kube.Features{}
	}
	return features(c, c.Clusters[i])
}

// granter is a cluster that can be asked for rights.
type granter interface {
	Grants(ctx context.Context, o rotation.Observation, seen bool, f kube.Features) ([]kube.Grant, error)
}

func testCluster(ctx context.Context, l *lazyCluster, cc config.Cluster, f kube.Features) api.ClusterTest {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	test := api.ClusterTest{Cluster: cc.Policy.Cluster, Rights: []api.ClusterRight{}}
	c, err := l.get()
	if err != nil {
		test.Problem = err.Error()
		return test
	}
	begun := time.Now()
	o, err := c.Observe(ctx)
	test.LookMilliseconds = time.Since(begun).Milliseconds()
	switch {
	case err == nil:
		test.Reachable, test.Version, test.ClockSkewMilliseconds = true, o.Version, o.ClockSkew.Milliseconds()
	case errors.Is(err, rotation.ErrDenied): // it answers
		test.Reachable, test.Problem = true, err.Error()
	default:
		test.Problem = err.Error()
		return test
	}
	if cc.Directory != "" {
		if err := unix.Access(cc.Directory, unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, unix.ENOENT) {
			test.Problem = fmt.Sprintf("write to %s: %v", cc.Directory, err)
		}
		return test
	}
	g, ok := c.(granter)
	if !ok {
		return test
	}
	grants, askErr := g.Grants(ctx, o, err == nil, f)
	if askErr != nil {
		test.Problem = strings.TrimPrefix(test.Problem+"; "+askErr.Error(), "; ")
	}
	for _, r := range grants {
		test.Rights = append(test.Rights, api.ClusterRight{Verb: r.Verb, Group: r.Group, Resource: r.Resource, Name: r.Name, Namespace: r.Namespace, Has: r.Has, Manifest: r.Manifest, Lost: r.Lost})
	}
	return test
}

// Manifest is what to apply in a cluster so that certd may do its work there.
func (d Daemon) Manifest(path string, r api.ManifestRequest) ([]byte, error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(c.Clusters, func(cc config.Cluster) bool { return cc.Policy.Cluster == r.Cluster })
	if i < 0 {
		return nil, fmt.Errorf("clusters rbac: cluster %q is not configured: %w", r.Cluster, api.ErrUsage)
	}
	p := c.Clusters[i].Policy
	if p.Directory {
		return nil, fmt.Errorf("clusters rbac: %s is a folder: what certd may do there, its file modes say: %w", r.Cluster, api.ErrUsage)
	}
	m := rbac.Cluster{Namespace: p.Namespace, CheckNamespace: p.Webhooks.ProbeNamespace, Bootstrap: r.Bootstrap, Viz: r.Viz, Jaeger: r.Jaeger, Proxies: r.Proxies,
		RestartWorkloads: r.RestartWorkloads || c.Trust.Restarts, Policies: r.Policies}
	if e := c.Election; e.In(c.Clusters[i]) {
		m.Lease = &rbac.Lease{Namespace: e.Namespace, Name: e.Name}
	}
	for _, w := range p.Webhooks.Specs {
		if w.Own {
			m.Webhooks = append(m.Webhooks, ownWebhook(w))
		}
	}
	return rbac.Manifest(m), nil
}

// ownWebhook is a webhook of the user's own. Its Service is the first label of its
// name, as the API server calls it: NAME.NAMESPACE.svc.
func ownWebhook(w rotation.WebhookSpec) rbac.Webhook {
	own := rbac.Webhook{Name: w.Name, Namespace: w.Namespace, Secret: w.Secret, Service: w.Service}
	for _, name := range w.DNSNames {
		if service, rest, _ := strings.Cut(name, "."); own.Service == "" && strings.HasPrefix(rest, w.Namespace+".svc") {
			own.Service = service
		}
	}
	for _, o := range w.Objects {
		switch o.Kind {
		case rotation.KindMutating:
			own.Mutating = append(own.Mutating, o.Name)
		case rotation.KindValidating:
			own.Validating = append(own.Validating, o.Name)
		case rotation.KindAPIService:
			own.APIServices = append(own.APIServices, o.Name)
		}
	}
	return own
}
