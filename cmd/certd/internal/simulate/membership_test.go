package simulate

import (
	"bytes"
	"crypto/x509"
	"math/rand/v2"
	"slices"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// membership is which clusters the configuration has, and which are linked with the others.
type membership struct {
	whole     rotation.FleetPolicy    // of all clusters, those included that the configuration does not have now
	apart     map[string]*memory.Mesh // clusters that are not linked with the others
	came      map[string]*origin      // those that came with an anchor whose key certd does not have, and still have it
	late      string                  // a cluster that is to come with one; "": none is
	latecomer *rand.Rand              // its chance
	taken     bool                    // somebody has taken it over
	homes     int                     // how many clusters that came with an anchor of their own have had the fleet's
}

// origin is what meshes had before certd came: an anchor whose key certd does not have.
type origin struct {
	root   pki.PrivateKey
	anchor *x509.Certificate
	bundle pki.Bundle
}

// comesLate has every fourth fleet get its last cluster in the midst of its life: a mesh that has
// an anchor of its own.
func (h *hard) comesLate(p rotation.FleetPolicy) {
	if kind := rand.New(rand.NewPCG(h.seed, 5)); kind.IntN(4) == 0 {
		h.late, h.latecomer = p.Clusters[len(p.Clusters)-1].Cluster, rand.New(rand.NewPCG(h.seed, 6))
	}
}

// last is the policy of that cluster.
func (h *hard) last() rotation.Policy { return h.whole.Clusters[len(h.whole.Clusters)-1] }

// afflictMembership has clusters come into the configuration and go.
func (h *hard) afflictMembership() {
	if h.late != "" && h.faults.strike("late") {
		var appear func()
		appear = func() {
			switch {
			case h.over:
				return
			case h.deaf() || !h.idle(): // one that is only watched would hold the change up
				h.at(h.now.Add(day), appear)
				return
			}
			h.say("%s: Linkerd is installed, with an anchor of its own", h.late)
			h.come(h.world, h.last(), newOrigin(h.t, h.now))
			h.configure(h.late)
			h.bringHome()
		}
		h.at(h.now.Add(20*day+time.Duration(h.latecomer.Float64()*float64(400*day))), appear)
	}
	h.sometimes("renewed", 300*day, func() {
		if h.deaf() {
			return
		}
		_, err := h.loop.RenewAnchor(h.ctx, "lee@cli", "drill")
		h.say("somebody renews the trust anchor: %t", err == nil)
		h.stirAll()
	})
	h.sometimes("removed", 300*day, func() {
		name, _ := h.anyCluster()
		if name == h.whole.Clusters[0].Cluster { // by whose policy things are judged
			return
		}
		d := time.Duration(h.chance.Float64() * 0.4 * float64(h.whole.Clusters[0].Issuer.RenewBefore))
		h.remove(name)
		h.at(h.now.Add(d), func() { h.configure(name) })
	})
}

// remove takes a cluster out of the configuration. Until it is back, and has what the others
// have, its workloads and theirs do not talk to each other.
func (h *hard) remove(name string) {
	h.say("%s is taken out of the configuration", name)
	h.policy.Clusters = slices.DeleteFunc(slices.Clone(h.policy.Clusters), func(p rotation.Policy) bool { return p.Cluster == name })
	h.link(name, false)
	h.reload()
}

// configure puts a cluster into the configuration.
func (h *hard) configure(name string) {
	if h.configured(name) {
		return
	}
	h.say("%s is put into the configuration", name)
	h.policy.Clusters = slices.DeleteFunc(slices.Clone(h.whole.Clusters), func(p rotation.Policy) bool { return p.Cluster != name && !h.configured(p.Cluster) })
	h.reload()
}

func (h *hard) configured(name string) bool {
	return slices.ContainsFunc(h.policy.Clusters, func(p rotation.Policy) bool { return p.Cluster == name })
}

// reload has the certds that run go by the configuration as it is now.
func (h *hard) reload() {
	h.stirAll()
	if h.loop != nil && (h.deaf() || !h.over && h.chance.IntN(2) == 0) {
		h.die("certd is to start anew with another configuration")
		h.at(h.now.Add(5*time.Second), h.rise)
	}
	for _, d := range []*daemon{h.daemon, h.other} {
		if d == nil || d.loop == nil {
			continue
		}
		if err := d.loop.Apply(h.policy, h.backends()); err != nil {
			h.wrong("the configuration is not applied: %v", err)
		}
	}
}

// link has a cluster's workloads talk to those of the others, or no more.
func (h *hard) link(name string, linked bool) {
	h.judgeMeshes()
	if delete(h.apart, name); !linked {
		h.apart[name] = memory.NewMesh(h.clusters[name])
		h.apart[name].Entitle(h.clockError())
	}
	var all []*memory.Cluster
	for _, p := range h.whole.Clusters {
		if h.apart[p.Cluster] == nil {
			all = append(all, h.clusters[p.Cluster])
		}
	}
	h.mesh = memory.NewMesh(all...)
	h.mesh.Entitle(h.clockError())
}

// meshes are all there are, that of the linked clusters first.
func (h *hard) meshes() []*memory.Mesh {
	all := []*memory.Mesh{h.mesh}
	for _, p := range h.whole.Clusters {
		if m := h.apart[p.Cluster]; m != nil {
			all = append(all, m)
		}
	}
	return all
}

// linkThoseAtHome notices clusters that have come to have what the others have.
func (h *hard) linkThoseAtHome() {
	if len(h.apart)+len(h.came) == 0 || h.deaf() || !h.idle() {
		return
	}
	for _, p := range h.whole.Clusters {
		name := p.Cluster
		if (h.apart[name] == nil && h.came[name] == nil) || !h.configured(name) || !h.atHome(name) {
			continue
		}
		if h.came[name] != nil {
			delete(h.came, name)
			h.homes++
		}
		if h.apart[name] != nil {
			h.say("%s is linked with the others", name)
			h.link(name, true)
		}
	}
}

func (h *hard) atHome(name string) bool {
	text := func(name string) []byte { return h.clusters[name].Data(rotation.BundleObject)["ca-bundle.crt"] }
	bundle, err := pki.ReadBundle(text(name))
	if o := h.came[name]; err != nil || o != nil && bundle.Covers(o.anchor) {
		return false
	}
	issuer, problems := pki.ReadCertificates(h.clusters[name].Data(rotation.IssuerObject)[payload.TLSCert])
	if problems != nil || len(issuer) != 1 || !slices.ContainsFunc(bundle.Anchors(), func(a *x509.Certificate) bool { return issuer[0].CheckSignatureFrom(a) == nil }) {
		return false
	}
	return h.apart[name] == nil || slices.ContainsFunc(h.policy.Clusters, func(p rotation.Policy) bool {
		return h.apart[p.Cluster] == nil && bytes.Equal(text(p.Cluster), text(name))
	})
}

// watched says whether certd only watches a cluster, at whose own address it answers.
func (h *hard) watched(name string) bool {
	return h.ways[name].posed == 0 && slices.ContainsFunc(h.loop.Status().Clusters, func(c rotation.ClusterStatus) bool {
		return c.Name == name && c.Mode == string(rotation.Watched)
	})
}

// bringHome has somebody look, every few days, after the cluster that has come with an anchor of
// its own: take it over, give it an issuer that lives longer, and bring it to the fleet's anchor.
func (h *hard) bringHome() {
	if h.over {
		return
	}
	usual := h.chance
	defer func() { h.chance = usual }()
	h.chance = h.latecomer
	h.at(h.now.Add(day+time.Duration(h.chance.ExpFloat64()*float64(3*day))), h.bringHome)
	if h.deaf() {
		return
	}
	o := h.came[h.late]
	switch {
	case h.watched(h.late) && h.idle():
		h.taken = h.adopt(h.late) == nil || h.taken
	case h.watched(h.late):
		h.goWithout(h.late)
	case o == nil || !h.idle():
	case h.chance.IntN(3) == 0:
		h.say("%s: its owners renew its issuer", h.late)
		h.issue(h.world, h.last(), o)
	default:
		h.beginChange()
	}
}
