package receiver

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

var quiet = log.New(io.Discard, "", 0)

func itoa(n int) string { return strconv.Itoa(n) }

// kept is a secret in memory.
type kept string

func (k kept) Read() ([]byte, error) {
	if k == "" {
		return nil, errors.New("read secret {file: /etc/certd/x}: it is empty")
	}
	return []byte(k), nil
}

// request is what a fake receiver got.
type request struct {
	path   string
	header http.Header
	body   string
}

// fake answers everything with a status, and remembers what it was asked.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	got  []request
	code int
}

func newFake(t *testing.T, code int) *fake {
	t.Helper()
	f := &fake{code: code}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		defer f.mu.Unlock()
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		f.got = append(f.got, request{r.URL.Path, r.Header, string(body)})
		w.WriteHeader(f.code)
	}))
	t.Cleanup(f.Close)
	return f
}

var at24 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func finding(e Event, severity rotation.State) Message {
	deadline, since := at24.Add(6*time.Hour), at24.Add(-time.Hour)
	return Message{APIVersion: rotation.APIVersion, Kind: "Notification", ID: "msg_1", Event: e, Fleet: "acme-mesh", At: at24, Severity: severity,
		Summary: "prod-eu-1: IssuerNotLoaded: 1 of 3 replicas <still> uses an older one & more", DedupKey: "acme-mesh/prod-eu-1/IssuerNotLoaded", Cluster: "prod-eu-1", Since: &since,
		Finding: &rotation.Finding{ID: "IssuerNotLoaded", Severity: severity, Message: "1 of 3 replicas <still> uses an older one & more", Deadline: &deadline, Fix: "kubectl -n linkerd rollout restart deploy/linkerd-identity"}}
}

func TestSlack(t *testing.T) {
	f := newFake(t, 200)
	s := Slack{URL: kept(f.URL + "/services/s3cret\n")}
	trust := Message{ID: "msg_2", Event: TrustStage, Fleet: "acme-mesh", At: at24, Severity: StateInfo, Summary: "the change of the trust anchor from g1 to g2 is in stage bridge (2 of 6)"}
	sum := Message{ID: "msg_3", Event: Summary, Fleet: "acme-mesh", At: at24, Severity: rotation.StateCritical, Summary: "12 notifications in one", Omitted: 11,
		Items: []Item{{Summary: "east: ClusterUnreachable: <!channel> no answer"}}}
	cleared := finding(Cleared, rotation.StateCritical)
	cleared.Summary = "prod-eu-1: IssuerNotLoaded, after 1h"
	for _, m := range []Message{finding(Opened, rotation.StateWarning), finding(Escalated, rotation.StateCritical), cleared, trust, sum} {
		if err := s.Send(t.Context(), []Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	var texts []string
	for _, r := range f.got {
		var body struct{ Text string }
		if err := json.Unmarshal([]byte(r.body), &body); err != nil || r.path != "/services/s3cret" {
			t.Fatalf("%s %s: %v", r.path, r.body, err)
		}
		texts = append(texts, body.Text)
	}
	rest := "\ndeadline: <!date^1795543200^{date_short_pretty} {time}|2026-11-24T18:00:00Z>\ntype: `kubectl -n linkerd rollout restart deploy/linkerd-identity`"
	what := "prod-eu-1: IssuerNotLoaded: 1 of 3 replicas &lt;still&gt; uses an older one &amp; more"
	want := []string{
		":warning: [acme-mesh] warning: " + what + rest,
		":red_circle: [acme-mesh] critical: " + what + rest,
		":white_check_mark: [acme-mesh] over: prod-eu-1: IssuerNotLoaded, after 1h",
		":information_source: [acme-mesh] the change of the trust anchor from g1 to g2 is in stage bridge (2 of 6)",
		":red_circle: [acme-mesh] 12 notifications in one\n- east: ClusterUnreachable: &lt;!channel&gt; no answer\n- and 11 more",
	}
	if d := cmp.Diff(want, texts); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []kept{"", "http://hooks.example/s3cret", "https://user:s3cret@hooks.example", "s3cret", "https://169.254.169.254/s3cret"} {
		if err := (Slack{URL: bad}).Send(t.Context(), []Message{trust}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPagerDuty(t *testing.T) {
	f := newFake(t, 202)
	p := PagerDuty{URL: f.URL + "/", RoutingKey: kept("s3cret")}
	trust := Message{ID: "msg_2", Event: TrustStage, Fleet: "acme-mesh", At: at24, Severity: StateInfo, Summary: "stage bridge"}
	test := Message{ID: "msg_4", Event: Test, Fleet: "acme-mesh", At: at24, Severity: StateInfo, Summary: "a test", DedupKey: "acme-mesh/test"}
	long := finding(Opened, rotation.StateUnknown)
	long.Summary, long.DedupKey = strings.Repeat("ü", 2000), strings.Repeat("k", 300)
	for _, m := range []Message{finding(Opened, rotation.StateWarning), finding(Escalated, rotation.StateCritical), finding(Cleared, rotation.StateCritical), trust, test, long} {
		if err := p.Send(t.Context(), []Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range f.got {
		var e struct {
			RoutingKey string `json:"routing_key"`
			Action     string `json:"event_action"`
			DedupKey   string `json:"dedup_key"`
			Payload    *struct {
				Summary, Source, Severity, Timestamp, Component, Group, Class string
				Details                                                       *Message `json:"custom_details"`
			}
		}
		if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.RoutingKey != "s3cret" {
			t.Fatalf("%s: %v", r.body, err)
		}
		line := fmt.Sprintf("%s %s %.40s", r.path, e.Action, e.DedupKey)
		if p := e.Payload; p != nil {
			line += fmt.Sprintf(" | %.30s %s %s %s %s %s %s %s", p.Summary, p.Source, p.Severity, p.Timestamp, p.Component, p.Group, p.Class, p.Details.ID)
			if len(p.Summary) > 1024 || len(e.DedupKey) > 255 {
				t.Errorf("longer than PagerDuty takes: %d, %d", len(p.Summary), len(e.DedupKey))
			}
		}
		got = append(got, line)
	}
	const key = "acme-mesh/prod-eu-1/IssuerNotLoaded"
	want := []string{
		"/v2/enqueue trigger " + key + " | [acme-mesh] warning: prod-eu-1 prod-eu-1 warning 2026-11-24T12:00:00Z prod-eu-1 acme-mesh IssuerNotLoaded msg_1",
		"/v2/enqueue trigger " + key + " | [acme-mesh] critical: prod-eu- prod-eu-1 critical 2026-11-24T12:00:00Z prod-eu-1 acme-mesh IssuerNotLoaded msg_1",
		"/v2/enqueue resolve " + key,
		"/v2/change/enqueue   | [acme-mesh] stage bridge acme-mesh  2026-11-24T12:00:00Z    msg_2",
		"/v2/enqueue trigger acme-mesh/test | [acme-mesh] a test acme-mesh info 2026-11-24T12:00:00Z  acme-mesh test msg_4",
		"/v2/enqueue resolve acme-mesh/test",
		"/v2/enqueue trigger " + strings.Repeat("k", 40) + " | [acme-mesh] unknown: üüüüüüüüü prod-eu-1 warning 2026-11-24T12:00:00Z prod-eu-1 acme-mesh IssuerNotLoaded msg_1",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	f.code = 400
	err := p.Send(t.Context(), []Message{trust})
	if f := (*Failure)(nil); !errors.As(err, &f) || !f.Refused || strings.Contains(f.Why, "s3cret") {
		t.Errorf("%v", err)
	}
}

// openssl is an independent verdict on a signature.
func opensslHMAC(t *testing.T, key []byte, text string) string {
	t.Helper()
	cmd := exec.Command("openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", fmt.Sprintf("hexkey:%x", key), "-binary")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return "v1," + base64.StdEncoding.EncodeToString(out)
}

func TestWebhookIsSigned(t *testing.T) {
	f := newFake(t, 204)
	old, young := []byte(strings.Repeat("o", 24)), []byte(strings.Repeat("y", 64))
	both := kept("whsec_" + base64.StdEncoding.EncodeToString(young) + "\n whsec_" + base64.StdEncoding.EncodeToString(old))
	m := finding(Opened, rotation.StateCritical)
	for range 2 { // sent again, it has the same id
		if err := (Webhook{URL: f.URL + "/in?team=mesh", Secret: both}).Send(t.Context(), []Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.got {
		id, at, signed := r.header.Get("webhook-id"), r.header.Get("webhook-timestamp"), strings.Fields(r.header.Get("webhook-signature"))
		sent, err := strconv.ParseInt(at, 10, 64)
		if id != "msg_1" || err != nil || time.Since(time.Unix(sent, 0)).Abs() > time.Minute || r.path != "/in" {
			t.Errorf("id %q, timestamp %q of %s", id, at, r.path)
		}
		text := id + "." + at + "." + r.body
		if d := cmp.Diff([]string{opensslHMAC(t, young, text), opensslHMAC(t, old, text)}, signed); d != "" {
			t.Errorf("signatures (-openssl +got):\n%s", d)
		}
		var got Message
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || cmp.Diff(m, got) != "" {
			t.Errorf("%v %s", err, cmp.Diff(m, got))
		}
	}
}

// The example that libraries for Standard Webhooks are tested with.
func TestWebhookSignatureOfTheSpecification(t *testing.T) {
	keys, err := signingKeys([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	got := signatures(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`))
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

func TestWebhookSecretsThatAreNone(t *testing.T) {
	short := base64.StdEncoding.EncodeToString([]byte("s3cret"))
	for _, secret := range []string{"", " ", "s3cret", "whsec_", "whsec_s3cret!", "whsec_" + short, "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)),
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw s3cret"} {
		if _, err := signingKeys([]byte(secret)); err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), short) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}
