package kubelet

import (
	"fmt"
	"net/netip"
	"sync"
)

// addresses hands out those of a network, each to one user at a time. The first
// and the last of the network are nobody's. One that was given back comes last.
type addresses struct {
	network netip.Prefix

	mu    sync.Mutex
	taken map[netip.Addr]bool
	last  netip.Addr // handed out most recently
}

func newAddresses(network netip.Prefix) *addresses {
	network = network.Masked()
	return &addresses{network: network, taken: map[netip.Addr]bool{}, last: network.Addr()}
}

func (a *addresses) take() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for wrapped, next := false, a.last.Next(); ; next = next.Next() {
		if !a.network.Contains(next.Next()) { // the last one, or beyond
			if wrapped || !a.network.IsValid() {
				return netip.Addr{}, fmt.Errorf("all %d addresses for pods with servers are taken in %s; delete some of these pods", len(a.taken), a.network)
			}
			wrapped, next = true, a.network.Addr()
			continue
		}
		if !a.taken[next] {
			a.taken[next], a.last = true, next
			return next, nil
		}
	}
}

func (a *addresses) giveBack(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taken, addr)
}
