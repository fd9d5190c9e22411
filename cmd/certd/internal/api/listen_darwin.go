package api

import (
	"net"

	"golang.org/x/sys/unix"
)

// bindRestricted binds a socket nobody but owner and group can open. macOS
// takes the mode from the umask alone, which is the whole process's: certd
// listens before it starts anything else.
func bindRestricted(path string) (*net.UnixListener, error) {
	defer unix.Umask(unix.Umask(0o777 &^ socketMode))
	return listenUnix(path, nil)
}
