package api

import "golang.org/x/sys/unix"

func credentials(fd int) peer {
	c, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{err: err}
	}
	return peer{uid: c.Uid, gid: c.Groups[0]}
}
