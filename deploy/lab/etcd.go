package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

// etcdPrefix begins the names of the folders that etcds keep their data in.
const etcdPrefix = "certd-lab-etcd-"

// etcdServer is the one etcd of a lab. It lives in memory where that is
// possible, and outside the lab's folder, whose name may be too long for a
// socket's (108 bytes).
type etcdServer struct {
	url  string
	dir  string
	lock *os.File
	etcd *embed.Etcd
}

// startEtcd serves on a unix socket and returns when it is ready.
func startEtcd(logFile string) (*etcdServer, error) {
	parent := os.TempDir()
	// Containers often have a /dev/shm of 64 MB: too small for etcd's log.
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) == nil && fs.Bavail*uint64(fs.Bsize) > 1<<30 && unix.Access("/dev/shm", unix.W_OK) == nil {
		parent = "/dev/shm"
	}
	removeAbandoned(parent)
	dir, err := os.MkdirTemp(parent, etcdPrefix)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	s := &etcdServer{dir: dir}
	if s.lock, err = lockFile(filepath.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}

	config := embed.NewConfig()
	config.Dir = filepath.Join(dir, "data")
	config.UnsafeNoFsync = true // nothing here outlives the lab
	config.LogLevel, config.LogOutputs = "error", []string{logFile}
	config.QuotaBackendBytes = 4 << 30
	config.SnapshotCount = 50_000
	config.EnableGRPCGateway = false
	config.AutoCompactionMode, config.AutoCompactionRetention = "revision", "100000"
	// There is one member, so that nobody ever dials the peer address; etcd
	// insists on host:port for what it advertises.
	nobody := url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	socket := url.URL{Scheme: "unix", Path: filepath.Join(dir, "etcd.sock")}
	config.ListenPeerUrls, config.AdvertisePeerUrls = nil, []url.URL{nobody}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{socket}, []url.URL{nobody}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	if s.etcd, err = embed.StartEtcd(config); err != nil {
		s.stop()
		return nil, fmt.Errorf("start etcd: %w; its log is %s", err, logFile)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		s.stop()
		return nil, errors.New("start etcd: not ready after 30 s; its log is " + logFile)
	}
	s.url = socket.String()
	return s, nil
}

// stop ends etcd and removes its data.
func (s *etcdServer) stop() {
	if s.etcd != nil {
		s.etcd.Close()
	}
	os.RemoveAll(s.dir)
	s.lock.Close()
}

// removeAbandoned clears the data of labs that were killed: nobody holds their
// locks any more.
func removeAbandoned(parent string) {
	dirs, err := filepath.Glob(filepath.Join(parent, etcdPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		// A lab that has only just made its folder has no lock yet.
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := lockFile(filepath.Join(dir, "lock")); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
}

// errLocked: another process holds the lock.
var errLocked = errors.New("locked by another process")

// lockFile creates path if need be and locks it until the file is closed or the
// process ends. It does not wait: the error wraps errLocked.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
