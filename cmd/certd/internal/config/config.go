// Package config reads certd.yaml: strictly, all problems at once, each with
// its place in the file, into checked types with every default filled in.
//
// Time zones come from the machine's database, or from the one that the
// command builds in (time/tzdata).
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/notify"
	"certd.internal/rotation"
)

// Config is a checked configuration. Paths are absolute.
type Config struct {
	File     string // absolute path of the file it was read from
	Name     string // of the fleet
	StateDir string
	Keys     Keys
	Trust    rotation.TrustPolicy
	Clusters []Cluster // in the order of the file, then those of clustersDir by file name
	Server   Server
	Backup   *Backup   // nil: none
	Election *Election // nil: there is one certd
	Notify   notify.Policy
	LogLevel slog.Level
	// LogFormat is "json" or "text"; "" is text on a terminal, JSON elsewhere.
	LogFormat string

	// Read are the files and folders that went into it, to be watched.
	Read []string
	// Warnings are what is allowed and may surprise.
	Warnings Problems
	// Values are all effective values with where they come from, for
	// `config show`.
	Values []Value
	// Secrets are where all secrets are kept that it names.
	Secrets []Secret
}

// Keys has exactly one of Vault, File and KMS.
type Keys struct {
	Vault *Vault
	File  *KeyFiles
	KMS   *KMS
}

// Vault is where Vault is and how to log in and sign there.
type Vault struct {
	Address   string
	Namespace string     // "" for none
	CAFile    string     // "" for the system's
	Auth      *VaultAuth // nil: with $VAULT_TOKEN
	Transit   *Transit   // the anchors' keys; exactly one of Transit and PKI
	PKI       *PKI
	Webhooks  Transit // the webhook CAs' keys, whatever the anchors' are in
	Mirror    *Mirror // nil: none
}

// VaultAuth has exactly one of its fields set.
type VaultAuth struct {
	Token      *Secret
	TokenFile  string
	AppRole    *AppRole
	Kubernetes *KubernetesAuth
	Cert       *CertAuth
	JWT        *JWTAuth
}

// AppRole is Vault's login by role id and secret id.
type AppRole struct {
	Mount, RoleID string
	SecretID      Secret
}

// KubernetesAuth is Vault's login by service account.
type KubernetesAuth struct{ Mount, Role, TokenFile string }

// CertAuth is Vault's login by TLS client certificate. Role may be "".
type CertAuth struct{ Mount, Role, CertFile, KeyFile string }

// JWTAuth is Vault's login by JSON web token. Role may be "".
type JWTAuth struct {
	Mount, Role string
	Token       Secret
}

// Transit is a Transit engine with keys of certd's, and how their names begin.
type Transit struct{ Mount, KeyPrefix string }

// Mirror is a secret of a KV engine of version 2.
type Mirror struct{ Mount, Path string }

// PKI is the root that Vault's PKI engine signs with.
type PKI struct{ Mount, Issuer string }

// KeyFiles is a folder of encrypted keys.
type KeyFiles struct {
	Dir        string
	Passphrase Secret
}

// KMS is a go.step.sm/crypto KMS.
type KMS struct{ URI string }

// Server is how to reach the daemon.
type Server struct {
	Socket string
	Listen string // host:port; "": nowhere
}

// Backup is where and when the daemon saves its journal, and how many copies it
// keeps.
type Backup struct {
	Dir      string
	Schedule rotation.Schedule
	Keep     int
}

// Election is the Lease by which several certd elect the one that works.
type Election struct {
	Namespace, Name string
	Cluster         string // in whose API server it is; "": of the pod's own cluster
	// LeaseDuration > RenewDeadline > 1.2 RetryPeriod.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// In says whether the Lease is in a cluster, as far as the configuration tells.
func (e *Election) In(c Cluster) bool {
	return e != nil && (e.Cluster == c.Policy.Cluster || e.Cluster == "" && c.InCluster)
}

// Cluster is one cluster, with exactly one of Kubeconfig, InCluster and
// Directory.
type Cluster struct {
	Kubeconfig *Kubeconfig
	InCluster  bool
	Directory  string
	Policy     rotation.Policy // its name and labels are in here
	At         Position        // where it stands in the file
}

// Kubeconfig is a kubeconfig file and one of its contexts; "" is the current.
type Kubeconfig struct{ File, Context string }

// Value is one effective value.
type Value struct {
	Path   string // "clusters[prod-eu-1].issuer.lifetime"
	Value  string
	Origin string // "default", "$VAULT_ADDR", "certd.yaml:9:22", "group quiet (certd.yaml:9:22)"
}

// Fleet returns what the rotation works by.
func (c *Config) Fleet() rotation.FleetPolicy {
	fleet := rotation.FleetPolicy{Fleet: c.Name, KeyPrefix: c.Name, Trust: c.Trust}
	if c.Keys.Vault != nil {
		fleet.KeyPrefix = c.Keys.Vault.Webhooks.KeyPrefix // the anchors' too
	}
	for _, cluster := range c.Clusters {
		fleet.Clusters = append(fleet.Clusters, cluster.Policy)
	}
	return fleet
}

// Find returns the configuration file to read: flag if not "", $CERTD_CONFIG,
// ./certd.yaml, /etc/certd/certd.yaml. What is named need not exist; Load
// tells.
func Find(flag string, getenv func(string) string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if named := getenv("CERTD_CONFIG"); named != "" {
		return named, nil
	}
	for _, path := range []string{"certd.yaml", "/etc/certd/certd.yaml"} {
		if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
	}
	return "", errors.New("find configuration: there is neither ./certd.yaml nor /etc/certd/certd.yaml; " +
		"name one with --config or $CERTD_CONFIG, print one to start from with `certd config example`, " +
		"or try certd without one: `certd run --dev`")
}

// Options are what Load needs to know of the world.
type Options struct {
	Getenv func(string) string
	Now    time.Time // schedules are proved for the ten years from then on
}

// Load reads the configuration at path and all that it includes. It returns
// either a configuration or problems.
func Load(path string, options Options) (*Config, Problems) {
	data, err := readFile(path)
	if err != nil {
		return nil, Problems{{Position{File: path}, "", err.Error()}}
	}
	return parse(path, data, options)
}

// readFile is bounded, whatever the path turns out to be.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	var pathError *fs.PathError
	switch {
	case errors.As(err, &pathError):
		return nil, fmt.Errorf("read configuration: %w", pathError.Err)
	case err != nil:
		return nil, fmt.Errorf("read configuration: %w", err)
	case info.IsDir():
		return nil, errors.New("read configuration: it is a folder; name the file")
	case !info.Mode().IsRegular():
		return nil, errors.New("read configuration: it is not a file")
	case info.Size() > maxFileSize:
		return nil, errors.New("read configuration: it is larger than 1 MiB")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}

func parse(path string, data []byte, options Options) (*Config, Problems) {
	d := decoder{file: path}
	doc := d.decode(data, root())
	if doc == nil {
		return nil, d.problems.inOrder(path)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, Problems{{Position{File: path}, "", err.Error()}}
	}
	b := builder{
		config: &Config{File: absolute, Read: []string{absolute}}, doc: doc, options: options,
		table: root(), problems: d.problems,
	}
	b.build()
	if len(b.problems) > 0 {
		return nil, b.problems.inOrder(path)
	}
	b.config.Warnings = b.config.Warnings.inOrder(path)
	return b.config, nil
}

// builder makes a Config of decoded files. It reports what only shows when
// values are seen together.
type builder struct {
	config   *Config
	doc      *node
	table    field
	options  Options
	problems Problems
	proofs   map[string]proof
	partners map[*node][]rotation.ForeignAnchor // by the list that names them
	proving  bool                               // each value by itself is right, and proofs have begun
}

func (b *builder) build() {
	c := b.config
	fleet := layers{{"", b.doc}}
	c.Name = b.text(fleet, "name")
	c.StateDir = b.path(fleet, "stateDir")
	c.Server.Socket = b.path(fleet, "server", "socket")
	// sun_path holds 104 bytes on the BSDs and macOS, the closing zero included.
	if n := len(c.Server.Socket); n > 103 {
		b.problems.add(fleet.at("server", "socket"), "server.socket", "%s: a socket's path has at most 103 bytes, this one has %d", c.Server.Socket, n)
	}
	if c.Server.Listen = b.text(fleet, "server", "listen"); c.Server.Listen != "" && !loopback(c.Server.Listen) {
		c.Warnings.add(fleet.at("server", "listen"), "server.listen", "%s is open to everybody who can reach it, without TLS or a login: names and state of every cluster can be read there, and nothing changed; "+
			"keep others away with a network policy or a firewall, or listen on 127.0.0.1 behind a proxy that asks who they are", c.Server.Listen)
	}
	_ = c.LogLevel.UnmarshalText([]byte(b.text(fleet, "log", "level"))) // one of four words
	c.LogFormat = b.text(fleet, "log", "format")
	b.keys(fleet)
	b.backup(fleet)
	b.clusters()
	b.election(fleet)
	b.trust(fleet)
	b.notify()
	b.warn()
}

// reported tells whether something was wrong already with a value at one of
// the paths, or below, so that what follows from it need not be told.
func (b *builder) reported(paths ...string) bool {
	return slices.ContainsFunc(b.problems, func(p Problem) bool {
		return slices.ContainsFunc(paths, func(path string) bool { return strings.Contains("."+p.Path+".", "."+path+".") })
	})
}

// backup reads when the journal is saved, and where.
func (b *builder) backup(fleet layers) {
	if b.doc.sub("backup") == nil {
		return
	}
	p := &Backup{Dir: b.path(fleet, "backup", "dir"), Keep: b.value(fleet, b.table, "backup", "keep").count}
	zone, err := time.LoadLocation(b.value(fleet, b.table, "backup", "timeZone").text)
	schedule, wrong := rotation.ParseSchedule(b.value(fleet, b.table, "backup", "schedule").text, zone)
	if err == nil && wrong == nil {
		p.Schedule = schedule
	}
	if p.Dir != "" && p.Dir == b.config.StateDir {
		b.config.Warnings.add(fleet.at("backup", "dir"), "backup.dir", "is stateDir: what takes the journal takes its copies, too")
	}
	b.config.Backup = p
}

// election reads by which Lease one of several certd is elected.
func (b *builder) election(fleet layers) {
	n := b.doc.sub("leaderElection")
	if n == nil {
		return
	}
	length := func(name string) time.Duration { return b.value(fleet, b.table, "leaderElection", name).duration }
	e := &Election{
		Namespace: b.text(fleet, "leaderElection", "lease", "namespace"), Name: b.text(fleet, "leaderElection", "lease", "name"),
		Cluster:       b.text(fleet, "leaderElection", "cluster"),
		LeaseDuration: length("leaseDuration"), RenewDeadline: length("renewDeadline"), RetryPeriod: length("retryPeriod"),
	}
	b.config.Election = e
	at := func(name string) Position { return fleet.at("leaderElection", name) }
	if b.doc.sub("keys", "vault", "mirror") == nil && !b.reported("keys") {
		b.problems.add(n.at, n.path, "needs keys.vault.mirror: through it, one certd learns what another did, and none writes once another has taken over; a Lease alone is no lock")
	}
	if !b.reported(n.path) {
		switch {
		case e.LeaseDuration <= e.RenewDeadline:
			b.problems.add(at("renewDeadline"), n.path+".renewDeadline", "is %s, and leaseDuration %s: the leader has to stop before another one begins, so it must be less", rotation.FormatDuration(e.RenewDeadline), rotation.FormatDuration(e.LeaseDuration))
		case 5*e.RenewDeadline <= 6*e.RetryPeriod:
			b.problems.add(at("retryPeriod"), n.path+".retryPeriod", "is %s, and renewDeadline %s: there has to be time for another try, so it must be less than five sixths of that", rotation.FormatDuration(e.RetryPeriod), rotation.FormatDuration(e.RenewDeadline))
		}
	}
	if e.Cluster == "" {
		return
	}
	i := slices.IndexFunc(b.config.Clusters, func(c Cluster) bool { return c.Policy.Cluster == e.Cluster })
	switch {
	case b.reported("clusters", n.path+".cluster"):
	case i < 0:
		b.problems.add(at("cluster"), n.path+".cluster", "names %q, and there is no such cluster", e.Cluster)
	case b.config.Clusters[i].Directory != "":
		b.problems.add(at("cluster"), n.path+".cluster", "names %s, which is a folder: a Lease is kept by an API server", e.Cluster)
	}
}

func (b *builder) keys(fleet layers) {
	k := &b.config.Keys
	if b.doc.sub("keys", "file") != nil {
		k.File = &KeyFiles{b.path(fleet, "keys", "file", "dir"), b.secret(fleet, "keys", "file", "passphraseFrom")}
	}
	if b.doc.sub("keys", "kms") != nil {
		k.KMS = &KMS{b.text(fleet, "keys", "kms", "uri")}
		if scheme, rest, _ := strings.Cut(k.KMS.URI, ":"); k.KMS.URI != "" && (scheme == "" || rest == "") {
			b.problems.add(fleet.at("keys", "kms", "uri"), "keys.kms.uri", `is not a KMS URI, such as "pkcs11:module-path=…;token=certd"`)
		}
		if strings.Contains(k.KMS.URI, "pin-value=") {
			b.problems.add(fleet.at("keys", "kms", "uri"), "keys.kms.uri", "holds a PIN; secrets are not written here: use pin-source=FILE")
		}
	}
	if b.doc.sub("keys", "vault") == nil {
		return
	}
	vault := &Vault{
		Address:   b.textOr("VAULT_ADDR", fleet, "keys", "vault", "address"),
		Namespace: b.textOr("VAULT_NAMESPACE", fleet, "keys", "vault", "namespace"),
		CAFile:    b.textOr("VAULT_CACERT", fleet, "keys", "vault", "caFile"),
	}
	k.Vault = vault
	here := fleet.at("keys", "vault")
	if b.reported("keys.vault.address") {
		// It is there, and wrong.
	} else if vault.Address == "" {
		b.problems.add(here, "keys.vault.address", "is missing, and $VAULT_ADDR is not set")
	} else if complaint := (&node{field: field{kind: kindURL}, text: vault.Address}).check(); complaint != "" {
		b.problems.add(here, "keys.vault.address", "$VAULT_ADDR %s", complaint)
	} else if strings.HasPrefix(vault.Address, "http://") && !strings.HasPrefix(vault.Address, "http://127.0.0.1") &&
		!strings.HasPrefix(vault.Address, "http://localhost") {
		b.config.Warnings.add(fleet.at("keys", "vault", "address"), "keys.vault.address", "%s is not encrypted: who listens on the way gets certd's token", vault.Address)
	}
	if n := b.doc.sub("keys", "vault", "caFile"); n != nil {
		if _, err := os.Stat(vault.CAFile); errors.Is(err, fs.ErrNotExist) {
			b.config.Warnings.add(n.at, n.path, "%s does not exist", vault.CAFile)
		}
	}
	if b.doc.sub("keys", "vault", "auth") != nil {
		vault.Auth = b.auth(fleet)
	}
	if b.doc.sub("keys", "vault", "mirror") != nil {
		vault.Mirror = &Mirror{b.text(fleet, "keys", "vault", "mirror", "mount"), b.text(fleet, "keys", "vault", "mirror", "path")}
	}
	b.engines(fleet, vault)
}

// engines says which of Vault's engines signs what.
func (b *builder) engines(fleet layers, vault *Vault) {
	prefix := b.text(fleet, "keys", "vault", "transit", "keyPrefix")
	if prefix == "" {
		prefix = b.config.Name
		b.show("keys.vault.transit.keyPrefix", prefix, &node{}, "")
	}
	vault.Webhooks = Transit{b.text(fleet, "keys", "vault", "transit", "webhookMount"), prefix}
	anchors, whose := "", "the anchors' mount"
	if b.doc.sub("keys", "vault", "pki") != nil {
		vault.PKI = &PKI{b.text(fleet, "keys", "vault", "pki", "mount"), b.text(fleet, "keys", "vault", "pki", "issuer")}
		anchors, whose = vault.PKI.Mount, "the mount of the PKI engine"
		if mount := b.doc.sub("keys", "vault", "transit", "mount"); mount != nil {
			b.problems.add(mount.at, mount.path, "is for the anchors' keys, and with keys.vault.pki the PKI engine has those: "+
				"leave one of the two out; webhookMount and keyPrefix may stay")
		}
	} else {
		vault.Transit = &Transit{b.text(fleet, "keys", "vault", "transit", "mount"), prefix}
		anchors = vault.Transit.Mount
	}
	if anchors == vault.Webhooks.Mount {
		b.problems.add(fleet.at("keys", "vault", "transit"), "keys.vault.transit.webhookMount",
			"is %s too; they need different policies, so they need different mounts", whose)
	}
}

func (b *builder) auth(fleet layers) *VaultAuth {
	at := func(path ...string) []string { return append([]string{"keys", "vault", "auth"}, path...) }
	text := func(path ...string) string { return b.text(fleet, at(path...)...) }
	var auth VaultAuth
	for _, method := range b.doc.sub(at()...).keys {
		switch method {
		case "token":
			token := b.secret(fleet, at("token")...)
			auth.Token = &token
		case "tokenFile":
			auth.TokenFile = b.path(fleet, at("tokenFile")...)
			b.private(b.doc.sub(at("tokenFile")...), auth.TokenFile)
		case "appRole":
			auth.AppRole = &AppRole{text("appRole", "mount"), text("appRole", "roleID"), b.secret(fleet, at("appRole", "secretIDFrom")...)}
		case "kubernetes":
			auth.Kubernetes = &KubernetesAuth{text("kubernetes", "mount"), text("kubernetes", "role"), b.path(fleet, at("kubernetes", "tokenFile")...)}
		case "cert":
			auth.Cert = &CertAuth{text("cert", "mount"), text("cert", "role"),
				b.path(fleet, at("cert", "certFile")...), b.path(fleet, at("cert", "keyFile")...)}
			b.private(b.doc.sub(at("cert", "keyFile")...), auth.Cert.KeyFile)
		case "jwt":
			auth.JWT = &JWTAuth{text("jwt", "mount"), text("jwt", "role"), b.secret(fleet, at("jwt", "tokenFrom")...)}
		}
	}
	return &auth
}

func (b *builder) secret(fleet layers, path ...string) Secret {
	n, _ := fleet.find(path...)
	if n == nil {
		return Secret{}
	}
	secret := Secret{Env: n.textOf("env"), Credential: n.textOf("credential"),
		getenv: b.options.Getenv, folder: b.options.Getenv("CREDENTIALS_DIRECTORY")}
	if file := n.sub("file"); file != nil {
		secret.File = b.absolute(file)
	}
	if secret.Env == "" {
		if path, err := secret.path(); err == nil {
			b.private(n, path)
		}
	}
	b.show(n.path, secret.String(), n, "")
	b.config.Secrets = append(b.config.Secrets, secret)
	return secret
}

// private warns of a secret file that is not there or that others can read. n
// names it; nil if that was refused.
func (b *builder) private(n *node, path string) {
	if n == nil {
		return
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		b.config.Warnings.add(n.at, n.path, "%s does not exist", path)
	case err == nil && info.Mode().Perm()&0o044 != 0:
		b.config.Warnings.add(n.at, n.path, "%s can be read by others (mode %04o); chmod 600 it", path, info.Mode().Perm())
	}
}
