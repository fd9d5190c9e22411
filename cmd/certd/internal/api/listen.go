package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	socketMode = 0o660
	// maxSocketPath is what fits into sockaddr_un on every system certd is
	// built for, without the closing zero (macOS: 104 bytes, Linux: 108).
	maxSocketPath = 103
	// probeTimeout is how long a socket found at start may take to answer.
	probeTimeout = 2 * time.Second
)

// Listen opens the admin socket at path, mode 0660 from its first moment on,
// and makes its folder if it is missing. A socket that nobody listens on is
// replaced; if somebody does, the error wraps ErrNotNow. What is not a socket
// is left alone. Closing the listener removes the socket.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes and a Unix socket's at most %d; set server.socket to a shorter one: %w", path, len(path), maxSocketPath, ErrUsage)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make the folder of the admin socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := bindRestricted(path)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("set the mode of the admin socket: %w", err)
	}
	return l, nil
}

// removeStale removes the socket of a daemon that is gone. Only a refused
// connection proves that nobody listens: a hung daemon has a full queue, and
// a socket of somebody else may not be opened at all.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("it exists and is not a socket (%s); move it away, or set server.socket to another path", info.Mode())
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another process answers there; stop it, or set server.socket to another path: %w", ErrNotNow)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("a socket is there and it is unclear whether it is in use (%w); stop the other process, or remove the socket", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of a daemon that is gone: %w", err)
	}
	return nil
}

func listenUnix(path string, control func(network, address string, c syscall.RawConn) error) (*net.UnixListener, error) {
	l, err := (&net.ListenConfig{Control: control}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}
