package serviceproxy

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nobody is an address that nothing dials: an API server goes to the ClusterIP.
// It stands in EndpointSlices for the pods' own, which are loopback addresses
// and refused there.
const nobody = "10.255.0.1"

// managedBy tells our EndpointSlices from those of tests.
const managedBy = "lab"

// publish keeps the EndpointSlice without which an APIService of the Service
// would not be Available.
func (p *Proxy) publish(ctx context.Context, service *corev1.Service, ready bool) error {
	slices := p.client.DiscoveryV1().EndpointSlices(service.Namespace)
	yes := true
	wanted := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace, Name: service.Name + "-lab",
			Labels:          map[string]string{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: managedBy},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(service, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	if ready {
		wanted.Endpoints = append(wanted.Endpoints, discoveryv1.Endpoint{Addresses: []string{nobody}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}})
	}
	for _, sp := range service.Spec.Ports {
		protocol := sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		wanted.Ports = append(wanted.Ports, discoveryv1.EndpointPort{Name: &sp.Name, Port: &sp.Port, Protocol: &protocol})
	}
	is, err := slices.Get(ctx, wanted.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, wanted, metav1.CreateOptions{})
	case err == nil && (!equality.Semantic.DeepEqual(is.Endpoints, wanted.Endpoints) || !equality.Semantic.DeepEqual(is.Ports, wanted.Ports) ||
		!equality.Semantic.DeepEqual(is.OwnerReferences, wanted.OwnerReferences)):
		wanted.ResourceVersion = is.ResourceVersion
		_, err = slices.Update(ctx, wanted, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("publish endpoints: %w", err)
	}
	return nil
}
