package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"certd.internal/rotation"
)

// folders is a fleet that needs no lab: two folders, keys in files.
const folders = `apiVersion: certd/v1
kind: Fleet
name: folders
stateDir: state
keys:
  file: {dir: keys, passphraseFrom: {file: passphrase}}
defaults:
  linkerd: {createNamespace: true}
server: {socket: certd.sock}
clusters:
  - {name: east, labels: {tier: prod}, directory: east}
  - {name: west, directory: west}
`

// plainProgram is certd without the race detector, under which deriving a key
// from a passphrase takes seconds.
var plainProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(program), "plain")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build certd: %w\n%s", err, out)
	}
	return path, nil
})

func newFolders(t *testing.T) *site {
	t.Helper()
	raced := program
	plain, err := plainProgram()
	if err != nil {
		t.Fatal(err)
	}
	program = plain
	t.Cleanup(func() { program = raced })
	s := &site{t: t, dir: shortDir(t), fleet: "folders"}
	s.lab.Vault.OperatorToken = "in no use here"
	s.write("passphrase", "correct horse battery staple\n")
	s.write("certd.yaml", folders)
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// edit writes certd.yaml with each old text replaced by the new one after it;
// a text that is not there is an error of the test.
func (s *site) edit(pairs ...string) {
	s.t.Helper()
	s.write("certd.yaml", replaced(s.t, s.read("certd.yaml"), pairs...))
}

func replaced(t testing.TB, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q is not in\n%s", pairs[i], text)
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// with runs a command with more in its environment.
func (s *site) with(env []string, args ...string) (out string, code int) {
	s.t.Helper()
	cmd := s.command(args...)
	cmd.Env = append(cmd.Env, env...)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return both.String(), cmd.ProcessState.ExitCode()
}

// refused runs a command that has to end with a code and words that match.
func (s *site) refused(code int, words string, env []string, args ...string) {
	s.t.Helper()
	out, got := s.with(env, args...)
	if got != code || !regexp.MustCompile(`(?s)`+words).MatchString(out) {
		s.t.Errorf("certd %s: exit %d, want %d and words like %q:\n%s", strings.Join(args, " "), got, code, words, out)
	}
	if strings.Contains(out, "DATA RACE") || strings.Contains(out, "goroutine ") {
		s.t.Errorf("certd %s:\n%s", strings.Join(args, " "), out)
	}
}

// revisions are the resource versions of what certd manages in each cluster.
func (s *site) revisions() []string {
	s.t.Helper()
	var all []string
	for i := range s.kube {
		if o := s.bundle(i); o != nil {
			all = append(all, fmt.Sprintf("bundle %d: %s", i, o.ResourceVersion))
		}
		if o := s.secret(i); o != nil {
			all = append(all, fmt.Sprintf("issuer %d: %s", i, o.ResourceVersion))
		}
	}
	return all
}

func (s *site) untouched(before []string, when string) {
	s.t.Helper()
	if after := s.revisions(); !slices.Equal(before, after) {
		s.t.Errorf("%s: the clusters hold %q, before %q", when, after, before)
	}
}

// tree is the content of every file below the folders, by path.
func (s *site) tree(folders ...string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for _, f := range folders {
		err := filepath.WalkDir(s.path(f), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			all[path] = fmt.Sprintf("%x", sha256.Sum256(b))
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
	}
	return all
}

// same tells which files are not as they were.
func (s *site) same(before map[string]string, folders ...string) {
	s.t.Helper()
	after := s.tree(folders...)
	for path, sum := range before {
		if after[path] != sum {
			s.t.Errorf("%s changed or is gone", path)
		}
	}
	for path := range after {
		if _, was := before[path]; !was {
			s.t.Errorf("%s is new", path)
		}
	}
}

func (s *site) absent(name string) {
	s.t.Helper()
	if _, err := os.Lstat(s.path(name)); !os.IsNotExist(err) {
		s.t.Errorf("%s was made: %v", name, err)
	}
}

// found waits until status has a finding, of the fleet or of the cluster
// named, whose message matches.
func (s *site) found(cluster, id, words string) {
	s.t.Helper()
	match := regexp.MustCompile(`(?s)` + words)
	s.eventually(30*time.Second, func() string {
		st, _ := s.status()
		findings := st.Findings
		for _, c := range st.Clusters {
			if c.Name == cluster {
				findings = c.Findings
			}
		}
		for _, f := range findings {
			if f.ID == id && match.MatchString(f.Message) {
				return ""
			}
		}
		b, _ := json.MarshalIndent(findings, "", " ")
		return fmt.Sprintf("no finding %s (%s) of %q among %s", id, words, cluster, b)
	})
}

// answering waits until the daemon answers on its socket.
func (s *site) answering() {
	s.t.Helper()
	s.eventually(15*time.Second, func() string {
		out, _, _ := s.certd("status", "--config", "certd.yaml", "-o", "json")
		if !strings.Contains(out, `"daemon"`) {
			return "the daemon does not answer: " + out
		}
		return ""
	})
}

func clusterOf(st rotation.FleetStatus, name string) rotation.ClusterStatus {
	for _, c := range st.Clusters {
		if c.Name == name {
			return c
		}
	}
	return rotation.ClusterStatus{}
}

// healthy waits until a cluster is in order.
func (s *site) healthy(name string) {
	s.t.Helper()
	s.eventually(30*time.Second, func() string {
		st, _ := s.status()
		c := clusterOf(st, name)
		if c.State == rotation.StateOK && c.Issuer != nil && c.Issuer.Delivered != nil {
			return ""
		}
		b, _ := json.Marshal(c)
		return string(b)
	})
}

// A configuration that cannot be meant is refused by every command, with the
// line and what to do, before anything is made.
func TestInvalidConfigurationIsRefused(t *testing.T) {
	s := newFolders(t)
	const line = `certd\.yaml:\d+:\d+: `
	for i, row := range []struct{ name, old, new, want string }{
		{"a misspelt field", "stateDir: state", "stateDri: state", line + `stateDri: .*stateDir`},
		{"a list where a map belongs", "server: {socket: certd.sock}", "server: [certd.sock]", line + `server: .*`},
		{"a number where a text belongs", "name: folders", "name: 7", line + `name: `},
		{"a schedule that never fires", "defaults:\n", "defaults:\n  issuer: {schedule: \"0 0 31 2 *\"}\n", line + `defaults\.issuer\.schedule: .*never fires`},
		{"a schedule that is none", "defaults:\n", "defaults:\n  issuer: {schedule: \"at noon\"}\n", line + `defaults\.issuer\.schedule: `},
		{"two clusters of one name", "name: west", "name: east", line + `clusters\[1\]\.name: .*east`},
		{"two clusters in one folder", "directory: west", "directory: ./east", line + `clusters\[1\].*east`},
		{"no cluster's place", "{name: west, directory: west}", "{name: west}", line + `clusters\[1\]`},
		{"two key backends", "keys:\n", "keys:\n  kms: {uri: \"softkms:\"}\n", line + `keys: `},
		{"a passphrase in the file itself", "passphraseFrom: {file: passphrase}", "passphrase: secret", line + `keys\.file\.passphrase: `},
		{"a window that is named nowhere", "server:", "windows: {nights: {opens: \"0 22 * * *\", for: 8h}}\ngroups: {all: {select: \"a=b\", windows: [nihgts]}}\nserver:", line + `groups\.all\.windows\[0\]: .*did you mean "nights"`},
		{"a freeze that ends before it begins", "server:", "freezes: [{name: x, from: 2026-12-18, to: 2026-12-01}]\nserver:", line + `freezes\[0\]\.to: `},
		{"a receiver that is named nowhere", "server:", "notify: {receivers: {ops: {slack: {urlFrom: {env: SLACK}}}}, default: [opps]}\nserver:", line + `notify\.default\[0\]: there is no receiver "opps", did you mean "ops"\?`},
		{"a misspelt way to manage webhooks", "defaults:\n", "defaults:\n  webhooks: {manage: auot}\n", line + `defaults\.webhooks\.manage: "auot" is not one of auto, none, did you mean "auto"\?`},
		{"an address without a port", "{socket: certd.sock}", "{socket: certd.sock, listen: 127.0.0.1}", line + `server\.listen: "127\.0\.0\.1" is not HOST:PORT`},
		{"a misspelt format of the log", "server:", "log: {format: jsno}\nserver:", line + `log\.format: "jsno" is not one of json, text, did you mean "json"\?`},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.write("certd.yaml", replaced(t, folders, row.old, row.new))
			commands := []string{"run", "config validate"}
			if i == 0 {
				commands = append(commands, "init --yes", "status", "plan", "history", "rotate issuer --all --yes", "config show", "inspect east")
			}
			for _, command := range commands {
				s.refused(78, row.want, nil, append(strings.Fields(command), "--config", "certd.yaml")...)
			}
			for _, made := range []string{"state", "keys", "east", "west", "certd.sock"} {
				s.absent(made)
			}
		})
	}
	s.refused(78, `no\.yaml`, nil, "run", "--config", "no.yaml")
}

// A lifetime that the gaps of its schedule could break is refused, and the
// lifetime that the message names passes.
func TestTooShortLifetimeNamesTheSmallestOneThatPasses(t *testing.T) {
	s := newFolders(t)
	for _, schedule := range []string{"0 3 * * MON", "0 3 1 * *", "30 2 * * SUN"} {
		issuer := fmt.Sprintf("defaults:\n  timeZone: Europe/Berlin\n  issuer: {schedule: %q, rotate: every-firing, lifetime: LIFE}\n", schedule)
		s.write("certd.yaml", replaced(t, folders, "defaults:\n", issuer, "LIFE", "5d"))
		out, code := s.with(nil, "config", "validate", "--config", "certd.yaml")
		named := regexp.MustCompile(`lifetime[^\n]*?(?:at least|to) ((?:\d+[ydhms])+)`).FindStringSubmatch(out)
		if code != 78 || named == nil {
			t.Errorf("%s: exit %d, and no smallest lifetime in\n%s", schedule, code, out)
			continue
		}
		s.write("certd.yaml", replaced(t, folders, "defaults:\n", issuer, "LIFE", named[1]))
		if out, code := s.with(nil, "config", "validate", "--config", "certd.yaml"); code != 0 {
			t.Errorf("%s: the lifetime %s that was named does not pass either:\n%s", schedule, named[1], out)
		}
	}
	s.absent("state")
}

func TestUnknownCommandsAreRefused(t *testing.T) {
	s := newFolders(t)
	s.refused(64, `no command "rotat".*certd rotate`, nil, "rotat")
	s.refused(64, "unknown", nil, "status", "--colour")
	s.absent("state")
}

// One cluster under two names is found out at run time, and nothing is
// written to it.
func TestOneClusterUnderTwoNames(t *testing.T) {
	s := newSite(t, 2, daily)
	other := s.path("alias")
	if err := os.WriteFile(other, []byte(readFile(t, s.lab.Clusters[0].CertdKubeconfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write("certd.yaml", s.read("certd.yaml")+fmt.Sprintf("  - {name: alias, kubeconfig: {file: %s}}\n", other))
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c2")
	s.found("alias", "SameCluster", "c1")
	s.found("c1", "SameCluster", "alias")
	if got := s.revisions(); len(got) != 2 || !strings.Contains(got[0], " 1: ") {
		t.Errorf("only c2 is to be written to: %q", got)
	}
	// With the second name gone the first is looked after, without a restart.
	text := s.read("certd.yaml")
	s.write("certd.yaml", text[:strings.Index(text, "  - {name: alias")])
	s.healthy("c1")
	d.term()
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// closedPort is an address where nothing listens. It is below the ports that the kernel gives to
// whoever asks for any, and to connections: one of those would soon be another test's.
func closedPort(t *testing.T) string {
	t.Helper()
	var last error
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+mathrand.IntN(10000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
		last = err
	}
	t.Fatal(last)
	return ""
}

// vaultGate stands between certd and the lab's Vault: open, sealed, cut or
// hung.
type vaultGate struct {
	*httptest.Server
	mode atomic.Value  // "open", "sealed", "cut", "hung"
	hit  chan struct{} // one for each request that hangs, as long as there is room
}

func newVaultGate(s *site) *vaultGate {
	s.t.Helper()
	to, err := url.Parse(s.lab.Vault.Address)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = clientFor([]byte(readFile(s.t, s.lab.Vault.CAFile))).Transport
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	g := &vaultGate{hit: make(chan struct{}, 1)}
	g.mode.Store("open")
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch g.mode.Load() {
		case "sealed":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"errors":["Vault is sealed"]}`)
		case "cut":
			panic(http.ErrAbortHandler)
		case "hung":
			io.Copy(io.Discard, r.Body) // only then the server notices that the client is gone
			select {
			case g.hit <- struct{}{}:
			default:
			}
			<-r.Context().Done()
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.StartTLS()
	s.t.Cleanup(g.Close)
	s.write("gate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})))
	return g
}

// behind puts the site's certd behind the gate.
func (g *vaultGate) behind(s *site) {
	s.t.Helper()
	s.edit(s.lab.Vault.Address, g.URL, s.lab.Vault.CAFile, "gate.pem")
}

// vaultDo asks the lab's Vault with the root token.
func (s *site) vaultDo(method, path string, body any) map[string]any {
	s.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, s.lab.Vault.Address+"/v1/"+path, in)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", s.lab.Vault.RootToken)
	resp, err := clientFor([]byte(readFile(s.t, s.lab.Vault.CAFile))).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("%s %s: %s %s", method, path, resp.Status, b)
	}
	var answer struct {
		Data map[string]any `json:"data"`
		Auth map[string]any `json:"auth"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil && err != io.EOF {
		s.t.Fatal(err)
	}
	if answer.Auth != nil {
		return answer.Auth
	}
	return answer.Data
}

// role makes an AppRole of the site's own under a policy of its own, and puts
// its secret id into a file; the policy can be changed later.
func (s *site) role(policy string) (name string) {
	s.t.Helper()
	name = s.fleet
	s.policy(name, policy)
	s.vaultDo("POST", "auth/approle/role/"+name, map[string]any{"token_policies": []string{name}, "token_no_default_policy": true, "role_id": name, "token_ttl": "10m"})
	secret := s.vaultDo("POST", "auth/approle/role/"+name+"/secret-id", map[string]any{})
	s.write("secret-id", secret["secret_id"].(string)+"\n")
	s.t.Cleanup(func() { s.vaultDo("DELETE", "auth/approle/role/"+name, nil) })
	return name
}

func (s *site) policy(name, text string) {
	s.t.Helper()
	s.vaultDo("PUT", "sys/policies/acl/"+name, map[string]any{"policy": text})
	s.t.Cleanup(func() { s.vaultDo("DELETE", "sys/policies/acl/"+name, nil) })
}

// shipped is one of the policies in deploy/vault.
func shipped(t testing.TB, name string) string {
	return readFile(t, filepath.Join("../../deploy/vault", name))
}

// unsigned is the daemon's policy without the right to sign.
func unsigned(t testing.TB) string {
	return replaced(t, shipped(t, "certd-run.hcl"), `path "certd-transit/sign/+"`, `path "certd-transit/no-sign/+"`)
}

// Each thing that can be wrong with Vault at the ceremony gives an error that
// says what to do; nothing is half made that a later init does not end.
func TestInitWithoutAUsableVault(t *testing.T) {
	s := newSite(t, 1, daily)
	gate := newVaultGate(s)
	gate.mode.Store("sealed")
	role := s.role(unsigned(t))
	token := s.vaultDo("POST", "auth/token/create", map[string]any{"policies": []string{"certd-run"}, "no_default_policy": true, "ttl": "10m"})["client_token"].(string)
	before := s.revisions()
	port := closedPort(t)
	s.write("wrong-id", "00000000-0000-0000-0000-000000000000\n")
	v := s.lab.Vault
	for _, row := range []struct {
		name string
		edit []string
		env  []string
		code int
		want string
	}{
		{"Vault does not answer", []string{v.Address, "https://" + port}, nil, 69, port + `.*connection refused`},
		{"Vault is sealed", []string{v.Address, gate.URL, v.CAFile, "gate.pem"}, nil, 69, `sealed.*unseal`},
		{"another CA", []string{v.CAFile, "gate.pem"}, nil, 69, `caFile|VAULT_CACERT`},
		{"no CA file", []string{v.CAFile, "none.pem"}, nil, 1, `none\.pem`},
		{"a wrong secret id", []string{v.SecretIDFile, "wrong-id"}, []string{"VAULT_TOKEN=", "HOME=" + s.dir}, 77, `secret ID`},
		{"a secret id file that is not there", []string{v.SecretIDFile, "none-id"}, []string{"VAULT_TOKEN=", "HOME=" + s.dir}, 1, `none-id`},
		{"a token Vault does not know", nil, []string{"VAULT_TOKEN=hvs.none"}, 77, `token`},
		{"a token that may not make keys", nil, []string{"VAULT_TOKEN=" + token}, 77, `update.*certd-transit/keys/.*certd-init\.hcl`},
		{"a login that may not sign", []string{"roleID: " + v.RoleID, "roleID: " + role, v.SecretIDFile, "secret-id"}, nil, 77, `update.*certd-transit/sign/.*certd-run\.hcl`},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.write("bad.yaml", replaced(t, s.read("certd.yaml"), row.edit...))
			s.refused(row.code, row.want, row.env, "init", "--config", "bad.yaml", "--yes")
			for _, v := range append(row.env, "VAULT_TOKEN="+s.lab.Vault.OperatorToken) {
				if _, secret, _ := strings.Cut(v, "TOKEN="); secret != "" {
					if out, _ := s.with(row.env, "init", "--config", "bad.yaml", "--yes"); strings.Contains(out, secret) {
						t.Error("the message shows the token")
					}
				}
			}
			s.untouched(before, row.name)
		})
	}
	// What the failures began is ended by a ceremony that can.
	s.must("init", "--config", "certd.yaml", "--yes")
	if keys := s.vaultRead("certd-transit/keys/" + s.fleet + "-anchor-1"); keys["type"] != "ecdsa-p256" {
		t.Errorf("the anchor's key: %v", keys)
	}
	s.untouched(before, "init")
	s.auditMatchesHistory()
	if out, _, code := s.certd("history", "--config", "certd.yaml", "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
}

// While Vault cannot be used the daemon stays, says why, leaves what is there
// as it is, and does what was asked for once Vault can be used again.
func TestRunOutlivesVault(t *testing.T) {
	s := newSite(t, 1, daily)
	gate := newVaultGate(s)
	gate.behind(s)
	role := s.role(shipped(t, "certd-run.hcl"))
	s.edit("roleID: "+s.lab.Vault.RoleID, "roleID: "+role, s.lab.Vault.SecretIDFile, "secret-id")
	secretID := s.read("secret-id")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	serial := func() string { return s.secret(0).Annotations["certd.io/serial"] }

	for _, row := range []struct {
		name       string
		off, on    func()
		restart    bool
		id, reason string
	}{
		{"sealed", func() { gate.mode.Store("sealed") }, func() { gate.mode.Store("open") }, false, "KeysUnavailable", "sealed.*unseal"},
		{"gone", func() { gate.mode.Store("cut") }, func() { gate.mode.Store("open") }, true, "KeysUnavailable", regexp.QuoteMeta(strings.TrimPrefix(gate.URL, "https://"))},
		{"another secret id", func() { s.write("secret-id", "00000000-0000-0000-0000-000000000000\n") }, func() { s.write("secret-id", secretID) }, true, "KeysDenied", "secret ID"},
		{"no right to sign", func() { s.policy(role, unsigned(t)) }, func() { s.policy(role, shipped(t, "certd-run.hcl")) }, false, "KeysDenied", `update.*certd-transit/sign/.*certd-run\.hcl`},
	} {
		was, before := serial(), s.revisions()
		row.off()
		if row.restart {
			d.term()
			d = s.run()
			if row.id == "KeysUnavailable" {
				s.found("", row.id, row.reason) // Vault is asked for its health
			} else {
				s.converged() // nothing is due: the login is not missed yet
			}
		}
		if out, code := s.with(nil, "rotate", "issuer", "c1", "--yes", "--wait", "--timeout", "30s", "--reason", row.name, "--config", "certd.yaml"); code != 1 || !regexp.MustCompile(row.reason).MatchString(strings.Join(strings.Fields(out), " ")) {
			t.Errorf("%s: rotate: exit %d\n%s", row.name, code, out)
		}
		s.found("", row.id, row.reason)
		if st, code := s.status(); code == 0 || st.Source != "daemon" {
			t.Errorf("%s: status: exit %d from %s", row.name, code, st.Source)
		}
		s.untouched(before, row.name)
		row.on()
		s.eventually(60*time.Second, func() string {
			if serial() == was {
				return row.name + ": what was asked for is not done"
			}
			return ""
		})
		s.converged()
	}
	d.term()
	s.auditMatchesHistory()
}

// account makes a ServiceAccount with certd's rights changed by change, and
// returns a kubeconfig for it.
func (s *site) account(i int, change func([]rbacv1.PolicyRule) []rbacv1.PolicyRule) string {
	s.t.Helper()
	ctx, cs, name := context.Background(), s.kube[i], s.fleet
	fail := func(err error) {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	_, err := cs.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	fail(err)
	rules := change([]rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{rotation.IssuerObject}, Verbs: []string{"get", "watch", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{rotation.BundleObject}, Verbs: []string{"get", "watch", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"create"}},
		{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{"kube-system", "linkerd"}, Verbs: []string{"get", "watch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, ResourceNames: []string{"linkerd-identity"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
		{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}, Verbs: []string{"get", "watch"}},
		{APIGroups: []string{"apiregistration.k8s.io"}, Resources: []string{"apiservices"}, Verbs: []string{"get", "watch"}},
	})
	_, err = cs.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
	fail(err)
	_, err = cs.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: "default"}}}, metav1.CreateOptions{})
	fail(err)
	s.t.Cleanup(func() {
		for _, err := range []error{cs.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{}), cs.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}),
			cs.CoreV1().ServiceAccounts("default").Delete(ctx, name, metav1.DeleteOptions{})} {
			if err != nil {
				s.t.Error(err)
			}
		}
	})
	token, err := cs.CoreV1().ServiceAccounts("default").CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	fail(err)
	return s.kubeconfig(i, func(c *clientcmdapi.Config) {
		for _, a := range c.AuthInfos {
			*a = clientcmdapi.AuthInfo{Token: token.Status.Token}
		}
	})
}

// kubeconfig writes a changed copy of certd's kubeconfig of a cluster.
func (s *site) kubeconfig(i int, change func(*clientcmdapi.Config)) string {
	s.t.Helper()
	c, err := clientcmd.LoadFromFile(s.lab.Clusters[i].CertdKubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	change(c)
	path := s.path("kube-" + s.lab.Clusters[i].Name)
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// A missing right in one cluster is named by verb and resource, the other
// clusters are looked after, and the right is used as soon as it is given.
func TestMissingVerbIsNamed(t *testing.T) {
	s := newSite(t, 2, daily)
	path := s.account(0, func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
		rules[2].Resources = []string{"configmaps"}
		return rules
	})
	s.edit(s.lab.Clusters[0].CertdKubeconfig, path)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c2")
	s.found("c1", "StepFailed", `create secrets `+rotation.IssuerObject+` in namespace linkerd.*"create" on "secrets".*deploy/rbac`)
	if s.secret(0) != nil {
		t.Error("there is an issuer in c1")
	}
	role, err := s.kube[0].RbacV1().ClusterRoles().Get(context.Background(), s.fleet, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules[2].Resources = append(role.Rules[2].Resources, "secrets")
	if _, err := s.kube[0].RbacV1().ClusterRoles().Update(context.Background(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A person who has given it need not wait for certd's next try.
	s.eventually(30*time.Second, func() string {
		out, _ := s.with(nil, "rotate", "issuer", "c1", "--yes", "--wait", "--config", "certd.yaml")
		if s.secret(0) == nil {
			return "the right given later is not used: " + out
		}
		return ""
	})
	s.converged()
	d.term()
}

func TestClusterThatLetsNobodyIn(t *testing.T) {
	s := newSite(t, 2, daily)
	s.edit(s.lab.Clusters[0].CertdKubeconfig, s.account(0, func([]rbacv1.PolicyRule) []rbacv1.PolicyRule { return nil }))
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c2")
	s.found("c1", "ClusterDenied", `get .*"get" on "(secrets|configmaps|namespaces)".*deploy/rbac`)
	s.write("kube-c1", replaced(t, s.read("kube-c1"), "token: ", "token: x"))
	s.found("c1", "ClusterDenied", `refused the credentials`)
	if len(s.revisions()) != 2 {
		t.Errorf("only c2 is to be written to: %q", s.revisions())
	}
	if out, code := s.with(nil, "inspect", "c1", "--config", "certd.yaml"); code != 77 {
		t.Errorf("inspect of a cluster that lets nobody in: exit %d\n%s", code, out)
	}
	d.term()
}

// tcpGate is a way to a cluster that can be shut and opened.
type tcpGate struct {
	t        *testing.T
	addr, to string

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]bool
}

// newGate is a way to a cluster, shut at first, and a kubeconfig that leads there.
func (s *site) newGate(t *testing.T, i int) (*tcpGate, string) {
	t.Helper()
	g := &tcpGate{t: t, addr: closedPort(t)}
	return g, s.kubeconfig(i, func(c *clientcmdapi.Config) {
		for _, cl := range c.Clusters {
			u, err := url.Parse(cl.Server)
			if err != nil {
				t.Fatal(err)
			}
			g.to, cl.Server = u.Host, "https://"+g.addr
		}
	})
}

func (g *tcpGate) open() {
	g.t.Helper()
	l, err := net.Listen("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.l, g.conns = l, map[net.Conn]bool{}
	g.mu.Unlock()
	g.t.Cleanup(g.shut)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", g.to)
			if err != nil {
				in.Close()
				continue
			}
			g.mu.Lock()
			g.conns[in], g.conns[out] = true, true
			shut := g.l != l
			g.mu.Unlock()
			if shut {
				in.Close()
				out.Close()
				return
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
}

// shut ends what is open, too.
func (g *tcpGate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.l != nil {
		g.l.Close()
	}
	for c := range g.conns {
		c.Close()
	}
	g.l, g.conns = nil, nil
}

// A cluster that is down at start holds up nobody and is enrolled when it
// comes up.
func TestClusterThatIsDownAtStart(t *testing.T) {
	s := newSite(t, 3, daily)
	gate, path := s.newGate(t, 1)
	s.edit(s.lab.Clusters[1].CertdKubeconfig, path)
	s.edit(s.lab.Clusters[2].CertdKubeconfig, "later") // no such file yet
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c1")
	s.found("c2", "ClusterUnreachable", gate.addr+`.*connection refused`)
	s.found("c3", "ClusterUnreachable", `later`)
	if len(s.revisions()) != 2 {
		t.Errorf("only c1 is to be written to: %q", s.revisions())
	}
	gate.open()
	s.healthy("c2")
	s.write("later", readFile(t, s.lab.Clusters[2].CertdKubeconfig))
	s.converged()
	d.term()
}

// foreign puts trust material of somebody else's into a cluster.
func (s *site) foreign(i int) {
	s.t.Helper()
	ctx := context.Background()
	anchor, crt, key := issuerOfAnother(s.t, time.Now().Add(20*24*time.Hour))
	helm := metav1.CreateOptions{FieldManager: "helm"}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}}
	}
	if _, err := s.kube[i].CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "linkerd"}}, metav1.CreateOptions{}); err != nil && !strings.Contains(err.Error(), "already exists") {
		s.t.Fatal(err)
	}
	if _, err := s.kube[i].CoreV1().ConfigMaps("linkerd").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(rotation.BundleObject), Data: map[string]string{"ca-bundle.crt": string(anchor)}}, helm); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.kube[i].CoreV1().Secrets("linkerd").Create(ctx, &corev1.Secret{ObjectMeta: meta(rotation.IssuerObject),
		Data: map[string][]byte{"crt.pem": crt, "key.pem": key}}, helm); err != nil {
		s.t.Fatal(err)
	}
}

// Trust material that certd did not make is watched, never changed: not when
// it is whole, not when it is broken, not when somebody asks.
func TestForeignTrustMaterialIsWatchedOnly(t *testing.T) {
	s := newSite(t, 2, daily)
	s.foreign(0)
	before := s.revisions()
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c2")
	s.found("c1", "WatchedOnly", `did not make.*watched, not changed`)
	if st, code := s.status(); clusterOf(st, "c1").Mode != "watched" || code != 1 {
		t.Errorf("mode %q, exit %d", clusterOf(st, "c1").Mode, code)
	}
	s.refused(75, "c1.*watched", nil, "rotate", "issuer", "c1", "--yes", "--config", "certd.yaml")
	mine := func() []string { return s.revisions()[:2] }
	if !slices.Equal(mine(), before) {
		t.Errorf("the foreign objects changed: %q, before %q", mine(), before)
	}
	// Broken by its owner: that is not certd's to mend, nor is a lost object.
	o := s.secret(0)
	o.Data["crt.pem"] = []byte("garbage")
	if _, err := s.kube[0].CoreV1().Secrets("linkerd").Update(context.Background(), o, metav1.UpdateOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	if err := s.kube[0].CoreV1().ConfigMaps("linkerd").Delete(context.Background(), rotation.BundleObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	broken := s.secret(0).ResourceVersion
	s.eventually(20*time.Second, func() string {
		st, _ := s.status()
		if c := clusterOf(st, "c1"); c.Bundle != nil || c.Mode != "watched" {
			b, _ := json.Marshal(c)
			return "what the owner did was not seen: " + string(b)
		}
		return ""
	})
	if now := s.secret(0).ResourceVersion; now != broken || s.bundle(0) != nil {
		t.Errorf("certd mended what is not its own: %s, was %s", now, broken)
	}
	d.term()
}

// Another fleet's certd that is pointed at the same clusters leaves them alone,
// and does not disturb the one whose they are.
func TestAnotherFleetsClusterIsWatchedOnly(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	first := s.run()
	s.converged()
	before := s.tree("east", "west")
	s.write("others.yaml", replaced(t, folders, "name: folders", "name: others", "stateDir: state", "stateDir: state2", "dir: keys", "dir: keys2", "certd.sock", "others.sock"))
	s.must("init", "--config", "others.yaml", "--yes")
	second := s.shell(`exec "$CERTD" run --config others.yaml`)
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { second.Process.Kill(); second.Wait() }()
	s.eventually(20*time.Second, func() string {
		out, code := s.with(nil, "status", "--config", "others.yaml", "-o", "jsonpath={.source} {.clusters[*].mode} {.clusters[*].findings[*].id}")
		if code != 1 || !strings.HasPrefix(out, "daemon watched watched WatchedOnly WatchedOnly") {
			return fmt.Sprintf("exit %d: %s", code, out)
		}
		return ""
	})
	s.refused(75, `watched`, nil, "rotate", "issuer", "east", "--yes", "--config", "others.yaml")
	s.same(before, "east", "west")
	s.converged()
	first.term()
}

// What bears certd's own marks is mended after a loss of the journal, be it
// expired or of another anchor.
func TestOwnCertificatesThatDoNotFitAreRepaired(t *testing.T) {
	s := newSite(t, 3, daily)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	d.term()
	if err := os.RemoveAll(s.path("state")); err != nil {
		t.Fatal(err)
	}
	// c1 gets a valid issuer of another anchor, c2 one that has ended, both
	// under our marks; c3 is left alone.
	ends := []time.Time{time.Now().Add(24 * time.Hour), time.Now().Add(-time.Hour)}
	var wrong [2]string
	for i, end := range ends {
		_, crt, key := issuerOfAnother(t, end)
		o := s.secret(i)
		o.Data["tls.crt"], o.Data["crt.pem"], o.Data["tls.key"], o.Data["key.pem"] = crt, crt, key, key
		if _, err := s.kube[i].CoreV1().Secrets("linkerd").Update(context.Background(), o, metav1.UpdateOptions{FieldManager: "some-hand"}); err != nil {
			t.Fatal(err)
		}
		wrong[i] = string(crt)
	}
	whole := s.revisions()[4:]
	d = s.run()
	s.answering()
	s.converged()
	d.term()
	for i, crt := range wrong {
		if o := s.secret(i); !chains(o.Data["tls.crt"], s.bundle(i).Data["ca-bundle.crt"]) || string(o.Data["tls.crt"]) == crt || string(o.Data["tls.key"]) != string(o.Data["key.pem"]) {
			t.Errorf("the wrong issuer of cluster %d was not replaced", i)
		}
		repaired := false
		for _, e := range s.history() {
			repaired = repaired || e.Step == rotation.StepRepairIssuer && e.Cluster == s.lab.Clusters[i].Name && e.Outcome == rotation.OK && e.Writer == "some-hand"
		}
		if !repaired {
			t.Errorf("the history has no repair of cluster %d", i)
		}
	}
	if now := s.revisions()[4:]; !slices.Equal(now, whole) {
		t.Errorf("the whole objects of c3 were written: %q, before %q", now, whole)
	}
}

// issuerOfAnother is an issuer of an anchor that no fleet of ours has.
func issuerOfAnother(t testing.TB, notAfter time.Time) (anchor, crt, key []byte) {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	begin := time.Now().Add(-48 * time.Hour)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root.linkerd.cluster.local"}, NotBefore: begin, NotAfter: begin.Add(720 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "identity.linkerd.cluster.local"}, DNSNames: []string{"identity.linkerd.cluster.local"},
		NotBefore: begin, NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, root.Public(), root)
	fail(err)
	der, err := x509.CreateCertificate(rand.Reader, issuer, ca, own.Public(), root)
	fail(err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	fail(err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", caDER), block("CERTIFICATE", der), block("EC PRIVATE KEY", keyDER)
}
