package simulate

import (
	"bytes"
	"encoding/hex"
	"maps"
	"runtime/debug"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// found is what meshes had before certd came: one anchor, whose key is nowhere, and an issuer
// of each cluster's own.
func (h *hard) found(w *world) {
	root, err := pki.GenerateKey()
	if err != nil {
		h.t.Fatal(err)
	}
	anchor, err := pki.SelfSignAnchor(w.now.Add(-30*day), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 3650 * day}, root)
	if err != nil {
		h.t.Fatal(err)
	}
	bundle, err := pki.NewBundle(anchor)
	if err != nil {
		h.t.Fatal(err)
	}
	h.came = bundle.PEM()
	for _, p := range w.policy.Clusters {
		template, err := pki.NewIssuerTemplate(w.now, pki.IssuerProfile{Namespace: p.Namespace, TrustDomain: p.TrustDomain, Lifetime: 365 * day, Backdate: time.Hour}, anchor)
		if err != nil {
			h.t.Fatal(err)
		}
		key, err := pki.GenerateKey()
		if err != nil {
			h.t.Fatal(err)
		}
		issuer, err := pki.SignIssuer(template, anchor, key.PublicKey(), root)
		if err != nil {
			h.t.Fatal(err)
		}
		data := map[string][]byte{"tls.crt": pki.EncodeCertificates(issuer), "tls.key": key.PKCS8PEM(), "ca.crt": bundle.PEM()}
		c := w.clusters[p.Cluster]
		c.Edit(rotation.BundleObject, "installer", func(d map[string][]byte, _ *rotation.Marks) { d["ca-bundle.crt"] = bundle.PEM() })
		c.Edit(rotation.IssuerObject, "installer", func(d map[string][]byte, _ *rotation.Marks) { maps.Copy(d, data) })
	}
}

// adopt has somebody take the clusters over.
func (h *hard) adopt() {
	h.over = true
	for _, p := range h.policy.Clusters {
		_, err := h.loop.Adopt(p.Cluster, "lee@cli", "drill", false)
		if h.say("%s is taken over: %t", p.Cluster, err == nil); err != nil {
			h.wrong("%s is not taken over: %v", p.Cluster, err)
		}
	}
	for until := h.now.Add(10 * time.Minute); h.now.Before(until); {
		h.turn(until)
	}
	h.over = false
}

// wouldBeFound says whether the clusters tell all that a journal holds which has no mirror and no
// backup: the certificate of an anchor that no cluster has yet they do not, nor, where the bundle
// has been deleted, that a cluster came with another.
func (h *hard) wouldBeFound() bool {
	shown := false
	for _, c := range h.clusters {
		if c.Data(rotation.BundleObject) == nil {
			return false
		}
		shown = shown || !bytes.Equal(c.Data(rotation.IssuerObject)["ca.crt"], h.came)
	}
	return shown
}

// hardAdoption goes through the days in which meshes that were there before certd are taken
// over, and brought to its anchor.
func hardAdoption(t testing.TB, seed uint64) *hard {
	const longest = 2 * day // then it is calm, whether or not it is over
	h := newHardChange(t, seed, true)
	defer h.close()
	h.settle()
	h.adopt()
	h.afflict()
	h.at(h.now.Add(time.Duration(h.chance.IntN(60))*time.Minute), h.beginChange)
	h.approve()
	if h.chance.IntN(4) == 0 {
		h.at(h.now.Add(time.Duration(h.chance.IntN(90))*time.Minute), h.leaveBehind)
	}
	h.changeWithin(longest)
	return h
}

// Each seed is one fleet of meshes that certd did not make, which is brought to its anchor
// while everything goes wrong that does in a hard change.
func TestHardAdoptions(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	run := scoreboard.Start(t, "hard adoptions", 20)
	for seed := range run.Seeds() {
		h := shrunkLife(t, func() *hard { return hardAdoption(t, seed) })
		h.report(t)
		t.Logf("seed %d, over %s, %d changes, killed %d times, %s", seed, h.now.Sub(begin), h.changes, h.deaths, hex.EncodeToString(h.sum.Sum(nil))[:12])
		if t.Failed() {
			break
		}
	}
}
