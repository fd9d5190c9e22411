package daemon

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"certd.internal/backends/directory"
	"certd.internal/backends/kube"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/traces"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// fleet is what a configuration names, made real: journal, keys, clusters.
type fleet struct {
	log     *slog.Logger
	getenv  func(string) string
	journal *state.Journal
	keys    rotation.Keys
	// webhookKeys go through the same connection as keys, and end with them.
	webhookKeys rotation.Keys
	vault       *vault.Vault                                     // nil: the keys are elsewhere
	observe     func(operation, code string, took time.Duration) // is told of exchanges with Vault; nil: nobody is
	spans       *traces.Traces                                   // of what the loop asks of clusters

	mu       sync.Mutex
	config   *config.Config
	clusters map[string]*lazyCluster
}

func (f *fleet) openKeys(c *config.Config) error {
	k, err := openKeys(c, f.getenv, f.log, f.observe)
	f.keys, f.webhookKeys, f.vault = k.anchors, k.webhooks, k.vault
	return err
}

func (f *fleet) policy() rotation.FleetPolicy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config.Fleet()
}

func (f *fleet) configFile() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config.File
}

// known is what the journal knows, for a decision without a daemon.
func (f *fleet) known() (rotation.Fleet, error) {
	anchors, err := f.journal.Anchors()
	if err != nil {
		return rotation.Fleet{}, fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	change, err := f.journal.Change()
	if err != nil {
		return rotation.Fleet{}, fmt.Errorf("read the change of the trust anchor from the journal: %w", err)
	}
	pauses, err := f.journal.Pauses()
	if err != nil {
		return rotation.Fleet{}, fmt.Errorf("read the pauses from the journal: %w", err)
	}
	return rotation.Fleet{Policy: f.policy(), Anchors: anchors, Change: change, Pauses: pauses, Epoch: f.journal.Epoch()}, nil
}

// openCluster makes one cluster's backend. It asks nothing of it yet.
func openCluster(cc config.Cluster, log *slog.Logger) (rotation.Cluster, error) {
	p := cc.Policy
	if cc.Directory != "" {
		return directory.New(directory.Config{Cluster: p.Cluster, Dir: cc.Directory, Namespace: p.Namespace, TrustDomain: p.TrustDomain})
	}
	k := kube.Config{Cluster: p.Cluster, Namespace: p.Namespace, TrustDomain: p.TrustDomain, Webhooks: p.Webhooks.Specs, ProbeNamespace: p.Webhooks.ProbeNamespace, Projection: p.Webhooks.Projection}
	if cc.InCluster {
		k.Access.InCluster = true
	} else {
		k.Access.File, k.Access.Context = cc.Kubeconfig.File, cc.Kubeconfig.Context
	}
	return kube.New(k, log)
}

// lazyCluster makes its backend when it is first needed and, if that fails,
// again at the next look: a kubeconfig that is missing or broken at start
// stops nothing but its own cluster.
type lazyCluster struct {
	name string
	open func() (rotation.Cluster, error)
	// like tells whether a reloaded configuration still means this very
	// cluster, reached in this very way.
	like string
	loop rotation.Cluster // the same, as the loop is given it

	mu      sync.Mutex
	cluster rotation.Cluster
	closed  bool
}

func newLazyCluster(cc config.Cluster, log *slog.Logger) *lazyCluster {
	return &lazyCluster{name: cc.Policy.Cluster, like: likeness(cc), open: func() (rotation.Cluster, error) { return openCluster(cc, log) }}
}

// clusterSystem is how the spans of what is asked of a cluster begin.
func clusterSystem(cc config.Cluster) string {
	if cc.Directory != "" {
		return "directory"
	}
	return "k8s"
}

// likeness is everything about a cluster that its backend was made of. The
// content of the kubeconfig is part of it: a replaced token is another way in.
func likeness(cc config.Cluster) string {
	s := fmt.Sprintf("%q %q %q %t %q", cc.Policy.Namespace, cc.Policy.TrustDomain, cc.Directory, cc.InCluster, fmt.Sprintf("%+v %s", cc.Policy.Webhooks.Specs, cc.Policy.Webhooks.ProbeNamespace))
	if k := cc.Kubeconfig; k != nil {
		s += fmt.Sprintf(" %q %q %s", k.File, k.Context, fileDigest(k.File))
	}
	return s
}

func (l *lazyCluster) get() (rotation.Cluster, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cluster == nil && !l.closed {
		c, err := l.open()
		if err != nil {
			return nil, err
		}
		l.cluster = c
	}
	if l.closed {
		return nil, fmt.Errorf("cluster %s is no longer configured: %w", l.name, rotation.ErrUnavailable)
	}
	return l.cluster, nil
}

func (l *lazyCluster) Observe(ctx context.Context) (rotation.Observation, error) {
	c, err := l.get()
	if err != nil {
		return rotation.Observation{}, err
	}
	return c.Observe(ctx)
}

func (l *lazyCluster) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	c, err := l.get()
	if err != nil {
		return last, err
	}
	return c.Reread(ctx, last, object)
}

func (l *lazyCluster) CreateNamespace(ctx context.Context) error {
	c, err := l.get()
	if err != nil {
		return err
	}
	return c.CreateNamespace(ctx)
}

func (l *lazyCluster) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	c, err := l.get()
	if err != nil {
		return "", err
	}
	return c.WriteBundle(ctx, w)
}

func (l *lazyCluster) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	c, err := l.get()
	if err != nil {
		return "", err
	}
	return c.WriteIssuer(ctx, w)
}

func (l *lazyCluster) WriteWebhook(ctx context.Context, w rotation.WebhookWrite) (string, error) {
	c, err := l.get()
	if err != nil {
		return "", err
	}
	return c.WriteWebhook(ctx, w)
}

func (l *lazyCluster) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	c, err := l.get()
	if err != nil {
		return "", err
	}
	return c.WriteCABundle(ctx, w)
}

func (l *lazyCluster) Restart(ctx context.Context, namespace string, owner rotation.ObjectRef) error {
	c, err := l.get()
	if err != nil {
		return err
	}
	return c.Restart(ctx, namespace, owner)
}

func (l *lazyCluster) RestartSince(ctx context.Context, namespace string, owner rotation.ObjectRef, since time.Time, whole bool) (certd bool, err error) {
	c, err := l.get()
	if err != nil {
		return false, err
	}
	return c.RestartSince(ctx, namespace, owner, since, whole)
}

func (l *lazyCluster) Evict(ctx context.Context, namespace string, owner rotation.ObjectRef, e rotation.Eviction) ([]string, error) {
	c, err := l.get()
	if err != nil {
		return nil, err
	}
	return c.Evict(ctx, namespace, owner, e)
}

func (l *lazyCluster) ProbeWebhooks(ctx context.Context, webhooks []rotation.WebhookSpec) map[string]rotation.WebhookEvidence {
	c, err := l.get()
	if err == nil {
		return c.ProbeWebhooks(ctx, webhooks)
	}
	now, all := time.Now(), map[string]rotation.WebhookEvidence{}
	for _, w := range webhooks {
		all[w.Name] = rotation.WebhookEvidence{At: now, Check: rotation.WebhookCheck{State: "unknown", Evidence: err.Error(), At: now}}
	}
	return all
}

func (l *lazyCluster) CountProxies(ctx context.Context) rotation.Proxies {
	c, err := l.get()
	if err != nil {
		return rotation.Proxies{At: time.Now(), Err: err}
	}
	return c.CountProxies(ctx)
}

func (l *lazyCluster) Event(ctx context.Context, e rotation.Event) error {
	c, err := l.get()
	if err != nil {
		return err
	}
	return c.Event(ctx, e)
}

// Watch waits until the backend can be made, then watches.
func (l *lazyCluster) Watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		c, err := l.get()
		if err == nil {
			return c.Watch(ctx, changed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (l *lazyCluster) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.cluster == nil {
		return nil
	}
	return l.cluster.Close()
}

// arrange makes the clusters that a configuration names, keeping those that
// are already there, and returns also those that are no longer wanted.
func (f *fleet) arrange(c *config.Config) (all map[string]rotation.Cluster, gone []*lazyCluster) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.clusters
	f.config, f.clusters = c, map[string]*lazyCluster{}
	all = map[string]rotation.Cluster{}
	for _, cc := range c.Clusters {
		name := cc.Policy.Cluster
		l := was[name]
		if l == nil || l.like != likeness(cc) {
			l = newLazyCluster(cc, f.log)
			l.loop = f.spans.Cluster(l, name, clusterSystem(cc))
		}
		f.clusters[name] = l
		all[name] = l.loop
	}
	for name, l := range was {
		if f.clusters[name] != l {
			gone = append(gone, l)
		}
	}
	return all, gone
}

func (f *fleet) Close() error {
	var errs []error
	f.mu.Lock()
	for _, c := range f.clusters {
		errs = append(errs, c.Close())
	}
	f.mu.Unlock()
	if f.keys != nil {
		errs = append(errs, f.keys.Close())
	}
	if f.journal != nil {
		errs = append(errs, f.journal.Close())
	}
	return errors.Join(errs...)
}

// ceremony makes the trust anchor, or finds it.
func (f *fleet) ceremony(ctx context.Context, req api.InitRequest) (api.InitReply, error) {
	policy := f.policy()
	reply := api.InitReply{APIVersion: rotation.APIVersion, Kind: "Ceremony", Fleet: policy.Fleet, At: time.Now().UTC().Truncate(time.Second),
		DryRun: req.DryRun, Operator: req.Operator, Witnesses: append([]string{}, req.Witnesses...), Steps: []string{}, Entries: []uint64{}}
	creator, done, err := f.creator(req.Token)
	if err != nil {
		return reply, asService(err)
	}
	defer done()
	before, err := f.lastSeq()
	if err != nil {
		return reply, err
	}
	reason := "certd init"
	if req.Reason != "" {
		reason += ": " + req.Reason
	}
	if req.Operator != "" {
		reason += fmt.Sprintf(" (operator %s, witnesses %q)", req.Operator, req.Witnesses)
	}
	c := rotation.Ceremony{Journal: f.journal, Creator: creator, Signer: f.keys, Policy: policy, Actor: req.Actor, Reason: reason, DryRun: req.DryRun,
		Say: func(format string, args ...any) { reply.Steps = append(reply.Steps, fmt.Sprintf(format, args...)) }}
	a, created, err := c.Run(ctx)
	if err != nil {
		return reply, asService(fmt.Errorf("make the trust anchor of %s: %w", policy.Fleet, err))
	}
	reply.Created = created
	if a.Certificate == nil { // a dry run
		reply.Anchor = rotation.AnchorStatus{ID: a.ID, Key: rotation.KeyStatus{Name: a.Key, Backend: cmp.Or(a.Backend, backendName(f.current()))}}
		return reply, nil
	}
	reply.Anchor = a.Status()
	known, err := f.known()
	if err != nil {
		return reply, err
	}
	bundle, err := known.Bundle()
	if err != nil {
		return reply, err
	}
	reply.BundlePEM = string(bundle.PEM())
	entries, err := f.journal.Entries(state.Filter{After: before})
	if err != nil {
		return reply, err
	}
	for _, e := range entries {
		if e.Intent.Actor == req.Actor {
			reply.Entries = append(reply.Entries, e.Seq)
		}
	}
	return reply, nil
}

// Export implements api.Service for the daemon and without it alike.
func (f *fleet) Export(_ context.Context, cluster string) (api.ClusterExport, error) {
	for _, p := range f.policy().Clusters {
		if p.Cluster == cluster {
			return f.export(p)
		}
	}
	return api.ClusterExport{}, fmt.Errorf("cluster %q is not configured: %w", cluster, api.ErrUsage)
}

func (f *fleet) export(p rotation.Policy) (api.ClusterExport, error) {
	e := api.ClusterExport{APIVersion: rotation.APIVersion, Kind: "ClusterExport", Cluster: p.Cluster, Directory: p.Directory,
		Namespace: p.Namespace, TrustDomain: p.TrustDomain, Webhooks: len(p.Webhooks.Specs) > 0}
	known, err := f.known()
	if err != nil {
		return e, err
	}
	if slices.ContainsFunc(known.Anchors, func(a rotation.Anchor) bool { return a.Certificate != nil && a.RetiredAt.IsZero() }) {
		bundle, err := known.Bundle()
		if err != nil {
			return e, fmt.Errorf("export the trust bundle: %w", err)
		}
		e.BundlePEM = string(bundle.PEM())
	}
	cas, err := f.journal.WebhookCAs(p.Cluster)
	if err != nil {
		return e, fmt.Errorf("read the webhook CAs of %s from the journal: %w", p.Cluster, err)
	}
	var inUse []*x509.Certificate
	for _, ca := range cas {
		if ca.Certificate != nil && ca.RetiredAt.IsZero() {
			inUse = append(inUse, ca.Certificate)
		}
	}
	e.WebhookCAPEM = string(pki.EncodeCertificates(inUse...))
	return e, nil
}

func (f *fleet) lastSeq() (uint64, error) {
	last, err := f.journal.Entries(state.Filter{Limit: 1})
	if err != nil || len(last) == 0 {
		return 0, err
	}
	return last[0].Seq, nil
}

// creator is what makes keys: the key backend logged in with the token given,
// or as it logs in to sign.
func (f *fleet) creator(token string) (rotation.Keys, func(), error) {
	f.mu.Lock()
	c := f.config
	f.mu.Unlock()
	if token == "" || c.Keys.Vault == nil {
		return f.keys, func() {}, nil
	}
	k, err := openVault(c, vault.Auth{Token: func() ([]byte, error) { return []byte(token), nil }}, f.getenv, f.log, f.observe)
	if err != nil {
		return nil, nil, err
	}
	return k.anchors, func() { k.anchors.Close() }, nil
}

// live looks at every cluster once, side by side.
func (f *fleet) live(ctx context.Context) (rotation.FleetStatus, error) {
	known := rotation.Fleet{Policy: f.policy()}
	if f.journal != nil {
		var err error
		if known, err = f.known(); err != nil {
			return rotation.FleetStatus{}, err
		}
	}
	views := make([]rotation.View, len(known.Policy.Clusters))
	var wg sync.WaitGroup
	for i, p := range known.Policy.Clusters {
		wg.Go(func() {
			v := rotation.View{Policy: p, Record: rotation.ClusterRecord{Name: p.Cluster}}
			if f.journal != nil {
				if rec, err := f.journal.Cluster(p.Cluster); err == nil {
					v.Record = rec
				}
				v.Certificates, _ = f.journal.Certificates(p.Cluster, 4, time.Time{})
				v.WebhookCAs, _ = f.journal.WebhookCAs(p.Cluster)
			}
			lctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			o, err := f.clusters[p.Cluster].Observe(lctx)
			if v.Err = err; err == nil {
				v.Observed, v.Record.LastContact = &o, time.Now().UTC()
				v.Prove(f.clusters[p.Cluster].ProbeWebhooks(lctx, o.Installed()))
			}
			views[i] = v
		})
	}
	wg.Wait()
	return rotation.LiveStatus(known, views, time.Now().UTC()), nil
}

// devFiles writes what `run --dev` needs and is not there yet.
func devFiles(dir string, passphrase func() (string, error)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	pass, err := passphrase()
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"certd.yaml": config.Dev(), "passphrase": []byte(pass + "\n")} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			_, err = f.Write(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}
