package directory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// pollEvery is how long a change can stay unseen where the file system sends
// no notifications (network mounts, exhausted inotify limits).
const pollEvery = 2 * time.Second

// Watch implements rotation.Cluster. It begins by clearing away what a crash left.
// Notifications only hasten the look at
// what the files are like; the poll, which reads no file, decides.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	c.tidy(ctx)
	var events chan fsnotify.Event
	var errs chan error
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		events, errs = w.Events, w.Errors
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := c.signatures()
	for {
		if w != nil {
			c.arm(w)
		}
		now := c.signatures()
		if !c.isOwn(last, now) {
			changed()
		}
		last = now
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-events:
		case <-errs: // an overflow: look at everything, as after any event
		}
	}
}

// arm watches every folder a change could show in. Adding one twice does
// nothing, and one that is not there is found by the poll.
func (c *Cluster) arm(w *fsnotify.Watcher) {
	for _, dir := range []string{c.root, c.ns} {
		_ = w.Add(dir)
	}
	for _, name := range []string{rotation.BundleObject, rotation.IssuerObject} {
		dir := filepath.Join(c.ns, name)
		_ = w.Add(dir)
		if data, err := filepath.EvalSymlinks(filepath.Join(dir, dataLink)); err == nil {
			_ = w.Add(data)
		}
	}
}

// isOwn says whether all that changed is what certd's own writes left.
func (c *Cluster) isOwn(last, now map[string]string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range now {
		if s != last[name] && s != c.own[name] {
			return false
		}
	}
	return true
}

// signatures tells, without reading any file, whether something may be
// different from before.
func (c *Cluster) signatures() map[string]string {
	s := map[string]string{"": stat(c.ns, "inode")}
	for _, name := range []string{rotation.BundleObject, rotation.IssuerObject} {
		s[name] = c.signature(name)
	}
	return s
}

func (c *Cluster) signature(name string) string {
	dir := filepath.Join(c.ns, name)
	var b strings.Builder
	data, _ := os.Readlink(filepath.Join(dir, dataLink))
	b.WriteString(data)
	b.WriteString(stat(filepath.Join(dir, dataLink, markFile), "file"))
	for _, key := range payload.Keys(name) {
		b.WriteString(stat(filepath.Join(dir, key), "file"))
	}
	return b.String()
}

func stat(path, what string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "|-"
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return fmt.Sprintf("|%d %d", info.Size(), info.ModTime().UnixNano())
	case what == "inode":
		return fmt.Sprintf("|%d", s.Ino)
	}
	return fmt.Sprintf("|%d %d %d %o", s.Ino, info.Size(), info.ModTime().UnixNano(), info.Mode())
}
