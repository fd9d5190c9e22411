package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// folder is where a lab puts what people and tests use. Nothing in it is
// deleted but what a lab has written; the rest, whoever made it, stays.
type folder struct {
	path string // absolute
	lock *os.File
}

// Names in the folder. Everything in own is the lab's private business.
const (
	readyName  = "ready"
	lockName   = "lab.lock"
	auditName  = "vault-audit.log"
	configName = "certd.yaml"
	stateName  = "state"
	own        = ".lab"
)

var kubeconfigName = regexp.MustCompile(`^c[0-9]+$`)

// claimFolder makes the folder, or takes over one of an earlier lab, and keeps
// other labs out of it. Asides are what it moved out of the way, to be told.
func claimFolder(path string) (f *folder, asides []string, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, nil, err
	}
	f = &folder{path: path}
	if _, err := os.Lstat(f.in(lockName)); errors.Is(err, fs.ErrNotExist) {
		// No lab has ever been here: what has our names is somebody's own.
		for _, name := range []string{readyName, auditName, configName, "vault.env", "lab.json", own} {
			if _, err := os.Lstat(f.in(name)); err == nil {
				return nil, nil, fmt.Errorf("%s exists and no lab has written it; name another folder with -dir", f.in(name))
			}
		}
	}
	for _, name := range []string{"", "kube", "kube-certd"} {
		if err := os.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			return nil, nil, fmt.Errorf("make the lab's folder: %w", err)
		}
	}
	if f.lock, err = lockFile(f.in(lockName)); errors.Is(err, errLocked) {
		return nil, nil, fmt.Errorf("another lab runs in %s; stop it, or name another folder with -dir", path)
	} else if err != nil {
		return nil, nil, fmt.Errorf("claim the lab's folder: %w", err)
	}
	asides, err = f.clear()
	return f, asides, err
}

func (f *folder) in(elements ...string) string {
	return filepath.Join(append([]string{f.path}, elements...)...)
}

// clear removes what an earlier lab left. The journal of certd belongs to
// clusters and a Vault that are gone; it is moved aside, not deleted.
func (f *folder) clear() (asides []string, err error) {
	for _, name := range []string{readyName, "lab.json", "vault.env", configName, auditName} {
		if err := os.Remove(f.in(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
		}
	}
	for _, dir := range []string{"kube", "kube-certd"} {
		entries, err := os.ReadDir(f.in(dir))
		if err != nil {
			return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
		}
		for _, e := range entries {
			if kubeconfigName.MatchString(e.Name()) {
				if err := os.Remove(f.in(dir, e.Name())); err != nil {
					return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
				}
			}
		}
	}
	if err := os.RemoveAll(f.in(own)); err != nil {
		return nil, fmt.Errorf("remove what an earlier lab left: %w", err)
	}
	if _, err := os.Lstat(f.in(stateName)); err == nil {
		aside := f.in(stateName + "-" + time.Now().UTC().Format("20060102T150405.000Z"))
		if err := os.Rename(f.in(stateName), aside); err != nil {
			return nil, fmt.Errorf("move the state of an earlier lab aside: %w", err)
		}
		asides = append(asides, aside)
	}
	return asides, os.MkdirAll(f.in(own), 0o700)
}

// write replaces a file in one step: whoever waits for it reads all of it.
func (f *folder) write(content []byte, elements ...string) error {
	name := f.in(elements...)
	temporary := name + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// description is lab.json: what tests need to know of a running lab.
type description struct {
	Dir      string               `json:"dir"`
	PID      int                  `json:"pid"`
	Config   string               `json:"config"` // certd.yaml
	Clusters []clusterDescription `json:"clusters"`
	Vault    *vaultServer         `json:"vault"`
}

type clusterDescription struct {
	Name            string `json:"name"`
	Kubeconfig      string `json:"kubeconfig"`      // admin's
	CertdKubeconfig string `json:"certdKubeconfig"` // of ServiceAccount certd, with the shipped RBAC
	CertdTokenFile  string `json:"certdTokenFile"`  // its token alone
	Server          string `json:"server"`          // the front proxy, as in the kubeconfigs
	DirectServer    string `json:"directServer"`    // the API server itself
	CAFile          string `json:"caFile"`
	PID             int    `json:"pid"`      // of the API server; changes when it was killed
	DownFile        string `json:"downFile"` // while it exists a killed API server stays down
	Projections     string `json:"projections"`
	ServiceCIDR     string `json:"serviceCIDR"`
	PodCIDR         string `json:"podCIDR"` // of pods that have servers
	Log             string `json:"log"`
}

func (f *folder) writeDescription(clusters []*cluster, vault *vaultServer) error {
	d := description{Dir: f.path, PID: os.Getpid(), Config: f.in(configName), Vault: vault}
	for _, c := range clusters {
		d.Clusters = append(d.Clusters, clusterDescription{
			Name: c.name, Kubeconfig: f.in("kube", c.name), CertdKubeconfig: f.in("kube-certd", c.name), CertdTokenFile: c.path("certd.token"),
			Server: c.proxy.URL(), DirectServer: c.server, CAFile: c.path("ca.crt"), PID: int(c.pid.Load()), DownFile: c.path(downFile),
			Projections: c.path("pods"), ServiceCIDR: c.serviceCIDR, PodCIDR: c.podCIDR.String(), Log: c.path("apiserver.log")})
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return f.write(append(b, '\n'), "lab.json")
}

// writeKubeconfigs writes the admin's and certd's kubeconfig of c.
func (f *folder) writeKubeconfigs(c *cluster, certdToken string) error {
	for dir, token := range map[string]string{"kube": c.adminToken, "kube-certd": certdToken} {
		text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
  - name: %[1]s
    cluster: {server: "%[2]s", certificate-authority-data: %[3]s}
users:
  - name: %[1]s
    user: {token: %[4]s}
contexts:
  - name: %[1]s
    context: {cluster: %[1]s, user: %[1]s}
current-context: %[1]s
`, c.name, c.proxy.URL(), base64.StdEncoding.EncodeToString(c.ca.PEM), token)
		if err := f.write([]byte(text), dir, c.name); err != nil {
			return err
		}
	}
	return os.WriteFile(c.path("certd.token"), []byte(certdToken), 0o600)
}

func (f *folder) writeVaultEnv(v *vaultServer) error {
	return f.write([]byte("export VAULT_ADDR="+quoted(v.Address)+"\nexport VAULT_TOKEN="+quoted(v.OperatorToken)+"\nexport VAULT_CACERT="+quoted(v.CAFile)+"\n"), "vault.env")
}

// quoted is s as one word of a POSIX shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// quickLeaf is the lifetime of leaves that goes with a quick schedule. A
// simulated linkerd-identity beside it must have the same.
const quickLeaf = "5m"

// writeConfig writes the certd.yaml of the lab: certd's defaults, or a quick
// schedule with lifetimes that go with it.
func (f *folder) writeConfig(fleet, schedule string, clusters []*cluster, v *vaultServer) error {
	text := func(s string) string { b, _ := json.Marshal(s); return string(b) } // a JSON string is a YAML string
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by the lab. It goes with the clusters and the Vault that run now.
apiVersion: certd/v1
kind: Fleet
name: %[1]s
stateDir: %[2]s

keys:
  vault:
    address: %[3]s
    caFile: %[4]s
    auth:
      appRole: {roleID: %[5]s, secretIDFrom: {file: %[6]s}}
    transit: {mount: certd-transit, webhookMount: certd-transit-webhooks, keyPrefix: %[1]s}

`, text(fleet), text(f.in(stateName)), text(v.Address), text(v.CAFile), text(v.RoleID), text(v.SecretIDFile))
	if schedule == "" {
		b.WriteString("defaults:\n  linkerd: {createNamespace: true}\n")
	} else {
		fmt.Fprintf(&b, `defaults:
  linkerd: {createNamespace: true, leafLifetime: %s}
  repair: 1m
  issuer: {schedule: %s, spread: 0s, rotate: every-firing, lifetime: 30m, renewBefore: 10m}
`, quickLeaf, text(schedule))
	}
	fmt.Fprintf(&b, "\nserver:\n  socket: %s\n\nclusters:\n", text(f.in("certd.sock")))
	for _, c := range clusters {
		fmt.Fprintf(&b, "  - {name: %s, kubeconfig: {file: %s}}\n", c.name, text(f.in("kube-certd", c.name)))
	}
	return f.write([]byte(b.String()), configName)
}
