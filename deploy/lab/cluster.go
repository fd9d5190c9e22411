package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"certd.internal/deploy/lab/internal/certs"
	"certd.internal/deploy/lab/internal/controllers"
	"certd.internal/deploy/lab/internal/frontproxy"
	"certd.internal/deploy/lab/internal/kubelet"
	"certd.internal/deploy/lab/internal/serviceproxy"
)

// cluster is one API server with what makes it a cluster: controllers, a
// kubelet, and the proxy that clients talk to.
type cluster struct {
	name        string
	dir         string // the lab's own files of this cluster
	server      string // the API server itself: https://127.0.0.1:PORT
	serviceCIDR string
	podCIDR     netip.Prefix // of the pods that have servers
	adminToken  string       // of the group system:masters
	log         *slog.Logger

	ca        *certs.CA
	proxyCert tls.Certificate
	flags     []string
	proxy     *frontproxy.Proxy
	kubelet   *kubelet.Kubelet
	pid       atomic.Int64
}

// newCluster makes the cluster's keys, certificates and flags. Its index counts
// from 1.
func newCluster(dir string, addresses *network, index int, etcd string, log *slog.Logger) (*cluster, error) {
	name := fmt.Sprintf("c%d", index)
	port, err := addresses.port(index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &cluster{
		name: name, dir: filepath.Join(dir, name), log: log.With("cluster", name),
		server: "https://127.0.0.1:" + strconv.Itoa(port), serviceCIDR: addresses.serviceCIDR(index),
		podCIDR: addresses.podCIDR(index), adminToken: randomToken(),
	}
	if err := c.writeCredentials(addresses.serviceIP(index)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c.flags = apiserverFlags(c, etcd, port)
	return c, nil
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) writeCredentials(serviceIP net.IP) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	var err error
	if c.ca, err = certs.NewCA("lab " + c.name + " CA"); err != nil {
		return err
	}
	// The aggregator's client certificate has a CA of its own, else every
	// client certificate of the cluster could name any user.
	front, err := certs.NewCA("lab " + c.name + " front proxy CA")
	if err != nil {
		return err
	}
	loopback := net.IPv4(127, 0, 0, 1)
	serving, servingKey, err := c.ca.Issue("kube-apiserver", []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, loopback, serviceIP)
	if err != nil {
		return err
	}
	proxy, proxyKey, err := c.ca.Issue("lab front proxy", []string{"localhost", "kubernetes.default.svc"}, loopback)
	if err != nil {
		return err
	}
	if c.proxyCert, err = tls.X509KeyPair(proxy, proxyKey); err != nil {
		return err
	}
	aggregator, aggregatorKey, err := front.Issue("front-proxy", nil)
	if err != nil {
		return err
	}
	tokens, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tokensKey, err := certs.KeyPEM(tokens)
	if err != nil {
		return err
	}
	tokensPublic, err := x509.MarshalPKIXPublicKey(tokens.Public())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt": c.ca.PEM, "serving.crt": serving, "serving.key": servingKey,
		"front-ca.crt": front.PEM, "front.crt": aggregator, "front.key": aggregatorKey,
		"sa.key": tokensKey, "sa.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: tokensPublic}),
		"tokens.csv": []byte(c.adminToken + `,lab-admin,lab-admin,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// config is a client of the API server itself, past the proxy, as admin.
func (c *cluster) config(agent string) *rest.Config {
	return &rest.Config{Host: c.server, BearerToken: c.adminToken, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.PEM}, QPS: -1, UserAgent: agent}
}

// start brings the cluster up and keeps it up until ctx ends. pidChanged is
// called after each restart.
func (c *cluster) start(ctx context.Context, kids *children, kube kubelet.Options, pidChanged func()) error {
	exited, err := c.startServer(kids)
	if err != nil {
		return err
	}
	if err := c.waitReady(ctx, exited); err != nil {
		return err
	}
	config := c.config("lab-controllers")
	if err := controllers.Run(ctx, config, c.ca.PEM); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	config = c.config("lab-kubelet")
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	kube.Root, kube.Log, kube.Servers = c.path("pods"), c.log, c.podCIDR
	watches := informers.NewSharedInformerFactory(client, 0)
	if c.kubelet, err = kubelet.New(client, watches, kube); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	services, err := serviceproxy.New(client, watches, serviceproxy.Config{
		Simulated: kubelet.HasServers, Dial: c.kubelet.Dial, Leaving: kubelet.ErrLeaving, Log: c.log})
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	for name, run := range map[string]func(context.Context) error{"kubelet": c.kubelet.Run, "service proxy": services.Run} {
		go func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				c.log.Error(name+" ended", "err", err)
			}
		}()
	}
	c.proxy, err = frontproxy.New(frontproxy.Config{Backend: c.server, CA: c.ca.PEM, Certificate: c.proxyCert, Forwarder: c.kubelet,
		Metrics: func(namespace, pod string) ([]byte, error) {
			body, err := c.kubelet.Metrics(namespace, pod)
			if errors.Is(err, kubelet.ErrNoReplica) {
				err = frontproxy.ErrNotSimulated
			}
			return body, err
		}})
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	go c.keepUp(ctx, kids, exited, pidChanged)
	return nil
}

func (c *cluster) startServer(kids *children) (exited <-chan struct{}, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("%s: start API server: %w", c.name, err)
	}
	log, err := os.OpenFile(c.path("apiserver.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: start API server: %w", c.name, err)
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{"kube-apiserver"}, c.flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if exited, err = kids.run(cmd); err != nil {
		return nil, fmt.Errorf("%s: start API server: %w", c.name, err)
	}
	c.pid.Store(int64(cmd.Process.Pid))
	return exited, nil
}

// Outages are made with signals: a killed API server comes back by itself after
// respawnDelay, or, while the cluster's file "down" exists, when that is gone.
const (
	respawnDelay = time.Second
	downFile     = "down"
)

func (c *cluster) keepUp(ctx context.Context, kids *children, exited <-chan struct{}, pidChanged func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-exited:
		}
		c.proxy.Down()
		c.log.Info("the API server ended; it comes back")
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(respawnDelay):
			}
			_, err := os.Stat(c.path(downFile))
			wait = err == nil
		}
		var err error
		if exited, err = c.startServer(kids); err == nil {
			pidChanged()
			err = c.waitReady(ctx, exited)
		}
		if err == nil {
			err = c.proxy.Up()
		}
		if err != nil && ctx.Err() == nil {
			c.log.Error("the API server does not come back", "err", err)
			if exited == nil {
				return
			}
		}
	}
}

// waitReady returns when the API server says that it is.
func (c *cluster) waitReady(ctx context.Context, exited <-chan struct{}) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.ca.PEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for last := "no answer"; ; {
		if resp, err := client.Get(c.server + "/readyz?verbose"); err != nil {
			last = err.Error()
		} else {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = string(body)
		}
		select {
		case <-exited:
			return fmt.Errorf("%s: the API server ended at once; its log is %s", c.name, c.path("apiserver.log"))
		case <-ctx.Done():
			return fmt.Errorf("%s: the API server is not ready (%w): %s", c.name, ctx.Err(), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// certdToken makes sure that ServiceAccount certd exists and returns a token
// for it that outlives the lab.
func (c *cluster) certdToken(ctx context.Context) (string, error) {
	const name = "certd"
	client, err := kubernetes.NewForConfig(c.config("lab"))
	if err != nil {
		return "", err
	}
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	month := int64((30 * 24 * time.Hour).Seconds())
	token, err := client.CoreV1().ServiceAccounts(name).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &month}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return token.Status.Token, nil
}

func randomToken() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails (documented since Go 1.24)
	return hex.EncodeToString(b)
}
