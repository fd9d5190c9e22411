package rotation

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

// Learn looks at each cluster once and records what the fleet's marks there tell of trust
// anchors and webhook CAs, as far as the key backend bears it out. It writes to no
// cluster. It is for a journal that is being rebuilt, before Run or without it; it
// returns why what a cluster has is not known, by cluster.
func (r *Reconciler) Learn(ctx context.Context) map[string]error {
	r.mu.Lock()
	members := maps.Clone(r.members)
	r.mu.Unlock()
	var mu sync.Mutex
	unknown := map[string]error{}
	turns, looks := make(chan struct{}, r.atOnce), sync.WaitGroup{}
	for name, m := range members {
		looks.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if err := r.learnOf(ctx, m); err != nil {
				mu.Lock()
				defer mu.Unlock()
				unknown[name] = err
			}
		})
	}
	looks.Wait()
	return unknown
}

func (r *Reconciler) learnOf(ctx context.Context, m *member) error {
	if err := r.observe(ctx, m); err != nil && ctx.Err() != nil {
		return err
	}
	v := m.view()
	if v.Err != nil {
		return v.Err
	}
	if !r.learn(ctx, m, v.Observed) {
		r.mu.Lock()
		f, told := r.findings["AnchorNotRecovered"]
		r.mu.Unlock()
		if told {
			return fmt.Errorf("%s: %w", f.Message, ErrUnavailable)
		}
		return fmt.Errorf("its trust anchors are not matched with the key backend's keys: %w", ErrUnavailable)
	}
	_, err := r.recoverWebhookCAs(ctx, m, r.fleet(), m.view())
	return err
}
