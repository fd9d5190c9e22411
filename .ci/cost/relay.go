package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay gives each cluster of the fleet an address of its own in front of the one API
// server there is, as clusters have, and counts what goes through.
type relay struct {
	to        string // host:port of the API server
	listeners []net.Listener
	sent      atomic.Uint64 // bytes to the API server
	received  atomic.Uint64 // bytes from it
	opened    atomic.Uint64 // connections
	working   sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
}

func newRelay(to string, n int) (*relay, error) {
	r := &relay{to: to, open: map[net.Conn]bool{}}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.listeners = append(r.listeners, l)
		r.working.Go(func() { r.accept(l) })
	}
	return r, nil
}

// address is where cluster i is reached.
func (r *relay) address(i int) string { return r.listeners[i].Addr().String() }

func (r *relay) accept(l net.Listener) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", r.to)
		if err != nil {
			from.Close()
			continue
		}
		r.opened.Add(1)
		if !r.keep(from, to) {
			return
		}
		r.working.Go(func() { copyAndCount(to, from, &r.sent) })
		r.working.Go(func() { copyAndCount(from, to, &r.received) })
	}
}

// keep notes connections that Close has to end; false: it has been called.
func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.open == nil {
			c.Close()
			continue
		}
		r.open[c] = true
	}
	return r.open != nil
}

// copyAndCount closes both ends with the first: TLS says itself when it is done.
func copyAndCount(to, from net.Conn, count *atomic.Uint64) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		count.Add(uint64(n))
		if _, wrong := to.Write(buffer[:n]); err != nil || wrong != nil {
			return
		}
	}
}

// Close ends all connections.
func (r *relay) Close() error {
	var err error
	for _, l := range r.listeners {
		err = errors.Join(err, l.Close())
	}
	r.mu.Lock()
	for c := range r.open {
		c.Close()
	}
	r.open = nil
	r.mu.Unlock()
	r.working.Wait()
	return err
}

var _ io.Closer = (*relay)(nil)
