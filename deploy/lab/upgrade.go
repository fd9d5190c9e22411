package main

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// upgrade writes an object as helm does: what the manifest says is what counts,
// and what others have added beside it stays. Fields belong to manager as those
// of a plain update do. A caBundle counts even if the manifest has none, unless
// it is to be kept.
func (a *applier) upgrade(ctx context.Context, object *unstructured.Unstructured, manager string, keepCABundle bool) error {
	resource, err := a.resource(object)
	if err != nil {
		return fmt.Errorf("write %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	for tries := 0; ; tries++ {
		is, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, err = resource.Create(ctx, object, metav1.CreateOptions{FieldManager: manager})
		case err == nil:
			_, err = resource.Update(ctx, merged(is, object, keepCABundle), metav1.UpdateOptions{FieldManager: manager})
		}
		if err == nil {
			return nil
		}
		if tries == 5 || !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("write %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}

// merged is the object as it is with what the manifest says about it.
func merged(is, manifest *unstructured.Unstructured, keepCABundle bool) *unstructured.Unstructured {
	result := is.DeepCopy()
	before := withCABundle(is)
	overlay(result.Object, manifest.DeepCopy().Object)
	for i, holder := range withCABundle(result) {
		bundle, ok := any(nil), false
		if keepCABundle && i < len(before) {
			bundle, ok = before[i]["caBundle"]
		} else if holders := withCABundle(manifest); i < len(holders) {
			bundle, ok = holders[i]["caBundle"]
		}
		delete(holder, "caBundle")
		if ok {
			holder["caBundle"] = bundle
		}
	}
	// Helm knows what its last manifest said and takes that back; the lab's
	// manifests differ in these two alone.
	if calledService(result) != "" && !keepCABundle && manifest.GetAnnotations()[injectCA] == "" {
		unstructured.RemoveNestedField(result.Object, "metadata", "annotations", injectCA)
	}
	const lag = "lab/projection-lag"
	if path := []string{"spec", "template", "metadata", "annotations", lag}; result.GetKind() == "Deployment" {
		if _, ok, _ := unstructured.NestedString(manifest.Object, path...); !ok {
			unstructured.RemoveNestedField(result.Object, path...)
		}
	}
	return result
}

// overlay sets in onto what the other says: maps entry by entry, all else as a
// whole.
func overlay(onto, with map[string]any) {
	for key, value := range with {
		below, isMap := value.(map[string]any)
		if there, ok := onto[key].(map[string]any); ok && isMap {
			overlay(there, below)
			continue
		}
		onto[key] = value
	}
}

// waitGone returns when the object is no more.
func (a *applier) waitGone(ctx context.Context, object *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		resource, err := a.resource(object)
		if err == nil {
			_, err = resource.Get(ctx, object.GetName(), metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait until %s %s is gone: %w", object.GetKind(), object.GetName(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s %s is gone: %w", object.GetKind(), object.GetName(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
