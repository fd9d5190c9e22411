package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/rotation"
)

// From an empty Vault and empty clusters to valid ones in one `certd init` and
// one `certd run`; nothing is touched while nothing is due; issuers rotate at
// the cron firing; Vault's audit log and the history agree.
func TestFromEmptyToValid(t *testing.T) {
	s := newSite(t, 3, minutely)

	out := s.must("init", "--config", "certd.yaml", "--yes")
	if !strings.Contains(out, "g1") {
		t.Errorf("init does not name the anchor:\n%s", out)
	}
	if again := s.must("init", "--config", "certd.yaml", "--yes"); !strings.Contains(again, "already") {
		t.Errorf("a second init does not say that the anchor is there already:\n%s", again)
	}
	d := s.run()
	s.converged()

	// OpenSSL agrees, for each cluster.
	for i := range s.kube {
		bundle, secret := s.bundle(i), s.secret(i)
		s.write("ca.pem", bundle.Data["ca-bundle.crt"])
		s.write("issuer.pem", string(secret.Data["tls.crt"]))
		if out, err := exec.Command("openssl", "verify", "-x509_strict", "-CAfile", filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "issuer.pem")).CombinedOutput(); err != nil {
			t.Errorf("openssl does not accept the issuer of cluster %d: %v\n%s", i, err, out)
		}
		for _, pair := range [][2]string{{"tls.crt", "crt.pem"}, {"tls.key", "key.pem"}} {
			if string(secret.Data[pair[0]]) != string(secret.Data[pair[1]]) || len(secret.Data[pair[0]]) == 0 {
				t.Errorf("cluster %d: %s and %s differ or are empty: one scheme of Linkerd's would not find its issuer", i, pair[0], pair[1])
			}
		}
		if string(secret.Data["ca.crt"]) != bundle.Data["ca-bundle.crt"] {
			t.Errorf("cluster %d: ca.crt is not the bundle", i)
		}
		if secret.Annotations["helm.sh/resource-policy"] != "keep" || secret.Annotations["certd.io/fleet"] != s.fleet || secret.Labels["app.kubernetes.io/managed-by"] != "certd" {
			t.Errorf("cluster %d: marks are missing: %v %v", i, secret.Annotations, secret.Labels)
		}
	}

	// The anchor: ten years, P-256, its key not exportable.
	block, _ := pem.Decode([]byte(s.bundle(0).Data["ca-bundle.crt"]))
	anchor, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if life := anchor.NotAfter.Sub(anchor.NotBefore).Hours() / 24; life < 3649 || life > 3651 {
		t.Errorf("the anchor lives %.2f days", life)
	}
	if pub, ok := anchor.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		t.Errorf("the anchor's key is %T", anchor.PublicKey)
	}
	if key := s.vaultRead("certd-transit/keys/" + s.fleet + "-anchor-1"); key["exportable"] != false || key["allow_plaintext_backup"] != false || key["type"] != "ecdsa-p256" {
		t.Errorf("the anchor's key in Vault: %v", key)
	}

	// Issuers rotate at the firing, in every cluster.
	first := map[int]string{}
	for i := range s.kube {
		first[i] = s.secret(i).Annotations["certd.io/serial"]
	}
	s.eventually(80*time.Second, func() string {
		for i := range s.kube {
			if s.secret(i).Annotations["certd.io/serial"] == first[i] {
				return fmt.Sprintf("cluster %d still has its first issuer", i)
			}
		}
		return ""
	})
	for _, e := range s.history() {
		if e.Step == rotation.StepIssuer && strings.Contains(e.Reason, "fired") {
			if sec := e.IntentAt.Second(); sec > 10 {
				t.Errorf("a minutely firing with at most 6 s spread was carried out at second %d", sec)
			}
		}
	}
	d.term()

	s.auditMatchesHistory()
	if out, _, code := s.certd("history", "--config", "certd.yaml", "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
	// Somebody who may use the anchor's key signs with it.
	s.vaultDo(http.MethodPut, "certd-transit/sign/"+s.fleet+"-anchor-1/sha2-256", map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, 32)), "prehashed": true})
	if out, errs, code := s.certd("verify", "--config", "certd.yaml", "--vault-audit-log", s.lab.Vault.AuditLog); code != 2 || !strings.Contains(strings.Join(strings.Fields(out), " "), "a signature that the history does not have: certd-transit/sign/"+s.fleet+"-anchor-1") {
		t.Errorf("a signature that certd did not ask for: exit %d\n%s%s", code, out, errs)
	}
	if st, code := s.status(); code != 1 || st.Source != "journal" || st.State != rotation.StateWarning {
		t.Errorf("without a daemon status is %s from %s, exit %d", st.State, st.Source, code)
	}
}

// auditMatchesHistory: the signing requests that Vault logged and those in the
// history are the same.
func (s *site) auditMatchesHistory() {
	s.t.Helper()
	signs, _ := s.audit()
	var logged, journalled []string
	for _, a := range signs {
		if !a.Failed {
			logged = append(logged, a.ID)
		}
	}
	for _, e := range s.history() {
		if e.SignRequest != "" {
			journalled = append(journalled, e.SignRequest)
		}
	}
	slices.Sort(logged)
	slices.Sort(journalled)
	if !slices.Equal(logged, journalled) || len(logged) == 0 {
		s.t.Errorf("Vault logged these signing requests\n%q\nand the history has\n%q", logged, journalled)
	}
	if out, errs, code := s.certd("verify", "--config", "certd.yaml", "--vault-audit-log", s.lab.Vault.AuditLog); code != 0 || !regexp.MustCompile(fmt.Sprintf("(?m)^✓ %d signatures? by the fleet's keys, each in the history", len(logged))).MatchString(out) {
		s.t.Errorf("verify of the audit log: exit %d\n%s%s", code, out, errs)
	}
}

func (s *site) vaultRead(path string) map[string]any {
	s.t.Helper()
	ca, err := os.ReadFile(s.lab.Vault.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest("GET", s.lab.Vault.Address+"/v1/"+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", s.lab.Vault.RootToken)
	resp, err := clientFor(ca).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Data map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		s.t.Fatal(err)
	}
	return answer.Data
}

func TestASecondPassTouchesNothing(t *testing.T) {
	s := newSite(t, 3, daily)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	d.term()
	revisions := func() (r []string) {
		for i := range s.kube {
			r = append(r, s.secret(i).ResourceVersion, s.bundle(i).ResourceVersion)
		}
		return r
	}
	before := revisions()
	_, calls := s.audit()

	d = s.run()
	s.converged()
	d.term()
	if after := revisions(); !slices.Equal(before, after) {
		t.Errorf("resource versions changed although nothing was due: %v, before %v", after, before)
	}
	if _, now := s.audit(); now != calls {
		t.Errorf("%d requests to Transit although nothing was due", now-calls)
	}
}

func TestHandsThatBreakThingsAreMendedInSeconds(t *testing.T) {
	s := newSite(t, 1, daily)
	ctx := context.Background()
	cs := s.kube[0]
	s.must("init", "--config", "certd.yaml", "--yes")
	s.run()
	s.converged()
	const limit = 5 * time.Second

	secrets, maps := cs.CoreV1().Secrets("linkerd"), cs.CoreV1().ConfigMaps("linkerd")
	serial := func() string {
		if o := s.secret(0); o != nil {
			return o.Annotations["certd.io/serial"]
		}
		return ""
	}
	text := s.bundle(0).Data["ca-bundle.crt"]
	was := serial()

	// A lost ConfigMap comes back byte for byte, and the issuer stays.
	if err := maps.Delete(ctx, rotation.BundleObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(limit, func() string {
		if o := s.bundle(0); o == nil || o.Data["ca-bundle.crt"] != text {
			return "the bundle is not back"
		}
		return ""
	})

	// A damaged one too, and the history names who did it.
	if _, err := maps.Patch(ctx, rotation.BundleObject, types.MergePatchType, []byte(`{"data":{"ca-bundle.crt":"garbage"}}`), metav1.PatchOptions{FieldManager: "some-hand"}); err != nil {
		t.Fatal(err)
	}
	s.eventually(limit, func() string {
		if o := s.bundle(0); o == nil || o.Data["ca-bundle.crt"] != text {
			return "the bundle is not mended"
		}
		return ""
	})
	s.eventually(limit, func() string {
		for _, e := range s.history() {
			if e.Step == rotation.StepRepairBundle && e.Writer == "some-hand" && e.Outcome == rotation.OK {
				return ""
			}
		}
		return "the history does not name some-hand"
	})

	// An edited label or annotation is mended without a signature.
	signs, _ := s.audit()
	if _, err := secrets.Patch(ctx, rotation.IssuerObject, types.MergePatchType, []byte(`{"metadata":{"labels":{"app.kubernetes.io/managed-by":"me"},"annotations":{"helm.sh/resource-policy":null}}}`), metav1.PatchOptions{FieldManager: "some-hand"}); err != nil {
		t.Fatal(err)
	}
	s.eventually(limit, func() string {
		if o := s.secret(0); o.Labels["app.kubernetes.io/managed-by"] != "certd" || o.Annotations["helm.sh/resource-policy"] != "keep" {
			return "the marks are not mended"
		}
		return ""
	})
	if now, _ := s.audit(); len(now) != len(signs) || serial() != was {
		t.Errorf("mending a label took %d signatures and left serial %s, was %s", len(now)-len(signs), serial(), was)
	}

	// A lost issuer means a new one, journalled as a repair; certd kept no key.
	if err := secrets.Delete(ctx, rotation.IssuerObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(limit, func() string {
		if now := serial(); now == "" || now == was {
			return "there is no new issuer"
		}
		return ""
	})
	s.eventually(limit, func() string {
		for _, e := range s.history() {
			if e.Step == rotation.StepRepairIssuer && e.Serial == serial() {
				return ""
			}
		}
		return "the history has no repair of the issuer"
	})

	// A damaged one likewise.
	was = serial()
	if _, err := secrets.Patch(ctx, rotation.IssuerObject, types.MergePatchType, []byte(`{"data":{"tls.crt":"`+base64.StdEncoding.EncodeToString([]byte("garbage"))+`"}}`), metav1.PatchOptions{FieldManager: "some-hand"}); err != nil {
		t.Fatal(err)
	}
	s.eventually(limit, func() string {
		if now := serial(); now == "" || now == was {
			return "the damaged issuer is still there"
		}
		return ""
	})

	// Somebody who will not stop is held off, and named.
	s.eventually(60*time.Second, func() string {
		if _, err := maps.Patch(ctx, rotation.BundleObject, types.MergePatchType, []byte(fmt.Sprintf(`{"data":{"ca-bundle.crt":"garbage %d"}}`, time.Now().UnixNano())), metav1.PatchOptions{FieldManager: "some-hand"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		st, _ := s.status()
		for _, f := range st.Clusters[0].Findings {
			if f.ID == "RepairHeldBack" && strings.Contains(f.Message, "some-hand") {
				return ""
			}
		}
		return "repairs are not held back"
	})
	s.auditMatchesHistory()
}

// certd is killed at each point where the journal is written, before and after
// the write, and started again: it always converges, no signature is
// unaccounted for, and no cluster that had a valid chain is ever without one.
func TestKilledAtEachWriteOfTheJournal(t *testing.T) {
	s := newSite(t, 2, minutely)
	points := 0
	for n := 1; ; n++ {
		cmd := s.command("init", "--config", "certd.yaml", "--yes")
		cmd.Env = append(cmd.Env, fmt.Sprintf("CERTD_CRASH_AT=%d", n))
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		if cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("init, to be killed at point %d, ended by itself: %v\n%s", n, err, out)
		}
		points++
		if n > 60 {
			t.Fatal("init never ends")
		}
	}
	if points < 8 {
		t.Errorf("init was killed at %d points only", points)
	}
	valid := map[int]bool{}
	check := func(when string) {
		for i := range s.kube {
			bundle, secret := s.bundle(i), s.secret(i)
			ok := bundle != nil && secret != nil && chains(secret.Data["tls.crt"], bundle.Data["ca-bundle.crt"])
			if valid[i] && !ok {
				t.Errorf("%s: cluster %d had a valid chain and has none", when, i)
			}
			valid[i] = valid[i] || ok
		}
	}
	for n := 1; n < 200; n++ {
		d := s.run(fmt.Sprintf("CERTD_CRASH_AT=%d", n))
		s.eventually(20*time.Second, func() string {
			select {
			case <-d.done:
				return ""
			default:
			}
			check(fmt.Sprintf("while running to point %d", n))
			if valid[0] && valid[1] {
				if st, _ := s.status(); st.State == rotation.StateOK && st.Source == "daemon" {
					return ""
				}
			}
			return "neither killed nor converged"
		})
		select {
		case <-d.done:
			if code := d.cmd.ProcessState.ExitCode(); code != -1 {
				t.Fatalf("run, to be killed at point %d, ended with %d\n%s", n, code, d.log)
			}
			check(fmt.Sprintf("after the kill at point %d", n))
			points++
			continue
		default:
		}
		t.Logf("killed at %d points", points)
		d.term()
		break
	}
	if !valid[0] || !valid[1] {
		t.Fatal("the clusters never became valid")
	}

	// Every digest that Vault was asked to sign is in the history; what it
	// signed and certd heard of has its request id there as well.
	digests, requests := map[string]bool{}, map[string]bool{}
	for _, e := range s.history() {
		digests[e.Digest] = true
		requests[e.SignRequest] = true
	}
	signs, _ := s.audit()
	for _, a := range signs {
		raw, err := base64.StdEncoding.DecodeString(a.Input)
		if err != nil {
			t.Fatalf("the audit log does not show what was signed: %q", a.Input)
		}
		if !digests[hex.EncodeToString(raw)] {
			t.Errorf("Vault signed %x (request %s), and the history knows nothing of it", raw, a.ID)
		}
	}
	if out, _, code := s.certd("history", "--config", "certd.yaml", "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
}

func chains(issuer []byte, bundle string) bool {
	block, _ := pem.Decode(issuer)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	_, err = c.Verify(x509.VerifyOptions{Roots: roots})
	return err == nil
}

// One command, no dependency: an anchor, an issuer and a bundle for two
// folders within seconds, issuers rotating in view.
func TestDevNeedsNothing(t *testing.T) {
	dir := shortDir(t)
	cmd := exec.Command(program, "run", "--dev")
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			fmt.Fprintln(&said, sc.Text())
		}
	}()
	s := &site{t: t, dir: dir}
	issuer := func(cluster string) string {
		b, _ := os.ReadFile(filepath.Join(dir, "certd-dev/clusters", cluster, "linkerd", rotation.IssuerObject, "tls.crt"))
		return string(b)
	}
	s.eventually(20*time.Second, func() string {
		for _, c := range []string{"east", "west"} {
			b, _ := os.ReadFile(filepath.Join(dir, "certd-dev/clusters", c, "linkerd", rotation.BundleObject, "ca-bundle.crt"))
			if !chains([]byte(issuer(c)), string(b)) {
				return c + " has no valid chain"
			}
		}
		return ""
	})
	first := issuer("east")
	s.eventually(75*time.Second, func() string {
		if issuer("east") == first {
			return "the issuer was not rotated at the minute"
		}
		return ""
	})
	status, err := exec.Command(program, "status", "--config", filepath.Join(dir, "certd-dev/certd.yaml")).CombinedOutput()
	if err != nil {
		t.Errorf("status: %v\n%s", err, status)
	}
	cmd.Process.Signal(os.Interrupt)
	<-read
	cmd.Wait()
	if !strings.Contains(said.String(), "certd status") {
		t.Errorf("run --dev does not say where its status is:\n%s", &said)
	}
	for _, secret := range []string{"certd-dev/keys", "certd-dev/clusters/east/linkerd/" + rotation.IssuerObject} {
		filepath.WalkDir(filepath.Join(dir, secret), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				t.Error(err)
				return nil
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s can be read by others: %s", path, info.Mode())
			}
			return nil
		})
	}
}
