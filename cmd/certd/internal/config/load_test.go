package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones below are there on every machine

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

func options(env ...string) Options {
	return Options{
		Now: time.Date(2026, 11, 24, 10, 20, 23, 0, time.UTC),
		Getenv: func(name string) string {
			for _, pair := range env {
				if k, v, _ := strings.Cut(pair, "="); k == name {
					return v
				}
			}
			return ""
		},
	}
}

// write puts files into a folder of their own and returns that of certd.yaml.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "certd.yaml")
}

const minimal = `apiVersion: certd/v1
kind: Fleet
name: acme-mesh
keys: {vault: {address: "https://vault.example:8200"}}
clusters:
  - {name: east, directory: east}
`

func loaded(t testing.TB, path string, env ...string) *Config {
	t.Helper()
	c, problems := Load(path, options(env...))
	if len(problems) > 0 {
		t.Fatalf("refused:\n%s", problems)
	}
	return c
}

func TestDefaultsHoldWhenLeftOut(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": minimal})
	c := loaded(t, path)
	fleet := c.Fleet()
	p := fleet.Clusters[0]
	got := fmt.Sprintln(fleet.Fleet, fleet.KeyPrefix, c.StateDir, c.Server.Socket, c.LogLevel, *c.Keys.Vault.Transit, c.Keys.Vault.Webhooks, c.Keys.Vault.Auth == nil,
		fleet.Trust, p.Cluster, p.Namespace, p.CreateNamespace, p.TrustDomain, p.LeafLifetime, p.ClockSkew, p.Repair, p.Directory,
		p.Issuer.Lifetime, p.Issuer.RenewBefore, p.Issuer.Schedule, p.Issuer.Schedule.Zone(), p.Issuer.EveryFiring, p.Issuer.Backdate, p.Issuer.Spread)
	want := fmt.Sprintln("acme-mesh", "acme-mesh", "/var/lib/certd", "/run/certd/certd.sock", "INFO",
		Transit{"certd-transit", "acme-mesh"}, Transit{"certd-transit-webhooks", "acme-mesh"}, true,
		rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: time.Hour, RenewBefore: 730 * day, Renews: true, AtOnce: 1},
		"east", "linkerd", false, "cluster.local", 24*time.Hour, 20*time.Second, 12*time.Hour, true,
		7*day, 84*time.Hour, "0 3 * * *", "UTC", false, 10*time.Minute, 30*time.Minute)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if want := filepath.Join(filepath.Dir(path), "east"); c.Clusters[0].Directory != want {
		t.Errorf("directory %s, want %s", c.Clusters[0].Directory, want)
	}
}

// A second person is asked for where the file says 2; in a pod there is none to be found.
func TestASecondPersonIsConfigured(t *testing.T) {
	for text, want := range map[string]bool{"": false, "approvals: {}\n": false, "approvals: {retire: 1}\n": false, "approvals: {retire: 2}\n": true} {
		c := loaded(t, write(t, map[string]string{"certd.yaml": text + minimal}))
		if got := c.Fleet().Trust.SecondPerson; got != want {
			t.Errorf("%q: %v", text, got)
		}
		c = loaded(t, write(t, map[string]string{"certd.yaml": text + minimal + "  - {name: home, inCluster: true}\n"}))
		if warned := strings.Contains(fmt.Sprint(c.Warnings), "certd.yaml:1:21: approvals.retire: is 2, and certd runs in a pod"); warned != want {
			t.Errorf("%q in a pod: %s", text, c.Warnings)
		}
	}
}

func TestClusterOverridesGroupOverridesDefaults(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": minimal + `  - {name: west, labels: {tier: prod, region: us}, directory: west, issuer: {backdate: 5m}}
  - {name: no, labels: {tier: prod}, inCluster: true, timeZone: Europe/Oslo}
defaults: {timeZone: Europe/Berlin, issuer: {spread: 1m, backdate: 1m}}
groups:
  quiet: {select: "tier=prod", issuer: {lifetime: 90d, renewBefore: 61d}, timeZone: UTC}
  us: {select: "region in (us)", timeZone: America/New_York}
`})
	c := loaded(t, path)
	var got []string
	for _, cluster := range c.Clusters {
		p := cluster.Policy
		got = append(got, fmt.Sprint(p.Cluster, " ", p.Groups, " ", rotation.FormatDuration(p.Issuer.Lifetime), " ", p.Issuer.Backdate, " ", p.Issuer.Spread, " ", p.Issuer.Schedule.Zone()))
	}
	want := "east [] 7d 1m0s 1m0s Europe/Berlin|west [quiet us] 90d 5m0s 1m0s America/New_York|no [quiet] 90d 1m0s 1m0s Europe/Oslo"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	origins := map[string]string{}
	for _, v := range c.Values {
		origins[v.Path] = v.Value + " " + v.Origin
	}
	for path, want := range map[string]string{
		"clusters[west].issuer.lifetime": "90d group quiet (" + path + ":11:51)",
		"clusters[west].timeZone":        "America/New_York group us (" + path + ":12:44)",
		"clusters[west].issuer.backdate": "5m " + path + ":7:88",
		"clusters[west].issuer.spread":   "1m " + path + ":9:54",
		"clusters[west].repair":          "12h default",
		"name":                           "acme-mesh " + path + ":3:7",
	} {
		if origins[path] != want {
			t.Errorf("%s: %q, want %q", path, origins[path], want)
		}
	}
}

func TestWebhooks(t *testing.T) {
	quota := "{name: quota, secret: {namespace: q, name: quota-tls}, dnsNames: [quota.q.svc, quota.q.svc.cluster.local], " +
		"objects: [{kind: ValidatingWebhookConfiguration, name: quota}, {kind: APIService, name: v1.quota.example}]}"
	path := write(t, map[string]string{"certd.yaml": minimal + `  - {name: west, labels: {tier: prod}, inCluster: true, timeZone: Europe/Berlin, webhooks: {settle: 1m}}
  - {name: own, labels: {tier: prod}, kubeconfig: {file: a}, webhooks: {extra: [` + strings.Replace(quota, "quota", "other", 1) + `]}}
  - {name: bare, labels: {tier: prod}, kubeconfig: {file: b}, webhooks: {extra: []}}
  - {name: off, labels: {tier: prod}, kubeconfig: {file: c}, webhooks: {manage: none}}
defaults: {webhooks: {spread: 1m, backdate: 5m}}
groups:
  prod: {select: "tier=prod", webhooks: {lifetime: 90d, renewBefore: 61d, projection: 2m, extra: [` + quota + `]}}
`})
	c := loaded(t, path)
	specs := func(cluster int) string {
		var names []string
		for _, spec := range c.Clusters[cluster].Policy.Webhooks.Specs {
			names = append(names, spec.Name)
		}
		return strings.Join(names, " ")
	}
	const linkerds = "proxy-injector sp-validator policy-validator tap tap-injector jaeger-injector"
	for i, want := range []string{"", linkerds + " quota", linkerds + " other", linkerds, ""} {
		if got := specs(i); got != want {
			t.Errorf("%s: %q, want %q", c.Clusters[i].Policy.Cluster, got, want)
		}
	}
	w := c.Clusters[1].Policy.Webhooks
	want := rotation.WebhookSpec{Name: "quota", Namespace: "q", Secret: "quota-tls", DNSNames: []string{"quota.q.svc", "quota.q.svc.cluster.local"},
		Objects: []rotation.ObjectRef{{Kind: "ValidatingWebhookConfiguration", Name: "quota"}, {Kind: "APIService", Name: "v1.quota.example"}}, Own: true}
	if diff := cmp.Diff(want, w.Specs[6]); diff != "" {
		t.Error(diff)
	}
	got := fmt.Sprintln(w.Leaf.Lifetime, w.Leaf.RenewBefore, w.Leaf.Backdate, w.Leaf.Spread, w.Leaf.Schedule, w.Leaf.Schedule.Zone(),
		w.CA.Lifetime, w.CA.RenewBefore, w.CA.Backdate, w.CA.Spread, w.CA.Schedule, w.CA.Schedule.Zone(), w.Settle, w.Projection)
	if want := fmt.Sprintln(90*day, 61*day, 5*time.Minute, time.Minute, "30 3 * * *", "Europe/Berlin",
		730*day, 180*day, time.Hour, time.Minute, "30 3 * * *", "Europe/Berlin", time.Minute, 2*time.Minute); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, v := range c.Values {
		if v.Path == "clusters[west].webhooks.extra" && (v.Value != "quota" || !strings.HasPrefix(v.Origin, "group prod (")) {
			t.Errorf("shown as %+v", v)
		}
	}
}

func TestWebhookKeysStayInTransit(t *testing.T) {
	for _, row := range []struct{ vault, anchors, webhooks string }{
		{"", "certd-transit/acme-mesh", "certd-transit-webhooks/acme-mesh"},
		{"transit: {mount: a, webhookMount: w, keyPrefix: p}", "a/p", "w/p"},
		{"pki: {mount: root}", "root default", "certd-transit-webhooks/acme-mesh"},
		{"pki: {mount: root}, transit: {webhookMount: w, keyPrefix: p}", "root default", "w/p"},
	} {
		path := write(t, map[string]string{"certd.yaml": strings.Replace(minimal, "vault: {", "vault: {"+row.vault+", ", 1)})
		if row.vault == "" {
			path = write(t, map[string]string{"certd.yaml": minimal})
		}
		c := loaded(t, path)
		v, anchors := c.Keys.Vault, ""
		if v.Transit != nil {
			anchors = v.Transit.Mount + "/" + v.Transit.KeyPrefix
		}
		if v.PKI != nil {
			anchors += v.PKI.Mount + " " + v.PKI.Issuer
		}
		if webhooks := v.Webhooks.Mount + "/" + v.Webhooks.KeyPrefix; anchors != row.anchors || webhooks != row.webhooks || c.Fleet().KeyPrefix != v.Webhooks.KeyPrefix {
			t.Errorf("%q: %s and %s, want %s and %s", row.vault, anchors, webhooks, row.anchors, row.webhooks)
		}
	}
}

func TestEnvironmentFillsOnlyWhatTheFileLeavesOut(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": strings.Replace(minimal, `{address: "https://vault.example:8200"}`, "{namespace: ours}", 1)})
	c := loaded(t, path, "VAULT_ADDR=https://other:8200", "VAULT_NAMESPACE=theirs", "VAULT_CACERT=/ca.pem")
	if v := c.Keys.Vault; v.Address != "https://other:8200" || v.Namespace != "ours" || v.CAFile != "/ca.pem" {
		t.Errorf("%+v", *v)
	}
	if _, problems := Load(path, options()); len(problems) != 1 || !strings.Contains(problems.Error(), "$VAULT_ADDR is not set") {
		t.Errorf("without VAULT_ADDR: %v", problems)
	}
}

func TestClustersDir(t *testing.T) {
	path := write(t, map[string]string{
		"certd.yaml":         minimal + "clustersDir: clusters.d\n",
		"clusters.d/b.yaml":  "name: b\ndirectory: here\n",
		"clusters.d/a.yml":   "{name: a, inCluster: true}\n",
		"clusters.d/.c.yaml": "not: read\n",
		"clusters.d/README":  "not read\n",
	})
	c := loaded(t, path)
	var names []string
	for _, cluster := range c.Clusters {
		names = append(names, cluster.Policy.Cluster)
	}
	if strings.Join(names, " ") != "east a b" {
		t.Errorf("clusters %v", names)
	}
	if want := filepath.Join(filepath.Dir(path), "clusters.d", "here"); c.Clusters[2].Directory != want {
		t.Errorf("directory %s, want %s", c.Clusters[2].Directory, want)
	}
}

func TestProblemsInClustersDirNameTheFile(t *testing.T) {
	path := write(t, map[string]string{
		"certd.yaml":        minimal + "clustersDir: clusters.d\n",
		"clusters.d/a.yaml": "name: a\ndirectory: ../east\n",
		"clusters.d/b.yaml": "name: b\nkubconfig: {file: x}\n",
	})
	_, problems := Load(path, options())
	dir := filepath.Join(filepath.Dir(path), "clusters.d")
	for _, want := range []string{
		dir + "/a.yaml:1:1: directory " + filepath.Join(filepath.Dir(path), "east") + " is the target of another cluster, at " + path + ":6:5",
		dir + `/b.yaml:2:1: kubconfig: unknown field, did you mean "kubeconfig"?`,
	} {
		if !strings.Contains(problems.Error(), want) {
			t.Errorf("without %q:\n%s", want, problems)
		}
	}
}

func TestTwoNamesOfOneFolderAreOneTarget(t *testing.T) {
	path := write(t, map[string]string{"certd.yaml": minimal + "  - {name: west, directory: west}\n", "east/x": ""})
	if err := os.Symlink("east", filepath.Join(filepath.Dir(path), "west")); err != nil {
		t.Fatal(err)
	}
	if _, problems := Load(path, options()); len(problems) != 1 || !strings.Contains(problems.Error(), "is the target of another cluster") {
		t.Errorf("%v", problems)
	}
}

func TestSecretsAreReadFromWhereTheyAre(t *testing.T) {
	path := write(t, map[string]string{
		"certd.yaml": strings.Replace(minimal, "vault: {address", `vault: {auth: {appRole: {roleID: r, secretIDFrom: {file: id}}}, address`, 1),
		"id":         "s3cret\r\n",
		"creds/pass": "w0rd\n",
		"empty":      "\n",
	})
	c := loaded(t, path)
	secret := c.Keys.Vault.Auth.AppRole.SecretID
	if got, err := secret.Read(); err != nil || string(got) != "s3cret" {
		t.Errorf("%q, %v", got, err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %s", c.Warnings)
	}
	dir := filepath.Dir(path)
	getenv := options("PASS=env").Getenv
	for _, row := range []struct {
		secret Secret
		want   string
	}{
		{Secret{Env: "PASS", getenv: getenv}, "env"},
		{Secret{Env: "NONE", getenv: getenv}, "error: read secret: environment variable NONE is not set"},
		{Secret{Credential: "pass", folder: dir + "/creds"}, "w0rd"},
		{Secret{Credential: "pass"}, "error: read secret {credential: pass}: $CREDENTIALS_DIRECTORY is not set; systemd sets it for LoadCredential="},
		{Secret{File: dir + "/empty"}, "error: read secret {file: " + dir + "/empty}: it is empty"},
	} {
		got, err := row.secret.Read()
		if err != nil {
			got = []byte("error: " + err.Error())
		}
		if string(got) != row.want {
			t.Errorf("%s: %s, want %s", row.secret, got, row.want)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "id"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c = loaded(t, path); len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Message, "can be read by others (mode 0644)") {
		t.Errorf("warnings: %s", c.Warnings)
	}
}

func TestShortIssuersAreWarnedOf(t *testing.T) {
	inCluster := strings.Replace(minimal, "directory: east", "inCluster: true", 1)
	c := loaded(t, write(t, map[string]string{"certd.yaml": inCluster}))
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0].Message, "warns below 60 days") {
		t.Errorf("seven days: %s", c.Warnings)
	}
	for _, quiet := range []string{"webhooks: {lifetime: 90d, renewBefore: 61d}", "webhooks: {manage: none}"} {
		c = loaded(t, write(t, map[string]string{"certd.yaml": inCluster + "defaults: {issuer: {lifetime: 90d, renewBefore: 61d}, " + quiet + "}\n"}))
		if len(c.Warnings) != 0 {
			t.Errorf("%s: %s", quiet, c.Warnings)
		}
	}
	c = loaded(t, write(t, map[string]string{"certd.yaml": inCluster + "defaults: {issuer: {lifetime: 90d, renewBefore: 61d}, webhooks: {renewBefore: 14d}}\n"}))
	if len(c.Warnings) != 1 || c.Warnings[0].Path != "defaults.webhooks.renewBefore" {
		t.Errorf("webhooks alone: %s", c.Warnings)
	}
}

// Whoever can reach it reads it: on this host that is nobody new, elsewhere it
// is said.
func TestWhereCertdListens(t *testing.T) {
	for listen, open := range map[string]bool{
		"127.0.0.1:9843": false, "localhost:9843": false, "[::1]:9843": false, "127.1.2.3:0": false,
		"0.0.0.0:9843": true, ":9843": true, "[::]:9843": true, "10.0.0.7:9843": true, "certd.example:9843": true,
	} {
		c := loaded(t, write(t, map[string]string{"certd.yaml": minimal + fmt.Sprintf("server: {listen: %q}\n", listen)}))
		warned := len(c.Warnings) == 1 && c.Warnings[0].Path == "server.listen" && strings.Contains(c.Warnings[0].Message, listen+" is open to everybody who can reach it, without TLS or a login")
		if c.Server.Listen != listen || warned != open || !open && len(c.Warnings) > 0 {
			t.Errorf("%s: %q, warnings %s", listen, c.Server.Listen, c.Warnings)
		}
	}
	if c := loaded(t, write(t, map[string]string{"certd.yaml": minimal})); c.Server.Listen != "" {
		t.Errorf("left out, it is %q", c.Server.Listen)
	}
	for _, listen := range []string{"9843", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", "::1:9843", "http://127.0.0.1:9843", "under_score:9843", "unix:/run/certd"} {
		if _, problems := Load(write(t, map[string]string{"certd.yaml": minimal + fmt.Sprintf("server: {listen: %q}\n", listen)}), options()); len(problems) != 1 || problems[0].Path != "server.listen" {
			t.Errorf("%q: %v", listen, problems)
		}
	}
}

func TestNextSlots(t *testing.T) {
	c := loaded(t, write(t, map[string]string{"certd.yaml": minimal + "defaults: {timeZone: Europe/Berlin, issuer: {spread: 0s, schedule: \"30 2 * * *\"}}\n"}))
	slots := c.NextSlots(options().Now, 3)[0]
	got := fmt.Sprint(slots.Cluster, slots.Next, slots.Changes)
	want := "east[2026-11-25 02:30:00 +0100 CET 2026-11-26 02:30:00 +0100 CET 2026-11-27 02:30:00 +0100 CET] " +
		"[{2027-03-28 03:00:00 +0200 CEST 02:00 03:00 true} {2027-10-31 02:00:00 +0100 CET 03:00 02:00 false}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFilesAsWindowsWritesThem(t *testing.T) {
	text := "\xef\xbb\xbf" + strings.ReplaceAll(minimal, "\n", "\r\n")
	c := loaded(t, write(t, map[string]string{"certd.yaml": text}))
	if c.Name != "acme-mesh" || c.Clusters[0].At.Line != 6 {
		t.Errorf("%s, cluster in line %d", c.Name, c.Clusters[0].At.Line)
	}
}

func TestEveryWayToLogIn(t *testing.T) {
	for auth, want := range map[string]string{
		"token: {env: T}": "token {env: T}",
		"tokenFile: t":    "tokenFile DIR/t",
		"appRole: {roleID: r, secretIDFrom: {credential: s}, mount: /a/b/}": "appRole a/b r {credential: s}",
		"kubernetes: {role: r}":                    "kubernetes kubernetes r /var/run/secrets/kubernetes.io/serviceaccount/token",
		"cert: {certFile: c, keyFile: k, role: r}": "cert cert r DIR/c DIR/k",
		"jwt: {tokenFrom: {file: j}}":              "jwt jwt  {file: DIR/j}",
	} {
		path := write(t, map[string]string{"certd.yaml": strings.Replace(minimal, "vault: {address", "vault: {auth: {"+auth+"}, address", 1)})
		var got string
		switch a := loaded(t, path).Keys.Vault.Auth; {
		case a.Token != nil:
			got = "token " + a.Token.String()
		case a.TokenFile != "":
			got = "tokenFile " + a.TokenFile
		case a.AppRole != nil:
			got = "appRole " + a.AppRole.Mount + " " + a.AppRole.RoleID + " " + a.AppRole.SecretID.String()
		case a.Kubernetes != nil:
			got = "kubernetes " + a.Kubernetes.Mount + " " + a.Kubernetes.Role + " " + a.Kubernetes.TokenFile
		case a.Cert != nil:
			got = "cert " + a.Cert.Mount + " " + a.Cert.Role + " " + a.Cert.CertFile + " " + a.Cert.KeyFile
		case a.JWT != nil:
			got = "jwt " + a.JWT.Mount + " " + a.JWT.Role + " " + a.JWT.Token.String()
		}
		if got = strings.ReplaceAll(got, filepath.Dir(path), "DIR"); got != want {
			t.Errorf("%s: %s, want %s", auth, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	none := options().Getenv
	if path, err := Find("x.yaml", options("CERTD_CONFIG=y.yaml").Getenv); err != nil || path != "x.yaml" {
		t.Errorf("the flag: %s, %v", path, err)
	}
	if path, err := Find("", options("CERTD_CONFIG=y.yaml").Getenv); err != nil || path != "y.yaml" {
		t.Errorf("the variable: %s, %v", path, err)
	}
	if err := os.WriteFile("certd.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if path, err := Find("", none); err != nil || path != "certd.yaml" {
		t.Errorf("the folder: %s, %v", path, err)
	}
}

func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir + "/none.yaml": dir + "/none.yaml: read configuration: no such file or directory",
		dir:                dir + ": read configuration: it is a folder; name the file",
		"/dev/zero":        "/dev/zero: read configuration: it is not a file",
	} {
		if _, problems := Load(path, options()); problems.Error() != want {
			t.Errorf("%s, want %s", problems, want)
		}
	}
}
