package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// `certd status` over a fleet of 500 clusters with 5,000 certificates, asked of
// the real loop over a real socket: its report, JSON there and back, and the
// screen. The budget is 200 ms.
func BenchmarkStatusOf500Clusters(b *testing.B) {
	const clusters = 500
	w := &living{t: b, dir: inMemory(b), keys: memory.NewKeys(), clusters: map[string]*memory.Cluster{},
		policy: rotation.FleetPolicy{Fleet: "acme-mesh", KeyPrefix: "acme-mesh", Trust: rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: hour, RenewBefore: 730 * day}}}
	daily := schedule(b, "0 3 * * *")
	specs := nineWebhooks()
	for i := range clusters {
		name := fmt.Sprintf("edge-%03d", i)
		p := rotation.Policy{Cluster: name, Labels: map[string]string{"tier": "edge"}, Groups: []string{fmt.Sprintf("tier-%d", i%3)}, Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local",
			LeafLifetime: day, ClockSkew: 20 * time.Second, Repair: 12 * hour,
			Issuer: rotation.RenewalPolicy{Lifetime: 7 * day, RenewBefore: 84 * hour, Backdate: 10 * time.Minute, Schedule: daily, Spread: 30 * time.Minute},
			Webhooks: rotation.WebhookPolicy{Specs: specs, Settle: time.Millisecond, Projection: time.Millisecond, ProbeEvery: hour,
				Leaf: rotation.RenewalPolicy{Lifetime: 30 * day, RenewBefore: 15 * day, Backdate: 10 * time.Minute, Schedule: daily, Spread: 30 * time.Minute},
				CA:   rotation.RenewalPolicy{Lifetime: 730 * day, RenewBefore: 180 * day, Backdate: hour, Schedule: daily, Spread: 30 * time.Minute}}}
		w.policy.Clusters = append(w.policy.Clusters, p)
		c := memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true, Replicas: 1, Lag: time.Nanosecond, APILag: time.Nanosecond, Webhooks: specs})
		for _, spec := range specs {
			c.InstallWebhook(spec, memory.WebhookInstall{Writer: "helm", Replicas: 1, Lag: time.Nanosecond})
		}
		w.clusters[name] = c
	}
	w.ceremony()
	w.start()
	b.Cleanup(w.end)
	for begun := time.Now(); certificates(w) < 10*clusters || w.loop.Status().Summary.OK < clusters; time.Sleep(time.Second) {
		if time.Since(begun) > 40*time.Minute {
			b.Fatalf("%d certificates after forty minutes", certificates(w))
		}
	}
	dir, err := os.MkdirTemp("", "certd") // a socket's path must be short
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := api.Listen(socket)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	served := make(chan error, 1)
	go func() { served <- api.NewServer(reporting{w}, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	b.Cleanup(func() { stop(); <-served })
	for _, args := range [][]string{{"status"}, {"status", "-A"}, {"status", "-o", "json"}} {
		b.Run(strings.Join(args, ""), func(b *testing.B) {
			best, late := time.Hour, 0
			for b.Loop() {
				begun := time.Now()
				a := &App{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }, Now: time.Now, Width: 100, Terminal: true,
					Socket: func(string) (string, error) { return socket, nil },
					Local: func(context.Context, string, bool) (api.Service, string, func() error, error) {
						return nil, "", nil, errors.New("the daemon did not answer within 2 s")
					}}
				switch code := a.run(ctx, args); code {
				case 0:
					best = min(best, time.Since(begun))
				case exitUnknown: // the machine has better things to do
					late++
				default:
					b.Fatalf("exit %d", code)
				}
			}
			// What others do on the machine is in ns/op, and hardly in the best.
			b.ReportMetric(float64(best.Milliseconds()), "best-ms")
			b.ReportMetric(float64(late), "late")
		})
	}
}

// reporting is a daemon's report as it is.
type reporting struct{ *living }

func (r reporting) Status(context.Context) (rotation.FleetStatus, error) {
	st := r.loop.Status()
	st.Version = "bench"
	return st, nil
}

func certificates(w *living) (n int) {
	for _, c := range w.loop.Status().Clusters {
		if c.Issuer != nil && c.Issuer.Delivered != nil {
			n++
		}
		for _, h := range c.Webhooks {
			if h.Delivered != nil {
				n++
			}
		}
	}
	return n
}

// nineWebhooks are Linkerd's and three of the user's own.
func nineWebhooks() []rotation.WebhookSpec {
	specs := rotation.LinkerdWebhooks()
	for i := range specs {
		specs[i].Namespace = "linkerd"
	}
	for i := range 3 {
		name := fmt.Sprintf("quota-%d", i)
		specs = append(specs, rotation.WebhookSpec{Name: name, Namespace: "quota", Secret: name + "-tls", DNSNames: []string{name + ".quota.svc"},
			Objects: []rotation.ObjectRef{{Kind: "ValidatingWebhookConfiguration", Name: name}}, Own: true})
	}
	return specs
}
