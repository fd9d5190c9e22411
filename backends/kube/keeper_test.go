package kube

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

// Who is set up to write an object again is known by what they leave on it.
func TestKeepers(t *testing.T) {
	meta := func(annotations, labels map[string]string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "linkerd", Annotations: annotations, Labels: labels, OwnerReferences: owners}
	}
	owner := func(kind, name string) metav1.OwnerReference { return metav1.OwnerReference{Kind: kind, Name: name} }
	for _, row := range []struct {
		name string
		is   metav1.ObjectMeta
		want rotation.Keeper // zero: nobody
	}{
		{"nobody", meta(map[string]string{"a": "b"}, map[string]string{"app.kubernetes.io/managed-by": "certd"}), rotation.Keeper{}},
		{"Helm", meta(map[string]string{"meta.helm.sh/release-name": "l5d", "meta.helm.sh/release-namespace": "ops"}, nil), rotation.Keeper{Kind: rotation.KeeperHelm, Name: "l5d", Namespace: "ops"}},
		{"cert-manager", meta(map[string]string{"cert-manager.io/certificate-name": "issuer"}, nil), rotation.Keeper{Kind: rotation.KeeperCert, Name: "issuer", Namespace: "linkerd"}},
		{"cert-manager that owns its Secrets", meta(map[string]string{"cert-manager.io/certificate-name": "issuer"}, nil, owner("Certificate", "issuer")), rotation.Keeper{Kind: rotation.KeeperCert, Name: "issuer", Namespace: "linkerd"}},
		{"trust-manager", meta(nil, map[string]string{"trust.cert-manager.io/bundle": "roots"}, owner("Bundle", "roots")), rotation.Keeper{Kind: rotation.KeeperBundle, Name: "roots"}},
		{"trust-manager, by the owner alone", meta(nil, nil, owner("Bundle", "roots")), rotation.Keeper{Kind: rotation.KeeperBundle, Name: "roots"}},
		{"trust-manager's ClusterBundle", meta(nil, map[string]string{"trust-manager.io/bundle": "roots"}, owner("ClusterBundle", "roots")), rotation.Keeper{Kind: rotation.KeeperClusterBundle, Name: "roots"}},
		{"its owner alone", meta(nil, nil, owner("ClusterBundle", "roots")), rotation.Keeper{Kind: rotation.KeeperClusterBundle, Name: "roots"}},
		{"a ConfigMap that has trust-manager fill it in", meta(nil, map[string]string{"inject.trust-manager.io/bundle-name": "roots"}), rotation.Keeper{Kind: rotation.KeeperClusterBundle, Name: "roots"}},
		{"Argo CD", meta(map[string]string{"argocd.argoproj.io/tracking-id": "mesh:/ConfigMap:linkerd/x"}, nil), rotation.Keeper{Kind: rotation.KeeperArgo, Name: "mesh"}},
		{"Flux", meta(nil, map[string]string{"kustomize.toolkit.fluxcd.io/name": "mesh", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}), rotation.Keeper{Kind: rotation.KeeperFlux, Name: "mesh", Namespace: "flux-system"}},
		{"whatever owns it", meta(nil, nil, owner("ExternalSecret", "issuer")), rotation.Keeper{Kind: "ExternalSecret", Name: "issuer", Namespace: "linkerd"}},
		{"what owns it before Helm", meta(map[string]string{"meta.helm.sh/release-name": "l5d"}, nil, owner("SealedSecret", "issuer")), rotation.Keeper{Kind: "SealedSecret", Name: "issuer", Namespace: "linkerd"}},
	} {
		k := keeper(row.is)
		if k == nil {
			k = &rotation.Keeper{}
		}
		if *k != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, *k, row.want)
		}
	}
}
