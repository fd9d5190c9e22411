package rotation

import (
	"testing"
	"time"
)

// How workloads come to trust the new anchor, as far as the census and the journal
// tell: nothing that is not known is told as none.
func TestWorkloadsOfAChange(t *testing.T) {
	now := start.Add(100 * time.Hour)
	writtenAt := now.Add(-2 * time.Hour)
	after := func(minutes int) time.Time { return writtenAt.Add(time.Duration(minutes) * time.Minute) }
	all := map[string]time.Time{"app/Deployment/a": after(30), "app/Deployment/b": after(-600), "app/Deployment/c": after(40), "linkerd/Deployment/linkerd-identity": after(10)}
	b := turn{stage: StageRestart, bundle: "B", bundleAt: writtenAt, issuer: "BA", issuerAt: after(-60), started: after(20)}.bench(t, now)
	set := func(letters string) ProxySet {
		var anchors []*Anchor
		for _, l := range letters {
			anchors = append(anchors, &b.fleet.Anchors[l-'A'])
		}
		s, err := b.fleet.with(b.view, anchors...)
		if err != nil {
			t.Fatal(err)
		}
		return ProxySet{Anchors: s}
	}
	owners := func(s ProxySet, names string) ProxySet {
		for _, n := range names {
			s.Owners, s.Pods = append(s.Owners, ProxyOwner{Namespace: "app", Kind: "Deployment", Name: string(n), Pods: 2}), s.Pods+2
		}
		return s
	}
	usual := func() View {
		v := b.view
		v.Restarts = Restarts{From: after(-1000), At: all}
		v.Proxies = Proxies{At: after(90), Sets: []ProxySet{owners(set("B"), "abd"), owners(set("A"), "ce"), owners(set("AB"), "e")}}
		return v
	}
	const absent = -1
	for _, row := range []struct {
		name                             string
		change                           func(f *Fleet, v *View)
		total, stale, restarted, avoided int
		none                             bool
	}{
		{"restarted by certd, before the bundle turned, still stale, new", nil, 5, 2, 1, 2, false},
		{"the control plane is among them", func(_ *Fleet, v *View) {
			v.Proxies.Sets[0].Owners = append(v.Proxies.Sets[0].Owners, ProxyOwner{Namespace: "linkerd", Kind: "Deployment", Name: "linkerd-identity", Pods: 2})
		}, 6, 2, 2, 2, false},
		{"of some it is not known which bundle they read", func(_ *Fleet, v *View) {
			v.Proxies.Unread, v.Proxies.Earlier = 1, []ProxyOwner{{Namespace: "linkerd", Kind: "Deployment", Name: "linkerd-destination", Pods: 1}}
		}, 6, 3, 1, 2, false},
		{"the journal was begun after the bundle turned", func(_ *Fleet, v *View) { v.Restarts.From = after(1) }, 5, 2, absent, absent, false},
		{"the journal cannot be read", func(_ *Fleet, v *View) { v.Restarts.From = time.Time{} }, 5, 2, absent, absent, false},
		{"when the bundle turned is not known", func(_ *Fleet, v *View) { v.Observed.BundleWrittenAt = time.Time{} }, 5, 2, absent, absent, false},
		{"a later stage", func(f *Fleet, v *View) { f.Change.Stage = StageRetire; v.Proxies.Sets = v.Proxies.Sets[:1] }, 3, 0, 1, 2, false},
		{"an earlier stage", func(f *Fleet, _ *View) { f.Change.Stage = StageSpread }, 0, 0, 0, 0, true},
		{"no change", func(f *Fleet, _ *View) { f.Change = nil }, 0, 0, 0, 0, true},
		{"the census is from before", func(_ *Fleet, v *View) { v.Proxies.At = after(1) }, 0, 0, 0, 0, true},
		{"a pod cannot be read", func(_ *Fleet, v *View) { v.Proxies.Unread = 1 }, 0, 0, 0, 0, true},
		{"not all owners are noted", func(_ *Fleet, v *View) { v.Proxies.Sets[0].Others = 1 }, 0, 0, 0, 0, true},
		{"the census is not whole", func(_ *Fleet, v *View) { v.Proxies.Err = ErrDenied }, 0, 0, 0, 0, true},
		{"a folder", func(_ *Fleet, v *View) { v.Observed.Version = "" }, 0, 0, 0, 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, v := b.fleet, usual()
			c, o := *f.Change, *v.Observed
			f.Change, v.Observed = &c, &o
			if row.change != nil {
				row.change(&f, &v)
			}
			w := f.workloads(v, Decision{Mode: Managed, Bundle: set("B").Anchors})
			if (w == nil) != row.none {
				t.Fatalf("%+v", w)
			}
			if row.none {
				return
			}
			value := func(n *int) int {
				if n == nil {
					return absent
				}
				return *n
			}
			if w.Total != row.total || w.Stale != row.stale || value(w.Restarted) != row.restarted || value(w.Avoided) != row.avoided {
				t.Errorf("of %d, %d stale, %d restarted, %d avoided", w.Total, w.Stale, value(w.Restarted), value(w.Avoided))
			}
		})
	}
}

// A sum has what is known of each of its parts.
func TestWorkloadsOfAllClusters(t *testing.T) {
	n := func(n int) *int { return &n }
	known, half := &WorkloadsStatus{Total: 3, Stale: 1, Restarted: n(2), Avoided: n(0)}, &WorkloadsStatus{Total: 4, Stale: 4}
	if w := workloadsOf([]*WorkloadsStatus{known, known}); w == nil || w.Total != 6 || w.Stale != 2 || *w.Restarted != 4 || *w.Avoided != 0 {
		t.Errorf("%+v", w)
	}
	if w := workloadsOf([]*WorkloadsStatus{half, known}); w == nil || w.Total != 7 || w.Stale != 5 || w.Restarted != nil || w.Avoided != nil {
		t.Errorf("%+v", w)
	}
	for _, all := range [][]*WorkloadsStatus{nil, {known, nil}} {
		if w := workloadsOf(all); w != nil {
			t.Errorf("%+v of %v", w, all)
		}
	}
}
