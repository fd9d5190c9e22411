package page

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// The clock of all tests: Sun 22 Nov 2026 11:40 in Berlin.
var now = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)

var quiet = slog.New(slog.DiscardHandler)

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

func after(d time.Duration) *time.Time { t := now.Add(d); return &t }

const digest = "9f2c61ab04d877e1b03e5a19c7d288f466102e9bf5a73c48d11f70c69b3a41d7"

// canned is a source that says what it was given.
type canned struct {
	status  rotation.FleetStatus
	plan    rotation.Plan
	history []rotation.HistoryItem
	err     error
}

func (c *canned) Status(context.Context) (rotation.FleetStatus, error) { return c.status, c.err }

func (c *canned) Plan(_ context.Context, until time.Time, _ bool) (rotation.Plan, error) {
	plan := c.plan
	plan.Until = until
	plan.Items = slices.DeleteFunc(slices.Clone(plan.Items), func(i rotation.PlanItem) bool { return i.At.After(until) })
	return plan, c.err
}

func (c *canned) History(_ context.Context, q api.HistoryQuery) (list rotation.HistoryList, err error) {
	for _, h := range c.history {
		if q.Cluster == "" || h.Cluster == q.Cluster {
			list.Items = append(list.Items, h)
		}
	}
	return list, c.err
}

// anchorOf is a trust anchor that was made so long ago.
func anchorOf(id string, age time.Duration) rotation.AnchorStatus {
	number := strings.TrimPrefix(id, "g")
	return rotation.AnchorStatus{ID: id, Subject: "root.linkerd.cluster.local " + id, NotBefore: now.Add(-age), NotAfter: now.Add(3650*day - age), SHA256: digest, SKI: digest,
		Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-anchor-" + number}}
}

// healthy is a fleet of the named clusters with nothing wrong. The part of a name
// before the first dash is its group.
func healthy(names ...string) *canned {
	g1 := anchorOf("g1", 69*day)
	st := rotation.FleetStatus{APIVersion: rotation.APIVersion, Kind: "FleetStatus", Fleet: "acme-mesh", ObservedAt: now, Source: "daemon", Version: "1.0.0",
		Trust:    rotation.TrustStatus{Active: &g1, RenewAt: after(2850 * day), Others: []rotation.AnchorStatus{}, Rotation: &rotation.RotationStatus{Phase: "idle", Of: 6, SafeToStop: true, WaitingFor: []string{}}},
		Findings: []rotation.Finding{},
		Daemon:   &rotation.DaemonStatus{StartedAt: now.Add(-12*day - 3*hour), PID: 812, LastCycleAt: after(-18 * time.Second), Epoch: 4, StoreBytes: 1234567, ConfigFile: defaultConfig},
	}
	c := &canned{}
	for i, n := range names {
		st.Clusters = append(st.Clusters, cluster(i, n))
	}
	for _, at := range st.Clusters {
		c.plan.Items = append(c.plan.Items, rotation.PlanItem{Cluster: at.Name, Step: rotation.StepIssuer, Due: *at.Issuer.RenewAt, At: *at.Issuer.NextRun, Reason: "the schedule fires, and two firings later the floor would be near"})
		for _, w := range at.Webhooks {
			c.plan.Items = append(c.plan.Items, rotation.PlanItem{Cluster: at.Name, Step: rotation.StepWebhook, Webhook: w.Name, Due: *w.RenewAt, At: *w.NextRun, Reason: "the schedule fires"})
		}
	}
	slices.SortFunc(c.plan.Items, func(a, b rotation.PlanItem) int { return a.At.Compare(b.At) })
	c.history = entries(names[min(1, len(names)-1)])
	c.status = st
	c.status.Conclude()
	return c
}

// cluster is the i-th of a fleet, with nothing wrong.
func cluster(i int, name string) rotation.ClusterStatus {
	group, _, _ := strings.Cut(name, "-")
	begin, end := now.Add(-60*day+time.Duration(i%90)*hour), now.Add(time.Duration(20+i%90)*day+14*hour)
	renew, run := end.Add(-5*day), end.Add(-4*day-11*hour)
	c := rotation.ClusterStatus{Name: name, Labels: map[string]string{"tier": group}, Groups: []string{group}, State: rotation.StateOK, Mode: "managed", Namespace: "linkerd", LastContact: after(-20 * time.Second), Version: "edge-26.11.1",
		Bundle: &rotation.BundleStatus{SHA256: digest, Anchors: []rotation.AnchorRef{{ID: "g1", SHA256: digest, NotAfter: now.Add(3581 * day)}}, Current: true},
		Issuer: &rotation.IssuerStatus{Delivered: &rotation.Delivered{Serial: fmt.Sprintf("5e91%028x", i), SHA256: digest, NotBefore: begin, NotAfter: end, Anchor: "g1"},
			Loaded:  &rotation.Loaded{State: "yes", NotAfter: &end, Evidence: "the metric issuer_cert_ttl_seconds", At: after(-20 * time.Second)},
			RenewAt: &renew, MustRenewBy: after(time.Duration(18+i%90)*day + 2*hour), NextRun: &run},
		WebhookCA: &rotation.WebhookCAStatus{AnchorStatus: rotation.AnchorStatus{ID: "w1", Subject: "webhook-ca." + name, NotBefore: now.Add(-100 * day), NotAfter: now.Add(630 * day),
			Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-webhook-" + name + "-1"}}, RenewAt: after(450 * day), NextRun: after(451 * day)},
		Proxies:  &rotation.ProxiesStatus{Total: 120 + i, Current: 120 + i, At: after(-50 * time.Second), Restart: []rotation.StaleOwner{}},
		Findings: []rotation.Finding{}}
	for _, w := range []string{"policy-validator", "proxy-injector", "sp-validator"} {
		c.Webhooks = append(c.Webhooks, rotation.WebhookStatus{Name: w, Kind: "mutating", Namespace: "linkerd", Secret: "linkerd-" + w + "-k8s-tls", Mode: "managed",
			Delivered: &rotation.Delivered{Serial: fmt.Sprintf("77aa%028x", i), SHA256: digest, NotBefore: now.Add(-9 * day), NotAfter: now.Add(time.Duration(21+i%90) * day)},
			Served:    &rotation.Loaded{State: "yes", Evidence: "3 of 3 replicas", At: after(-2 * time.Minute)}, Check: &rotation.CheckStatus{State: "yes", Evidence: "a pod in a dry run", At: after(-2 * time.Minute)},
			CABundle: rotation.CABundleStatus{Current: true, Accepts: true, CAs: []rotation.AnchorRef{{ID: "w1"}}}, RenewAt: after(time.Duration(6+i%90) * day), MustRenewBy: after(time.Duration(9+i%90) * day), NextRun: after(time.Duration(6+i%90)*day + 5*hour)})
	}
	return c
}

func entries(cluster string) (all []rotation.HistoryItem) {
	for i, e := range []rotation.HistoryItem{
		{Actor: "certd", Step: rotation.StepStart, Reason: "certd 1.0.0 started", Outcome: rotation.OK},
		{Actor: "dana", Step: rotation.StepKey, Key: "acme-mesh-anchor-1", Reason: "certd init: makes acme-mesh-anchor-1", Outcome: rotation.OK},
		{Actor: "certd", Cluster: cluster, Step: rotation.StepBundle, Reason: "it has none", Outcome: rotation.OK},
		{Actor: "certd", Cluster: cluster, Step: rotation.StepIssuer, Serial: "5e910000000000000000000000000000", Reason: "it has none", Outcome: rotation.Failed, Detail: "write Secret linkerd/linkerd-identity-issuer: connection refused"},
		{Actor: "certd", Cluster: cluster, Step: rotation.StepSign, Serial: "5e910000000000000000000000000001", Key: "acme-mesh-anchor-1", Reason: "issuer: it has none", Outcome: rotation.OK},
		{Actor: "certd", Cluster: cluster, Step: rotation.StepIssuer, Serial: "5e910000000000000000000000000001", Reason: "it has none", Outcome: rotation.OK},
		{Actor: "certd", Cluster: cluster, Step: rotation.StepWebhook, Webhook: "proxy-injector", Serial: "77aa0000000000000000000000000001", Reason: "the floor is near", Outcome: rotation.Unknown, Detail: "no answer in 10s; certd looks before it tries again"},
	} {
		e.Seq, e.At = uint64(i+1), now.Add(time.Duration(i-60)*hour)
		e.IntentAt, e.Hash, e.PrevHash, e.Digest, e.SignRequest = e.At.Add(-time.Second), digest, digest, digest, "request-"+digest
		all = append(all, e)
	}
	return all
}

// with changes one cluster of a fleet.
func (c *canned) with(name string, change func(*rotation.ClusterStatus)) *canned {
	for i := range c.status.Clusters {
		if c.status.Clusters[i].Name == name {
			change(&c.status.Clusters[i])
		}
	}
	c.status.Conclude()
	return c
}

func small() *canned { return healthy("prod-eu-1", "prod-us-1", "stage-eu-1") }

// overdue is the Secret that was written and that linkerd-identity never loaded.
func overdue() *canned {
	return small().with("prod-us-1", func(c *rotation.ClusterStatus) {
		c.State = rotation.StateWarning
		c.Issuer.Delivered.NotBefore, c.Issuer.Delivered.NotAfter = now.Add(-30*hour), now.Add(178*day)
		c.Issuer.RenewAt, c.Issuer.MustRenewBy, c.Issuer.NextRun = after(98*day), after(100*day), after(99*day)
		c.Issuer.Loaded = &rotation.Loaded{State: "no", NotAfter: after(13*day + 16*hour), Evidence: "the metric issuer_cert_ttl_seconds", At: after(-2 * time.Minute)}
		c.Proxies.Current, c.Proxies.Stale = 110, 11
		c.Proxies.Restart = []rotation.StaleOwner{{Namespace: "shop", Kind: "Deployment", Name: "cart", Pods: 8}, {Namespace: "shop", Kind: "StatefulSet", Name: "orders", Pods: 2}, {Namespace: "batch", Kind: "Job", Name: "report", Pods: 1}}
		c.Findings = []rotation.Finding{
			{ID: "IssuerNotLoaded", Severity: rotation.StateWarning, Message: "the issuer was delivered and is not in use for 1d 6h; linkerd-identity still signs with the former one", Deadline: after(13*day + 16*hour), Fix: "kubectl -n linkerd rollout restart deploy/linkerd-identity"},
			{ID: "ProxiesStale", Severity: rotation.StateWarning, Message: "11 meshed pods hold other anchors than the bundle", Fix: "certd status prod-us-1"},
		}
	})
}

// large has 212 clusters, of which one does not answer.
func large() *canned {
	var names []string
	for i := range 212 {
		group := "edge"
		switch {
		case i < 24:
			group = "prod"
		case i < 30:
			group = "stage"
		}
		names = append(names, fmt.Sprintf("%s-%03d", group, i))
	}
	c := healthy(names...).with("edge-107", func(c *rotation.ClusterStatus) {
		c.State = rotation.StateUnknown
		c.LastContact = after(-2*hour - 41*time.Minute)
		c.Issuer.Loaded.State, c.Issuer.Loaded.Evidence = "unknown", "it does not answer"
		c.Findings = []rotation.Finding{{ID: "ClusterUnreachable", Severity: rotation.StateUnknown, Message: "unreachable for 2h 41m: dial tcp 10.40.7.2:6443: i/o timeout; next try in 52s; nothing is due there before Tue 12 Jan 2027", Deadline: after(51 * day), Fix: "kubectl --kubeconfig /etc/certd/kube/edge-107 get ns linkerd"}}
	})
	c.status.Fleet = "globex-mesh"
	return c
}

// changing is a change of the trust anchor in its third stage.
func changing() *canned {
	c := healthy("prod-eu-1", "prod-us-1", "stage-eu-1", "stage-us-1")
	g2 := anchorOf("g2", 3*day)
	g2.NotAfter = now.Add(3647 * day)
	c.status.Trust.Others = []rotation.AnchorStatus{g2}
	c.status.Trust.Rotation = &rotation.RotationStatus{Phase: "spread", Stage: "spread", Number: 3, Of: 6, SafeToStop: true, From: "g1", To: "g2", Reason: "the key of g1 was on a laptop before it came to Vault", Actor: "dana",
		StartedAt: after(-3 * day), StageAt: after(-26 * hour), ProgressAt: after(-2 * hour), Without: []string{},
		WaitingFor: []string{"prod-us-1: linkerd-identity is to start anew with both anchors", "stage-us-1: the window nights opens Mon 23 Nov 22:00"}}
	for i := range c.status.Clusters {
		at := &c.status.Clusters[i]
		at.Issuer.Delivered.Second = "g2"
		if i%2 == 0 {
			at.Issuer.Delivered.Anchor, at.Issuer.Delivered.Second = "g2", "g1"
			at.Bundle.Anchors = []rotation.AnchorRef{{ID: "g2", SHA256: digest, NotAfter: g2.NotAfter}}
			at.Proxies.Current, at.Proxies.Stale = 40, at.Proxies.Total-40
		}
	}
	c.status.Conclude()
	return c
}

// expired has nothing left that is valid.
func expired() *canned {
	c := small()
	a := c.status.Trust.Active
	a.NotBefore, a.NotAfter = now.Add(-3652*day), now.Add(-2*day)
	c.status.Trust.RenewAt = after(-732 * day)
	c.status.Findings = []rotation.Finding{{ID: "AnchorExpired", Severity: rotation.StateCritical, Message: "trust anchor g1 ended 2d ago: linkerd-identity signs nothing any more, and no issuer can be signed under it", Deadline: after(-2 * day), Fix: "certd trust renew"}}
	c.plan.Items = nil
	for i := range c.status.Clusters {
		at := &c.status.Clusters[i]
		at.State = rotation.StateCritical
		end := after(-2 * day)
		at.Issuer.Delivered.NotAfter, at.Issuer.Loaded.NotAfter = *end, end
		at.Issuer.RenewAt, at.Issuer.MustRenewBy, at.Issuer.NextRun = after(-9*day), after(-6*day), after(0)
		at.Bundle.Anchors[0].NotAfter = *end
		at.Proxies.Current, at.Proxies.Unknown = 0, at.Proxies.Total
		at.Findings = []rotation.Finding{{ID: "IssuerExpired", Severity: rotation.StateCritical, Message: "the issuer ended 2d ago, and every workload certificate with it", Deadline: end, Fix: "certd trust renew"}}
		for j := range at.Webhooks {
			w := &at.Webhooks[j]
			w.Delivered.NotAfter, w.CABundle.Accepts, w.NextRun = *after(-hour), false, after(0)
		}
		at.Findings = append(at.Findings, rotation.Finding{ID: "WebhookExpired", Severity: rotation.StateCritical, Message: "3 webhooks ended 1h ago: the API server refuses what it has to ask them", Deadline: after(-hour), Fix: "certd rotate webhooks " + at.Name})
	}
	c.status.Conclude()
	return c
}

// unseen is a fleet that nobody has looked at yet.
func unseen() *canned {
	c := small()
	c.status.Trust = rotation.TrustStatus{Others: []rotation.AnchorStatus{}, Rotation: &rotation.RotationStatus{Phase: "idle", Of: 6, SafeToStop: true, WaitingFor: []string{}}}
	c.status.Daemon.LastCycleAt = nil
	for i, at := range c.status.Clusters {
		c.status.Clusters[i] = rotation.ClusterStatus{Name: at.Name, Labels: at.Labels, Groups: at.Groups, State: rotation.StateUnknown, Mode: "managed", Namespace: "linkerd",
			Findings: []rotation.Finding{{ID: "NotSeenYet", Severity: rotation.StateUnknown, Message: "has not been looked at yet"}}}
	}
	c.plan.Items, c.history = nil, nil
	c.status.Conclude()
	return c
}

// hostileName is a name of a cluster that tries to be more than a name.
const hostileName = `"><script>alert(1)</script>/..//x{{.}}'` + "\u202e" + ` onfocus=alert(1) autofocus`

// hostile is a fleet all of whose text comes from somebody who means ill.
func hostile() *canned {
	const evil = hostileName + " </style><style>*{display:none}</style> <img src=x onerror=alert(1)> javascript:alert(1) --><!-- ]]> \x1b[31m\x00 https://evil.example/?a=b&c=d"
	c := healthy(hostileName, strings.Repeat("long", 60))
	st := &c.status
	st.Fleet, st.Version, st.Daemon.ConfigFile = evil, evil, "/tmp/a b'$(reboot)"
	st.Trust.Active.ID, st.Trust.Active.Subject, st.Trust.Active.Key.Backend = evil, evil, evil
	st.Trust.Others = []rotation.AnchorStatus{*st.Trust.Active}
	st.Trust.Rotation = &rotation.RotationStatus{Phase: "bridge", Stage: evil, Number: 2, Of: 6, From: evil, To: evil, Reason: evil, Actor: evil, WaitingFor: []string{evil}, Without: []string{hostileName, evil}}
	st.Findings = []rotation.Finding{{ID: evil, Severity: evil, Message: evil, Fix: evil, Deadline: after(day)}}
	for i := range st.Clusters {
		at := &st.Clusters[i]
		at.State, at.Mode, at.Namespace, at.Version, at.Groups, at.Labels = evil, evil, evil, evil, []string{evil}, map[string]string{evil: evil}
		at.Findings = []rotation.Finding{{ID: "X", Severity: rotation.StateCritical, Message: evil, Fix: "certd " + evil}}
		at.Bundle.Anchors = []rotation.AnchorRef{{ID: evil}, {Foreign: evil}, {Subject: evil}}
		at.Issuer.Delivered.Anchor, at.Issuer.Delivered.Second, at.Issuer.Loaded.State, at.Issuer.Loaded.Evidence = evil, evil, evil, evil
		at.Proxies.Problem, at.Proxies.Stale = evil, 3
		at.Proxies.Restart = []rotation.StaleOwner{{Namespace: evil, Kind: evil, Name: evil, Pods: 1}, {Namespace: "a", Kind: "Deployment", Name: evil, Pods: 2}}
		at.WebhookCA.ID, at.WebhookCA.Subject = evil, evil
		for j := range at.Webhooks {
			w := &at.Webhooks[j]
			w.Name, w.Kind, w.Mode, w.Why, w.Check.State, w.Check.Evidence, w.Served.State, w.Served.Evidence = evil, evil, evil, evil, "no", evil, evil, evil
		}
	}
	for i := range c.plan.Items {
		c.plan.Items[i].Step, c.plan.Items[i].Webhook, c.plan.Items[i].Reason = evil, evil, evil
	}
	for i := range c.history {
		h := &c.history[i]
		h.Actor, h.Cluster, h.Step, h.Reason, h.Outcome, h.Detail, h.Webhook = evil, hostileName, evil, evil, evil, evil, evil
	}
	st.Conclude()
	return c
}

var errGone = errors.New("read the journal: input/output error")
