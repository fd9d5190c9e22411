package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"certd.internal/rotation"
)

// TestMirror checks what rotation.Mirror promises. open returns a mirror that
// was never written to, as two daemons would see it.
func TestMirror(t *testing.T, open func(t *testing.T) (one, other rotation.Mirror)) {
	t.Run("nothing is there at first", func(t *testing.T) {
		m, _ := open(t)
		if doc, version, err := m.Load(t.Context()); doc != nil || version != 0 || err != nil {
			t.Errorf("%s, version %d, %v", doc, version, err)
		}
		if version, err := m.Version(t.Context()); version != 0 || err != nil {
			t.Errorf("version %d, %v", version, err)
		}
	})
	t.Run("what was saved is there for the other", func(t *testing.T) {
		one, other := open(t)
		version := uint64(0)
		for _, doc := range []string{`{"fleet":"acme","epoch":18446744073709551615,"anchors":[]}`, `{"fleet":"acme","epoch":7}`} {
			saved, err := one.Save(t.Context(), []byte(doc), version)
			if err != nil || saved <= version {
				t.Fatalf("version %d after %d, %v", saved, version, err)
			}
			got, there, err := other.Load(t.Context())
			if err != nil || there != saved || !sameJSON(t, got, []byte(doc)) {
				t.Errorf("saved %s as %d, and there is %s as %d, %v", doc, saved, got, there, err)
			}
			if v, err := other.Version(t.Context()); v != saved || err != nil {
				t.Errorf("version %d, want %d, %v", v, saved, err)
			}
			version = saved
		}
	})
	t.Run("a late write does not land", func(t *testing.T) {
		one, other := open(t)
		first, err := one.Save(t.Context(), []byte(`{"epoch":1}`), 0)
		if err != nil {
			t.Fatal(err)
		}
		second, err := other.Save(t.Context(), []byte(`{"epoch":2}`), first)
		if err != nil {
			t.Fatal(err)
		}
		for _, was := range []uint64{0, first, second + 1} {
			if _, err := one.Save(t.Context(), []byte(`{"epoch":1}`), was); !errors.Is(err, rotation.ErrChanged) {
				t.Errorf("at version %d, where %d is: %v", was, second, err)
			}
		}
		if doc, version, err := one.Load(t.Context()); err != nil || version != second || !sameJSON(t, doc, []byte(`{"epoch":2}`)) {
			t.Errorf("%s as %d, %v", doc, version, err)
		}
	})
	t.Run("of many that write at one version, one succeeds", func(t *testing.T) {
		one, other := open(t)
		var won atomic.Int32
		var writing sync.WaitGroup
		for i := range 8 {
			m := []rotation.Mirror{one, other}[i%2]
			writing.Go(func() {
				switch _, err := m.Save(t.Context(), []byte(`{"epoch":1}`), 0); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, rotation.ErrChanged):
					t.Error(err)
				}
			})
		}
		if writing.Wait(); won.Load() != 1 {
			t.Errorf("%d succeeded", won.Load())
		}
	})
	t.Run("a call whose context has ended changes nothing", func(t *testing.T) {
		one, other := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := one.Save(ctx, []byte(`{"epoch":1}`), 0); err == nil {
			t.Error("it was saved")
		}
		if doc, version, err := other.Load(t.Context()); doc != nil || version != 0 || err != nil {
			t.Errorf("%s, version %d, %v", doc, version, err)
		}
	})
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	decode := func(text []byte) (v map[string]json.RawMessage) {
		if err := json.Unmarshal(text, &v); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		return v
	}
	return reflect.DeepEqual(decode(a), decode(b))
}
