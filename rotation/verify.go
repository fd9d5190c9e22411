package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Evidence is all that the promises are judged by: what each cluster was seen
// to have when somebody asked, what is known from before, what the key backend
// and the journal say.
type Evidence struct {
	Fleet    Fleet
	Asked    time.Time // looks that began before are not fresh
	At       time.Time // when it was put together
	Clusters []ClusterEvidence
	Keys     []KeyEvidence
	Findings []Finding // about the fleet
	Waiting  []string  // what a change of the trust anchor waits for
	Journal  JournalEvidence
}

// ClusterEvidence is what is known of one cluster.
type ClusterEvidence struct {
	View
	Trail    Trail
	LookedAt time.Time // when the last look that has ended began, whatever came of it
	Waits    bool      // it is due to be looked at, and its turn has not come
}

// KeyEvidence is what the key backend says of an anchor's key now.
type KeyEvidence struct {
	Anchor string
	Info   KeyInfo
	Err    error // it could not be read, or must not sign
}

// JournalEvidence is what checking the journal showed.
type JournalEvidence struct {
	Err         error // it could not be read
	Entries     uint64
	First, Last uint64
	BadSeq      uint64 // the first entry that does not hold; 0: all do
	Problem     string
	Open        []PendingIntent
	Recent      []Entry // of the last day, oldest first
}

// Verification is the document behind `certd verify`: the promises of certd,
// judged on the fleet as it is.
type Verification struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"` // Verification
	Fleet      string            `json:"fleet"`
	ObservedAt time.Time         `json:"observedAt"`
	State      State             `json:"state"`
	Rotation   *RotationStatus   `json:"rotation"`
	Pairs      PairSummary       `json:"pairs"`
	Matrix     []PairVerdict     `json:"matrix"`
	Partners   []PartnerVerdict  `json:"partners"`
	Promises   []PromiseVerdict  `json:"promises"`
	Clusters   []VerifiedCluster `json:"clusters"`
}

// PairState is what comes of leaves of one cluster in the pods of another.
type PairState string

// The states of a pair.
const (
	PairAccepted PairState = "accepted"
	PairRefused  PairState = "refused"
	PairUnknown  PairState = "unknown"
)

// PairVerdict is about an ordered pair of clusters: what pods of Verifier make
// of leaves that workloads of Peer present. A cluster is paired with itself, too.
type PairVerdict struct {
	Peer     string    `json:"peer"`
	Verifier string    `json:"verifier"`
	State    PairState `json:"state"`
	// Until is, where they are accepted, when that ends if nobody does anything;
	// where they are refused, when the last such leaf has ended, absent where it
	// does not end by itself.
	Until *time.Time `json:"until,omitempty"`
	Why   string     `json:"why"`
	// Pods of Verifier that this is about: those that refuse, or all that were
	// counted. UnreadPods are those of which it is not known what they trust.
	Pods       int        `json:"pods"`
	UnreadPods int        `json:"unreadPods"`
	EvidenceAt *time.Time `json:"evidenceAt,omitempty"` // the oldest look or census that it rests on
}

// PairSummary counts them.
type PairSummary struct {
	Total    int        `json:"total"`
	Accepted int        `json:"accepted"`
	Refused  int        `json:"refused"`
	Unknown  int        `json:"unknown"`
	Until    *time.Time `json:"until,omitempty"` // the first end of those that are accepted
	First    *PairRef   `json:"first,omitempty"` // whose it is
}

// PairRef names a pair.
type PairRef struct {
	Peer     string `json:"peer"`
	Verifier string `json:"verifier"`
}

// PartnerVerdict is about the anchor of a partner mesh in one cluster.
type PartnerVerdict struct {
	Cluster  string    `json:"cluster"`
	Name     string    `json:"name"`
	SHA256   string    `json:"sha256"`
	State    State     `json:"state"`
	InBundle bool      `json:"inBundle"`
	Pods     int       `json:"pods"`    // that were counted and trust it
	Without  int       `json:"without"` // that were counted and do not
	Until    time.Time `json:"until"`   // the anchor's end
	Why      string    `json:"why"`
}

// PromiseVerdict is about one of the promises.
type PromiseVerdict struct {
	ID       string     `json:"id"`   // I1 to I12
	Name     string     `json:"name"` // in a few words
	State    State      `json:"state"`
	Evidence []string   `json:"evidence"` // what it rests on, and what is wrong
	Unseen   []string   `json:"unseen"`   // what could not be judged, and why
	At       *time.Time `json:"at,omitempty"`
}

// VerifiedCluster is how fresh the evidence of one cluster is.
type VerifiedCluster struct {
	Name       string     `json:"name"`
	Mode       string     `json:"mode"`
	Answered   bool       `json:"answered"` // since this was asked
	SeenAt     *time.Time `json:"seenAt,omitempty"`
	CountedAt  *time.Time `json:"countedAt,omitempty"` // where pods can run
	Pods       int        `json:"pods"`
	UnreadPods int        `json:"unreadPods"`
}

// Verify judges the promises by the evidence. It depends on that alone.
func Verify(e Evidence) Verification {
	doc := Verification{APIVersion: APIVersion, Kind: "Verification", Fleet: e.Fleet.Policy.Fleet, ObservedAt: e.At.UTC().Truncate(time.Second),
		Rotation: e.Fleet.rotationStatus(), Matrix: []PairVerdict{}, Partners: []PartnerVerdict{}, Clusters: []VerifiedCluster{}}
	doc.Rotation.WaitingFor = append(doc.Rotation.WaitingFor, e.Waiting...)
	j := &judgement{Evidence: e, doc: &doc}
	for _, c := range e.Clusters {
		d := Decide(e.Fleet, c.View, e.At)
		j.decisions = append(j.decisions, d)
		doc.Clusters = append(doc.Clusters, c.verified(d, e.Asked))
	}
	j.matrix()
	j.partners()
	j.promises()
	for _, p := range doc.Promises {
		if rankOf(p.State) > rankOf(doc.State) {
			doc.State = p.State
		}
	}
	return doc
}

// judgement is the evidence with what was made of it so far.
type judgement struct {
	Evidence
	doc       *Verification
	decisions []Decision // of Clusters, in their order
}

func rankOf(s State) int {
	return slices.Index([]State{StateOK, StateUnknown, StateWarning, StateCritical}, s)
}

// answered says whether a cluster was seen since it was asked for.
func (c ClusterEvidence) answered(asked time.Time) bool {
	return c.Observed != nil && c.Err == nil && !c.LookedAt.Before(asked)
}

func (c ClusterEvidence) verified(d Decision, asked time.Time) VerifiedCluster {
	v := VerifiedCluster{Name: c.Policy.Cluster, Mode: string(d.Mode), Answered: c.answered(asked), Pods: c.Proxies.Total(), UnreadPods: c.Proxies.Unread}
	if c.Observed != nil {
		v.SeenAt = wholeSecond(c.Observed.At)
		if c.Observed.Version != "" {
			v.CountedAt = wholeSecond(c.Proxies.At)
		}
	}
	return v
}

// unseen says why what is known of a cluster may no longer hold, "" if it was
// seen just now.
func (c ClusterEvidence) unseen(asked, now time.Time) string {
	switch {
	case c.answered(asked):
		return ""
	case c.Observed == nil && c.Err != nil:
		return fmt.Sprintf("%s has not been seen since certd started: %v", c.Policy.Cluster, c.Err)
	case c.Observed == nil:
		return c.Policy.Cluster + " has not been looked at yet"
	case c.Err != nil:
		return fmt.Sprintf("%s was last seen %s ago: %v", c.Policy.Cluster, short(now.Sub(c.Observed.At)), c.Err)
	}
	return fmt.Sprintf("%s was last seen %s ago, and did not answer in time", c.Policy.Cluster, short(now.Sub(c.Observed.At)))
}

// partners says whether each configured anchor of another mesh is trusted.
func (j *judgement) partners() {
	for _, c := range j.Clusters {
		for _, a := range c.Policy.Foreign {
			p := PartnerVerdict{Cluster: c.Policy.Cluster, Name: a.Name, SHA256: pki.Fingerprint(a.Certificate), State: StateOK, Until: a.Certificate.NotAfter, Why: "it is in the bundle"}
			var bundle pki.Bundle
			var err error
			if c.Observed != nil {
				bundle, err = pki.ReadBundle(c.Observed.BundleText)
				p.InBundle = bundle.Covers(a.Certificate)
			}
			for _, s := range c.Proxies.Sets {
				if s.Anchors.Covers(a.Certificate) {
					p.Pods += s.Pods
				} else {
					p.Without += s.Pods
				}
			}
			unseen := c.unseen(j.Asked, j.At)
			switch {
			case !j.At.Before(p.Until):
				p.State, p.Why = StateCritical, "it has ended: Linkerd's own programs trust nobody under it"
			case unseen != "":
				p.State, p.Why = StateUnknown, unseen
			case err != nil:
				p.State, p.Why = StateCritical, err.Error()
			case !p.InBundle:
				p.State, p.Why = StateWarning, "it is not in the bundle"
			case p.Without > 0:
				p.State, p.Why = StateWarning, fmt.Sprintf("that mesh is refused by %s from before it was in the bundle, until a restart", podCount(p.Without, "pod"))
			}
			j.doc.Partners = append(j.doc.Partners, p)
		}
	}
}

// named is a set of anchors in words: the ids of the fleet's generations, the
// names of partners, and subjects of what is neither.
func (f Fleet) named(b pki.Bundle, p Policy) string {
	var names []string
	for _, c := range b.Anchors() {
		name := fmt.Sprintf("%q", c.Subject.CommonName)
		for _, a := range p.Foreign {
			if a.Certificate.Equal(c) {
				name = "partner " + a.Name
			}
		}
		for _, a := range f.Anchors {
			if one, err := pki.NewBundle(c); err == nil && a.Certificate != nil && one.Covers(a.Certificate) {
				name = a.ID
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return cmp.Or(strings.Join(names, ", "), "nothing")
}
