package state

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

// What a cluster came with is there until nothing of it is used any more, also
// where its status is saved in between; several anchors can retire at once.
func TestWhatAClusterCameWith(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	anchors := []rotation.Anchor{{ID: "x1", CreatedAt: noon, Certificate: testCertificate(t)}, {ID: "x2", CreatedAt: noon, Certificate: testCertificate(t)}}
	for i, name := range []string{"eu", "us"} {
		step(t, j, rotation.Intent{Step: rotation.StepAdopt, Cluster: name, Actor: "lee@cli", Reason: "drill", Anchor: anchors[i].ID},
			rotation.Outcome{Result: rotation.OK, Anchor: &anchors[i], Enrolled: true, Adopted: &rotation.Adoption{Anchor: anchors[i].ID, Issuer: []byte("crt"), Bundle: []byte("roots"), At: noon}})
	}
	ok(t, j.Close())
	j = openTest(t, dir, Options{Reserve: -1})
	want := rotation.ClusterRecord{Name: "eu", Enrolled: true, Adopted: "x1", AdoptedIssuer: []byte("crt"), AdoptedBundle: []byte("roots"), AdoptedAt: noon}
	got := must[rotation.ClusterRecord](t)(j.Cluster("eu"))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	got.Error = "down"
	ok(t, j.SaveCluster(got))
	if got := must[rotation.ClusterRecord](t)(j.Cluster("eu")); got.Adopted != "x1" {
		t.Errorf("%+v", got)
	}
	anchors[0].RetiredAt, anchors[1].RetiredAt = noon, noon
	step(t, j, rotation.Intent{Step: rotation.StepTrustChange, Actor: "certd", Reason: "over"}, rotation.Outcome{Result: rotation.OK, Retired: anchors})
	for _, a := range must[[]rotation.Anchor](t)(j.Anchors()) {
		if a.RetiredAt.IsZero() || a.Key != "" {
			t.Errorf("%+v", a)
		}
	}
	step(t, j, rotation.Intent{Step: rotation.StepIssuer, Cluster: "eu", Actor: "certd", Reason: "fresh"}, rotation.Outcome{Result: rotation.OK, Adopted: &rotation.Adoption{}})
	if d := cmp.Diff(rotation.ClusterRecord{Name: "eu", Enrolled: true, Error: "down"}, must[rotation.ClusterRecord](t)(j.Cluster("eu"))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	in := must[uint64](t)(j.Begin(rotation.Intent{Step: rotation.StepAdopt, Cluster: "eu", Actor: "lee@cli", Reason: "drill"}))
	if err := j.Finish(in, rotation.Outcome{Result: rotation.OK, Adopted: &rotation.Adoption{Anchor: "x1", Issuer: []byte("-----BEGIN PRIVATE KEY-----")}}); err == nil {
		t.Error("a private key is recorded")
	}
	ok(t, j.Close())
}
