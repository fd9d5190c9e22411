package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// network is the part of this machine's loopback addresses that one lab has to
// itself: 127.<octet>.0.0/16, for ClusterIPs and pods, and a hundred ports.
type network struct {
	octet int
	lock  *os.File
}

const firstOctet, lastOctet = 10, 109

// takeNetwork finds one that no other lab has. It is given back when the
// process ends, however that happens.
func takeNetwork() (*network, error) {
	dir := filepath.Join(os.TempDir(), "certd-lab-networks")
	// For all users of the machine, as the addresses are.
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("find free addresses: %w", err)
	}
	os.Chmod(dir, 0o777|os.ModeSticky) // fails for all but the owner, who has done it
	for octet := firstOctet; octet <= lastOctet; octet++ {
		if lock, err := lockFile(filepath.Join(dir, fmt.Sprint(octet))); err == nil {
			return &network{octet: octet, lock: lock}, nil
		}
	}
	return nil, errors.New("find free addresses: all are taken; stop some of the other labs, or clear " + dir)
}

func (n *network) serviceCIDR(cluster int) string {
	return fmt.Sprintf("127.%d.%d.0/24", n.octet, cluster)
}

func (n *network) serviceIP(cluster int) net.IP {
	return net.IPv4(127, byte(n.octet), byte(cluster), 1)
}

// podCIDR is where pods with servers live. There are fewer than a hundred
// clusters, so that it is nobody's serviceCIDR.
func (n *network) podCIDR(cluster int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(n.octet), byte(100 + cluster), 0}), 24)
}

// port is where the cluster's API server listens. It takes no listener, so the
// port must not be one that the kernel hands out meanwhile: these lie below
// Linux' ephemeral ports (32768 and up).
func (n *network) port(cluster int) (int, error) {
	if cluster < 1 || cluster > 90 {
		return 0, fmt.Errorf("a lab has 1 to 90 clusters, not %d", cluster)
	}
	port := 20_000 + 100*(n.octet-firstOctet) + cluster
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		return port, l.Close()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
