package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// The trust anchor of a real cluster ends while linkerd-identity runs: one
// replica holds the old dates, another was started afterwards and is in a crash
// loop. What the findings say is typed as it stands, and all is well again.
func TestAnAnchorThatEndedIsRenewed(t *testing.T) {
	s := newSite(t, 1, daily+"trust: {onDue: ask}\n")
	c1 := s.lab.Clusters[0].Name
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	const life = 75 * time.Second
	anchor, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 10*time.Minute + life, Backdate: 10 * time.Minute}, key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("ca.crt", string(pki.EncodeCertificates(anchor)))
	s.write("ca.key", string(key.PKCS8PEM()))
	with := []string{"VAULT_TOKEN=" + s.lab.Vault.RootToken}
	if out, code := s.with(with, "trust", "import", "--config", "certd.yaml", "--certificate", "ca.crt", "--key", "ca.key", "--yes"); code != 0 || !strings.Contains(out, "linkerd check warns") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	d := s.run()
	s.eventually(20*time.Second, func() string {
		if s.secret(0) == nil {
			return "there is no issuer yet"
		}
		return ""
	})
	s.installIdentity(0)
	s.eventually(30*time.Second, func() string {
		for _, p := range s.pods(0) {
			if p.Status.Phase != corev1.PodRunning {
				return p.Name + " is " + string(p.Status.Phase)
			}
		}
		return ""
	})
	time.Sleep(time.Until(anchor.NotAfter.Add(2 * time.Second)))

	// One of the two is started anew, and cannot.
	victim := s.pods(0)[0].Name
	if err := s.kube[0].CoreV1().Pods("linkerd").Delete(context.Background(), victim, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	d.term()
	d = s.run() // a start looks at once
	s.answering()
	var fixes []string
	s.eventually(30*time.Second, func() string {
		st, _ := s.status()
		fixes = fixes[:0]
		for _, f := range append(slices.Clone(st.Findings), st.Clusters[0].Findings...) {
			if f.ID == "AnchorExpired" || f.ID == "IssuerExpired" {
				fixes = append(fixes, f.Fix)
			}
		}
		if len(fixes) != 2 {
			return fmt.Sprintf("%+v %+v", st.Findings, st.Clusters[0].Findings)
		}
		return ""
	})
	if fixes[0] != "certd trust renew" || fixes[1] != fixes[0] {
		t.Errorf("to be typed: %q", fixes)
	}
	s.refused(1, "has ended, too", nil, "rotate", "issuer", c1, "--config", "certd.yaml", "--yes", "--wait")

	typed := time.Now()
	s.must(append(strings.Fields(fixes[0])[1:], "--config", "certd.yaml", "--yes", "--reason", "it had ended")...)
	took := s.eventually(4*time.Minute, func() string {
		st, _ := s.status()
		is := st.Clusters[0].Issuer
		if st.State != rotation.StateOK || is == nil || is.Loaded == nil || is.Loaded.State != "yes" {
			return fmt.Sprintf("%s: %+v %+v", st.State, st.Clusters[0].Findings, is)
		}
		return ""
	})
	t.Logf("all is well %s after it was typed", took.Round(time.Second))
	block, _ := pem.Decode([]byte(s.bundle(0).Data["ca-bundle.crt"]))
	renewed, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !key.PublicKey().Equal(renewed.PublicKey) || time.Until(renewed.NotAfter) < 9*365*24*time.Hour {
		t.Errorf("published until %s, %v", renewed.NotAfter, err)
	}
	restarts := 0
	for _, e := range s.history() {
		if e.Step == rotation.StepIdentityRestart && e.At.After(typed) {
			restarts++
		}
	}
	if restarts != 1 {
		t.Errorf("linkerd-identity was restarted %d times", restarts)
	}
	d.term()
	s.auditMatchesHistory()
}
