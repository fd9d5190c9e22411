package vault

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultTimeout bounds one request to Vault.
const DefaultTimeout = 10 * time.Second

// Config says where Vault (or OpenBao) is and how to log in there.
type Config struct {
	Address   string // https://HOST:PORT; http:// to this machine alone
	Namespace string // Vault Enterprise or OpenBao

	// At most one of these; without any, the system's CA certificates count.
	CAFile string // PEM
	CAPath string // folder of PEM files
	CAPEM  []byte

	TLSServerName  string // if the certificate has another name than Address
	ClientCertFile string // PEM chain for mutual TLS, read at each handshake
	ClientKeyFile  string

	Timeout time.Duration // of one request; 0 is DefaultTimeout
	// Proxy picks the HTTP proxy for a request, as in http.Transport; nil is none.
	Proxy func(*http.Request) (*url.URL, error)

	Auth Auth

	// Observe is told of each exchange with Vault: one of a few words for what was
	// asked, the HTTP status of the answer ("none" if there was none), and how long it
	// took. Calls come from several goroutines. Nil: nobody is told.
	Observe func(operation, code string, took time.Duration)
}

// A Secret fetches a secret; it is called at each login, so that a replaced
// file counts at once.
type Secret func() ([]byte, error)

// Auth is a way to log in: exactly one of its fields is set. An empty Mount
// is the method's usual one.
type Auth struct {
	Token      Secret // a token made elsewhere
	TokenFile  string // a file that holds one, kept fresh by a Vault Agent
	AppRole    *AppRole
	Kubernetes *Kubernetes
	Cert       *Cert
	JWT        *JWT
}

// AppRole logs in by role id and secret id. The secret id may come
// response-wrapped: a wrapping token, recognised by its prefix, is unwrapped
// once, and what was in it is kept for later logins.
type AppRole struct {
	Mount, RoleID string
	SecretID      Secret
}

// Kubernetes logs in with a projected ServiceAccount token.
type Kubernetes struct{ Mount, Role, TokenFile string }

// Cert logs in with a TLS client certificate, which all requests then show.
// Role may be empty: Vault takes the first that matches.
type Cert struct{ Mount, Role, CertFile, KeyFile string }

// JWT logs in with a JSON web token. An empty Role is the method's default.
type JWT struct {
	Mount, Role string
	Token       Secret
}

// check refuses what cannot work or would not be safe.
func (c *Config) check() error {
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return errors.New("a TLS client certificate needs both its file and its key's")
	}
	if c.Timeout < 0 {
		return fmt.Errorf("a time-out of %s", c.Timeout)
	}
	ways := 0
	for _, set := range []bool{c.Auth.Token != nil, c.Auth.TokenFile != "", c.Auth.AppRole != nil, c.Auth.Kubernetes != nil, c.Auth.Cert != nil, c.Auth.JWT != nil} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return fmt.Errorf("%d ways to log in are given; it takes exactly one of token, token file, AppRole, Kubernetes, TLS certificate and JWT", ways)
	}
	return nil
}

func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("address: it has more than scheme, host, port and path")
	}
	switch {
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("address %q is not of the form https://HOST:PORT", address)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("address %s: without TLS anyone on the way could take certd's token; use https", address)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// FillFromEnvironment completes c with what Vault's own variables say, for
// fields that are still empty. OpenBao's BAO_ names win over VAULT_ names,
// as in its client. VAULT_TOKEN is not looked at: who may use it is the
// caller's decision. getenv is os.Getenv in earnest.
func (c *Config) FillFromEnvironment(getenv func(string) string) error {
	env := func(name string) string {
		if v := getenv("BAO_" + name); v != "" {
			return v
		}
		return getenv("VAULT_" + name)
	}
	switch env("SKIP_VERIFY") {
	case "", "0", "f", "F", "false", "False", "FALSE":
	default:
		return errors.New("VAULT_SKIP_VERIFY is set: certd does not talk to a Vault it cannot verify; unset it and name the CA in VAULT_CACERT or keys.vault.caFile")
	}
	fill := func(field *string, name string) {
		if *field == "" {
			*field = env(name)
		}
	}
	fill(&c.Address, "ADDR")
	fill(&c.Namespace, "NAMESPACE")
	fill(&c.TLSServerName, "TLS_SERVER_NAME")
	if c.ClientCertFile == "" && c.ClientKeyFile == "" {
		c.ClientCertFile, c.ClientKeyFile = env("CLIENT_CERT"), env("CLIENT_KEY")
	}
	if c.CAFile == "" && c.CAPath == "" && len(c.CAPEM) == 0 {
		// The precedence of vault/api's TLSConfig.
		switch file, pem := env("CACERT"), env("CACERT_BYTES"); {
		case file != "":
			c.CAFile = file
		case pem != "":
			c.CAPEM = []byte(pem)
		default:
			c.CAPath = env("CAPATH")
		}
	}
	if c.Timeout == 0 {
		timeout, err := parseTimeout(env("CLIENT_TIMEOUT"))
		if err != nil {
			return fmt.Errorf("VAULT_CLIENT_TIMEOUT: %w", err)
		}
		c.Timeout = timeout
	}
	if c.Proxy == nil {
		proxy := env("PROXY_ADDR")
		if proxy == "" {
			proxy = env("HTTP_PROXY")
		}
		if proxy == "" {
			c.Proxy = http.ProxyFromEnvironment
			return nil
		}
		u, err := url.Parse(proxy)
		if err != nil || u.Host == "" {
			return errors.New("VAULT_PROXY_ADDR is not the address of a proxy") // it may hold a password
		}
		c.Proxy = http.ProxyURL(u)
	}
	return nil
}

// parseTimeout reads a number of seconds or a duration, as Vault's CLI does.
func parseTimeout(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is not a time to wait", text)
	}
	return d, err
}

// readSecret reads a file that holds one secret.
func readSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b), nil
}
