package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/directory"
	"certd.internal/backends/memory"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/cmd/certd/internal/web"
	"certd.internal/rotation"
	"certd.internal/state"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func benchPolicy(b *testing.B, name string) rotation.Policy {
	schedule, err := rotation.ParseSchedule("0 3 * * *", time.UTC)
	if err != nil {
		b.Fatal(err)
	}
	return rotation.Policy{Cluster: name, Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local", LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour, Directory: true,
		Issuer: rotation.RenewalPolicy{Lifetime: 168 * time.Hour, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule}}
}

// benchFleet runs a fleet of n folders until every one has its issuer.
func benchFleet(b *testing.B, n int) (*rotation.Reconciler, *state.Journal, map[string]rotation.Cluster, rotation.FleetPolicy) {
	b.Helper()
	dir := b.TempDir()
	j, err := state.Open(filepath.Join(dir, "state"), state.Options{Fleet: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	policy := rotation.FleetPolicy{Fleet: "bench", KeyPrefix: "bench", Trust: rotation.TrustPolicy{Lifetime: 87600 * time.Hour, Backdate: time.Hour, RenewBefore: 17520 * time.Hour}}
	clusters := map[string]rotation.Cluster{}
	for i := range n {
		name := fmt.Sprintf("c%03d", i)
		c, err := directory.New(directory.Config{Cluster: name, Dir: filepath.Join(dir, name), Namespace: "linkerd", TrustDomain: "cluster.local"})
		if err != nil {
			b.Fatal(err)
		}
		clusters[name] = c
		policy.Clusters = append(policy.Clusters, benchPolicy(b, name))
	}
	keys := memory.NewKeys()
	if _, _, err := (rotation.Ceremony{Journal: j, Creator: keys, Signer: keys, Policy: policy, Actor: "bench", Reason: "bench", Say: func(string, ...any) {}}).Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	r, err := rotation.NewReconciler(rotation.Options{Journal: j, Keys: keys, Policy: policy, Clusters: clusters, Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	b.Cleanup(func() { stop(); <-done; j.Close() })
	for r.Status().Summary.OK < n {
		time.Sleep(time.Millisecond)
	}
	return r, j, clusters, policy
}

// Issuers signed, journalled (four disk syncs each) and published to folders,
// asked for in 100 clusters at once, as `certd rotate issuer --all --wait` has
// it done; what Vault or API servers add is their own time. More than ten in an
// hour certd refuses to make for one cluster, so that few rounds are possible.
func BenchmarkIssueAndPublish(b *testing.B) {
	const clusters = 100
	r, _, _, policy := benchFleet(b, clusters)
	var names []string
	for _, p := range policy.Clusters {
		names = append(names, p.Cluster)
	}
	if b.N > 8 {
		b.Fatal("run with -benchtime 5x at most")
	}
	for range b.N {
		results := r.Rotate(rotation.TargetIssuer, names, rotation.Request{Actor: "bench", Reason: "bench"})
		for range names {
			if res := <-results; res.Result != rotation.OK {
				b.Fatal(res.Detail)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*clusters), "ns/issuer")
}

// One look at each of 100 folders and the decision about it, with nothing due.
func BenchmarkObservePassOver100Directories(b *testing.B) {
	_, j, clusters, policy := benchFleet(b, 100)
	anchors, err := j.Anchors()
	if err != nil {
		b.Fatal(err)
	}
	f := rotation.Fleet{Policy: policy, Anchors: anchors, Epoch: j.Epoch()}
	for b.Loop() {
		for _, p := range policy.Clusters {
			o, err := clusters[p.Cluster].Observe(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if d := rotation.Decide(f, rotation.View{Policy: p, Record: rotation.ClusterRecord{Enrolled: true}, Observed: &o}, time.Now()); d.Step != "" {
				b.Fatal(d.Step, d.Why)
			}
		}
	}
}

// `status` from the journal, with 10,000 certificates in the inventory of 100
// clusters: opening the file, reading, and the document.
func BenchmarkStatusWith10000Certificates(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "passphrase"), []byte("bench\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	text := "apiVersion: certd/v1\nkind: Fleet\nname: bench\nstateDir: state\nkeys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\nserver: {socket: certd.sock}\nclusters:\n"
	for i := range 100 {
		text += fmt.Sprintf("  - {name: c%03d, directory: clusters/c%03d}\n", i, i)
	}
	file := filepath.Join(dir, "certd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	c, problems := config.Load(file, config.Options{Getenv: os.Getenv, Now: time.Now()})
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	j, err := state.Open(c.StateDir, state.Options{Fleet: "bench", NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for i := range 10_000 {
		at := now.Add(-time.Duration(i) * time.Hour)
		rec := rotation.CertificateRecord{Cluster: fmt.Sprintf("c%03d", i%100), Kind: "issuer", Serial: fmt.Sprintf("%032x", i+1), SHA256: fmt.Sprintf("%064x", i), Subject: "CN=identity.linkerd.cluster.local", Anchor: "g1",
			NotBefore: at, NotAfter: at.Add(168 * time.Hour), SignedAt: at, DeliveredAt: at}
		id, err := j.Begin(rotation.Intent{Step: rotation.StepIssuer, Cluster: rec.Cluster, Actor: "certd", Reason: "bench", Serial: rec.Serial})
		if err == nil {
			err = j.Finish(id, rotation.Outcome{Result: rotation.OK, Certificate: &rec, Enrolled: true})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	d := Daemon{Getenv: os.Getenv, Stdout: io.Discard, Log: func(slog.Leveler, string) *slog.Logger { return quiet }, Version: "bench"}
	for b.Loop() {
		svc, _, done, err := d.Open(b.Context(), file, false)
		if err != nil {
			b.Fatal(err)
		}
		if st, err := svc.Status(b.Context()); err != nil || len(st.Clusters) != 100 {
			b.Fatal(err)
		}
		if err := done(); err != nil {
			b.Fatal(err)
		}
	}
}

// A scrape of a running fleet of 500 folders: the report, and what Prometheus
// reads of it.
func BenchmarkScrapeOf500Folders(b *testing.B) {
	r, j, _, policy := benchFleet(b, 500)
	counts := metrics.NewRecorder()
	svc := &running{fleet: &fleet{journal: j, config: &config.Config{}}, reconciler: r}
	var names []string
	for _, p := range policy.Clusters {
		names = append(names, p.Cluster)
	}
	counts.Keep(names)
	h := svc.web(quiet, counts, "bench")
	l, err := web.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	for b.Loop() {
		if status, body := get(b, "http://"+l.Addr().String()+"/metrics"); status != 200 || !strings.Contains(body, `cluster="c499"`) {
			b.Fatal(status)
		}
	}
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// From nothing to an answering socket, an anchor and two issued clusters, as
// `run --dev` does it, in this process.
func BenchmarkStartUp(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		b.Chdir(dir)
		d := Daemon{Getenv: os.Getenv, Stdout: io.Discard, Log: func(slog.Leveler, string) *slog.Logger { return quiet }, Version: "bench"}
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx, "", true) }()
		client := api.NewClient(filepath.Join(dir, DevDir, "certd.sock"))
		for {
			if st, err := client.Status(ctx); err == nil && st.Summary.OK == 2 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		stop()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
