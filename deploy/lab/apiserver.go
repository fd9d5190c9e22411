package main

import (
	"strconv"
	"strings"
)

// served are the API groups the lab has; the others only cost time to start.
var served = []string{
	"api/v1", "apps/v1", "batch/v1", "admissionregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "apiregistration.k8s.io/v1",
	"authentication.k8s.io/v1", "authorization.k8s.io/v1", "rbac.authorization.k8s.io/v1", "coordination.k8s.io/v1", "events.k8s.io/v1",
	"certificates.k8s.io/v1", "certificates.k8s.io/v1beta1", "networking.k8s.io/v1", "discovery.k8s.io/v1", "policy/v1",
}

// noAdmission are the admission plugins the lab does without. On are those that
// a certificate tool meets: namespaces, ServiceAccounts, webhooks, certificate
// signing and trust bundles.
var noAdmission = []string{
	"LimitRanger", "DefaultStorageClass", "PersistentVolumeClaimResize", "DefaultTolerationSeconds", "ResourceQuota", "StorageObjectInUseProtection",
	"PodGroupProtection", "Priority", "TaintNodesByCondition", "RuntimeClass", "CertificateSubjectRestriction", "DefaultIngressClass", "PodSecurity",
	"PodTopologyLabels", "MutatingAdmissionPolicy", "PodGroupWorkloadExists", "NodeDeclaredFeatureValidator", "JobValidation",
	"PodResizeValidator",
}

// apiserverFlags are kube-apiserver's flags for c, on the given port.
func apiserverFlags(c *cluster, etcd string, port int) []string {
	return []string{
		"--etcd-servers=" + etcd, "--etcd-prefix=/" + c.name,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
		"--tls-cert-file=" + c.path("serving.crt"), "--tls-private-key-file=" + c.path("serving.key"),
		"--client-ca-file=" + c.path("ca.crt"), "--token-auth-file=" + c.path("tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.path("sa.pub"), "--service-account-signing-key-file=" + c.path("sa.key"),
		"--requestheader-client-ca-file=" + c.path("front-ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.path("front.crt"), "--proxy-client-key-file=" + c.path("front.key"),
		"--authorization-mode=RBAC", "--allow-privileged=true",
		// Inside 127.0.0.0/8 every ClusterIP is an address of this machine, so
		// that webhooks and APIServices of in-cluster Services are really called.
		"--service-cluster-ip-range=" + c.serviceCIDR, "--endpoint-reconciler-type=none",
		"--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
		"--runtime-config=api/all=false," + strings.Join(served, "=true,") + "=true",
		"--disable-admission-plugins=" + strings.Join(noAdmission, ","),
		"--enable-priority-and-fairness=false", "--max-requests-inflight=0", "--max-mutating-requests-inflight=0",
		"--profiling=false", "--contention-profiling=false",
		"--etcd-compaction-interval=0", "--etcd-count-metric-poll-period=0", "--etcd-db-metric-poll-interval=0", "--etcd-healthcheck-timeout=5s",
		"--event-ttl=1h", "--shutdown-delay-duration=0", "--v=0",
	}
}
