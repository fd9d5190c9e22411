package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// scripted is a Service that answers as the test says, and remembers what it
// was asked.
type scripted struct {
	err    error
	rotate func(context.Context, RotateRequest) (RotateReply, error)
	panics bool
	takes  time.Duration // a verification

	mu        sync.Mutex
	until     time.Time
	ifStopped bool
	query     HistoryQuery
	init      InitRequest
}

var at = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)

func (s *scripted) Status(context.Context) (rotation.FleetStatus, error) {
	if s.panics {
		panic("hvs.very-secret")
	}
	return rotation.FleetStatus{APIVersion: rotation.APIVersion, Kind: "FleetStatus", Fleet: "acme-mesh", ObservedAt: at, NothingBreaksBefore: &at}, s.err
}

func (s *scripted) Plan(_ context.Context, until time.Time, ifStopped bool) (rotation.Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until, s.ifStopped = until, ifStopped
	return rotation.Plan{Kind: "Plan", Until: until, Items: []rotation.PlanItem{}}, s.err
}

func (s *scripted) History(_ context.Context, q HistoryQuery) (rotation.HistoryList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.query = q
	return rotation.HistoryList{Kind: "HistoryList", Items: []rotation.HistoryItem{{Seq: 7, Step: rotation.StepIssuer}}}, s.err
}

func (s *scripted) Verify(context.Context) (VerifyReport, error) {
	return VerifyReport{Entries: 3, First: 1, Last: 3, Head: "77aa"}, s.err
}

func (s *scripted) Verification(context.Context) (rotation.Verification, error) {
	<-time.After(s.takes)
	return rotation.Verification{Kind: "Verification", Matrix: []rotation.PairVerdict{{Peer: "east", Verifier: "west", State: rotation.PairRefused, Until: &at}}, Partners: []rotation.PartnerVerdict{}}, s.err
}

func (s *scripted) Check(_ context.Context, sel check.Select) (check.Report, error) {
	<-time.After(s.takes)
	return check.Report{Kind: "CheckReport", Fleet: strings.Join(append(sel.Clusters, sel.Categories...), "+") + "@" + sel.Version, Categories: []check.Category{}}, s.err
}

func (s *scripted) Export(_ context.Context, cluster string) (ClusterExport, error) {
	return ClusterExport{Kind: "ClusterExport", Cluster: cluster, WebhookCAPEM: "pem\n"}, s.err
}

func (s *scripted) Adopt(_ context.Context, r AdoptRequest) (AdoptReply, error) {
	return AdoptReply{Results: []AdoptResult{{Cluster: r.Clusters[0], Notes: []string{r.Actor}, Writes: []string{}}}}, nil
}

func (s *scripted) Pause(_ context.Context, r PauseRequest) (PauseReply, error) {
	return PauseReply{Pauses: []Pause{{Cluster: r.Clusters[0], By: r.Actor, Reason: r.Reason}}}, nil
}

func (s *scripted) ChangeTrust(_ context.Context, r ChangeRequest) (ChangeReply, error) {
	return ChangeReply{Rotation: rotation.RotationStatus{Phase: string(r.Order), Reason: r.Approves + " by " + r.ByID}, Steps: []string{r.Actor}}, nil
}

func (s *scripted) RenewTrust(_ context.Context, r RenewRequest) (RenewReply, error) {
	return RenewReply{Before: rotation.AnchorStatus{ID: "g1"}, After: rotation.AnchorStatus{ID: "g1", Subject: r.Actor + " " + r.Reason}}, nil
}

func (s *scripted) TestReceiver(_ context.Context, r ReceiverTest) (ReceiverTestReply, error) {
	return ReceiverTestReply{Receiver: r.Receiver, ID: r.Actor, At: at}, s.err
}

func (s *scripted) Trust(context.Context) (TrustList, error) {
	return TrustList{Kind: "TrustList", Clusters: 2, Items: []TrustAnchor{
		{ID: "g2", State: AnchorUnsigned, Key: rotation.KeyStatus{Name: "k2"}},
		{ID: "g1", State: AnchorActive, NotBefore: at, NotAfter: at.Add(time.Hour), Clusters: 2, CertificatePEM: "pem\n"}}}, s.err
}

func (s *scripted) LogLevel(_ context.Context, r LogLevelRequest) (LogLevel, error) {
	return LogLevel{Kind: "LogLevel", Level: r.Level, Configured: r.Actor}, s.err
}

func (s *scripted) Diagnosis(context.Context) (Diagnosis, error) {
	return Diagnosis{Kind: "Diagnosis", PID: 7, Logs: []string{"{}"}}, s.err
}

func (s *scripted) Snapshot(context.Context) (Snapshot, error) {
	return Snapshot{Kind: "JournalSnapshot", Fleet: "acme", Data: []byte("\x00pages")}, s.err
}

func (s *scripted) Rotate(ctx context.Context, r RotateRequest) (RotateReply, error) {
	if s.rotate != nil {
		return s.rotate(ctx, r)
	}
	return RotateReply{Results: []RotateResult{{Cluster: r.Clusters[0], Detail: string(r.Target) + " by " + r.Actor}}}, s.err
}

func (s *scripted) Init(_ context.Context, r InitRequest) (InitReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init = r
	return InitReply{Kind: "Ceremony", Created: true, Operator: r.Operator}, s.err
}

// socketPath is short: a test's own folder may not fit into a socket's name.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "certd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

type running struct {
	socket string
	log    *bytes.Buffer // to be read after stop
	stop   func()
}

func serve(t *testing.T, s Service) running {
	t.Helper()
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	srv := NewServer(s, slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})))
	srv.bodyTimeout = 300 * time.Millisecond
	go func() { done <- srv.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return running{path, &buf, stop}
}

func TestEveryQuestionTravelsAndItsAnswerComesBack(t *testing.T) {
	s := &scripted{}
	r := serve(t, s)
	c := NewClient(r.socket)
	ctx := t.Context()

	want, _ := s.Status(ctx)
	if got, err := c.Status(ctx); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Status: %v %s", err, cmp.Diff(want, got))
	}
	until := at.Add(90*24*time.Hour + 5)
	if got, err := c.Plan(ctx, until, true); err != nil || !got.Until.Equal(until) || !s.ifStopped {
		t.Errorf("Plan until %v, ifStopped %v: %v", got.Until, s.ifStopped, err)
	}
	q := HistoryQuery{Since: at, Cluster: "eu & us", Limit: 5, After: 1 << 63}
	if got, err := c.History(ctx, q); err != nil || got.Items[0].Seq != 7 || !cmp.Equal(s.query, q) {
		t.Errorf("History: %v %s", err, cmp.Diff(q, s.query))
	}
	if _, err := c.History(ctx, HistoryQuery{}); err != nil || !cmp.Equal(s.query, HistoryQuery{}) {
		t.Errorf("the empty query arrived as %+v: %v", s.query, err)
	}
	if got, err := c.Verify(ctx); err != nil || got.Head != "77aa" {
		t.Errorf("Verify: %+v %v", got, err)
	}
	// Looking at clusters takes longer than a daemon has that is asked what it knows.
	s.takes = answerTimeout + 200*time.Millisecond
	verdict, _ := s.Verification(ctx)
	if got, err := c.Verification(ctx); err != nil || !cmp.Equal(got, verdict) {
		t.Errorf("Verification: %v %s", err, cmp.Diff(verdict, got))
	}
	sel := check.Select{Clusters: []string{"east", "west"}, Categories: []string{"keys"}, Version: "1.0.0"}
	if got, err := c.Check(ctx, sel); err != nil || got.Fleet != "east+west+keys@1.0.0" {
		t.Errorf("Check: %v %+v", err, got)
	}
	if got, err := c.Export(ctx, "eu & us"); err != nil || got.Cluster != "eu & us" || got.WebhookCAPEM != "pem\n" {
		t.Errorf("Export: %+v %v", got, err)
	}
	anchors, _ := s.Trust(ctx)
	if got, err := c.Trust(ctx); err != nil || !cmp.Equal(got, anchors) {
		t.Errorf("Trust: %v %s", err, cmp.Diff(anchors, got))
	}
	in := InitRequest{Actor: "somebody else", Operator: "Dana", Witnesses: []string{"Sam"}, Reason: "first", Token: "hvs.secret", DryRun: true}
	if got, err := c.Init(ctx, in); err != nil || got.Operator != "Dana" {
		t.Errorf("Init: %+v %v", got, err)
	}
	if s.init.Token != in.Token || s.init.Actor == in.Actor || !strings.HasSuffix(s.init.Actor, "@cli") {
		t.Errorf("Init arrived with token kept: %v, actor %q; the actor is whom the kernel names", s.init.Token == in.Token, s.init.Actor)
	}
	if got, err := c.TestReceiver(ctx, ReceiverTest{Receiver: "ops", Actor: "root@evil"}); err != nil || got.Receiver != "ops" || got.ID != s.init.Actor {
		t.Errorf("TestReceiver: %+v %v", got, err)
	}
	if got, err := c.Pause(ctx, PauseRequest{Clusters: []string{"eu"}, Reason: "drill", Actor: "root@evil"}); err != nil || got.Pauses[0] != (Pause{Cluster: "eu", By: s.init.Actor, Reason: "drill"}) {
		t.Errorf("Pause: %+v %v", got, err)
	}
	if got, err := c.LogLevel(ctx, LogLevelRequest{Level: "debug", Seconds: 60, Actor: "root@evil"}); err != nil || got.Level != "debug" || got.Configured != s.init.Actor {
		t.Errorf("LogLevel: %+v %v", got, err)
	}
	if got, err := c.Snapshot(ctx); err != nil || got.Fleet != "acme" || string(got.Data) != "\x00pages" {
		t.Errorf("Snapshot: %+v %v", got, err)
	}
	if got, err := c.Diagnosis(ctx); err != nil || got.PID != 7 || len(got.Logs) != 1 {
		t.Errorf("Diagnosis: %+v %v", got, err)
	}
	reply, err := c.Rotate(ctx, RotateRequest{Target: rotation.TargetWebhookCA, Clusters: []string{"eu"}, Actor: "root@evil"})
	if err != nil || reply.Results[0].Detail != "webhook-ca by "+s.init.Actor {
		t.Errorf("Rotate: %+v %v", reply, err)
	}
	r.stop()
	if log := r.log.String(); strings.Contains(log, "hvs.secret") || !strings.Contains(log, "operator=Dana") {
		t.Errorf("log: %s", log)
	}
}

func TestEachSentinelTravelsWithItsText(t *testing.T) {
	for _, row := range []struct {
		err  error
		is   error
		exit int
	}{
		{fmt.Errorf("cluster %q is not configured: %w", "eu", ErrUsage), ErrUsage, 64},
		{fmt.Errorf("vault: %w", ErrUnavailable), ErrUnavailable, 69},
		{fmt.Errorf("rotate: %w", ErrNoDaemon), ErrUnavailable, 69},
		{fmt.Errorf("paused: %w", ErrNotNow), ErrNotNow, 75},
		{fmt.Errorf("vault: %w", ErrDenied), ErrDenied, 77},
		{fmt.Errorf("2 of 3 are done: %w", ErrTimeout), ErrTimeout, 124},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), ErrTimeout, 124},
		{errors.New("the disk is full"), nil, 1},
	} {
		t.Run(row.err.Error(), func(t *testing.T) {
			c := NewClient(serve(t, &scripted{err: row.err}).socket)
			_, status := c.Status(t.Context())
			_, rotate := c.Rotate(t.Context(), RotateRequest{Clusters: []string{"eu"}})
			for _, err := range []error{status, rotate} {
				if err == nil || err.Error() != Text(row.err) || ExitCode(err) != row.exit || row.is != nil && !errors.Is(err, row.is) {
					t.Errorf("got %v (exit %d), want %v (exit %d)", err, ExitCode(err), row.err, row.exit)
				}
			}
		})
	}
}

func TestATokenQuotedByAnErrorIsHidden(t *testing.T) {
	c := NewClient(serve(t, &scripted{err: fmt.Errorf("vault did not like hvs.secret: %w", ErrDenied)}).socket)
	_, err := c.Init(t.Context(), InitRequest{Token: "hvs.secret"})
	if !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "hvs.secret") {
		t.Errorf("Init: %v", err)
	}
	in := InitRequest{Operator: "Dana", Token: "hvs.secret"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "request", in)
	for _, text := range []string{fmt.Sprint(in), fmt.Sprintf("%+v %#v %s %q %x", in, in, in, in, in), log.String()} {
		if strings.Contains(text, "hvs.secret") || strings.Contains(text, "6876732e") || !strings.Contains(text, "Dana") {
			t.Errorf("printed as %s", text)
		}
	}
}

// raw sends a request as it stands and returns the failure that comes back.
func raw(t *testing.T, socket, method, path string, body io.Reader) failure {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://certd"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		t.Fatalf("%s %s: status %s, %v", method, path, resp.Status, err)
	}
	return f
}

func TestWhatTheServerRefuses(t *testing.T) {
	s := &scripted{}
	r := serve(t, s)
	for name, row := range map[string]struct {
		method, path, body, text string
	}{
		"an unknown field":           {"POST", "/v1/rotate", `{"clusters":["eu"],"force":true}`, `unknown field "force"`},
		"a field of the wrong type":  {"POST", "/v1/init", `{"token":{"a":"hvs.secret"}}`, "field token has the wrong type"},
		"two documents":              {"POST", "/v1/rotate", `{"clusters":["eu"]}{}`, "something follows"},
		"no document":                {"POST", "/v1/rotate", ``, "EOF"},
		"a body without end":         {"POST", "/v1/rotate", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, "larger than"},
		"an unknown parameter":       {"GET", "/v1/history?lmit=3", "", `no parameter "lmit"`},
		"a limit that is no number":  {"GET", "/v1/history?limit=many", "", "limit"},
		"a negative limit":           {"GET", "/v1/history?limit=-1", "", "limit"},
		"a plan without end":         {"GET", "/v1/plan", "", "until is missing"},
		"a time that is none":        {"GET", "/v1/plan?until=tomorrow", "", "RFC 3339"},
		"an unknown path":            {"GET", "/v2/status", "", "does not know GET /v2/status"},
		"a question put as an order": {"POST", "/v1/status", "{}", "does not know POST /v1/status"},
		"an order put as a question": {"GET", "/v1/rotate", "", "does not know GET /v1/rotate"},
	} {
		t.Run(name, func(t *testing.T) {
			f := raw(t, r.socket, row.method, row.path, strings.NewReader(row.body))
			if f.Code != 64 || !strings.Contains(f.Text, row.text) || strings.Contains(f.Text, "hvs.secret") {
				t.Errorf("answer: %+v, want code 64 and %q", f, row.text)
			}
		})
	}
	t.Run("a body that does not come", func(t *testing.T) {
		body, w := io.Pipe()
		defer w.Close()
		go w.Write([]byte(`{"clusters":`))
		if f := raw(t, r.socket, "POST", "/v1/rotate", body); f.Code == 0 {
			t.Errorf("answer: %+v", f)
		}
	})
	if !cmp.Equal(s.init, InitRequest{}) {
		t.Errorf("a refused request reached the service: %v", s.init)
	}
}

func TestAPanicEndsOneRequestOnly(t *testing.T) {
	s := &scripted{panics: true}
	r := serve(t, s)
	c := NewClient(r.socket)
	if _, err := c.Status(t.Context()); err == nil || ExitCode(err) != 1 {
		t.Errorf("Status: %v", err)
	}
	if _, err := c.Verify(t.Context()); err != nil {
		t.Errorf("Verify after the panic: %v", err)
	}
	r.stop()
	if strings.Contains(r.log.String(), "hvs.very-secret") {
		t.Errorf("log: %s", r.log)
	}
}

// The body's time limit must not run on while the daemon works.
func TestARotationMayTakeLongerThanSendingTheRequest(t *testing.T) {
	r := serve(t, &scripted{rotate: func(ctx context.Context, _ RotateRequest) (RotateReply, error) {
		select {
		case <-ctx.Done():
			return RotateReply{}, context.Cause(ctx)
		case <-time.After(700 * time.Millisecond): // past the limit for the body
			return RotateReply{Results: []RotateResult{{Cluster: "eu", Result: rotation.OK}}}, nil
		}
	}})
	reply, err := NewClient(r.socket).Rotate(t.Context(), RotateRequest{Clusters: []string{"eu"}, Wait: true})
	if err != nil || len(reply.Results) != 1 {
		t.Errorf("Rotate: %+v %v", reply, err)
	}
}

func TestWaitingEndsWithTheCaller(t *testing.T) {
	gone := make(chan struct{})
	started := make(chan struct{})
	r := serve(t, &scripted{rotate: func(ctx context.Context, _ RotateRequest) (RotateReply, error) {
		close(started)
		<-ctx.Done()
		close(gone)
		return RotateReply{}, ErrTimeout
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	_, err := NewClient(r.socket).Rotate(ctx, RotateRequest{Clusters: []string{"eu"}, Wait: true})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Rotate: %v", err)
	}
	<-gone
}

func TestStoppingEndsRequestsInHand(t *testing.T) {
	started := make(chan struct{})
	r := serve(t, &scripted{rotate: func(ctx context.Context, _ RotateRequest) (RotateReply, error) {
		close(started)
		<-ctx.Done()
		return RotateReply{}, fmt.Errorf("certd is stopping: %w", ErrNotNow)
	}})
	go func() { <-started; r.stop() }()
	_, err := NewClient(r.socket).Rotate(t.Context(), RotateRequest{Clusters: []string{"eu"}, Wait: true})
	if !errors.Is(err, ErrNotNow) {
		t.Errorf("Rotate: %v", err)
	}
	r.stop()
	if _, err := os.Lstat(r.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Who approves is whom the kernel names at the socket: what a client says of itself is not
// heard, or refused.
func TestNobodyApprovesInAnothersName(t *testing.T) {
	r := serve(t, &scripted{})
	id := "uid" + strconv.Itoa(os.Geteuid()) + "@cli"
	reply, err := NewClient(r.socket).ChangeTrust(t.Context(), ChangeRequest{Order: rotation.ChangeApprove, Approves: "g1", Actor: "kim@cli", ByID: "uid64242@cli"})
	if err != nil || reply.Rotation.Reason != "g1 by "+id || len(reply.Steps) != 1 || reply.Steps[0] != Self() {
		t.Errorf("%+v, %v", reply, err)
	}
	h := NewServer(&scripted{}, slog.New(slog.DiscardHandler)).handler(r.socket)
	w := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(context.WithValue(t.Context(), peerKey{}, peer{uid: uint32(os.Geteuid())}), "POST", "/v1/trust/change", strings.NewReader(`{"order": "approve", "approves": "g1", "actor": "", "dryRun": false, "byID": "uid64242@cli"}`))
	h.ServeHTTP(deadlines{w}, req)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "byID") {
		t.Errorf("a number of the client's own: %d, %s", w.Code, w.Body)
	}
}
