package api

// ConfiguredCluster is a cluster as the configuration has it.
type ConfiguredCluster struct {
	Name      string            `json:"name"`
	Groups    []string          `json:"groups"`
	Labels    map[string]string `json:"labels"`
	Namespace string            `json:"namespace"` // of Linkerd's control plane
	Target    string            `json:"target"`    // "kubeconfig /etc/certd/kube/prod-eu-1, context prod"
}

// ClusterTest is whether certd can do its work in a cluster. Nothing is changed
// for it.
type ClusterTest struct {
	Cluster   string `json:"cluster"`
	Reachable bool   `json:"reachable"`
	// Problem is why it is not, or why its rights cannot be told.
	Problem               string         `json:"problem,omitempty"`
	Version               string         `json:"version,omitempty"`
	LookMilliseconds      int64          `json:"lookMilliseconds"` // that one look took
	ClockSkewMilliseconds int64          `json:"clockSkewMilliseconds"`
	Rights                []ClusterRight `json:"rights"` // none for a folder
}

// ClusterRight is one verb on one kind of object.
type ClusterRight struct {
	Verb      string `json:"verb"`
	Group     string `json:"group"`
	Resource  string `json:"resource"`
	Name      string `json:"name,omitempty"`      // absent: any
	Namespace string `json:"namespace,omitempty"` // absent: cluster-wide
	Has       bool   `json:"has"`
	Manifest  string `json:"manifest"`       // the file of deploy/rbac that grants it
	Lost      string `json:"lost,omitempty"` // what certd does without where it is missing; absent: it needs it
}

// ManifestRequest says which features a cluster's manifest is to grant, beside
// what the configuration asks for.
type ManifestRequest struct {
	Cluster              string
	Bootstrap            bool // Linkerd's namespace is not there yet
	Viz, Jaeger, Proxies bool
	RestartWorkloads     bool
	Policies             bool // admission policies, too; they take Kubernetes 1.30
}
