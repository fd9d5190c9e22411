package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"certd.internal/backends/kube"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
	"certd.internal/state"
)

const (
	// checkWait bounds what looking at one cluster may take, with all that is asked
	// of it; one that hangs delays no other.
	checkWait = 15 * time.Second
	// checksAtOnce bounds how many are looked at side by side, keyChecks how many
	// keys are.
	checksAtOnce = 32
	keyChecks    = 8
)

// Check judges the claims in this process, by the configuration at path and with
// what it names. With pre it is before a daemon and a trust anchor: nothing is
// written, not even a copy of the journal. Otherwise unanswered says why no daemon
// did this.
func (d Daemon) Check(ctx context.Context, path string, s check.Select, pre bool, unanswered string) (check.Report, error) {
	e := check.Evidence{Now: time.Now().UTC(), Pre: pre, Source: "command", Unanswered: unanswered, Version: d.Version}
	path, err := config.Find(path, d.Getenv)
	if err != nil {
		return check.Report{}, invalid(err.Error())
	}
	c, problems := config.Load(path, config.Options{Getenv: d.Getenv, Now: e.Now})
	if len(problems) > 0 {
		for _, p := range problems {
			e.Problems = append(e.Problems, p.String())
		}
		return check.Judge(e, s), nil
	}
	f := &fleet{log: d.Log(c.LogLevel, c.LogFormat), getenv: d.Getenv}
	f.arrange(c)
	defer f.Close()
	f.journal, e.Journal = journalOf(c, pre)
	if err := f.openKeys(c); err != nil {
		e.KeysErr = err
	}
	return f.check(ctx, e, s)
}

// Check implements api.Service, with the daemon's own journal and login.
func (s *running) Check(ctx context.Context, sel check.Select) (check.Report, error) {
	e := check.Evidence{Now: time.Now().UTC(), Source: "daemon", Version: cmp.Or(sel.Version, s.version), DaemonVersion: s.version}
	st, err := s.Status(ctx)
	if err != nil {
		return check.Report{}, err
	}
	e.Daemon, e.Findings = st.Daemon, findingsOf(st)
	report, err := s.journal.Verify()
	e.Journal = check.Journal{Exists: true, Entries: report.Entries, BadSeq: report.BadSeq, Problem: report.Problem, Err: err}
	look := &fleet{log: s.log, getenv: s.getenv, journal: s.journal, keys: s.keys, webhookKeys: s.webhookKeys}
	// Clusters of its own: a look of the loop's and one of this would get into each
	// other's way. Keys and journal are the daemon's, and stay open.
	look.arrange(s.current())
	defer func() {
		look.keys, look.journal = nil, nil
		if err := look.Close(); err != nil {
			s.log.Warn("clusters not closed cleanly after a check", "err", err)
		}
	}()
	if sel.Category(check.CategoryMulticluster) || sel.Category(check.CategoryTrust) {
		var judging sync.WaitGroup
		var evidence rotation.Evidence
		ctx, cancel := context.WithCancel(ctx)
		defer func() { cancel(); judging.Wait() }()
		judging.Go(func() { evidence = s.reconciler.Evidence(ctx) })
		return look.checkWith(ctx, e, sel, func([]rotation.View) *rotation.Evidence {
			judging.Wait()
			return &evidence
		})
	}
	return look.check(ctx, e, sel)
}

func (s *offline) Check(context.Context, check.Select) (check.Report, error) {
	return check.Report{}, fmt.Errorf("check by the daemon needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

// journalOf opens the journal for reading, and has it judge itself; nil where there
// is none, or it cannot be read.
func journalOf(c *config.Config, pre bool) (*state.Journal, check.Journal) {
	j, err := state.Open(c.StateDir, state.Options{Fleet: c.Name, ReadOnly: true})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, check.Journal{}
	case errors.Is(err, state.ErrLocked) && pre:
		return nil, check.Journal{Exists: true, Busy: "a certd has it open: " + err.Error()}
	case errors.Is(err, state.ErrLocked):
		j, err = state.OpenCopy(c.StateDir, "", state.Options{Fleet: c.Name, ReadOnly: true})
	}
	if err != nil {
		return nil, check.Journal{Exists: true, Err: err}
	}
	r, err := j.Verify()
	return j, check.Journal{Exists: true, Entries: r.Entries, BadSeq: r.BadSeq, Problem: r.Problem, Err: err}
}

// check judges by what this process itself sees.
func (f *fleet) check(ctx context.Context, e check.Evidence, s check.Select) (check.Report, error) {
	return f.checkWith(ctx, e, s, func(views []rotation.View) *rotation.Evidence {
		if e.Pre || e.Daemon != nil {
			return nil
		}
		live := rotation.LiveEvidence(e.Fleet, views, time.Now().UTC())
		return &live
	})
}

// checkWith gathers the evidence, all of it side by side, and judges. verified is
// what the pairs are judged by; nil: they are not.
func (f *fleet) checkWith(ctx context.Context, e check.Evidence, s check.Select, verified func([]rotation.View) *rotation.Evidence) (check.Report, error) {
	c := f.current()
	for _, name := range s.Clusters {
		if !slices.ContainsFunc(c.Clusters, func(cc config.Cluster) bool { return cc.Policy.Cluster == name }) {
			return check.Report{}, fmt.Errorf("check: cluster %q is not configured: %w", name, api.ErrUsage)
		}
	}
	e.Config, e.StateDir, e.Socket = c, placeOf(c.StateDir), placeOf(filepath.Dir(c.Server.Socket))
	known := rotation.Fleet{Policy: f.policy()}
	if f.journal != nil {
		var err error
		if known, err = f.known(); err != nil {
			e.Journal.Err = errors.Join(e.Journal.Err, err)
			known = rotation.Fleet{Policy: f.policy()}
		}
	}
	e.Fleet = known

	var looking sync.WaitGroup
	var keys check.Keys
	looking.Go(func() { keys = f.lookAtKeys(ctx, e) })
	clusters := f.lookAtClusters(ctx, e, s)
	looking.Wait()
	e.Keys, e.Clusters = keys, clusters
	if err := ctx.Err(); err != nil {
		return check.Report{}, fmt.Errorf("check the fleet: %w", context.Cause(ctx))
	}

	e.Now = time.Now().UTC()
	var views []rotation.View
	for _, cl := range e.Clusters {
		views = append(views, cl.View)
	}
	if e.Daemon == nil {
		e.Findings = findingsOf(rotation.LiveStatus(e.Fleet, views, e.Now))
	}
	if v := verified(views); v != nil {
		doc := rotation.Verify(*v)
		e.Pairs = doc.Pairs
		for i := range doc.Promises {
			if doc.Promises[i].ID == "I1" {
				e.Trust = &doc.Promises[i]
			}
		}
		for i, cl := range e.Clusters {
			for _, seen := range v.Clusters {
				if seen.Policy.Cluster == cl.Policy.Cluster && e.Daemon != nil {
					e.Clusters[i].Proxies = seen.Proxies
				}
			}
		}
	} else {
		e.Unjudged = "it was not asked for"
	}
	return check.Judge(e, s), nil
}

func findingsOf(st rotation.FleetStatus) (all []check.Finding) {
	for _, f := range st.Findings {
		all = append(all, check.Finding{Finding: f})
	}
	for _, c := range st.Clusters {
		for _, f := range c.Findings {
			all = append(all, check.Finding{Cluster: c.Name, Finding: f})
		}
	}
	return all
}

// placeOf says whether certd could write to a folder, or make it. It writes nothing.
func placeOf(path string) check.Place {
	p := check.Place{Path: path}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue
		case err != nil:
			p.Err = fmt.Errorf("look at %s: %w", at, err)
		case !info.IsDir():
			p.Err = fmt.Errorf("%s is no folder", at)
		default:
			p.Exists = at == path
			if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
				p.Err = fmt.Errorf("uid %d cannot write to %s: %w", os.Geteuid(), at, err)
			}
		}
		return p
	}
}

// lookAtKeys opens the keys in use, which reads their flags, and signs nothing.
func (f *fleet) lookAtKeys(ctx context.Context, e check.Evidence) check.Keys {
	c := f.current()
	var k check.Keys
	switch {
	case c.Keys.File != nil:
		k.About = "files in " + c.Keys.File.Dir
		k.Files = &check.KeyFiles{Dir: placeOf(c.Keys.File.Dir)}
		if info, err := os.Stat(c.Keys.File.Dir); err == nil {
			k.Files.Private = info.Mode().Perm()&0o077 == 0
		}
		secret, err := c.Keys.File.Passphrase.Read()
		clear(secret)
		k.Files.Passphrase = err
	case c.Keys.KMS != nil:
		scheme, _, _ := strings.Cut(c.Keys.KMS.URI, ":") // the rest may name a pin
		k.About = "KMS " + scheme
	case c.Keys.Vault != nil:
		k.About = "Vault at " + c.Keys.Vault.Address
	}
	if f.keys == nil {
		return k
	}
	for _, a := range e.Fleet.Anchors {
		if a.Certificate != nil && a.RetiredAt.IsZero() && a.Key != "" {
			k.Anchors = append(k.Anchors, check.Key{Of: a.ID, Name: a.Key, Public: a.Certificate.PublicKey})
		}
	}
	for _, p := range e.Fleet.Policy.Clusters {
		if f.journal == nil {
			break
		}
		cas, err := f.journal.WebhookCAs(p.Cluster)
		if err != nil {
			continue // the journal's own claim tells
		}
		for _, ca := range cas {
			if ca.Certificate != nil && ca.RetiredAt.IsZero() {
				k.WebhookCAs = append(k.WebhookCAs, check.Key{Cluster: p.Cluster, Of: ca.ID, Name: ca.Key, Public: ca.Certificate.PublicKey})
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	slots, reading := make(chan struct{}, keyChecks), sync.WaitGroup{}
	if transit, ok := f.webhookKeys.(*vault.Transit); ok { // whatever signs, it is the same Vault
		e := transit.Vault().Examine(ctx, f.vaultUse(c, k))
		if k.Vault = &e; e.LoginErr != nil || e.Wrapped || e.Health.Sealed || e.HealthErr != nil {
			for _, keys := range [][]check.Key{k.Anchors, k.WebhookCAs} {
				for i := range keys {
					keys[i].Err = fmt.Errorf("it was not opened: %w", rotation.ErrUnavailable)
				}
			}
			for i := range k.Anchors {
				if _, ok := f.keys.(*vault.Transit); ok {
					k.Anchors[i].FlagsErr = k.Anchors[i].Err
				}
			}
			return k
		}
	}
	anchors, _ := f.keys.(*vault.Transit)
	open := func(keys rotation.Keys, k *check.Key) {
		reading.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			key, err := keys.OpenKey(ctx, k.Name, k.Public)
			if k.Err = err; err == nil {
				k.Info = key.Info()
			}
		})
	}
	for i := range k.Anchors {
		open(f.keys, &k.Anchors[i])
		if anchors != nil {
			reading.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				flags, err := anchors.Flags(ctx, k.Anchors[i].Name)
				if k.Anchors[i].FlagsErr = err; err == nil {
					k.Anchors[i].Flags = &flags
				}
			})
		}
	}
	for i := range k.WebhookCAs {
		open(f.webhookKeys, &k.WebhookCAs[i])
	}
	reading.Wait()
	return k
}

// vaultUse is what certd works with in Vault. Policies are for whole mounts, so that
// one webhook CA stands for all, and before there is an anchor the first one's name
// for it.
func (f *fleet) vaultUse(c *config.Config, k check.Keys) vault.Use {
	var u vault.Use
	prefix := c.Fleet().KeyPrefix
	if pki, ok := f.keys.(*vault.PKI); ok {
		u.PKI = pki.Issuer()
	} else {
		u.Transit = strings.Trim(c.Keys.Vault.Transit.Mount, "/")
		for _, a := range k.Anchors {
			u.Keys = append(u.Keys, a.Name)
		}
		if len(u.Keys) == 0 {
			u.Keys = []string{prefix + "-anchor-1"}
		}
	}
	if slices.ContainsFunc(c.Clusters, func(cc config.Cluster) bool { return len(cc.Policy.Webhooks.Specs) > 0 }) {
		u.Webhooks, u.WebhookKeys = strings.Trim(c.Keys.Vault.Webhooks.Mount, "/"), []string{prefix + "-webhook-1"}
		if len(k.WebhookCAs) > 0 {
			u.WebhookKeys = []string{k.WebhookCAs[0].Name}
		}
	}
	if m := c.Keys.Vault.Mirror; m != nil {
		u.MirrorMount, u.MirrorPath = m.Mount, m.Path
	}
	return u
}

// lookAtClusters looks at those that are selected, each for checkWait at most.
func (f *fleet) lookAtClusters(ctx context.Context, e check.Evidence, s check.Select) []check.Cluster {
	policies := slices.DeleteFunc(slices.Clone(e.Fleet.Policy.Clusters), func(p rotation.Policy) bool {
		return len(s.Clusters) > 0 && !slices.Contains(s.Clusters, p.Cluster)
	})
	all := make([]check.Cluster, len(policies))
	slots, looking := make(chan struct{}, checksAtOnce), sync.WaitGroup{}
	for i, p := range policies {
		looking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, checkWait)
			defer cancel()
			all[i] = f.lookAt(ctx, p, e)
		})
	}
	looking.Wait()
	return all
}

func (f *fleet) lookAt(ctx context.Context, p rotation.Policy, e check.Evidence) check.Cluster {
	c := check.Cluster{View: rotation.View{Policy: p, Record: rotation.ClusterRecord{Name: p.Cluster}}}
	if f.journal != nil {
		if rec, err := f.journal.Cluster(p.Cluster); err == nil {
			c.Record = rec
		}
		c.Certificates, _ = f.journal.Certificates(p.Cluster, 4, time.Time{})
		c.WebhookCAs, _ = f.journal.WebhookCAs(p.Cluster)
	}
	cluster := f.clusters[p.Cluster]
	o, err := cluster.Observe(ctx)
	if c.Err = err; err == nil {
		c.Observed, c.Record.LastContact = &o, time.Now().UTC()
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	if opened, openErr := cluster.get(); openErr == nil && (err == nil || errors.Is(err, rotation.ErrDenied)) {
		if k, ok := opened.(*kube.Cluster); ok {
			seen := o
			seen.Namespace = o.Namespace || err != nil // what could not be seen is not known to be missing
			asking.Go(func() {
				x := k.Examine(ctx, seen, f.features(p))
				c.Kube = &x
			})
		}
	}
	if err == nil && !e.Pre && e.Daemon == nil { // the daemon's findings tell what is served
		c.Prove(cluster.ProbeWebhooks(ctx, o.Installed()))
		c.Proxies = cluster.CountProxies(ctx)
	}
	asking.Wait()
	return c
}
