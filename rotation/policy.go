package rotation

import (
	"crypto/x509"
	"time"
)

// FleetPolicy is what the configuration asks for, checked and with every
// default filled in. Nothing in it changes after it was built.
type FleetPolicy struct {
	Fleet     string
	KeyPrefix string // anchor keys are called KeyPrefix + "-anchor-1", …
	Trust     TrustPolicy
	Clusters  []Policy // in the order of the configuration
}

// TrustPolicy is about the trust anchor.
type TrustPolicy struct {
	Lifetime    time.Duration
	Backdate    time.Duration // how far notBefore lies in the past
	RenewBefore time.Duration // from here on it is renewed or, without Renews, a finding
	Renews      bool          // with new dates for the same key, by itself
	// Restarts has certd restart workloads while the anchor is changed.
	Restarts bool
	// AtOnce is how many workloads of a cluster may be under way then; 0: one.
	AtOnce int
	// SecondPerson has a change retire nothing before somebody approves of it who is not
	// the one that has it lead there.
	SecondPerson bool
}

// Policy is what the configuration asks for in one cluster.
type Policy struct {
	Cluster         string
	Labels          map[string]string
	Groups          []string // of the configuration that its labels match, in their order: the last wins
	KnownAs         string   // what Links of other clusters call it; "": Cluster
	Namespace       string   // of the Linkerd control plane
	CreateNamespace bool
	Adopt           bool // take it over if it has trust material that certd did not make
	TrustDomain     string
	LeafLifetime    time.Duration // lower bound: certd takes the larger of this and what identity is told
	ClockSkew       time.Duration // likewise
	ClockError      time.Duration // how far the clocks of nodes may be off beyond that; 0: MaxClockSkew
	Repair          time.Duration // how long an outage must be survivable
	Issuer          RenewalPolicy
	Webhooks        WebhookPolicy
	// Windows are when workloads and the control plane may be restarted for a change
	// of the trust anchor, any time if there are none; Freezes are when not.
	Windows []Window
	Freezes []Freeze
	// Foreign are the anchors of partner meshes that the cluster trusts besides.
	Foreign   []ForeignAnchor
	Directory bool // a folder: no identity runs there
}

// sameObjects says whether two configured clusters that turn out to be one have objects in
// common. Two control planes in one cluster have not, as long as webhooks are managed for
// one at most: their registrations stand outside of every namespace.
func (p objects) sameObjects(o objects) bool {
	return p.directory || o.directory || p.namespace == o.namespace || p.webhooks && o.webhooks
}

// objects are where a policy's cluster has them.
type objects struct {
	namespace           string
	directory, webhooks bool
}

func (p *Policy) objects() objects {
	return objects{p.Namespace, p.Directory, len(p.Webhooks.Specs) > 0}
}

// ForeignAnchor is a trust anchor of a mesh that certd does not look after.
type ForeignAnchor struct {
	Name        string // the configuration's
	Certificate *x509.Certificate
}

// RenewalPolicy is about certificates of one kind in one cluster: how long
// they live, and when the next one is made.
type RenewalPolicy struct {
	// Lifetime is notAfter − notBefore of a new one, rounded to seconds.
	Lifetime time.Duration
	// RenewBefore is the floor: with no more than this left, certd renews at
	// any hour.
	RenewBefore time.Duration
	// Backdate is how far notBefore lies before the moment of signing, taken
	// out of Lifetime.
	Backdate time.Duration
	// Schedule says when renewing is wanted.
	Schedule Schedule
	// EveryFiring renews at each firing, not only when due.
	EveryFiring bool
	// Spread delays each firing by a hash of the cluster's name, by less than
	// this and less than a tenth of the gap to the next firing.
	Spread time.Duration
}

// Floor is the least time an issuer must have left (I4): a leaf signed at the
// last moment and the time it takes to repair whatever prevented a renewal.
// leaf and skew are the larger of policy and what the cluster runs with.
func (p Policy) Floor(leaf, skew time.Duration) time.Duration {
	return max(leaf, p.LeafLifetime) + 2*max(skew, p.ClockSkew) + p.Repair
}

// WebhookPolicy is about the webhooks of one cluster.
type WebhookPolicy struct {
	// Specs are the webhooks to look for, Linkerd's and the user's own; none:
	// webhooks are left alone.
	Specs []WebhookSpec
	// Leaf is about the serving certificates, CA about the CA over them.
	Leaf, CA RenewalPolicy
	// Settle is from a change of a caBundle until every API server of the
	// cluster goes by it.
	Settle time.Duration
	// Projection is from a change of a Secret until every kubelet shows it to
	// its pods, those that start included.
	Projection time.Duration
	// ProbeEvery is how often it is looked what is really served while nothing
	// changes.
	ProbeEvery time.Duration
	// ProbeNamespace is where dry runs are made.
	ProbeNamespace string
}

// WebhookFloor is the least time a serving certificate must have left (I4):
// the time to repair whatever prevented a renewal, until it is served
// everywhere, by clocks that may disagree.
func (p Policy) WebhookFloor() time.Duration {
	return p.Repair + 2*p.Webhooks.Projection + 2*MaxClockSkew
}
