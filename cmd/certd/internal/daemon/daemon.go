// Package daemon builds what a configuration names and runs it: key backend,
// clusters, journal, the loop, the admin socket; it reloads the configuration
// and stops in order.
package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/harden"
	"certd.internal/cmd/certd/internal/logs"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/cmd/certd/internal/notify"
	"certd.internal/cmd/certd/internal/traces"
	"certd.internal/rotation"
	"certd.internal/state"
)

// lockTimeout is how long to wait for another certd that is just stopping.
const lockTimeout = 3 * time.Second

// ErrConfig: the configuration is invalid (exit 78). The error lists all
// problems.
var ErrConfig = errors.New("the configuration is invalid")

// Daemon runs certd.
type Daemon struct {
	Getenv func(string) string
	Stdout io.Writer
	// Log makes a logger of a format that is config.Config's LogFormat.
	Log     func(level slog.Leveler, format string) *slog.Logger
	Version string
	// Revision is the commit that it was built from.
	Revision string
	// CrashPoint is for tests that kill certd at each write of the journal.
	CrashPoint func(string)
}

// Load reads the configuration; its problems, if any, are one error wrapping
// ErrConfig.
func (d Daemon) Load(path string) (*config.Config, error) {
	path, err := config.Find(path, d.Getenv)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", err, ErrConfig)
	}
	c, problems := config.Load(path, config.Options{Getenv: d.Getenv, Now: time.Now()})
	if len(problems) > 0 {
		return nil, invalid(problems.Error())
	}
	return c, nil
}

// invalid is an error text that is ErrConfig.
type invalid string

func (e invalid) Error() string { return string(e) }
func (e invalid) Unwrap() error { return ErrConfig }

// Open builds a fleet for a command without a daemon. With write it takes the
// journal for itself; otherwise it reads, from a copy if it must, and note
// says so. A journal that does not exist yet is no error for writing.
func (d Daemon) Open(ctx context.Context, path string, write bool) (svc api.Service, note string, done func() error, err error) {
	f, held, err := d.open(ctx, path, write)
	if err != nil {
		return nil, "", nil, asService(err)
	}
	switch {
	case held:
		note = "a certd holds the journal in " + f.current().StateDir + " and does not answer on its socket; reading a copy of it"
	case !write:
		note = "no daemon answers; reading its journal in " + f.current().StateDir
	}
	return &offline{fleet: f, now: time.Now, version: d.Version, held: held}, note, f.Close, nil
}

// open is Open; held says that a certd that does not answer holds the journal.
func (d Daemon) open(ctx context.Context, path string, write bool) (f *fleet, held bool, err error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, false, err
	}
	log := d.Log(c.LogLevel, c.LogFormat)
	f = &fleet{log: log, getenv: d.Getenv}
	f.arrange(c)
	if write {
		if f.journal, err = d.openJournal(c, lockTimeout); err == nil {
			err = f.openKeys(c)
		}
	} else { // without keys: what is known can be read without a login
		f.journal, held, err = readJournal(c)
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, held, nil
}

func (d Daemon) openJournal(c *config.Config, wait time.Duration) (*state.Journal, error) {
	return state.Open(c.StateDir, state.Options{Fleet: c.Name, LockTimeout: wait, CrashPoint: d.CrashPoint})
}

// readJournal opens the journal for reading; a hung daemon holds the lock, and
// then a copy has to do.
func readJournal(c *config.Config) (j *state.Journal, held bool, err error) {
	j, err = state.Open(c.StateDir, state.Options{Fleet: c.Name, ReadOnly: true})
	if err == nil {
		return j, false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("no daemon answers, and there is no journal in %s, so nothing is known of fleet %s; a new fleet begins with certd init; one that has lost its journal goes on with certd run, "+
			"which learns it from the clusters, and certd status --live looks at them now; or stateDir is not the right one (%w)", c.StateDir, c.Name, fs.ErrNotExist)
	}
	if !errors.Is(err, state.ErrLocked) {
		return nil, false, err
	}
	j, err = state.OpenCopy(c.StateDir, "", state.Options{Fleet: c.Name, ReadOnly: true})
	return j, err == nil, err
}

// Live asks the clusters themselves. A journal that cannot be read is done
// without, and named.
func (d Daemon) Live(ctx context.Context, path string) (rotation.FleetStatus, error) {
	c, err := d.Load(path)
	if err != nil {
		return rotation.FleetStatus{}, err
	}
	f := &fleet{log: d.Log(c.LogLevel, c.LogFormat), getenv: d.Getenv}
	defer f.Close()
	f.arrange(c)
	var unread error
	if f.journal, _, unread = readJournal(c); unread != nil {
		f.journal = nil
	}
	st, err := f.live(ctx)
	st.Version = d.Version
	if unread != nil && !errors.Is(unread, fs.ErrNotExist) { // that there is none, the clusters show
		st.Findings = append(st.Findings, rotation.Finding{ID: "JournalFailed", Severity: rotation.StateCritical, Message: unread.Error(), Fix: "certd history --verify"})
		st.Conclude()
	}
	return st, err
}

// DevDir is where `run --dev` keeps its files, in the current folder.
const DevDir = "certd-dev"

// Run is `certd run`: it returns nil after SIGTERM or SIGINT (or when ctx
// ends), once the step in hand has come to its end.
func (d Daemon) Run(ctx context.Context, path string, dev bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	collect(d.Getenv)
	if dev {
		if err := devFiles(DevDir, newPassphrase); err != nil {
			return err
		}
		path = filepath.Join(DevDir, "certd.yaml")
	}
	c, err := d.Load(path)
	if err != nil {
		return err
	}
	level := &slog.LevelVar{} // a reload may change it
	level.Set(c.LogLevel)
	logging := newLogging(d.Log, level, c.LogFormat)
	log := logging.Logger
	for _, w := range c.Warnings {
		log.Warn("configuration", "at", w.Position.String(), "path", w.Path, "warning", w.Message)
	}
	counts := metrics.NewRecorder()
	spans := traces.Start(ctx, traces.Options{Getenv: d.Getenv, Fleet: c.Name, Version: d.Version, Log: log, Scrubber: func() logs.Scrubber { return scrubber(c, d.Getenv) }})
	f := &fleet{log: log, getenv: d.Getenv, observe: counts.VaultRequest, spans: spans}
	defer func() {
		if err := f.Close(); err != nil {
			log.Error("closed with an error", "err", err)
		}
		if err := spans.Close(); err != nil {
			log.Warn("traces not sent", "err", err)
		}
	}()
	if f.journal, err = d.openJournal(c, lockTimeout); err != nil {
		return asService(err)
	}
	page, listen, err := d.listen(c, dev, log)
	if err != nil {
		return err
	}
	if page != nil {
		defer page.Close() // once more, where it was served
	}
	started := time.Now().UTC().Truncate(time.Second)
	systemd := d.manager(log)
	var socket *net.UnixListener
	var e *election // nil: there is one certd
	relieved := func() error { return nil }
	if c.Election != nil {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		if socket, err = api.Listen(c.Server.Socket); err != nil {
			return err
		}
		defer socket.Close() // once more, where it was served
		if e, err = d.elect(ctx, c, log); err != nil {
			return err
		}
		defer e.resign()
		f.config = c
		s := &standby{self: &running{fleet: f, started: started, version: d.Version, logs: logging}, election: e}
		stand := s.answer(ctx, socket, page, counts, d.Revision, systemd, log)
		relieved = sync.OnceValue(stand)
		defer relieved()
		c = d.standBy(ctx, e, c, hup, log)
		ctx = e.leading(ctx)
		if ctx.Err() != nil {
			return errors.Join(relieved(), e.over(ctx))
		}
		level.Set(c.LogLevel)
	}
	if f.journal.Created() {
		log.Info("the journal is new; what runs in the clusters is learnt from them", "dir", c.StateDir)
	}
	if err := f.openKeys(c); err != nil {
		return asService(err)
	}
	clusters, _ := f.arrange(c)
	if err := rotation.Started(f.journal, rotation.StepStart, "certd "+d.Version+" started"); err != nil {
		return err
	}
	fence, err := d.takeOver(ctx, f, c, e, log)
	if err != nil {
		return errors.Join(relieved(), cmp.Or(e.over(ctx), err))
	}
	r, err := rotation.NewReconciler(rotation.Options{Journal: f.journal, Fence: fence, Keys: spans.Keys(f.keys, keySystem(c)), WebhookKeys: spans.Keys(f.webhookKeys, keySystem(c)),
		Policy: c.Fleet(), Clusters: clusters, Log: log, Tried: counts.Tried, Trying: spans.Step})
	if err != nil {
		return err
	}
	counts.Keep(names(c))
	n, err := newNotifier(c, f.journal, r, counts, spans, log)
	if err != nil {
		return err
	}
	svc := &running{fleet: f, reconciler: r, fence: fence, notifier: n, election: e, started: started, version: d.Version, logs: logging}
	if dev {
		reply, err := svc.Init(ctx, api.InitRequest{Actor: "certd", Reason: "run --dev"})
		if err != nil {
			return err
		}
		log.Info("trust anchor", "id", reply.Anchor.ID, "subject", reply.Anchor.Subject, "not_after", reply.Anchor.NotAfter, "sha256", reply.Anchor.SHA256)
	}
	if err := relieved(); err != nil {
		return err
	}
	if e == nil {
		if socket, err = api.Listen(c.Server.Socket); err != nil {
			return err
		}
	}
	log.Info("certd runs", "fleet", c.Name, "clusters", len(c.Clusters), "version", d.Version, "socket", c.Server.Socket, "listen", listen, "config", c.File)
	if why := harden.Lock(); why != "" {
		log.Info("memory may be swapped out", "why", why)
	} else {
		log.Info("memory is locked")
	}
	d.sayWhere(c, dev, listen)

	served := make(chan error, 2)
	go func() { served <- api.NewServer(svc, log).Serve(ctx, socket) }()
	go func() {
		if page == nil {
			<-ctx.Done()
			served <- nil
			return
		}
		served <- svc.web(log, counts, d.Revision).Serve(ctx, page)
	}()
	if f.vault != nil {
		go watchVault(ctx, f.vault.Health, func(err error) {
			counts.VaultHealth(err == nil)
			r.KeysAnswer(err)
		})
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		systemd.until(ctx, fmt.Sprintf("fleet %s, %s", c.Name, several(len(c.Clusters), "cluster")), svc.alive)
	}()
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		d.reloads(ctx, f, r, n, counts, log, level, systemd)
	}()
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		b := &backups{policy: func() *config.Backup { return f.current().Backup }, fleet: c.Name, journal: f.journal, told: r, log: log}
		b.run(ctx)
	}()
	notified := make(chan struct{})
	go func() {
		defer close(notified)
		n.Run(ctx)
	}()
	looped := make(chan error, 1)
	go func() { looped <- r.Run(ctx) }()
	select {
	case err = <-looped:
		stop()
		err = errors.Join(err, <-served, <-served)
	case err = <-served:
		stop()
		err = errors.Join(err, <-looped, <-served)
	}
	<-told
	<-reloaded
	<-saved
	<-notified
	log.Info("certd has stopped", "fleet", c.Name)
	return errors.Join(err, e.over(ctx))
}

// sayWhere tells a person in front of a terminal what to type next.
func (d Daemon) sayWhere(c *config.Config, dev bool, listen string) {
	if !dev {
		return
	}
	fmt.Fprintf(d.Stdout, "\ncertd runs; stop it with Ctrl-C. In another terminal:\n\n"+
		"  certd status --config %s\n  certd history --config %[1]s --follow\n  ls -l %[2]s\n\n", filepath.Join(DevDir, "certd.yaml"), filepath.Join(DevDir, "clusters"))
	if listen != "" {
		fmt.Fprintf(d.Stdout, "The status page is at http://%s/\n\n", listen)
	}
}

func newPassphrase() (string, error) {
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make a passphrase: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// reloads reloads the configuration on SIGHUP and when one of its files
// changes. A change is noticed by the folder's events, since editors and
// kubelets replace files, and once a minute by content, since events can be
// lost.
func (d Daemon) reloads(ctx context.Context, f *fleet, r *rotation.Reconciler, n *notify.Notifier, counts *metrics.Recorder, log *slog.Logger, level *slog.LevelVar, systemd manager) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files are not watched; they are compared once a minute", "err", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer watcher.Close()
	}
	read := func() []string {
		f.mu.Lock()
		defer f.mu.Unlock()
		files := append([]string{}, f.config.Read...)
		for _, c := range f.config.Clusters {
			if c.Kubeconfig != nil {
				files = append(files, c.Kubeconfig.File)
			}
		}
		return files
	}
	follow := func() {
		for _, file := range read() {
			if watcher.Events != nil {
				// A folder that cannot be watched is compared all the same.
				_ = watcher.Add(filepath.Dir(file))
				if info, err := os.Stat(file); err == nil && info.IsDir() {
					_ = watcher.Add(file)
				}
			}
		}
	}
	follow()
	last := digest(read())
	settle, compare := time.NewTimer(0), time.NewTicker(time.Minute)
	<-settle.C
	defer settle.Stop()
	defer compare.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-hup:
			asked = true
		case <-watcher.Events:
			// Files change in several steps; look when they have been quiet.
			settle.Reset(500 * time.Millisecond)
			continue
		case err := <-watcher.Errors:
			log.Warn("file watch", "err", err)
			continue
		case <-settle.C:
		case <-compare.C:
		}
		files := read()
		now := digest(files)
		if now == last && !asked {
			continue
		}
		last = now
		done := systemd.reloads()
		d.reload(ctx, f, r, n, counts, log, level)
		done()
		follow()
		// What was written meanwhile is found by the next look; only other files are
		// compared from here on.
		if others := read(); !slices.Equal(others, files) {
			last = digest(others)
		}
	}
}

// reload takes a changed configuration over, or keeps the old one and says so.
func (d Daemon) reload(ctx context.Context, f *fleet, r *rotation.Reconciler, n *notify.Notifier, counts *metrics.Recorder, log *slog.Logger, level *slog.LevelVar) {
	old := f.current()
	c, err := d.Load(old.File)
	if err == nil {
		err = needsRestart(old, c)
	}
	if err != nil {
		log.Error("configuration not reloaded; the old one stays in force", "file", old.File, "err", err)
		r.Problem("ConfigReloadFailed", fmt.Errorf("the configuration changed and was refused; the old one is in force: %w", err))
		return
	}
	was := f.clusters // changed by reloads alone, which come one after another
	clusters, gone := f.arrange(c)
	if err := r.Apply(c.Fleet(), clusters); err != nil {
		log.Error("configuration not reloaded; the old one stays in force", "file", old.File, "err", err)
		r.Problem("ConfigReloadFailed", fmt.Errorf("the configuration changed and could not be taken over; the old one is in force: %w", err))
		f.mu.Lock()
		f.config, f.clusters = old, was
		f.mu.Unlock()
		return
	}
	level.Set(c.LogLevel)
	n.Apply(ctx, c.Notify)
	for _, l := range gone {
		if err := l.Close(); err != nil {
			log.Warn("cluster not closed cleanly", "cluster", l.name, "err", err)
		}
	}
	r.Solved("ConfigReloadFailed")
	counts.Reloaded()
	counts.Keep(names(c))
	if err := rotation.Started(f.journal, rotation.StepReload, fmt.Sprintf("configuration reloaded, %d clusters", len(c.Clusters))); err != nil {
		log.Error("journal not written", "err", err)
	}
	log.Info("configuration reloaded", "file", c.File, "clusters", len(c.Clusters))
}

// names are those of the clusters.
func names(c *config.Config) (all []string) {
	for _, cc := range c.Clusters {
		all = append(all, cc.Policy.Cluster)
	}
	return all
}

func (f *fleet) current() *config.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config
}

// needsRestart names what a running daemon cannot change.
func needsRestart(old, c *config.Config) error {
	var what []string
	for _, x := range []struct {
		name      string
		different bool
	}{
		{"name", old.Name != c.Name},
		{"stateDir", old.StateDir != c.StateDir},
		{"server.socket", old.Server.Socket != c.Server.Socket},
		{"server.listen", old.Server.Listen != c.Server.Listen},
		{"log.format", old.LogFormat != c.LogFormat},
		{"keys", keysLike(old) != keysLike(c)},
		{"leaderElection", !reflect.DeepEqual(old.Election, c.Election)},
	} {
		if x.different {
			what = append(what, x.name)
		}
	}
	if len(what) > 0 {
		return fmt.Errorf("%s changed, which takes a restart of certd", strings.Join(what, ", "))
	}
	return nil
}

// keysLike is all of the key settings as text, with what secrets are kept in,
// not what they are.
func keysLike(c *config.Config) string {
	var s strings.Builder
	for _, v := range c.Values {
		if strings.HasPrefix(v.Path, "keys.") {
			fmt.Fprintf(&s, "%s=%s\n", v.Path, v.Value)
		}
	}
	return s.String()
}

// digest tells whether any of the files, or the folders' files, changed.
func digest(paths []string) string {
	h := sha256.New()
	for _, p := range paths {
		entries, err := os.ReadDir(p)
		if err != nil {
			fmt.Fprintf(h, "%s %s\n", p, fileDigest(p))
			continue
		}
		for _, e := range entries {
			file := filepath.Join(p, e.Name())
			fmt.Fprintf(h, "%s %s\n", file, fileDigest(file))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fileDigest is the digest of a file's content, or why it cannot be read.
func fileDigest(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
