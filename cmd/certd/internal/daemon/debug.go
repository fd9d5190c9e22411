package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"k8s.io/klog/v2"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/logs"
	"certd.internal/cmd/certd/internal/traces"
	"certd.internal/rotation"
)

const (
	// recentLogs is how many bytes of its log the daemon keeps in memory.
	recentLogs = 1 << 20
	// longestFuse is for how long the log level can be changed at most.
	longestFuse = 24 * time.Hour
)

// logging is the daemon's log, whose level can be changed for a while and whose
// last lines are kept.
type logging struct {
	*slog.Logger
	fuse   *logs.Fuse
	recent *logs.Recent
}

// newLogging logs as open does. What Kubernetes' client library has to say goes
// there, too, and not to standard error in a form of its own.
func newLogging(open func(slog.Leveler, string) *slog.Logger, configured slog.Leveler, format string) logging {
	l := logging{fuse: logs.NewFuse(configured), recent: logs.NewRecent(recentLogs)}
	l.Logger = slog.New(traces.Log(logs.Events(l.recent.Handler(open(l.fuse, format).Handler()))))
	klog.SetSlogLogger(l.With(logs.EventKey, "kubernetes_client"))
	return l
}

// LogLevel implements api.Service.
func (s *running) LogLevel(_ context.Context, r api.LogLevelRequest) (api.LogLevel, error) {
	switch {
	case r.Reset:
		s.logs.fuse.Reset()
		now, _, _ := s.logs.fuse.State()
		s.logs.Warn("log level reset", "level", logs.Word(now), "actor", r.Actor)
	case r.Level != "":
		level, err := logs.ParseLevel(r.Level)
		if err != nil {
			return api.LogLevel{}, fmt.Errorf("debug log-level: %w: %w", err, api.ErrUsage)
		}
		d := time.Duration(r.Seconds) * time.Second
		if r.Seconds < 1 || d > longestFuse {
			return api.LogLevel{}, fmt.Errorf("debug log-level: for %d seconds: from one second to %s: %w", r.Seconds, longestFuse, api.ErrUsage)
		}
		until := s.logs.fuse.Set(level, d, func() { s.logs.Warn("log level fell back") })
		s.logs.Warn("log level changed", "level", r.Level, "until", until, "actor", r.Actor)
	}
	now, configured, until := s.logs.fuse.State()
	reply := api.LogLevel{APIVersion: rotation.APIVersion, Kind: "LogLevel", Level: logs.Word(now), Configured: logs.Word(configured)}
	if !until.IsZero() {
		at := until.UTC().Truncate(time.Second)
		reply.Until = &at
	}
	return reply, nil
}

// Diagnosis implements api.Service.
func (s *running) Diagnosis(context.Context) (api.Diagnosis, error) {
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		return api.Diagnosis{}, fmt.Errorf("list the goroutines: %w", err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	level, _, _ := s.logs.fuse.State()
	clean := scrubber(s.current(), s.getenv)
	doc := api.Diagnosis{APIVersion: rotation.APIVersion, Kind: "Diagnosis", At: time.Now().UTC().Truncate(time.Second), Version: s.version, PID: os.Getpid(), StartedAt: s.started,
		GoVersion: runtime.Version(), HeapBytes: memory.HeapAlloc, LogLevel: logs.Word(level), Goroutines: clean.Clean(stacks.String()), Logs: []string{}}
	for _, line := range s.logs.recent.Lines() {
		doc.Logs = append(doc.Logs, clean.Clean(line))
	}
	return doc, nil
}

// Scrub is what takes secrets out of texts for a bundle, as far as the
// configuration at path can be read.
func (d Daemon) Scrub(path string) func(string) string {
	c, err := d.Load(path)
	if err != nil {
		c = &config.Config{}
	}
	return scrubber(c, d.Getenv).Clean
}

// scrubber knows the secrets that a configuration names, as far as this process
// may read them, and Vault's token in the environment.
func scrubber(c *config.Config, getenv func(string) string) logs.Scrubber {
	secrets := [][]byte{[]byte(getenv("VAULT_TOKEN"))}
	for _, s := range c.Secrets {
		if b, err := s.Read(); err == nil {
			secrets = append(secrets, b)
		}
	}
	return logs.NewScrubber(secrets...)
}

func (s *offline) LogLevel(context.Context, api.LogLevelRequest) (api.LogLevel, error) {
	return api.LogLevel{}, fmt.Errorf("debug log-level needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

func (s *offline) Diagnosis(context.Context) (api.Diagnosis, error) {
	return api.Diagnosis{}, fmt.Errorf("what the daemon says of itself needs the daemon: %w", api.ErrNoDaemon)
}
