package traces

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"certd.internal/backends/memory"
	"certd.internal/cmd/certd/internal/logs"
	"certd.internal/rotation"
	"certd.internal/state"
)

// world is a fleet of one cluster in memory, with two replicas of
// linkerd-identity that see a new issuer after a minute and a half.
type world struct {
	t       *testing.T
	spans   *tracetest.InMemoryExporter
	keys    *memory.Keys
	cluster *memory.Cluster
	loop    *rotation.Reconciler
	log     bytes.Buffer
}

// lives has the loop look after the world for as long as do takes.
func lives(t *testing.T, do func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, spans: tracetest.NewInMemoryExporter(), keys: memory.NewKeys(),
			cluster: memory.NewCluster(memory.ClusterConfig{Name: "east", Namespace: "linkerd", TrustDomain: "cluster.local", Replicas: 2, Lag: 90 * time.Second})}
		schedule, err := rotation.ParseSchedule("0 3 * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		policy := rotation.FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Trust: rotation.TrustPolicy{Lifetime: 87600 * time.Hour, Backdate: time.Hour, RenewBefore: 17520 * time.Hour},
			Clusters: []rotation.Policy{{Cluster: "east", Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local", LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
				Issuer: rotation.RenewalPolicy{Lifetime: 168 * time.Hour, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule}}}}
		j, err := state.Open(t.TempDir(), state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if _, _, err := (rotation.Ceremony{Journal: j, Creator: w.keys, Signer: w.keys, Policy: policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		spans := over(sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans)), "1.2.3", logs.NewScrubber().Clean)
		w.loop, err = rotation.NewReconciler(rotation.Options{Journal: j, Keys: spans.Keys(w.keys, "vault"), Policy: policy,
			Clusters: map[string]rotation.Cluster{"east": spans.Cluster(w.cluster, "east", "k8s")}, Log: slog.New(Log(slog.NewJSONHandler(&w.log, nil))), Trying: spans.Step})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.loop.Run(ctx) }()
		time.Sleep(time.Hour)
		w.spans.Reset()
		do(w)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := spans.Close(); err != nil {
			t.Error(err)
		}
	})
}

// named are the spans of a name that have ended.
func (w *world) named(name string) (found tracetest.SpanStubs) {
	for _, s := range w.spans.GetSpans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

func text(s tracetest.SpanStub, key string) string {
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value.AsString()
		}
	}
	return ""
}

// One trace tells a rotation: the signature with the backend's id of the request,
// the write, the look afterwards and, however much later, when it was in use.
func TestARotationIsOneTrace(t *testing.T) {
	lives(t, func(w *world) {
		begun := time.Now()
		if r := <-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "test"}); r.Result != rotation.OK {
			t.Fatal(r.Detail)
		}
		time.Sleep(time.Hour)
		roots := w.named("issuer")
		if len(roots) != 1 || roots[0].Parent.IsValid() {
			t.Fatalf("roots: %v", roots)
		}
		root := roots[0].SpanContext
		below := func(name string, parent trace.SpanContext) tracetest.SpanStub {
			t.Helper()
			for _, s := range w.named(name) {
				if s.SpanContext.TraceID() == root.TraceID() && s.Parent.SpanID() == parent.SpanID() {
					return s
				}
			}
			t.Fatalf("no %s below %s in %v", name, parent.SpanID(), w.spans.GetSpans())
			return tracetest.SpanStub{}
		}
		below("vault.read-key", root)
		signed := w.keys.Signatures()
		if s := below("vault.sign", root); text(s, "vault.request_id") != signed[len(signed)-1].Request || text(s, "certd.key") == "" {
			t.Errorf("the signature: %v", s.Attributes)
		}
		apply := below("k8s.apply", root)
		if text(apply, "certd.object") != rotation.IssuerObject || text(apply, "certd.revision") == "" || text(apply, "certd.serial") == "" {
			t.Errorf("the write: %v", apply.Attributes)
		}
		below("k8s.reread", root)
		below("k8s.event", root)
		loaded := below("verify.loaded", apply.SpanContext)
		if took := loaded.EndTime.Sub(loaded.StartTime); loaded.StartTime.Before(begun) || took < 90*time.Second || took > 5*time.Minute {
			t.Errorf("in use after %s, from %s on", took, loaded.StartTime)
		}
		if text(loaded, "certd.serial") != text(apply, "certd.serial") || text(loaded, "certd.outcome") != "ok" {
			t.Errorf("in use: %v", loaded.Attributes)
		}
		for _, s := range w.spans.GetSpans() {
			if s.SpanContext.TraceID() != root.TraceID() {
				t.Errorf("%s is of another trace: looks are not told of", s.Name)
			}
		}
		if n := len(w.named("verify.loaded")); n != 1 {
			t.Errorf("seen in use %d times", n)
		}
		if strings.Contains(w.log.String(), "0001-01-01") || !strings.Contains(w.log.String(), `"next_run":`) {
			t.Errorf("a time that there is not is logged, or none is:\n%s", w.log.String())
		}
		found := false
		for line := range strings.Lines(w.log.String()) {
			var l struct {
				Msg, Step string
				Trace     string `json:"trace_id"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			found = found || l.Msg == "step done" && l.Step == "issuer" && l.Trace == root.TraceID().String()
			if l.Msg == "decision" && l.Trace != "" {
				t.Errorf("of no step, and with its trace: %s", line)
			}
		}
		if !found {
			t.Errorf("no line bears the trace:\n%s", w.log.String())
		}
	})
}

// A step that fails says at which part, and why, without secrets.
func TestAFailureIsTraced(t *testing.T) {
	lives(t, func(w *world) {
		w.keys.SetFaults(func(call memory.KeyCall, _ string) memory.KeyFault {
			if call == memory.CallSign {
				return memory.KeyFault{Err: fmt.Errorf("token hvs.CAESIJ0123456789abcdefghij: %w", rotation.ErrDenied)}
			}
			return memory.KeyFault{}
		})
		w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "test"})
		time.Sleep(time.Minute)
		w.keys.SetFaults(nil)
		for _, name := range []string{"issuer", "vault.sign"} {
			all := w.named(name)
			if len(all) == 0 {
				t.Fatalf("no %s", name)
			}
			s := all[0]
			if s.Status.Code != codes.Error || text(s, "certd.outcome") != "denied" || !strings.Contains(s.Status.Description, logs.Hidden) || strings.Contains(s.Status.Description, "CAESIJ") {
				t.Errorf("%s: %+v %v", name, s.Status, s.Attributes)
			}
		}
		if all := w.named("k8s.apply"); len(all) > 0 {
			t.Errorf("written: %v", all)
		}
	})
}

// An issuer that is undone before it was in use is not waited for.
func TestAnIssuerThatIsGoneIsNotSeenInUse(t *testing.T) {
	lives(t, func(w *world) {
		<-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "test"})
		w.cluster.Delete(rotation.IssuerObject)
		time.Sleep(time.Hour)
		first := w.named("issuer")[0].SpanContext.TraceID()
		var of []string
		for _, s := range w.named("verify.loaded") {
			if s.SpanContext.TraceID() == first {
				t.Error("the issuer that was deleted is told of as in use")
			}
			of = append(of, text(s, "certd.serial"))
		}
		if len(of) != 1 {
			t.Errorf("in use: %v; want that which repaired it", of)
		}
	})
}

func TestOutcomesAreWords(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "failed": errors.New("x"), "put off": fmt.Errorf("x: %w", rotation.ErrNotNow), "changed meanwhile": fmt.Errorf("x: %w", rotation.ErrChanged),
		"unknown": fmt.Errorf("x: %w", rotation.ErrOutcomeUnknown), "denied": rotation.ErrDenied, "unavailable": rotation.ErrUnavailable,
	} {
		if got := outcome(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// A key that is traced can do what the key can, and no more.
func TestATracedKeyIsTheKey(t *testing.T) {
	spans := over(sdktrace.NewTracerProvider(), "", logs.NewScrubber().Clean)
	k := spans.Keys(memory.NewKeys(), "vault")
	key, err := k.CreateKey(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, digests := key.(rotation.DigestSigner); !digests {
		t.Errorf("%T signs no digests", key)
	}
	if _, issuers := key.(rotation.IssuerSigner); issuers {
		t.Errorf("%T signs issuers", key)
	}
	if key, err := k.OpenKey(t.Context(), "b", nil); key != nil || !errors.Is(err, rotation.ErrKeyNotFound) {
		t.Errorf("%v, %v", key, err)
	}
	if got := (*Traces)(nil).Keys(nil, "vault"); got != nil {
		t.Errorf("%v", got)
	}
}

// A collector that is away is complained of once in ten minutes, not with each
// batch, and keeps certd from its end for no longer than it says.
func TestACollectorThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &complaints{log: slog.New(logs.Events(slog.NewJSONHandler(&out, nil))), clean: logs.NewScrubber([]byte("correct horse")).Clean}
		q := quiet{failing{errors.New("failed to send to https://collector: 401 (body: correct horse)")}, c}
		for range 12 * 60 {
			if err := q.ExportSpans(t.Context(), nil); err != nil {
				t.Errorf("the SDK would log: %v", err)
			}
			time.Sleep(5 * time.Second)
		}
		lines := slices.Collect(strings.Lines(out.String()))
		if len(lines) != 6 || !strings.Contains(lines[0], `"times":1}`) && !strings.Contains(lines[0], `"times":1,`) || !strings.Contains(lines[1], `"times":120`) {
			t.Errorf("in an hour:\n%s", out.String())
		}
		if s := out.String(); strings.Contains(s, "correct horse") || !strings.Contains(s, `"event":"traces_not_sent"`) {
			t.Errorf("said: %s", s)
		}
	})
}

type failing struct{ err error }

func (f failing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return f.err }
func (failing) Shutdown(context.Context) error                               { return nil }

// What keeps certd from sending is logged and returned at the end, once, in its
// own form.
func TestTheEndDoesNotWaitForACollectorThatRefuses(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) }))
	defer srv.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, endpoint := range []string{srv.URL, "http://" + gone.Addr().String()} {
		t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
		var out bytes.Buffer
		getenv := map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}
		s := Start(t.Context(), Options{Getenv: func(name string) string { return getenv[name] }, Log: slog.New(logs.Events(slog.NewJSONHandler(&out, nil))),
			Scrubber: func() logs.Scrubber { return logs.NewScrubber() }})
		_, ended := s.Step(t.Context(), rotation.Attempt{Step: rotation.StepIssuer})
		ended(nil)
		err := s.Close()
		if n := strings.Count(out.String(), `"event":"traces_not_sent"`); n != 1 && err == nil {
			t.Errorf("%s: told of %d times, and %v:\n%s", endpoint, n, err, out.String())
		}
	}
}
