package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// meshed is the fleet of hooked with its pods counted: prod-us-1 may not be
// looked into, nothing is meshed in stage-eu-1, and vm-pool is a folder.
func meshed() rotation.FleetStatus {
	st := hooked()
	st.Clusters[0].Proxies = &rotation.ProxiesStatus{Total: 1204, Current: 1204, At: after(-4 * time.Minute), Restart: []rotation.StaleOwner{}}
	st.Clusters[1].Proxies = &rotation.ProxiesStatus{At: after(-time.Hour), Restart: []rotation.StaleOwner{}, Problem: "list pods: not permitted"}
	return st
}

// stale is meshed where pods of prod-eu-1 were created under another bundle.
func stale(owners int) rotation.FleetStatus {
	st := meshed()
	c := &st.Clusters[0]
	p := c.Proxies
	p.Restart = []rotation.StaleOwner{{Namespace: "shop", Kind: "Deployment", Name: "web", Pods: 2}, {Namespace: "shop", Kind: "StatefulSet", Name: "cart", Pods: 1},
		{Namespace: "batch", Kind: "Job", Name: "nightly-29", Pods: 1, Of: &rotation.OwnerRef{Kind: "CronJob", Name: "nightly"}}, {Namespace: "shop", Kind: "Deployment", Name: "web", Pods: 1}, {Namespace: "shop", Kind: "Deployment", Name: "x; reboot", Pods: 1}}
	for i := range owners {
		p.Restart = append(p.Restart, rotation.StaleOwner{Namespace: "load", Kind: "Deployment", Name: fmt.Sprintf("worker-%02d", i), Pods: 3})
	}
	p.Stale, p.Unknown = 6+3*owners, 2
	if owners > 0 {
		p.Stale += 40
	}
	p.Current = p.Total - p.Stale - p.Unknown
	c.State = rotation.StateWarning
	c.Findings = append(c.Findings, rotation.Finding{ID: "ProxiesStale", Severity: rotation.StateWarning, Message: fmt.Sprintf("%d of 1204 meshed pods trust other anchors than the bundle, since they were created: shop/Deployment web", p.Stale),
		Fix: "kubectl -n shop rollout restart deployment/web"})
	st.Conclude()
	return st
}

// partly is meshed where the count of prod-us-1 is not whole.
func partly() rotation.FleetStatus {
	st := meshed()
	p := st.Clusters[1].Proxies
	p.Total, p.Current, p.Problem = 500, 500, "list pods, page 2: context deadline exceeded"
	return st
}

func TestProxiesOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	at := func(width int, ascii bool) style {
		s := plain
		s.width, s.ascii = width, ascii
		return s
	}
	for _, row := range []struct {
		name  string
		style style
		doc   rotation.FleetStatus
		wide  bool
		one   string // certd status CLUSTER
	}{
		{"healthy", plain, meshed(), false, ""},
		{"healthy-90", at(90, false), meshed(), false, ""}, // WEBHOOKS went
		{"healthy-70", at(70, false), meshed(), false, ""}, // PROXIES, too
		{"healthy-wide-160", at(160, false), meshed(), true, ""},
		{"healthy-one", plain, meshed(), false, "prod-eu-1"},
		{"stale", plain, stale(0), false, ""},
		{"stale-80-ascii", at(80, true), stale(0), false, ""},
		{"stale-one", plain, stale(0), false, "prod-eu-1"},
		{"stale-many-one-80-ascii", at(80, true), stale(18), false, "prod-eu-1"},
		{"denied-one", plain, meshed(), false, "prod-us-1"},
		{"partly", plain, partly(), false, ""},
		{"partly-one", plain, partly(), false, "prod-us-1"},
		{"none-one", plain, meshed(), false, "stage-eu-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			v := statusView{style: row.style, doc: row.doc, wide: row.wide}
			if row.one != "" {
				var err error
				if v.doc, err = narrowed(row.doc, []string{row.one}, ""); err != nil {
					t.Fatal(err)
				}
				v.all = true
			}
			lines := v.lines()
			for _, l := range lines {
				if problem := misfit(l, row.style); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
			golden(t, "proxies-"+row.name, lines)
		})
	}
}

func TestStaleProxiesAreInTheWarningColour(t *testing.T) {
	v := statusView{}
	for name, row := range map[string]struct {
		proxies *rotation.ProxiesStatus
		text    string
		warns   bool
	}{
		"nobody looked":          {nil, "-", false},
		"nobody may look":        {&rotation.ProxiesStatus{Problem: "not permitted"}, "?", false},
		"all are current":        {&rotation.ProxiesStatus{Total: 1204, Current: 1204}, "1204/1204", false},
		"some are stale":         {&rotation.ProxiesStatus{Total: 1204, Current: 1200, Stale: 4}, "1200/1204", true},
		"some cannot be told":    {&rotation.ProxiesStatus{Total: 1204, Current: 1200, Unknown: 4}, "1200/1204", false},
		"the count is not whole": {&rotation.ProxiesStatus{Total: 500, Current: 499, Stale: 1, Problem: "too slow"}, "499/500 ?", true},
	} {
		if got := v.proxies(rotation.ClusterStatus{Proxies: row.proxies}); got.text != row.text || (got.sgr == markWarning.sgr) != row.warns {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Whoever makes a pod names its owner; what a person pastes must not be theirs.
func TestCommandsAreForNamesThatObjectsHave(t *testing.T) {
	for _, row := range []struct {
		owner rotation.StaleOwner
		want  string
	}{
		{rotation.StaleOwner{Namespace: "shop", Kind: "Deployment", Name: "web"}, "kubectl -n shop rollout restart deployment/web"},
		{rotation.StaleOwner{Namespace: "shop", Kind: "DaemonSet", Name: "a.b-1"}, "kubectl -n shop rollout restart daemonset/a.b-1"},
		{rotation.StaleOwner{Namespace: "shop", Kind: "Pod", Name: "debug"}, ""}, // nothing would make it anew
		{rotation.StaleOwner{Namespace: "shop", Kind: "Rollout", Name: "web"}, ""},
		{rotation.StaleOwner{Namespace: "shop", Kind: "Deployment", Name: "x;reboot"}, ""},
		{rotation.StaleOwner{Namespace: "shop", Kind: "Deployment", Name: "$(reboot)"}, ""},
		{rotation.StaleOwner{Namespace: "a b", Kind: "Pod", Name: "debug"}, ""},
		{rotation.StaleOwner{Namespace: "shop", Kind: "Pod", Name: "--all"}, ""},
		{rotation.StaleOwner{Namespace: "shop", Kind: "Pod"}, ""},
	} {
		if got := rotation.RestartCommand(row.owner.Owner()); got != row.want {
			t.Errorf("%+v: %q, want %q", row.owner, got, row.want)
		}
	}
}

func TestWatchingAPipeTellsOfStaleProxies(t *testing.T) {
	a, out, _ := testApp()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := 0
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		looks++
		st := meshed()
		switch {
		case looks > 4:
			st = stale(0)
		case looks > 2: // pods came: that is no news
			st.Clusters[0].Proxies.Total, st.Clusters[0].Proxies.Current = 1300, 1300
		}
		if looks == 6 {
			cancel()
		}
		return &scripted{st: st, anchor: true}, "", func() error { return nil }, nil
	}
	a.run(ctx, []string{"status", "-w"})
	golden(t, "watch-pipe-proxies", strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n"))
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1904: "1,904", 94310: "94,310", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
