package kube

import (
	"context"
	"slices"

	"certd.internal/rotation"
)

// A Grant is a right that certd uses in a cluster, and whether it has it.
type Grant struct {
	Right
	Has bool
}

// Grants asks for each right that certd uses in the cluster whether it has it. o
// is what was last observed; where nothing was, seen is false, and Linkerd's
// namespace is taken to be there.
func (c *Cluster) Grants(ctx context.Context, o rotation.Observation, seen bool, f Features) ([]Grant, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	rights := c.rights(c.specs(o), f, o.Namespace || !seen)
	missing, err := c.missing(ctx, rights)
	if err != nil {
		return nil, err
	}
	grants := make([]Grant, 0, len(rights))
	for _, r := range rights {
		grants = append(grants, Grant{r, !slices.Contains(missing, r)})
	}
	return grants, nil
}
