package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// tokenVolume is what the API server mounts into every pod by itself; nothing
// in the lab reads it, and hundreds of copies would only cost time.
const tokenVolume = "kube-api-access-"

// sources returns where the files of a volume come from; none for volumes that
// are not projected from Secrets and ConfigMaps. mode is their file mode.
func sources(v corev1.Volume) (from []corev1.VolumeProjection, mode *int32) {
	switch {
	case strings.HasPrefix(v.Name, tokenVolume):
	case v.Secret != nil:
		return []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional}}}, v.Secret.DefaultMode
	case v.ConfigMap != nil:
		return []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional}}}, v.ConfigMap.DefaultMode
	case v.Projected != nil:
		return v.Projected.Sources, v.Projected.DefaultMode
	}
	return nil, nil
}

// mounts reports whether the pod projects the named Secret ("secret") or
// ConfigMap ("configmap") into one of its volumes.
func mounts(pod *corev1.Pod, kind, name string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		from, _ := sources(v)
		return slices.ContainsFunc(from, func(p corev1.VolumeProjection) bool {
			return kind == "secret" && p.Secret != nil && p.Secret.Name == name ||
				kind == "configmap" && p.ConfigMap != nil && p.ConfigMap.Name == name
		})
	})
}

// projector writes the volumes of pods below root, with the kubelet's own code:
// payload, comparison and the swap of ..data are upstream's.
type projector struct {
	root       string
	secrets    listers.SecretLister
	configMaps listers.ConfigMapLister
}

// podDir is <root>/<namespace>/<pod>; a volume is a folder of its name in it.
func (p projector) podDir(namespace, pod string) string {
	return filepath.Join(p.root, namespace, pod)
}

// project brings all volumes of the pod up to date. A volume whose payload has
// not changed is left alone. An error names what is missing; other volumes
// are written nevertheless.
func (p projector) project(pod *corev1.Pod) error {
	var first error
	for _, v := range pod.Spec.Volumes {
		from, mode := sources(v)
		if len(from) == 0 {
			continue
		}
		if err := p.volume(pod, v.Name, from, mode); err != nil && first == nil {
			first = fmt.Errorf("MountVolume.SetUp failed for volume %q: %w", v.Name, err)
		}
	}
	return first
}

func (p projector) volume(pod *corev1.Pod, name string, from []corev1.VolumeProjection, mode *int32) error {
	payload := map[string]volumeutil.FileProjection{}
	for _, source := range from {
		part, err := p.payload(pod.Namespace, source, mode)
		if err != nil {
			return err
		}
		for path, file := range part {
			payload[path] = file
		}
	}
	dir := filepath.Join(p.podDir(pod.Namespace, pod.Name), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	w, err := volumeutil.NewAtomicWriter(dir, "pod "+pod.Namespace+"/"+pod.Name+" volume "+name)
	if err != nil {
		return err
	}
	return w.Write(payload, nil)
}

func (p projector) payload(namespace string, source corev1.VolumeProjection, mode *int32) (map[string]volumeutil.FileProjection, error) {
	switch {
	case source.Secret != nil:
		optional := source.Secret.Optional != nil && *source.Secret.Optional
		object, err := p.secrets.Secrets(namespace).Get(source.Secret.Name)
		if apierrors.IsNotFound(err) && optional {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return secret.MakePayload(source.Secret.Items, object, mode, optional)
	case source.ConfigMap != nil:
		optional := source.ConfigMap.Optional != nil && *source.ConfigMap.Optional
		object, err := p.configMaps.ConfigMaps(namespace).Get(source.ConfigMap.Name)
		if apierrors.IsNotFound(err) && optional {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return configmap.MakePayload(source.ConfigMap.Items, object, mode, optional)
	}
	return nil, nil // tokens and pod fields: nothing in the lab reads them
}

// remove deletes what the pod had mounted.
func (p projector) remove(namespace, pod string) error {
	return os.RemoveAll(p.podDir(namespace, pod))
}
