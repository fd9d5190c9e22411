package rotation

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
)

// Nearly all clusters have the same bundle: it is read and kept once, and no longer than
// some cluster keeps it. What a cluster is given afterwards changes nothing of that.
func TestABundleIsKeptOnceForAllClusters(t *testing.T) {
	b := newBench(t)
	text := bytes.Clone(b.view.Observed.BundleText)
	var shared sharedBundles
	one, other := newReadBundles(&shared), newReadBundles(&shared)
	first := one.read(text)
	if first.err != nil || len(first.bundle.Anchors()) == 0 {
		t.Fatalf("read as %v, %v", first.bundle, first.err)
	}
	clear(text)
	if again := other.read(bytes.Clone(b.view.Observed.BundleText)); again != first || !bytes.Equal(again.text, b.view.Observed.BundleText) {
		t.Error("another cluster's copy of it is kept beside it, or follows what its text became")
	}
	if none := (*readBundles)(nil).read(first.text); none.err != nil || !none.bundle.Equal(first.bundle) {
		t.Errorf("where nothing is kept it reads as %v, %v", none.bundle, none.err)
	}
	if bad := other.read(text); bad == first || bad.err == nil {
		t.Error("what is no bundle reads as one")
	}
	for i := range 1000 {
		one.read(fmt.Appendf(nil, "no bundle %d", i))
		if i%100 == 0 {
			runtime.GC()
		}
	}
	if kept := len(shared.of); kept > 300 {
		t.Errorf("%d bundles are kept that no cluster has", kept)
	}
	if other.read(first.text) != first {
		t.Error("one that a cluster keeps was dropped")
	}
	runtime.KeepAlive(first)
}
