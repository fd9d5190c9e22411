package cli

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// The clock of all tests: Sun 22 Nov 2026 11:40 in Berlin.
var now = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

func after(d time.Duration) *time.Time { t := now.Add(d); return &t }

const digest = "9f2c61ab04d877e1b03e5a19c7d288f466102e9bf5a73c48d11f70c69b3a41d7"

// healthy is a fleet of the named clusters with nothing wrong.
func healthy(names ...string) rotation.FleetStatus {
	st := rotation.FleetStatus{APIVersion: rotation.APIVersion, Kind: "FleetStatus", Fleet: "acme-mesh", ObservedAt: now, State: rotation.StateOK, Source: "daemon", Version: "1.0.0",
		Trust: rotation.TrustStatus{Active: &rotation.AnchorStatus{ID: "g1", Subject: "root.linkerd.cluster.local 2026-1", NotBefore: now.Add(-69 * day), NotAfter: now.Add(3580 * day), SHA256: digest,
			Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-anchor-1"}}, Others: []rotation.AnchorStatus{}, Rotation: &rotation.RotationStatus{Phase: "idle", Of: 6, SafeToStop: true, WaitingFor: []string{}}},
		Findings: []rotation.Finding{},
		Daemon: &rotation.DaemonStatus{StartedAt: now.Add(-12*day - 3*hour), PID: 812, LastCycleAt: after(-38 * time.Second), Epoch: 4, StoreBytes: 1234567, ConfigFile: "/etc/certd/certd.yaml",
			Receivers: []rotation.ReceiverStatus{{Name: "ops", Kind: "slack", LastDelivery: after(-time.Hour)}, {Name: "soc", Kind: "webhook"}}},
	}
	for i, n := range names {
		end := after(time.Duration(117+i)*day + 14*hour)
		tier := "prod"
		if strings.HasPrefix(n, "stage") {
			tier = "stage"
		}
		st.Clusters = append(st.Clusters, rotation.ClusterStatus{Name: n, Labels: map[string]string{"tier": tier}, Groups: []string{}, State: rotation.StateOK, Mode: "managed", Namespace: "linkerd", LastContact: after(-20 * time.Second), Version: "edge-26.11.1",
			Bundle: &rotation.BundleStatus{SHA256: digest, Anchors: []rotation.AnchorRef{{ID: "g1", SHA256: digest}}, Current: true},
			Issuer: &rotation.IssuerStatus{Delivered: &rotation.Delivered{Serial: fmt.Sprintf("5e91%028x", i), SHA256: digest, NotBefore: now.Add(-60 * day), NotAfter: *end, Anchor: "g1"},
				Loaded:  &rotation.Loaded{State: "yes", NotAfter: end, Evidence: "metric", At: after(-20 * time.Second)},
				RenewAt: after(time.Duration(50+i) * day), MustRenewBy: after(time.Duration(100+i) * day), NextRun: after(time.Duration(57+i)*day + 15*hour)},
			Findings: []rotation.Finding{}})
	}
	concluded(&st)
	return st
}

// concluded counts, and finds what breaks first.
func concluded(st *rotation.FleetStatus) {
	st.Summary = rotation.Summary{Clusters: len(st.Clusters)}
	st.NothingBreaksBefore, st.FirstToBreak = nil, nil
	for _, c := range st.Clusters {
		switch c.State {
		case rotation.StateOK:
			st.Summary.OK++
		case rotation.StateWarning:
			st.Summary.Warning++
		case rotation.StateCritical:
			st.Summary.Critical++
		default:
			st.Summary.Unknown++
		}
		if c.Issuer != nil && c.Issuer.Delivered != nil {
			if at := usableUntil(c.Issuer); st.NothingBreaksBefore == nil || at.Before(*st.NothingBreaksBefore) {
				st.NothingBreaksBefore, st.FirstToBreak = &at, &rotation.Break{Cluster: c.Name, Kind: "issuer", Name: "linkerd-identity-issuer", At: at}
			}
		}
	}
	switch sum := st.Summary; {
	case sum.Critical > 0:
		st.State = rotation.StateCritical
	case sum.Clusters > 0 && sum.Unknown == sum.Clusters:
		st.State = rotation.StateUnknown
	case sum.Warning+sum.Unknown+len(st.Findings) > 0:
		st.State = rotation.StateWarning
	}
}

// with changes one cluster of a fleet.
func with(st rotation.FleetStatus, name string, change func(*rotation.ClusterStatus)) rotation.FleetStatus {
	for i := range st.Clusters {
		if st.Clusters[i].Name == name {
			change(&st.Clusters[i])
		}
	}
	concluded(&st)
	return st
}

func overdue() rotation.FleetStatus {
	return with(healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "prod-us-1", func(c *rotation.ClusterStatus) {
		c.State = rotation.StateWarning
		c.Issuer.Loaded = &rotation.Loaded{State: "no", NotAfter: after(73*day + 16*hour), Evidence: "metric"}
		c.Issuer.NextRun = after(-5 * time.Second)
		c.Findings = []rotation.Finding{{ID: "IssuerNotLoaded", Severity: rotation.StateWarning, Message: "the issuer was delivered and is not in use for 1d 6h; linkerd-identity still signs with the former one",
			Deadline: after(73*day + 16*hour), Fix: "certd rotate issuer prod-us-1"}}
	})
}

func unreachable() rotation.FleetStatus {
	return with(healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "stage-eu-1", func(c *rotation.ClusterStatus) {
		c.State = rotation.StateUnknown
		c.LastContact = after(-2*hour - 41*time.Minute)
		c.Issuer.Loaded.State = "unknown"
		c.Findings = []rotation.Finding{{ID: "Unreachable", Severity: rotation.StateUnknown, Message: "unreachable for 2h 41m: dial tcp 10.40.7.2:6443: i/o timeout; next try in 52s", Fix: "kubectl --kubeconfig /etc/certd/kube/stage-eu-1 get ns linkerd"}}
	})
}

func fromJournal() rotation.FleetStatus {
	st := healthy("prod-eu-1", "prod-us-1", "stage-eu-1")
	st.Source, st.Daemon = "journal", nil
	st.Findings = []rotation.Finding{{ID: "DaemonNotRunning", Severity: rotation.StateWarning, Message: "no certd daemon answers; this is what its journal last knew", Fix: "certd run"}}
	concluded(&st)
	return st
}

const journalNote = "no daemon answers; journal of /var/lib/certd, last written 3h 12m ago"

func watchedOnly() rotation.FleetStatus {
	return with(healthy("prod-eu-1", "prod-us-1"), "prod-us-1", func(c *rotation.ClusterStatus) {
		c.State, c.Mode = rotation.StateWarning, "watched"
		c.Bundle.Current = false
		c.Issuer.NextRun = nil
		c.Findings = []rotation.Finding{{ID: "NotManaged", Severity: rotation.StateWarning, Message: "has trust material that certd did not make; it is watched only"}}
	})
}

func noAnchor() rotation.FleetStatus {
	st := healthy("prod-eu-1", "prod-us-1")
	st.Trust.Active = nil
	for i := range st.Clusters {
		c := &st.Clusters[i]
		c.State, c.Issuer, c.Bundle = rotation.StateWarning, nil, nil
		c.Findings = []rotation.Finding{{ID: "NotConverged", Severity: rotation.StateWarning, Message: "waits for the trust anchor"}}
	}
	st.Findings = []rotation.Finding{{ID: "NoAnchor", Severity: rotation.StateWarning, Message: "there is no trust anchor yet", Fix: "certd init"}}
	concluded(&st)
	return st
}

func large() rotation.FleetStatus {
	var list []string
	for i := range 212 {
		list = append(list, fmt.Sprintf("edge-%03d", i))
	}
	st := healthy(list...)
	for _, i := range []int{7, 107} {
		c := &st.Clusters[i]
		c.State = rotation.StateUnknown
		c.Findings = []rotation.Finding{{ID: "Unreachable", Severity: rotation.StateUnknown, Message: "unreachable for 2h 41m: connection refused"}}
	}
	concluded(&st)
	return st
}

// sized is a healthy fleet with webhooks and pods, in so many groups, 0 for a
// configuration without any.
func sized(clusters, groups int) rotation.FleetStatus {
	var list []string
	for i := range clusters {
		list = append(list, fmt.Sprintf("edge-eu-central-%03d", i))
	}
	st := healthy(list...)
	for i := range st.Clusters {
		c := &st.Clusters[i]
		if groups > 0 {
			c.Groups = []string{fmt.Sprintf("tier-%d", i%groups)}
		}
		c.Proxies = &rotation.ProxiesStatus{Total: 1200, Current: 1200, At: after(-time.Minute), Restart: []rotation.StaleOwner{}}
		c.Webhooks = slices.Clone(hooked().Clusters[0].Webhooks)
	}
	st.Conclude()
	return st
}

// grouping is a large healthy fleet in three groups; one cluster is in two of
// them, and one in none.
func grouping() rotation.FleetStatus {
	var list []string
	for i := range 182 {
		list = append(list, fmt.Sprintf("edge-%03d", i))
	}
	for i := range 24 {
		list = append(list, fmt.Sprintf("prod-%02d", i))
	}
	for i := range 6 {
		list = append(list, fmt.Sprintf("stage-%d", i))
	}
	st := healthy(list...)
	for i := range st.Clusters {
		c := &st.Clusters[i]
		tier, _, _ := strings.Cut(c.Name, "-")
		c.Groups = []string{tier}
		c.Proxies = &rotation.ProxiesStatus{Total: 400 + i, Current: 400 + i, At: after(-time.Minute), Restart: []rotation.StaleOwner{}}
	}
	st.Clusters[3].Groups = []string{"edge", "prod"}
	st.Clusters[4].Groups = []string{}
	st.Conclude()
	return st
}

// cutOffFromMany is grouping when the network to most of edge is gone: each
// cluster says so in its own words.
func cutOffFromMany() rotation.FleetStatus {
	st := grouping()
	for i := range 150 {
		c := &st.Clusters[i+20]
		c.State = rotation.StateUnknown
		c.Issuer.Loaded = nil
		if i < 12 {
			c.State = rotation.StateCritical
		}
		c.Findings = []rotation.Finding{{ID: "ClusterUnreachable", Severity: c.State, Message: fmt.Sprintf("could not be seen for 2h 41m: dial tcp 10.40.7.%d:6443: i/o timeout; nothing has to be renewed there before Thu 14 Jan 2027 02:40 UTC", i),
			Deadline: after(time.Duration(117+i) * day), Fix: "certd inspect " + c.Name}}
	}
	st.Conclude()
	return st
}

func broken() rotation.FleetStatus {
	st := with(healthy("prod-eu-1", "prod-us-1"), "prod-eu-1", func(c *rotation.ClusterStatus) {
		c.State = rotation.StateCritical
		c.Issuer.Delivered.NotAfter = *after(-3 * hour)
		c.Findings = []rotation.Finding{{ID: "IssuerExpired", Severity: rotation.StateCritical, Message: "the issuer ended 3h ago", Deadline: after(-3 * hour), Fix: "certd rotate issuer prod-eu-1"}}
	})
	return st
}

// random is a fleet of any shape, with text that tries to misbehave.
func random(r *rand.Rand) rotation.FleetStatus {
	words := []string{"x509:", "dial", "tcp", "\x1b[31mred\x1b[0m", "line\nbreak", "tab\there", "日本語", "e\u0301", "\u202eevil", strings.Repeat("long", 40), "\xff\xfe", "a|b", "🙂"}
	say := func() string {
		var list []string
		for range r.IntN(20) {
			list = append(list, words[r.IntN(len(words))])
		}
		return strings.Join(list, " ")
	}
	var list []string
	for i := range r.IntN(40) {
		list = append(list, strings.Repeat("c", 1+r.IntN(62))+fmt.Sprint(i))
	}
	st := healthy(list...)
	states := []rotation.State{rotation.StateOK, rotation.StateWarning, rotation.StateCritical, rotation.StateUnknown, "new"}
	for i := range st.Clusters {
		c := &st.Clusters[i]
		c.State = states[r.IntN(len(states))]
		c.Mode = []string{"managed", "watched", "paused"}[r.IntN(3)]
		for range r.IntN(3) {
			c.Groups = append(c.Groups, []string{"edge", "prod", strings.Repeat("g", 63), "stage", "a", "b"}[r.IntN(6)])
		}
		switch r.IntN(4) {
		case 0:
			c.Issuer = nil
		case 1:
			c.Issuer.Delivered = nil
		case 2:
			c.Issuer.Loaded = nil
			c.Issuer.Delivered.NotAfter = now.Add(time.Duration(r.Int64N(int64(20000*hour))) - 10000*hour)
		}
		if r.IntN(3) == 0 {
			c.Bundle = nil
		}
		if r.IntN(3) == 0 {
			c.Findings = append(c.Findings, rotation.Finding{ID: []string{"X", "Y", "Z"}[r.IntN(3)], Severity: states[1+r.IntN(4)], Message: say(), Fix: say(), Deadline: after(time.Duration(r.Int64N(int64(9000 * hour))))})
			if r.IntN(2) == 0 {
				c.Findings[0].Tried = &rotation.Tried{Step: rotation.Step(say()), Times: r.IntN(1000), Since: now.Add(-day), Next: after(time.Duration(r.IntN(3)-1) * hour)}
			}
		}
		if r.IntN(2) == 0 {
			c.Webhooks = []rotation.WebhookStatus{}
			for range r.IntN(8) {
				w := rotation.WebhookStatus{Name: say(), Kind: say(), Mode: []string{"managed", "watched"}[r.IntN(2)], CABundle: rotation.CABundleStatus{Accepts: r.IntN(3) > 0, Current: r.IntN(3) > 0, CAs: []rotation.AnchorRef{{Subject: say()}}}}
				if r.IntN(3) > 0 {
					w.Delivered = &rotation.Delivered{NotAfter: now.Add(time.Duration(r.Int64N(int64(2000*hour))) - 1000*hour)}
				}
				if r.IntN(3) > 0 {
					w.Served, w.Check = &rotation.Loaded{State: []string{"yes", "no", "unknown", "new"}[r.IntN(4)], Evidence: say()}, &rotation.CheckStatus{State: []string{"yes", "no", "unknown", "new"}[r.IntN(4)], Evidence: say()}
				}
				c.Webhooks = append(c.Webhooks, w)
			}
			c.WebhookCA = &rotation.WebhookCAStatus{AnchorStatus: rotation.AnchorStatus{ID: "w1", Subject: say(), NotAfter: now.Add(time.Duration(r.Int64N(int64(9000*hour))) - 1000*hour)}}
		}
		if r.IntN(2) == 0 {
			c.Proxies = &rotation.ProxiesStatus{Restart: []rotation.StaleOwner{}, Total: r.IntN(30000), Stale: r.IntN(3), Unknown: r.IntN(3), At: after(-time.Duration(r.Int64N(int64(9000 * hour))))}
			if r.IntN(3) == 0 {
				c.Proxies.Problem = say()
			}
			for range r.IntN(14) {
				c.Proxies.Restart = append(c.Proxies.Restart, rotation.StaleOwner{Namespace: strings.Repeat("n", 1+r.IntN(63)), Kind: []string{"Deployment", "Pod", "Job", say()}[r.IntN(4)], Name: []string{strings.Repeat("o", 1+r.IntN(200)), say()}[r.IntN(2)], Pods: r.IntN(9)})
			}
		}
		if r.IntN(3) == 0 {
			c.NextStep = &rotation.PlanItem{Cluster: c.Name, Step: rotation.StepBundle, At: now.Add(time.Duration(r.IntN(3)) * hour), Due: now, Reason: say()}
		}
	}
	if r.IntN(4) == 0 {
		st.Trust.Active = nil
	} else {
		st.Trust.Active.Subject, st.Trust.Active.Key.Name = say(), say()
	}
	if r.IntN(3) == 0 {
		change := &rotation.RotationStatus{Phase: "restart", Stage: "restart", Number: 1 + r.IntN(6), Of: 6, SafeToStop: r.IntN(2) == 0, From: "g1", To: say(), Held: r.IntN(2) == 0, Back: r.IntN(2) == 0, Compromised: r.IntN(3) == 0, Reason: say(), Actor: say(), StartedAt: after(-hour), WaitingFor: []string{}}
		for range r.IntN(8) {
			change.WaitingFor = append(change.WaitingFor, say())
		}
		st.Trust.Rotation = change
	}
	st.Fleet = strings.Repeat("f", 1+r.IntN(70))
	st.Version = say()
	if r.IntN(2) == 0 {
		st.Findings = append(st.Findings, rotation.Finding{ID: "Y", Severity: states[1+r.IntN(3)], Message: say(), Fix: say()})
	}
	concluded(&st)
	return st
}

// testApp is an App in a pipe, at Berlin's time, whose hooks are not filled.
func testApp() (*App, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	env := map[string]string{"TZ": "Europe/Berlin", "LANG": "C.UTF-8"}
	return &App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(k string) string { return env[k] }, Now: func() time.Time { return now }, poll: time.Millisecond,
		Version: VersionInfo{"1.0.0", "abc1234", "2026-11-20T09:00:00Z", "go1.26.8", "linux/amd64"},
		Socket:  func(string) (string, error) { return "/nonexistent/certd.sock", nil }}, &out, &errs
}

func plan() rotation.Plan {
	p := rotation.Plan{APIVersion: rotation.APIVersion, Kind: "Plan", Fleet: "acme-mesh", ObservedAt: now, Until: now.Add(90 * day), Findings: []rotation.Finding{}}
	p.Items = append(p.Items,
		rotation.PlanItem{Cluster: "stage-eu-1", Step: rotation.StepBundle, Due: now, At: now, Reason: "the bundle is missing"},
		rotation.PlanItem{Cluster: "prod-eu-1", Step: rotation.StepIssuer, Due: now.Add(52 * day), At: now.Add(57*day + 15*hour), Reason: `schedule "0 3 * * TUE"`})
	for i := range 22 {
		at := now.Add(time.Duration(i)*4*day + 16*hour)
		p.Items = append(p.Items, rotation.PlanItem{Cluster: "prod-us-1", Step: rotation.StepIssuer, Due: at, At: at, Reason: `schedule "0 3 * * *"`})
	}
	p.Breaks = []rotation.Break{{Cluster: "prod-eu-1", Kind: "issuer", Name: "linkerd-identity-issuer", At: now.Add(117 * day)}, {Kind: "anchor", Name: "g1", At: now.Add(3580 * day)}}
	return p
}

func entries() []rotation.HistoryItem {
	item := func(seq uint64, cluster string, step rotation.Step, outcome rotation.Result, ago time.Duration) rotation.HistoryItem {
		return rotation.HistoryItem{Seq: seq, At: now.Add(-ago), IntentAt: now.Add(-ago - 2*time.Second), Actor: "certd", Cluster: cluster, Step: step, Reason: "due since 03:00", Outcome: outcome, Hash: digest, PrevHash: digest}
	}
	list := []rotation.HistoryItem{
		item(1, "", rotation.StepKey, rotation.OK, 30*day),
		item(2, "prod-eu-1", rotation.StepIssuer, rotation.OK, 3*day),
		item(3, "prod-us-1", rotation.StepIssuer, rotation.Failed, 2*hour),
		item(4, "prod-us-1", rotation.StepSign, rotation.Unknown, hour),
	}
	list[1].Serial = "5e91000000000000000000000000000c"
	list[2].Detail = "put Secret linkerd/linkerd-identity-issuer: connection refused"
	list[3].Actor, list[3].IntentAt = "lee@cli", time.Time{}
	return list
}
