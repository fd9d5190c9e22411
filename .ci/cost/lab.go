package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lab is one API server, etcd and Vault of their own, in which each of n clusters is a
// namespace with an address of its own.
type lab struct {
	dir    string // with the folder kube, a kubeconfig for each cluster
	n      int
	cmd    *exec.Cmd
	relay  *relay
	meters meters
	meta   metadata.Interface // for watches: they need no content
	vault  struct {
		Address       string `json:"address"`
		CAFile        string `json:"caFile"`
		OperatorToken string `json:"operatorToken"`
		RootToken     string `json:"rootToken"`
		RoleID        string `json:"roleID"`
		SecretIDFile  string `json:"secretIDFile"`
		AuditLog      string `json:"auditLog"`
	}
}

func clusterName(i int) string { return fmt.Sprintf("c%04d", i) }

// namespace is where Linkerd would be in cluster i.
func namespace(i int) string { return "linkerd-" + clusterName(i) }

// startLab makes a lab in dir, from the sources in root.
func startLab(ctx context.Context, root, dir string, n int) (l *lab, err error) {
	bin, err := command(ctx, root, "deploy/lab/build.sh").Output()
	if err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	l = &lab{dir: dir, n: n}
	l.cmd = exec.Command(filepath.Join(strings.TrimSpace(string(bin)), "lab"), "up", "-clusters", "1", "-dir", filepath.Join(dir, "lab"))
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var said bytes.Buffer
	l.cmd.Stdout, l.cmd.Stderr = &said, &said
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the lab: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	ready := func() (bool, error) {
		_, err := os.Stat(filepath.Join(dir, "lab", "ready"))
		return err == nil, nil
	}
	if err := wait(ctx, 2*time.Minute, "the lab to be ready", ready); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, "lab", "lab.json"))
	if err != nil {
		return nil, err
	}
	var about struct {
		PID      int `json:"pid"`
		Clusters []struct {
			Kubeconfig   string `json:"kubeconfig"`
			DirectServer string `json:"directServer"`
			PID          int    `json:"pid"`
		} `json:"clusters"`
		Vault json.RawMessage `json:"vault"`
	}
	if err := errors.Join(json.Unmarshal(text, &about), json.Unmarshal(about.Vault, &l.vault)); err != nil {
		return nil, fmt.Errorf("lab.json: %w", err)
	}
	cluster := about.Clusters[0]
	if err := l.connect(ctx, cluster.Kubeconfig, cluster.DirectServer); err != nil {
		return nil, err
	}
	socket, err := etcdSocket(cluster.PID)
	if err != nil {
		return nil, err
	}
	l.meters.etcd, l.meters.apiserver, l.meters.lab, l.meters.auditLog = etcdOverSocket(socket), cluster.PID, about.PID, l.vault.AuditLog
	return l, nil
}

// connect makes the clusters: namespaces, addresses, kubeconfigs.
func (l *lab) connect(ctx context.Context, kubeconfig, server string) error {
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	address, err := url.Parse(server)
	if err != nil {
		return err
	}
	if l.relay, err = newRelay(address.Host, l.n); err != nil {
		return fmt.Errorf("listen for %d clusters: %w", l.n, err)
	}
	l.meters.relay = l.relay
	rc, err := clientcmd.BuildConfigFromFlags(server, kubeconfig)
	if err != nil {
		return err
	}
	rc.QPS = -1
	if l.meters.api, err = kubernetes.NewForConfig(rc); err != nil {
		return err
	}
	if l.meta, err = metadata.NewForConfig(rc); err != nil {
		return err
	}
	kube := filepath.Join(l.dir, "kube")
	if err := os.Mkdir(kube, 0o700); err != nil {
		return err
	}
	failed, limit := make([]error, l.n), make(chan struct{}, 16)
	var working sync.WaitGroup
	for i := range l.n {
		working.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			_, err := l.meters.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i)}}, metav1.CreateOptions{})
			failed[i] = errors.Join(err, l.writeKubeconfig(filepath.Join(kube, clusterName(i)), config, i))
		})
	}
	working.Wait()
	return errors.Join(failed...)
}

// writeKubeconfig leads to the relay's address for cluster i. The CA's text differs from
// cluster to cluster, as it does in a fleet, so that clients share nothing.
func (l *lab) writeKubeconfig(path string, c *clientcmdapi.Config, i int) error {
	c = c.DeepCopy()
	for _, k := range c.Clusters {
		k.Server = "https://" + l.relay.address(i)
		k.CertificateAuthorityData = append(k.CertificateAuthorityData, fmt.Sprintf("\n# %s\n", clusterName(i))...)
	}
	return clientcmd.WriteToFile(*c, path)
}

// settled waits until the lab has nothing to do of its own: the controllers have given
// each new namespace what belongs to it.
func (l *lab) settled(ctx context.Context) error {
	var last reading
	return wait(ctx, 5*time.Minute, "the API server to be quiet", func() (bool, error) {
		r, err := l.meters.read(ctx, os.Getpid())
		if err != nil {
			return false, err
		}
		quiet := last.requests > 0 && r.requests-last.requests <= 2
		last = r
		time.Sleep(time.Second)
		return quiet, nil
	})
}

func (l *lab) Close() error {
	var err error
	if l.relay != nil {
		err = l.relay.Close()
	}
	l.cmd.Process.Signal(syscall.SIGTERM)
	l.cmd.Wait()
	return err
}

// etcdSocket is where the API server finds etcd.
func etcdSocket(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "", err
	}
	for arg := range strings.SplitSeq(string(b), "\x00") {
		if path, ok := strings.CutPrefix(arg, "--etcd-servers=unix://"); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("the API server (process %d) names no socket of etcd's", pid)
}

// wait asks again and again until ready says so.
func wait(ctx context.Context, most time.Duration, what string, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// command is a program that ends when ctx does; its errors are the caller's.
func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
