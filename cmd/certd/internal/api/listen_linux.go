package api

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindRestricted binds a socket nobody but owner and group can open, without
// touching the umask of the whole process: Linux gives the file the mode that
// the unbound socket has (net/unix/af_unix.c, unix_bind_bsd).
func bindRestricted(path string) (*net.UnixListener, error) {
	return listenUnix(path, func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), socketMode) })
		if err == nil {
			err = chmod
		}
		return err
	})
}
