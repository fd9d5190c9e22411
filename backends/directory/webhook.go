package directory

import (
	"context"
	"fmt"
	"time"

	"certd.internal/rotation"
)

// No webhooks run in a folder, so that Observe tells of none. Nobody should
// ask for what follows; the answers are there for the one who does.

// WriteWebhook implements rotation.Cluster.
func (c *Cluster) WriteWebhook(_ context.Context, w rotation.WebhookWrite) (string, error) {
	return "", c.noWebhooks("write the Secret of", w.Spec)
}

// WriteCABundle implements rotation.Cluster.
func (c *Cluster) WriteCABundle(_ context.Context, w rotation.CABundleWrite) (string, error) {
	return "", c.noWebhooks("write the caBundle of", w.Spec)
}

// Restart implements rotation.Cluster.
func (c *Cluster) Restart(_ context.Context, namespace string, owner rotation.ObjectRef) error {
	return fmt.Errorf("restart %s in namespace %s of %s: nothing runs in a folder: %w", owner, namespace, c.root, rotation.ErrUnsupported)
}

// RestartSince implements rotation.Cluster.
func (c *Cluster) RestartSince(ctx context.Context, namespace string, owner rotation.ObjectRef, _ time.Time, _ bool) (bool, error) {
	return false, c.Restart(ctx, namespace, owner)
}

// Evict implements rotation.Cluster.
func (c *Cluster) Evict(ctx context.Context, namespace string, owner rotation.ObjectRef, _ rotation.Eviction) ([]string, error) {
	return nil, c.Restart(ctx, namespace, owner)
}

// ProbeWebhooks implements rotation.Cluster: where nothing runs there is nothing
// to be seen.
func (c *Cluster) ProbeWebhooks(context.Context, []rotation.WebhookSpec) map[string]rotation.WebhookEvidence {
	return map[string]rotation.WebhookEvidence{}
}

func (c *Cluster) noWebhooks(doing string, w rotation.WebhookSpec) error {
	return fmt.Errorf("%s webhook %s in %s: a folder runs no webhooks: %w", doing, w.Name, c.root, rotation.ErrUnsupported)
}

// CountProxies implements rotation.Cluster: no pod runs in a folder.
func (c *Cluster) CountProxies(context.Context) rotation.Proxies { return rotation.Proxies{} }
