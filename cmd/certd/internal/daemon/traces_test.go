package daemon

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// collector takes what OpenTelemetry's collectors take: OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []byte
	resource map[string]string
	spans    []*tracepb.Span
}

func newCollector(t *testing.T) *collector {
	c := &collector{resource: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(r.Body); err != nil {
				t.Error(err)
				return
			}
		}
		b, err := io.ReadAll(body)
		var request coltracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &request)
		}
		if err != nil {
			t.Errorf("what is sent to the collector: %v", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.requests, c.bodies = append(c.requests, r), append(c.bodies, b...)
		for _, rs := range request.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				c.resource[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// below are the names of the spans below one, in the order in which they began.
func (c *collector) below(parent *tracepb.Span) (names []string) {
	var kids []*tracepb.Span
	for _, s := range c.spans {
		if bytes.Equal(s.ParentSpanId, parent.SpanId) && bytes.Equal(s.TraceId, parent.TraceId) {
			kids = append(kids, s)
		}
	}
	slices.SortStableFunc(kids, func(a, b *tracepb.Span) int {
		if a.StartTimeUnixNano < b.StartTimeUnixNano {
			return -1
		}
		return 1
	})
	for _, s := range kids {
		names = append(names, s.Name)
	}
	return names
}

func attributes(s *tracepb.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		if v, ok := a.Value.Value.(*commonpb.AnyValue_StringValue); ok {
			all[a.Key] = v.StringValue
		}
	}
	return all
}

// logged is what a daemon logs, in memory.
type logged struct {
	addressIn
}

func (l *logged) lines(event string) (found []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var doc map[string]any
		if json.Unmarshal([]byte(line), &doc) == nil && doc["event"] == event {
			found = append(found, doc)
		}
	}
	return found
}

// lived runs a daemon over one folder until an issuer was asked for and a receiver
// tested, and returns what it logged and, as of shortly before its end, what ran.
func lived(t *testing.T) (said *logged, stacks string) {
	t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	file := foldersConfig(t, "", "east")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, append(text, "notify: {receivers: {soc: {webhook: {url: \""+receiver.URL+"\", secretFrom: {file: secret}}, allowPrivate: true, allowHTTP: true}}}\n"...), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(file), "secret"), []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	said = &logged{}
	d := Daemon{Getenv: os.Getenv, Stdout: io.Discard, Version: "1.2.3",
		Log: func(level slog.Leveler, _ string) *slog.Logger {
			return slog.New(slog.NewJSONHandler(said, &slog.HandlerOptions{Level: level}))
		}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, file, false) }()
	client := api.NewClient(filepath.Join(filepath.Dir(file), "certd.sock"))
	until := func(what string, f func() error) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if err = f(); err == nil {
				return
			}
			select {
			case err := <-ended:
				t.Fatalf("the daemon ended: %v", err)
			default:
			}
		}
		t.Fatalf("%s: %v", what, err)
	}
	until("init", func() error { _, err := client.Init(ctx, api.InitRequest{}); return err })
	until("enrol", func() error {
		st, err := client.Status(ctx)
		if err == nil && (st.Summary.OK != 1 || st.Clusters[0].Issuer.NextRun == nil) {
			err = io.ErrNoProgress
		}
		return err
	})
	until("rotate", func() error {
		reply, err := client.Rotate(ctx, api.RotateRequest{Target: rotation.TargetIssuer, Clusters: []string{"east"}, Reason: "a test of traces", Wait: true})
		if err == nil && (len(reply.Results) != 1 || reply.Results[0].Result != rotation.OK) {
			t.Fatalf("rotate: %+v", reply)
		}
		return err
	})
	if _, err := client.TestReceiver(ctx, api.ReceiverTest{Receiver: "soc"}); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, 1<<20)
	stacks = string(all[:runtime.Stack(all, true)])
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return said, stacks
}

// With a collector in the environment, each step is a trace, and what it asked of
// keys and clusters is below it.
func TestStepsAreTraced(t *testing.T) {
	c := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=correct-horse-battery")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	said, stacks := lived(t)
	if !strings.Contains(stacks, "go.opentelemetry.io") {
		t.Errorf("OpenTelemetry is not at work, or not where the tests look for it:\n%s", stacks)
	}
	c.mu.Lock()
	defer c.mu.Unlock()

	if len(c.requests) == 0 {
		t.Fatal("nothing was sent")
	}
	if r := c.requests[0]; r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("X-Api-Key") != "correct-horse-battery" {
		t.Errorf("sent by %s to %s", r.Method, r.URL)
	}
	for name, want := range map[string]string{"service.name": "certd", "service.version": "1.2.3", "certd.fleet": "acme", "deployment.environment.name": "test"} {
		if c.resource[name] != want {
			t.Errorf("resource: %s is %q, want %q", name, c.resource[name], want)
		}
	}
	roots := map[string][]*tracepb.Span{}
	ids := map[string]bool{}
	for _, s := range c.spans {
		ids[string(s.SpanId)] = true
		if len(s.ParentSpanId) == 0 {
			roots[s.Name] = append(roots[s.Name], s)
		}
	}
	for _, s := range c.spans {
		if len(s.ParentSpanId) > 0 && !ids[string(s.ParentSpanId)] {
			t.Errorf("%s is below a span that was not sent", s.Name)
		}
	}
	for name, kids := range map[string]string{
		"namespace": "directory.apply directory.observe",
		"bundle":    "directory.apply directory.reread directory.event",
		"issuer":    "file.read-key file.sign directory.apply directory.reread directory.event",
		"notify":    "",
	} {
		if len(roots[name]) == 0 {
			t.Errorf("there is no trace of %s", name)
			continue
		}
		for _, root := range roots[name] {
			if got := strings.Join(c.below(root), " "); got != kids {
				t.Errorf("below %s: %s\nwant: %s", name, got, kids)
			}
		}
	}
	asked := slices.IndexFunc(roots["issuer"], func(s *tracepb.Span) bool {
		a := attributes(s)
		return strings.Contains(a["certd.reason"], "a test of traces") && a["certd.cluster"] == "east" && a["certd.step"] == "issuer" &&
			a["certd.object"] == rotation.IssuerObject && a["certd.outcome"] == "ok" && a["certd.actor"] != ""
	})
	if asked < 0 {
		t.Fatalf("no trace is of what was asked for: %v", roots["issuer"])
	}
	if a := attributes(roots["notify"][0]); a["certd.receiver"] != "soc" || a["certd.receiver.kind"] != "webhook" || a["certd.outcome"] != "ok" {
		t.Errorf("notify: %v", a)
	}

	trace := hex.EncodeToString(roots["issuer"][asked].TraceId)
	if done := said.lines("step_done"); !slices.ContainsFunc(done, func(l map[string]any) bool { return l["trace_id"] == trace && l["step"] == "issuer" }) {
		t.Errorf("no line bears trace %s: %v", trace, done)
	}
	if n := len(said.lines("traces_are_sent")); n != 1 || len(said.lines("traces_not_sent")) != 0 {
		t.Errorf("said %d times that traces are sent: %s", n, said.text.String())
	}
	for _, secret := range []string{"PRIVATE KEY", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "correct-horse-battery"} {
		if bytes.Contains(c.bodies, []byte(secret)) || strings.Contains(said.text.String(), secret) {
			t.Errorf("%s was sent or logged", secret)
		}
	}
}

// Without a collector, or where traces are turned off, nothing of OpenTelemetry
// runs and nothing is sent.
func TestNothingIsTracedUnlessAsked(t *testing.T) {
	c := newCollector(t)
	for name, env := range map[string]map[string]string{
		"no collector":  {"OTEL_SERVICE_NAME": "certd"},
		"the SDK off":   {"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_SDK_DISABLED": "true"},
		"no exporter":   {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.URL, "OTEL_TRACES_EXPORTER": "none"},
		"gRPC":          {"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
		"no address":    {"OTEL_EXPORTER_OTLP_ENDPOINT": strings.TrimPrefix(c.URL, "http://")},
		"sampled never": {"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_TRACES_SAMPLER": "always_off"},
	} {
		t.Run(name, func(t *testing.T) {
			for name, value := range env {
				t.Setenv(name, value)
			}
			said, stacks := lived(t)
			for _, line := range said.lines("step_done") {
				if line["trace_id"] != nil {
					t.Errorf("%v", line)
				}
			}
			refused := name == "gRPC" || name == "no address"
			if off := said.lines("traces_are_off"); refused != (len(off) == 1) {
				t.Errorf("said that traces are off: %v", off)
			}
			if name != "sampled never" && strings.Contains(stacks, "go.opentelemetry.io") {
				t.Errorf("OpenTelemetry is at work:\n%s", stacks)
			}
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) > 0 {
		t.Errorf("%d requests were sent", len(c.requests))
	}
}
