package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"certd.internal/deploy/lab/internal/kubelet"
)

// upOptions are the flags of "lab up".
type upOptions struct {
	clusters        int
	dir             string
	fleet, schedule string
	vault           string // the lab-vault binary
	policies, rbac  string // certd's shipped files
	kubelet         kubelet.Options
}

func parseUp(args []string) (upOptions, error) {
	var o upOptions
	var repository string
	flags := flag.NewFlagSet("lab up", flag.ExitOnError)
	flags.IntVar(&o.clusters, "clusters", 3, "how many API servers")
	flags.StringVar(&o.dir, "dir", "lab", "folder for kubeconfigs, certd.yaml and the rest")
	flags.StringVar(&o.fleet, "fleet", "lab", "the fleet's name in certd.yaml")
	flags.StringVar(&o.schedule, "schedule", "", "rotate issuers at every firing of this cron schedule, with short lifetimes; else certd's defaults")
	flags.StringVar(&o.vault, "vault", "", "the lab-vault binary (default: beside this one)")
	flags.StringVar(&repository, "repository", "", "certd's repository (default: the one around the current folder)")
	flags.StringVar(&o.policies, "policies", "", "Vault policies of certd (default: deploy/vault in the repository)")
	flags.StringVar(&o.rbac, "rbac", "", "RBAC manifests of certd (default: deploy/rbac in the repository)")
	flags.IntVar(&o.kubelet.Nodes, "nodes", 3, "how many nodes each cluster seems to have")
	flags.DurationVar(&o.kubelet.Lag, "projection-lag", time.Second, "from a change of a Secret or ConfigMap to that of the files in pods")
	flags.DurationVar(&o.kubelet.ReadyDelay, "ready-delay", 300*time.Millisecond, "from mounted volumes to a ready pod")
	flags.DurationVar(&o.kubelet.BackOff, "restart-delay", time.Second, "from a container's first crash to its restart; doubles")
	flags.Parse(args)
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see lab up -h", flags.Arg(0))
	}
	if o.clusters < 1 || o.kubelet.Nodes < 1 {
		return o, errors.New("-clusters and -nodes are at least 1")
	}
	if o.vault == "" {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("find lab-vault: %w", err)
		}
		o.vault = filepath.Join(filepath.Dir(self), "lab-vault")
	}
	if o.policies == "" || o.rbac == "" {
		if repository == "" {
			var err error
			if repository, err = findRepository(); err != nil {
				return o, err
			}
		}
		o.policies = or(o.policies, filepath.Join(repository, "deploy", "vault"))
		o.rbac = or(o.rbac, filepath.Join(repository, "deploy", "rbac"))
	}
	return o, nil
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// findRepository looks for deploy/rbac from the current folder upwards.
func findRepository() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "rbac", "certd.yaml")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("certd's repository is not around " + here + "; name it with -repository")
		}
	}
}

// up runs a lab until ctx ends.
func up(ctx context.Context, args []string) error {
	o, err := parseUp(args)
	if err != nil {
		return err
	}
	rights, err := readRights(o.rbac)
	if err != nil {
		return err
	}
	begin := time.Now()
	f, asides, err := claimFolder(o.dir)
	if err != nil {
		return err
	}
	for _, aside := range asides {
		fmt.Println("moved the state that was there to", aside)
	}
	addresses, err := takeNetwork()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	noise, err := os.Create(f.in(own, "controllers.log"))
	if err != nil {
		return err
	}
	quiet := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(quiet)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := quiet.Set(name, value); err != nil {
			return err
		}
	}
	klog.SetOutput(noise)

	kids := newChildren()
	l := &lab{options: o, folder: f, addresses: addresses, kids: kids, rights: rights, log: log}
	running, end := context.WithCancelCause(ctx)
	err = l.start(running, end)
	if err == nil {
		l.sayReady(time.Since(begin))
		<-ctx.Done()
	}
	stopping := time.Now()
	end(nil)
	os.Remove(f.in(readyName))
	kids.stop()
	l.stopEtcd()
	if ctx.Err() != nil { // asked to stop, if before it was ready
		fmt.Printf("stopped in %.1fs\n", time.Since(stopping).Seconds())
		return nil
	}
	return err
}

// lab is everything that runs.
type lab struct {
	options   upOptions
	folder    *folder
	addresses *network
	kids      *children
	rights    rights
	log       *slog.Logger

	etcd     *etcdServer
	clusters []*cluster

	vault *vaultServer

	complete atomic.Bool
	mu       sync.Mutex // of lab.json
}

// start returns when all is ready and described, D/ready included. What it has
// started goes on until ctx ends; the first error ends it by fail.
func (l *lab) start(ctx context.Context, fail context.CancelCauseFunc) error {
	var err error
	if l.etcd, err = startEtcd(l.folder.in(own, "etcd.log")); err != nil {
		return err
	}
	for i := range l.options.clusters {
		c, err := newCluster(l.folder.in(own), l.addresses, i+1, l.etcd.url, l.log)
		if err != nil {
			return err
		}
		l.clusters = append(l.clusters, c)
	}
	var running sync.WaitGroup
	tasks := []func() error{func() (err error) {
		l.vault, err = startVault(ctx, l.kids, l.options.vault, l.folder.in(own, "vault"), l.folder.in(auditName), l.options.policies, l.log)
		return err
	}}
	atOnce := make(chan struct{}, 4) // more API servers at a time start no sooner
	for _, c := range l.clusters {
		tasks = append(tasks, func() error {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			return l.startCluster(ctx, c)
		})
	}
	for _, task := range tasks {
		running.Go(func() {
			if err := task(); err != nil {
				fail(err)
			}
		})
	}
	running.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.vault.trustCluster(ctx, l.clusters[0]); err != nil {
		return fmt.Errorf("let %s log in to Vault: %w", l.clusters[0].name, err)
	}
	if err := l.folder.writeVaultEnv(l.vault); err != nil {
		return err
	}
	if err := l.folder.writeConfig(l.options.fleet, l.options.schedule, l.clusters, l.vault); err != nil {
		return err
	}
	l.complete.Store(true)
	if err := l.describe(); err != nil {
		return err
	}
	return l.folder.write(nil, readyName)
}

func (l *lab) startCluster(ctx context.Context, c *cluster) error {
	err := c.start(ctx, l.kids, l.options.kubelet, func() {
		if err := l.describe(); err != nil {
			c.log.Error("lab.json is out of date", "err", err)
		}
	})
	if err != nil {
		return err
	}
	if err := l.rights.follow(ctx, c); err != nil {
		return fmt.Errorf("%s: give certd its rights: %w", c.name, err)
	}
	token, err := c.certdToken(ctx)
	if err != nil {
		return fmt.Errorf("%s: make certd's token: %w", c.name, err)
	}
	return l.folder.writeKubeconfigs(c, token)
}

func (l *lab) describe() error {
	if !l.complete.Load() {
		return nil // start will
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.folder.writeDescription(l.clusters, l.vault)
}

func (l *lab) stopEtcd() {
	if l.etcd != nil {
		l.etcd.stop()
	}
}

func (l *lab) sayReady(took time.Duration) {
	config, env := l.folder.in(configName), l.folder.in("vault.env")
	identity := ""
	if l.options.schedule != "" {
		identity = " -leaf-lifetime " + quickLeaf
	}
	fmt.Printf(`
The lab is ready after %.1fs (clusters: %d). Ctrl-C stops it.
In another terminal, in certd's repository:

  . %s
  go run ./cmd/certd init --config %s
  go run ./cmd/certd run --config %[4]s
  go run ./cmd/certd status --config %[4]s

  KUBECONFIG=%s kubectl get secret,configmap -A
  %s install-identity -kubeconfig %[5]s%[7]s
`, took.Seconds(), len(l.clusters), quoted(env), quoted(config), quoted(l.folder.in("kube", l.clusters[0].name)), quoted(os.Args[0]), identity)
}
