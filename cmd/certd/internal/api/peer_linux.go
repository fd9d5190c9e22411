package api

import "golang.org/x/sys/unix"

func credentials(fd int) peer {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{err: err}
	}
	return peer{uid: c.Uid, gid: c.Gid}
}
