package memory

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"certd.internal/rotation"
)

// A MirrorCall is one of Mirror's methods.
type MirrorCall int

// The calls that faults can tell apart.
const (
	CallLoad MirrorCall = iota
	CallVersion
	CallSave
)

// MirrorFault makes a call fail. With Done it takes effect all the same.
type MirrorFault struct {
	Err  error
	Done bool
}

// Mirror is a rotation.Mirror in memory. The zero Mirror is empty. It is safe for
// concurrent use.
type Mirror struct {
	mu      sync.Mutex
	doc     []byte
	version uint64
	faults  func(MirrorCall) MirrorFault
}

var _ rotation.Mirror = (*Mirror)(nil)

// SetFaults has calls fail as f says; nil: none.
func (m *Mirror) SetFaults(f func(MirrorCall) MirrorFault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = f
}

func (m *Mirror) fault(ctx context.Context, c MirrorCall) MirrorFault {
	if err := ctx.Err(); err != nil {
		return MirrorFault{Err: fmt.Errorf("%w: %w", err, rotation.ErrUnavailable)}
	}
	if m.faults == nil {
		return MirrorFault{}
	}
	return m.faults(c)
}

// Load implements rotation.Mirror.
func (m *Mirror) Load(ctx context.Context) ([]byte, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.fault(ctx, CallLoad); f.Err != nil {
		return nil, 0, f.Err
	}
	return bytes.Clone(m.doc), m.version, nil
}

// Version implements rotation.Mirror.
func (m *Mirror) Version(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.fault(ctx, CallVersion); f.Err != nil {
		return 0, f.Err
	}
	return m.version, nil
}

// Save implements rotation.Mirror.
func (m *Mirror) Save(ctx context.Context, doc []byte, was uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fault(ctx, CallSave)
	if f.Err != nil && !f.Done {
		return 0, f.Err
	}
	if m.version != was {
		return 0, fmt.Errorf("the mirror has version %d, not %d: %w", m.version, was, rotation.ErrChanged)
	}
	if !json.Valid(doc) {
		return 0, fmt.Errorf("save the mirror: it is no JSON: %w", rotation.ErrUnsupported)
	}
	m.doc, m.version = bytes.Clone(doc), m.version+1
	return m.version, f.Err
}

// Delete deletes the newest version, as a person may.
func (m *Mirror) Delete() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doc = nil
}
