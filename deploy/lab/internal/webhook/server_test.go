package webhook

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// credential is a serving certificate of the tests, told by its common name.
type credential struct {
	cert []byte
	key  crypto.Signer
}

func newCredential(t *testing.T, name string, key crypto.Signer) credential {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"w.linkerd.svc"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return credential{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key}
}

func newP256(t *testing.T, name string) credential {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newCredential(t, name, key)
}

// encoded is the key as a PEM block of the given type.
func (c credential) encoded(t *testing.T, blockType string) []byte {
	t.Helper()
	var der []byte
	var err error
	switch blockType {
	case "PRIVATE KEY":
		der, err = x509.MarshalPKCS8PrivateKey(c.key)
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(c.key.(*ecdsa.PrivateKey))
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(c.key.(*rsa.PrivateKey))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func (c credential) files(t *testing.T) map[string][]byte {
	return map[string][]byte{certName: c.cert, keyName: c.encoded(t, "PRIVATE KEY")}
}

// mount is a folder that a kubelet projects into.
type mount struct {
	t     *testing.T
	dir   string
	swaps int
}

// swap writes files and swaps ..data to them, as a kubelet does.
func (m *mount) swap(files map[string][]byte) {
	m.t.Helper()
	m.swaps++
	name := fmt.Sprintf("..2026_01_02_03_04_05.%d", m.swaps)
	if err := os.Mkdir(filepath.Join(m.dir, name), 0o700); err != nil {
		m.t.Fatal(err)
	}
	for file, content := range files {
		m.write(filepath.Join(name, file), content)
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(m.dir, file)); err != nil && !os.IsExist(err) {
			m.t.Fatal(err)
		}
	}
	if err := os.Symlink(name, filepath.Join(m.dir, "..data_tmp")); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) write(name string, content []byte) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), content, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// start starts a server that has the credential mounted.
func start(t *testing.T, container string, c credential, change func(*Config)) (*Server, *mount) {
	t.Helper()
	m := &mount{t: t, dir: t.TempDir()}
	m.swap(c.files(t))
	config := Config{Container: container, Address: "127.0.0.1:0", TLSDir: m.dir, Namespace: "linkerd", Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&config)
	}
	s, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, m
}

// served is the common name of the certificate that a new connection gets, or
// why it gets none.
func served(s *Server) string {
	conn, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// until waits for what a file watch brings about in its own time.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

func TestAGoServerTakesANewPairWhenDataIsSwapped(t *testing.T) {
	s, m := start(t, "proxy-injector", newP256(t, "one"), nil)
	if got := served(s); got != "one" {
		t.Fatal(got)
	}
	m.swap(newP256(t, "two").files(t))
	until(t, "the second certificate", func() bool { return served(s) == "two" })
}

// A pair that does not load is skipped for good; the next swap counts again.
// Swaps come in order, so that the third one proves what became of the second.
func TestAGoServerKeepsItsPairWhenTheNewOneIsBad(t *testing.T) {
	good, bad, last := newP256(t, "good"), newP256(t, "bad"), newP256(t, "last")
	for name, files := range map[string]map[string][]byte{
		"another certificate's key": {certName: bad.cert, keyName: good.encoded(t, "PRIVATE KEY")},
		"no key":                    {certName: bad.cert},
		"no certificate":            {certName: nil, keyName: bad.encoded(t, "PRIVATE KEY")},
		"a blank line at the end":   {certName: append(bytes.Clone(bad.cert), '\n'), keyName: bad.encoded(t, "PRIVATE KEY")},
	} {
		t.Run(name, func(t *testing.T) {
			var skipped atomic.Int32
			s, m := start(t, "tap", good, func(c *Config) { c.Log = slog.New(countWarnings{&skipped}) })
			m.swap(files)
			until(t, "a warning", func() bool { return skipped.Load() == 1 })
			if got := served(s); got != "good" {
				t.Errorf("it serves %s", got)
			}
			m.swap(last.files(t))
			until(t, "the last certificate", func() bool { return served(s) == "last" })
		})
	}
}

// countWarnings is a log that only counts.
type countWarnings struct{ n *atomic.Int32 }

func (c countWarnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (c countWarnings) Handle(context.Context, slog.Record) error    { c.n.Add(1); return nil }
func (c countWarnings) WithAttrs([]slog.Attr) slog.Handler           { return c }
func (c countWarnings) WithGroup(string) slog.Handler                { return c }

// A server may go deaf while it runs. What it missed it does not make up for.
func TestADeafServerMissesSwaps(t *testing.T) {
	var deaf atomic.Bool
	var asked atomic.Int32
	s, m := start(t, "sp-validator", newP256(t, "one"), func(c *Config) {
		c.Deaf = func() bool { defer asked.Add(1); return deaf.Load() }
	})
	deaf.Store(true)
	m.swap(newP256(t, "two").files(t))
	until(t, "the swap to be noticed", func() bool { return asked.Load() == 1 })
	deaf.Store(false)
	if got := served(s); got != "one" {
		t.Errorf("it serves %s", got)
	}
	m.swap(newP256(t, "three").files(t))
	until(t, "the third certificate", func() bool { return served(s) == "three" })
}

func TestAKubertServerReadsItsFilesAtEveryConnection(t *testing.T) {
	two := newP256(t, "two")
	s, m := start(t, "policy", newP256(t, "one"), func(c *Config) { c.Deaf = func() bool { return true } })
	if got := served(s); got != "one" {
		t.Fatal(got)
	}
	// In place, which no file watch of Linkerd's would notice.
	for name, content := range two.files(t) {
		m.write(filepath.Join("..data", name), content)
	}
	if got := served(s); got != "two" {
		t.Error(got)
	}
	m.write(filepath.Join("..data", keyName), two.encoded(t, "EC PRIVATE KEY"))
	if got := served(s); !strings.Contains(got, "tls:") {
		t.Errorf("with a key it cannot read: %s", got)
	}
	m.swap(two.files(t))
	if got := served(s); got != "two" {
		t.Error(got)
	}
}

func TestWhatAServerStartsWith(t *testing.T) {
	p256 := newP256(t, "p256")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048 := newCredential(t, "rsa", rsaKey)
	for _, test := range []struct {
		name           string
		cert, key      []byte // nil: the file is not there
		golang, kubert string // "" where it starts
	}{
		{"PKCS#8", p256.cert, p256.encoded(t, "PRIVATE KEY"), "", ""},
		{"SEC 1", p256.cert, p256.encoded(t, "EC PRIVATE KEY"), "", "could not load private key"},
		{"PKCS#1", rsa2048.cert, rsa2048.encoded(t, "RSA PRIVATE KEY"), "", ""},
		{"Helm's pair, without newlines at the end", bytes.TrimSpace(rsa2048.cert), bytes.TrimSpace(rsa2048.encoded(t, "RSA PRIVATE KEY")), "", ""},
		{"a blank line at the end", append(bytes.Clone(p256.cert), '\n'), p256.encoded(t, "PRIVATE KEY"), "not a PEM certificate", ""},
		{"another certificate's key", p256.cert, rsa2048.encoded(t, "PRIVATE KEY"), "does not match", "does not match"},
		{"no PEM", []byte("x"), []byte("x"), "not PEM-encoded", "could not load private key"},
		{"no key", p256.cert, nil, "no such file", "no such file"},
		{"no certificate", nil, p256.encoded(t, "PRIVATE KEY"), "no such file", "no such file"},
	} {
		for container, refused := range map[string]string{"proxy-injector": test.golang, "webhook": test.golang, "policy": test.kubert, "webhook-reread": test.kubert} {
			t.Run(test.name+" in "+container, func(t *testing.T) {
				m := &mount{t: t, dir: t.TempDir()}
				files := map[string][]byte{}
				for name, content := range map[string][]byte{certName: test.cert, keyName: test.key} {
					if content != nil {
						files[name] = content
					}
				}
				m.swap(files)
				s, err := Start(Config{Container: container, Address: "127.0.0.1:0", TLSDir: m.dir, Log: slog.New(slog.DiscardHandler)})
				if err == nil {
					s.Close()
				}
				if refused == "" && err != nil || refused != "" && (err == nil || !strings.Contains(err.Error(), refused)) {
					t.Errorf("got %v, want %q", err, refused)
				}
			})
		}
	}
}

func TestNothingBelowTLS13(t *testing.T) {
	s, _ := start(t, "webhook", newP256(t, "one"), nil)
	conn, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err == nil {
		conn.Close()
		t.Fatal("TLS 1.2 was accepted")
	}
}

// By default each request is a connection of its own and meets the certificate
// of the moment; with KeepAlive a client goes on with the one it has.
func TestHowLongAConnectionLasts(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("KeepAlive %v", keep), func(t *testing.T) {
			s, m := start(t, "tap", newP256(t, "one"), func(c *Config) { c.KeepAlive = keep })
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			ask := func() string {
				t.Helper()
				resp, err := client.Get("https://" + s.Address() + "/healthz")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Fatal(err)
				}
				if resp.ProtoMajor != 1 {
					t.Errorf("it answers in %s", resp.Proto)
				}
				return resp.TLS.PeerCertificates[0].Subject.CommonName
			}
			ask()
			m.swap(newP256(t, "two").files(t))
			until(t, "the second certificate", func() bool { return served(s) == "two" })
			if got, want := ask(), map[bool]string{false: "two", true: "one"}[keep]; got != want {
				t.Errorf("the next request meets %s, want %s", got, want)
			}
			s.Drain()
			if got := ask(); got != "two" {
				t.Errorf("a server that drains still keeps the connection with %s", got)
			}
		})
	}
}

// Shutdown refuses new connections and finishes what it has begun.
func TestShutdownFinishesOpenRequests(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	s, _ := start(t, "proxy-injector", newP256(t, "one"), func(c *Config) {
		c.Injects = func(string) bool { close(begun); <-finish; return true }
	})
	answered := make(chan error)
	go func() {
		_, err := review(s, podReview(t, "CREATE", nil))
		answered <- err
	}()
	<-begun
	ended := make(chan struct{})
	go func() { s.Shutdown(t.Context()); close(ended) }()
	until(t, "no listener", func() bool { return strings.Contains(served(s), "refused") })
	close(finish)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	<-ended
}
