package api

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
)

// A peer is the process at the other end of a connection, as the kernel saw
// it when it connected.
type peer struct {
	uid, gid uint32
	err      error // why it is not known
}

type peerKey struct{}

// withPeer remembers who connected, for every request on the connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	p := peer{err: fmt.Errorf("connection over %T, not a Unix socket", conn)}
	if c, ok := conn.(*net.UnixConn); ok {
		p = peerOf(c)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// peerOf asks the kernel for the credentials of the process that connected.
func peerOf(conn *net.UnixConn) peer {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{err: err}
	}
	var p peer
	if err := raw.Control(func(fd uintptr) { p = credentials(int(fd)) }); err != nil {
		return peer{err: err}
	}
	return p
}

// actor is who the journal says asked: "lee@cli", or "uid1000@cli" where the
// system has no name for the user.
func (p peer) actor() string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil && u.Username != "" {
		return u.Username + "@cli"
	}
	return p.byID()
}

// byID is the same actor by the number that the kernel gave, whatever its name.
func (p peer) byID() string { return "uid" + strconv.FormatUint(uint64(p.uid), 10) + "@cli" }

// byID is who is at the other end of the connection that a request came by.
func byID(ctx context.Context) string {
	who, _ := ctx.Value(peerKey{}).(peer)
	return who.byID()
}

// groups are those the peer belongs to, its own first.
func (p peer) groups() []uint32 {
	gids := []uint32{p.gid}
	u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10))
	if err != nil {
		return gids
	}
	ids, err := u.GroupIds()
	if err != nil {
		return gids
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			gids = append(gids, uint32(n))
		}
	}
	return gids
}

// An owner is whom the socket belongs to.
type owner struct {
	uid, gid   uint32
	groupWrite bool
}

// socketOwner reads it off the file, so that a chgrp counts from then on.
func socketOwner(path string) (owner, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return owner{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Type() != fs.ModeSocket {
		return owner{}, fmt.Errorf("%s is not a socket any more", path)
	}
	return owner{uid: st.Uid, gid: st.Gid, groupWrite: info.Mode().Perm()&0o020 != 0}, nil
}

// admits says whether a peer may use the socket: root, the daemon's own user,
// and the socket's group where the file mode lets it write. The kernel checks
// the mode too; this also holds when somebody widened it.
func (o owner) admits(p peer, self uint32) bool {
	if p.err != nil {
		return false
	}
	return p.uid == 0 || p.uid == self || p.uid == o.uid || o.groupWrite && slices.Contains(p.groups(), o.gid)
}

// Self is who runs this process, named as an actor.
func Self() string { return peer{uid: uint32(os.Geteuid())}.actor() }
