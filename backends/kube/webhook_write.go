package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// WriteCABundle implements rotation.Cluster. It applies nothing but a name and a
// caBundle for each entry that calls the webhook: the list of entries is a map
// by name, so the API server leaves everything else in them as it is.
func (c *Cluster) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.writing.Lock()
	defer c.writing.Unlock()
	have, err := c.registered(ctx, w.Object)
	if err != nil {
		return "", err
	}
	at := ref{kinds[w.Object.Kind].Resource, "", w.Object.Name}
	annotations := payload.Annotations(payload.CABundleMarks(w))
	text := w.CAs.PEM()
	entries := have.calling(w.Spec)
	switch {
	case have.Metadata.ResourceVersion == "":
		return "", changed(at, w.Revision, "")
	case have.Metadata.ResourceVersion != w.Revision:
		return "", changed(at, w.Revision, have.Metadata.ResourceVersion)
	case len(entries) == 0:
		return "", fmt.Errorf("%s: nothing in it calls webhook %s any more: %w", at.call("write"), w.Spec.Name, rotation.ErrChanged)
	case len(text) == 0:
		// An empty caBundle has the API server go by the roots of its own host.
		return "", fmt.Errorf("%s: no CA to write; an empty caBundle would have the API server trust the CAs of its host", at.call("write"))
	case have.Spec.InsecureSkipTLSVerify:
		return "", fmt.Errorf("%s: it sets insecureSkipTLSVerify, so that the API server takes whoever answers and refuses a caBundle; take that out of APIService %s: %w", at.call("write"), w.Object.Name, rotation.ErrDenied)
	}
	same := holds(have.Metadata.Annotations, annotations)
	for _, e := range entries {
		same = same && bytes.Equal(e.ClientConfig.CABundle, text)
	}
	if same {
		return have.Metadata.ResourceVersion, nil
	}
	apply := caBundleApply(w, entries, text, annotations)
	got, err := c.any.Resource(kinds[w.Object.Kind]).Apply(ctx, w.Object.Name, apply, metav1.ApplyOptions{FieldManager: FieldManager, Force: true})
	if err != nil {
		return "", c.fail(at.call("patch"), err)
	}
	return c.wrote(at, metav1.ObjectMeta{UID: got.GetUID(), ResourceVersion: got.GetResourceVersion()}), nil
}

func caBundleApply(w rotation.CABundleWrite, entries []entry, text []byte, annotations map[string]string) *unstructured.Unstructured {
	config := func() map[string]any { return map[string]any{"caBundle": base64.StdEncoding.EncodeToString(text)} }
	apply := &unstructured.Unstructured{Object: map[string]any{}}
	if w.Object.Kind == rotation.KindAPIService {
		apply.Object["spec"] = config()
	} else {
		var list []any
		for _, e := range entries {
			list = append(list, map[string]any{"name": e.Name, "clientConfig": config()})
		}
		apply.Object["webhooks"] = list
	}
	apply.SetGroupVersionKind(kinds[w.Object.Kind].GroupVersion().WithKind(w.Object.Kind))
	apply.SetName(w.Object.Name)
	apply.SetResourceVersion(w.Revision)
	apply.SetAnnotations(annotations)
	return apply
}

// restartedAt is what kubectl rollout restart changes in a pod template.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// RestartSince implements rotation.Cluster. What kubectl rollout restart leaves
// in the pod template says when that was last done, whoever did it.
func (c *Cluster) RestartSince(ctx context.Context, namespace string, owner rotation.ObjectRef, since time.Time, whole bool) (certd bool, err error) {
	bounded, cancel := c.bound(ctx)
	defer cancel()
	var (
		at       = ref{strings.ToLower(owner.Kind) + "s", namespace, owner.Name}
		labels   map[string]string
		template map[string]string
		fields   []metav1.ManagedFieldsEntry
		missing  int32  // pods that are not available
		stays    string // why a rollout would leave pods as they are, and what to do
	)
	switch owner.Kind {
	case "Deployment":
		var o *appsv1.Deployment
		if o, err = c.apps.Deployments(at.in).Get(bounded, at.name, metav1.GetOptions{}); err == nil {
			labels, template, fields, missing = o.Labels, o.Spec.Template.Annotations, o.ManagedFields, o.Status.UnavailableReplicas
			if o.Spec.Paused {
				stays = fmt.Sprintf("it is paused; kubectl -n %s rollout resume deployment/%s", namespace, owner.Name)
			}
		}
	case "DaemonSet":
		var o *appsv1.DaemonSet
		if o, err = c.apps.DaemonSets(at.in).Get(bounded, at.name, metav1.GetOptions{}); err == nil {
			labels, template, fields, missing = o.Labels, o.Spec.Template.Annotations, o.ManagedFields, o.Status.NumberUnavailable
			if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
				stays = onDelete
			}
		}
	case "StatefulSet":
		var o *appsv1.StatefulSet
		if o, err = c.apps.StatefulSets(at.in).Get(bounded, at.name, metav1.GetOptions{}); err == nil {
			labels, template, fields, missing = o.Labels, o.Spec.Template.Annotations, o.ManagedFields, o.Status.Replicas-o.Status.ReadyReplicas
			switch s := o.Spec.UpdateStrategy; {
			case s.Type == appsv1.OnDeleteStatefulSetStrategyType:
				stays = onDelete
			case s.RollingUpdate != nil && s.RollingUpdate.Partition != nil && *s.RollingUpdate.Partition > 0:
				stays = fmt.Sprintf("its partition leaves the pods below number %d as they are; set it to 0, or delete these, one after another", *s.RollingUpdate.Partition)
			}
		}
	}
	if err != nil {
		return false, fmt.Errorf("restart %s: %w", owner, c.fail(at.call("get"), err))
	}
	if labels[rotation.RestartLabel] == rotation.RestartNever {
		return false, fmt.Errorf("restart %s in namespace %s: it bears the label %s: %s, so it is a person's to restart: %w", owner, namespace, rotation.RestartLabel, rotation.RestartNever, rotation.ErrDenied)
	}
	if stays != "" {
		return false, fmt.Errorf("restart %s in namespace %s: %s: %w", owner, namespace, stays, rotation.ErrDenied)
	}
	if last, err := time.Parse(time.RFC3339, template[restartedAt]); err == nil && !last.Before(since.Truncate(time.Second)) {
		return !writtenAt(fields, ownsRestart).IsZero(), nil
	}
	if whole && missing > 0 {
		return false, fmt.Errorf("restart %s in namespace %s: %d of its pods are not available, and a restart could take the others; it is tried again when they are, or do it yourself: %w", owner, namespace, missing, rotation.ErrDenied)
	}
	return true, c.Restart(ctx, namespace, owner)
}

const onDelete = "its updateStrategy is OnDelete, and a rollout replaces none of its pods; delete them, one after another"

// ownsRestart tells of what a restart changes.
func ownsRestart(fields []byte) bool {
	return owned(fields, "f:spec", "f:template", "f:metadata", "f:annotations", "f:"+restartedAt)
}

// Restart implements rotation.Cluster.
func (c *Cluster) Restart(ctx context.Context, namespace string, owner rotation.ObjectRef) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{restartedAt: time.Now().UTC().Format(time.RFC3339)}}}}})
	if err != nil {
		return err
	}
	var (
		at      = ref{strings.ToLower(owner.Kind) + "s", namespace, owner.Name}
		options = metav1.PatchOptions{FieldManager: FieldManager}
	)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("restart %s: %s: %w: %w", owner, at.call("patch"), err, rotation.ErrUnavailable)
	}
	switch owner.Kind {
	case "Deployment":
		_, err = c.apps.Deployments(at.in).Patch(ctx, at.name, types.StrategicMergePatchType, patch, options)
	case "DaemonSet":
		_, err = c.apps.DaemonSets(at.in).Patch(ctx, at.name, types.StrategicMergePatchType, patch, options)
	case "StatefulSet":
		_, err = c.apps.StatefulSets(at.in).Patch(ctx, at.name, types.StrategicMergePatchType, patch, options)
	default:
		return fmt.Errorf("restart %s in namespace %s: that is nothing which can be rolled out anew; delete its pods by hand", owner, namespace)
	}
	if err == nil {
		return nil
	}
	err = c.fail(at.call("patch"), err)
	if errors.Is(err, rotation.ErrDenied) {
		return fmt.Errorf("restart %s: %w; or do it by hand: kubectl -n %s rollout restart %s/%s", owner, err, at.in, strings.ToLower(owner.Kind), owner.Name)
	}
	return fmt.Errorf("restart %s: %w", owner, err)
}
