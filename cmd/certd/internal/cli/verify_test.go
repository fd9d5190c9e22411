package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

// verified is a fleet in which every pair accepts and every promise holds.
func verified(names ...string) rotation.Verification {
	doc := rotation.Verification{APIVersion: rotation.APIVersion, Kind: "Verification", Fleet: "acme-mesh", ObservedAt: now, State: rotation.StateOK,
		Rotation: healthy().Trust.Rotation, Matrix: []rotation.PairVerdict{}, Partners: []rotation.PartnerVerdict{}}
	for i, peer := range names {
		doc.Clusters = append(doc.Clusters, rotation.VerifiedCluster{Name: peer, Mode: "managed", Answered: true, SeenAt: after(-3 * time.Second), CountedAt: after(-2 * time.Second), Pods: 120})
		for _, verifier := range names {
			doc.Matrix = append(doc.Matrix, rotation.PairVerdict{Peer: peer, Verifier: verifier, State: rotation.PairAccepted, Until: after(time.Duration(5+i)*day + 3*hour), Pods: 120, EvidenceAt: after(-3 * time.Second),
				Why: "leaves of issuer 5e910000 of " + peer + " (under g1) verify under {g1}"})
		}
	}
	for i, name := range []string{"mutual trust", "no crash loop, no skip", "no early removal", "no lapse", "admission keeps working", "custody", "every signature is accounted for", "one writer", "idle is free", "resumable", "isolation", "honest status"} {
		doc.Promises = append(doc.Promises, rotation.PromiseVerdict{ID: fmt.Sprintf("I%d", i+1), Name: name, State: rotation.StateOK, Evidence: []string{"what it rests on"}, Unseen: []string{}, At: after(-3 * time.Second)})
	}
	summed(&doc)
	return doc
}

// summed counts the pairs.
func summed(doc *rotation.Verification) {
	doc.Pairs = rotation.PairSummary{Total: len(doc.Matrix)}
	for _, p := range doc.Matrix {
		switch p.State {
		case rotation.PairRefused:
			doc.Pairs.Refused++
		case rotation.PairUnknown:
			doc.Pairs.Unknown++
		default:
			doc.Pairs.Accepted++
			if doc.Pairs.Until == nil || p.Until.Before(*doc.Pairs.Until) {
				doc.Pairs.Until, doc.Pairs.First = p.Until, &rotation.PairRef{Peer: p.Peer, Verifier: p.Verifier}
			}
		}
	}
}

// cutOff is a fleet whose first cluster refuses the second, in the middle of a
// change that goes on without the last, which is not seen.
func cutOff(names ...string) rotation.Verification {
	doc := verified(names...)
	doc.State = rotation.StateCritical
	doc.Rotation = &rotation.RotationStatus{Phase: "finish", Stage: "finish", Number: 5, Of: 6, From: "g1", To: "g2", Without: []string{names[len(names)-1]}}
	last := names[len(names)-1]
	unseen := last + " was last seen 2h 41m ago: dial tcp 10.40.7.2:6443: i/o timeout"
	for i := range doc.Matrix {
		p := &doc.Matrix[i]
		switch {
		case p.Peer == names[1] && p.Verifier == names[0]:
			p.State, p.Until, p.Pods, p.Why = rotation.PairRefused, nil, 3, "leaves of issuer 5e910001 of "+names[1]+" (under g2) are refused where g1 is trusted, by 3 pods of "+names[0]+" (shop/Deployment cart): its leaves are refused as a server by Go's rules: x509: certificate signed by unknown authority"
		case p.Peer == last && p.Verifier == names[0]:
			p.State, p.Until, p.Pods, p.Why = rotation.PairRefused, after(3*hour), 117, "leaves of issuer 5e910002 of "+last+" (under g1) are refused where g2 is trusted, by what "+names[0]+" publishes: unknown authority"
		case p.Peer == last || p.Verifier == last:
			p.State, p.Until, p.Why = rotation.PairUnknown, nil, unseen
		}
	}
	doc.Partners = []rotation.PartnerVerdict{
		{Cluster: names[0], Name: "acquired", SHA256: digest, State: rotation.StateOK, InBundle: true, Pods: 120, Until: now.Add(900 * day), Why: "it is in the bundle"},
		{Cluster: names[1], Name: "acquired", SHA256: digest, State: rotation.StateWarning, InBundle: true, Pods: 100, Without: 20, Until: now.Add(900 * day), Why: "that mesh is refused by 20 pods from before it was in the bundle, until a restart"},
	}
	doc.Promises[0].State, doc.Promises[0].Evidence, doc.Promises[0].Unseen = rotation.StateCritical, []string{names[1] + " -> " + names[0] + ": leaves are refused"}, []string{unseen}
	doc.Promises[7].State, doc.Promises[7].Evidence = rotation.StateWarning, []string{names[0] + ": kubectl-edit wrote fields of linkerd-identity-trust-roots that certd manages, at Sun 22 Nov 2026 10:12 UTC"}
	doc.Promises[11].State, doc.Promises[11].Evidence, doc.Promises[11].Unseen, doc.Promises[11].At = rotation.StateUnknown, []string{}, []string{unseen}, nil
	summed(&doc)
	return doc
}

func many(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("prod-eu-%d", i+1))
	}
	return names
}

func TestAVerificationOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow, ascii, pipe := plain, plain, plain
	narrow.width, ascii.width, ascii.ascii, pipe.width = 80, 80, true, 0
	for _, row := range []struct {
		name  string
		style style
		doc   rotation.Verification
	}{
		{"healthy", plain, verified("prod-eu-1", "prod-us-1", "stage-eu-1")},
		{"cut-off", plain, cutOff("prod-eu-1", "prod-us-1", "stage-eu-1")},
		{"cut-off-80-ascii", ascii, cutOff("prod-eu-1", "prod-us-1", "stage-eu-1")},
		{"eight-80", narrow, cutOff(many(8)...)},
		{"eight-80-ascii", ascii, verified(many(8)...)},
		{"three-hundred", plain, cutOff(many(300)...)},
		{"pipe", pipe, cutOff("prod-eu-1", "prod-us-1")},
	} {
		t.Run(row.name, func(t *testing.T) {
			golden(t, "verify-"+row.name, verifyView{row.style, row.doc}.lines())
		})
	}
	for width := 60; width < 200; width++ {
		s := style{zone: time.UTC, now: now, width: width, color: width%2 == 0, ascii: width%3 == 0}
		for _, doc := range []rotation.Verification{verified(many(8)...), cutOff(many(2 + width%9)...)} {
			for _, l := range (verifyView{s, doc}).lines() {
				if problem := misfit(l, s); problem != "" {
					t.Errorf("width %d: %s in %q", width, problem, l)
				}
			}
		}
	}
}

// What a server says must not move the cursor, nor pretend to be certd.
func TestAVerificationRepeatsNothingThatIsNoText(t *testing.T) {
	doc := cutOff("prod-eu-1", "prod-us-1", "stage-eu-1")
	for i := range doc.Matrix {
		doc.Matrix[i].Why += "\x1b[2J\u202e\n\u2713 ok"
	}
	doc.Promises[0].Unseen = []string{"a\x1b]0;b\x07\r"}
	s := style{zone: time.UTC, now: now, width: 90}
	for _, l := range (verifyView{s, doc}).lines() {
		if problem := misfit(l, s); problem != "" {
			t.Errorf("%s in %q", problem, l)
		}
		if strings.HasPrefix(l, "\u2713 ok") {
			t.Errorf("a line of its own: %q", l)
		}
	}
}
