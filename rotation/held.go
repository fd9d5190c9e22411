package rotation

import "sync"

// held keeps answers that each look asks for again until something changes: at most so
// many, then it begins anew. A nil one keeps nothing.
type held[K comparable, V any] struct {
	mu   sync.Mutex
	most int
	of   map[K]V
}

func newHeld[K comparable, V any](most int) *held[K, V] {
	return &held[K, V]{most: most, of: map[K]V{}}
}

// get is what is kept, or what work returns.
func (h *held[K, V]) get(key K, work func() V) V {
	if h == nil {
		return work()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.of[key]
	if !ok {
		if len(h.of) >= h.most {
			clear(h.of)
		}
		v = work()
		h.of[key] = v
	}
	return v
}
