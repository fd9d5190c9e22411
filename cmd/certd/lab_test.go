package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"certd.internal/.ci/scoreboard"
	"certd.internal/rotation"
)

// program is the certd that the tests run, built once by TestMain: with the
// race detector, and with crash points (CERTD_CRASH_AT).
var program string

// atOnce is how many drills run side by side: they wait most of the time.
const atOnce = 12

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "certd-program-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "certd")
	build := exec.Command("go", "build", "-race", "-tags", "crashpoints,pkcs11", "-o", program, ".")
	if os.Getenv(scoreboard.Seeds) != "" { // a long run, of what people get
		build = exec.Command("go", "build", "-o", program, ".")
	}
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build certd:", err)
		os.Exit(1)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", fmt.Sprint(atOnce)); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// lab is the running lab that lab.json describes.
type lab struct {
	Clusters []struct {
		Name            string `json:"name"`
		Kubeconfig      string `json:"kubeconfig"`
		CertdKubeconfig string `json:"certdKubeconfig"`
		PID             int    `json:"pid"`
		Projections     string `json:"projections"`
	} `json:"clusters"`
	Vault struct {
		Address       string `json:"address"`
		CAFile        string `json:"caFile"`
		RootToken     string `json:"rootToken"`
		OperatorToken string `json:"operatorToken"`
		RoleID        string `json:"roleID"`
		SecretIDFile  string `json:"secretIDFile"`
		AuditLog      string `json:"auditLog"`
	} `json:"vault"`
}

func openLab(t testing.TB) lab {
	t.Helper()
	path := os.Getenv("CERTD_LAB")
	if path == "" {
		t.Fatal("CERTD_LAB does not name a lab: run these tests through `make test`, or start one with `make lab`")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var l lab
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// site is one certd with its configuration, state and clusters of the lab,
// which it finds empty.
type site struct {
	t     testing.TB
	lab   lab
	dir   string
	fleet string
	ns    string                  // Linkerd's
	kube  []*kubernetes.Clientset // admin's
}

// meshed is the namespace of the site's meshed pods.
func (s *site) meshed() string { return s.ns + "-meshed" }

const minutely = `
defaults:
  linkerd: {createNamespace: true, leafLifetime: 5m}
  repair: 1m
  issuer: {schedule: "* * * * *", rotate: every-firing, lifetime: 30m, renewBefore: 10m}
`

const daily = `
defaults:
  linkerd: {createNamespace: true}
`

func newSite(t testing.TB, clusters int, defaults string) *site {
	t.Helper()
	return newSiteIn(t, "linkerd", clusters, defaults)
}

// newSiteIn is a site whose meshes have a namespace of their own. The shipped rights
// are for that of newSite: in others certd has an administrator's.
func newSiteIn(t testing.TB, namespace string, clusters int, defaults string) *site {
	t.Helper()
	s := &site{t: t, lab: openLab(t), dir: shortDir(t), fleet: fmt.Sprintf("t%d", time.Now().UnixNano()), ns: namespace}
	for i := range s.lab.Clusters {
		if c := &s.lab.Clusters[i]; namespace != "linkerd" {
			c.CertdKubeconfig = c.Kubeconfig
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: certd/v1\nkind: Fleet\nname: %s\nstateDir: state\nkeys:\n  vault:\n    address: %s\n    caFile: %s\n    auth: {appRole: {roleID: %s, secretIDFrom: {file: %s}}}\n",
		s.fleet, s.lab.Vault.Address, s.lab.Vault.CAFile, s.lab.Vault.RoleID, s.lab.Vault.SecretIDFile)
	b.WriteString(defaults)
	b.WriteString("server: {socket: certd.sock}\nclusters:\n")
	for _, c := range s.lab.Clusters[:clusters] {
		fmt.Fprintf(&b, "  - {name: %s, kubeconfig: {file: %s}}\n", c.Name, c.CertdKubeconfig)
		rc, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		rc.QPS = -1
		cs, err := kubernetes.NewForConfig(rc)
		if err != nil {
			t.Fatal(err)
		}
		s.kube = append(s.kube, cs)
	}
	s.write("certd.yaml", b.String())
	s.empty()
	t.Cleanup(s.empty)
	return s
}

// shortDir is a folder whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/tmp", "certd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// empty removes what certd manages from the clusters.
func (s *site) empty() {
	ctx := context.Background()
	for _, cs := range s.kube {
		for _, err := range []error{
			cs.CoreV1().ConfigMaps(s.ns).Delete(ctx, rotation.BundleObject, metav1.DeleteOptions{}),
			cs.CoreV1().Secrets(s.ns).Delete(ctx, rotation.IssuerObject, metav1.DeleteOptions{}),
		} {
			if err != nil && !apierrors.IsNotFound(err) {
				s.t.Error(err)
			}
		}
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "VAULT_TOKEN="+s.lab.Vault.OperatorToken, "NO_COLOR=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// certd runs a command to its end and returns what it printed and its exit
// status.
func (s *site) certd(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is certd for commands that have to succeed.
func (s *site) must(args ...string) string {
	s.t.Helper()
	out, errs, code := s.certd(args...)
	if code != 0 {
		s.t.Fatalf("certd %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// process is a running `certd run`.
type process struct {
	s    *site
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{}
}

func (s *site) run(env ...string) *process {
	s.t.Helper()
	d := &process{s: s, cmd: s.command("run", "--config", "certd.yaml"), log: &bytes.Buffer{}, done: make(chan struct{})}
	d.cmd.Env = append(d.cmd.Env, env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { d.cmd.Wait(); close(d.done) }()
	s.t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.done
		if s.t.Failed() {
			s.t.Logf("the daemon said:\n%s", d.log)
		}
		if strings.Contains(d.log.String(), "DATA RACE") {
			s.t.Errorf("data race in the daemon:\n%s", d.log)
		}
		if strings.Contains(d.log.String(), "PRIVATE KEY") || strings.Contains(d.log.String(), s.lab.Vault.OperatorToken) {
			s.t.Error("the daemon logged a secret")
		}
	})
	return d
}

// term stops the daemon as systemd does and waits for its end.
func (d *process) term() {
	d.s.t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.s.t.Fatalf("the daemon does not stop\n%s", d.log)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.s.t.Fatalf("the daemon ended with %d\n%s", code, d.log)
	}
}

// eventually polls across the process boundary until f says "", and fails
// with what it last said.
func (s *site) eventually(within time.Duration, f func() string) time.Duration {
	s.t.Helper()
	start, last := time.Now(), ""
	for time.Since(start) < within {
		if last = f(); last == "" {
			return time.Since(start)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("after %s still: %s", within, last)
	return 0
}

func (s *site) status() (rotation.FleetStatus, int) {
	out, errs, code := s.certd("status", "--config", "certd.yaml", "-o", "json")
	var st rotation.FleetStatus
	if out == "" { // a daemon that has just been started: whoever asks, asks again
		s.t.Logf("status: exit %d, %s", code, errs)
		return st, code
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		s.t.Fatalf("status -o json: %v\n%s%s", err, out, errs)
	}
	return st, code
}

func (s *site) converged() {
	s.t.Helper()
	s.eventually(40*time.Second, func() string {
		st, code := s.status()
		if code != 0 || st.State != rotation.StateOK || st.Source != "daemon" {
			b, _ := json.Marshal(st)
			return fmt.Sprintf("exit %d, %s", code, b)
		}
		return ""
	})
}

func (s *site) history() []rotation.HistoryItem {
	s.t.Helper()
	var list rotation.HistoryList
	if err := json.Unmarshal([]byte(s.must("history", "--config", "certd.yaml", "-o", "json")), &list); err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

func (s *site) secret(i int) *corev1.Secret {
	o, err := s.kube[i].CoreV1().Secrets(s.ns).Get(context.Background(), rotation.IssuerObject, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		s.t.Fatal(err)
	}
	return o
}

func (s *site) bundle(i int) *corev1.ConfigMap {
	o, err := s.kube[i].CoreV1().ConfigMaps(s.ns).Get(context.Background(), rotation.BundleObject, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		s.t.Fatal(err)
	}
	return o
}

// audited is one signing request in Vault's audit log.
type audited struct {
	ID, Input string
	Failed    bool
}

// audit returns the signing requests for this fleet's keys, and counts all
// requests to the transit mount for them.
func (s *site) audit() (signs []audited, calls int) {
	s.t.Helper()
	b, err := os.ReadFile(s.lab.Vault.AuditLog)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var e struct {
			Type    string `json:"type"`
			Error   string `json:"error"`
			Request struct {
				ID   string         `json:"id"`
				Path string         `json:"path"`
				Data map[string]any `json:"data"`
			} `json:"request"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			continue // the line being written now
		}
		if e.Type != "response" || !strings.Contains(e.Request.Path, "/"+s.fleet+"-") {
			continue
		}
		calls++
		if strings.Contains(e.Request.Path, "/sign/") {
			input, _ := e.Request.Data["input"].(string)
			signs = append(signs, audited{e.Request.ID, input, e.Error != ""})
		}
	}
	return signs, calls
}

func clientFor(caPEM []byte) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPEM)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
}
