package kube

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"certd.internal/rotation"
)

// Kinds by which a cluster says whom its mesh talks to beyond its own pods
// (linkerd2, multicluster/charts and charts/linkerd-crds).
var (
	linksKind    = schema.GroupResource{Group: "multicluster.linkerd.io", Resource: "links"}
	externalKind = schema.GroupResource{Group: "workload.linkerd.io", Resource: "externalworkloads"}
)

// maxLinks bounds how many are looked at; a mesh has a few.
const maxLinks = 500

// outside looks for what its mesh talks to beyond the cluster's own pods.
func (c *Cluster) outside(ctx context.Context) (o rotation.Outside) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	links, _, err := c.listed(ctx, linksKind)
	if err != nil {
		return rotation.Outside{Err: err}
	}
	for _, l := range links {
		target, _, _ := unstructured.NestedString(l.Object, "spec", "targetClusterName")
		o.Links = append(o.Links, rotation.Link{Name: l.GetNamespace() + "/" + l.GetName(), Target: target})
	}
	if _, o.External, err = c.listed(ctx, externalKind); err != nil {
		return rotation.Outside{Err: err}
	}
	return o
}

// listed returns the objects of a kind, the first of them, and how many there are;
// none where the cluster does not know the kind.
func (c *Cluster) listed(ctx context.Context, kind schema.GroupResource) (items []unstructured.Unstructured, all int, err error) {
	var group metav1.APIGroup
	text, err := c.core.RESTClient().Get().AbsPath("/apis/" + kind.Group).DoRaw(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return nil, 0, nil
	case err != nil:
		return nil, 0, c.fail(call{verb: "get", resource: "/apis/" + kind.Group}, err)
	}
	if err := json.Unmarshal(text, &group); err != nil || group.PreferredVersion.Version == "" {
		return nil, 0, fmt.Errorf("read which versions of %s there are: the answer is of another form", kind.Group)
	}
	list, err := c.any.Resource(kind.WithVersion(group.PreferredVersion.Version)).List(ctx, metav1.ListOptions{Limit: maxLinks})
	switch {
	case apierrors.IsNotFound(err): // the group has others
		return nil, 0, nil
	case err != nil:
		return nil, 0, c.fail(call{verb: "list", resource: kind.Resource}, err)
	}
	all = len(list.Items)
	if more := list.GetRemainingItemCount(); more != nil {
		all += int(*more)
	}
	return list.Items, all, nil
}
