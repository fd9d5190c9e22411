package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"certd.internal/rotation"
)

const signingSecret = "a secret of thirty-two characters"

// told is what fake receivers got, each line once.
type told struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex
	lines  map[string][]string // by path
	ids    map[string]string   // of webhooks, by line
	status int                 // 0 is 200
	raw    strings.Builder
}

func newTold(t *testing.T) *told {
	r := &told{t: t, lines: map[string][]string{}, ids: map[string]string{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *told) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status != 0 {
		w.WriteHeader(r.status)
		return
	}
	r.raw.Write(body)
	var line string
	switch req.URL.Path {
	case "/slack/hook-s3cret":
		var m struct{ Text string }
		if json.Unmarshal(body, &m) != nil || m.Text == "" {
			r.t.Errorf("Slack got %s", body)
		}
		line, _, _ = strings.Cut(m.Text, "\n")
	case "/v2/enqueue", "/v2/change/enqueue":
		var m struct {
			RoutingKey string `json:"routing_key"`
			Action     string `json:"event_action"`
			DedupKey   string `json:"dedup_key"`
			Payload    struct{ Severity string }
		}
		if json.Unmarshal(body, &m) != nil || m.RoutingKey != "key-s3cret" {
			r.t.Errorf("PagerDuty got %s", body)
		}
		line = strings.TrimSpace(m.Action + " " + m.DedupKey + " " + m.Payload.Severity)
	case "/soc":
		id := req.Header.Get("webhook-id")
		mac := hmac.New(sha256.New, []byte(signingSecret))
		io.WriteString(mac, id+"."+req.Header.Get("webhook-timestamp")+"."+string(body))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); req.Header.Get("webhook-signature") != want {
			r.t.Errorf("the webhook is signed %q, not %q", req.Header.Get("webhook-signature"), want)
		}
		var m struct {
			ID, Event, Cluster, Severity string
			Finding                      rotation.Finding
		}
		if json.Unmarshal(body, &m) != nil || m.ID != id {
			r.t.Errorf("the webhook %s got %s", id, body)
		}
		line = strings.TrimSpace(m.Event + " " + m.Cluster + " " + m.Finding.ID + " " + m.Severity)
		if was := r.ids[line+" "+id]; was == "" {
			r.ids[line+" "+id] = id
		} else {
			return // a repeat
		}
	default:
		r.t.Errorf("a request to %s", req.URL.Path)
	}
	r.lines[req.URL.Path] = append(r.lines[req.URL.Path], line)
}

func (r *told) answers(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// of is what came to a path since last asked.
func (r *told) take(path string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.lines[path]
	r.lines[path] = nil
	return got
}

func (r *told) count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lines[path])
}

// partnerAnchor is a root certificate that ends after so many days.
func partnerAnchor(t *testing.T, days int) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "root.partner"}, NotBefore: time.Now().AddDate(-1, 0, 0),
		NotAfter: time.Now().AddDate(0, 0, days), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3, byte(days)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// newTellingFolders is a fleet of folders that tells receivers of what it finds.
func newTellingFolders(t *testing.T, r *told, more string) *site {
	s := newFolders(t)
	s.write("partner.pem", partnerAnchor(t, 3000))
	s.write("slack", r.URL+"/slack/hook-s3cret\n")
	s.write("key", "key-s3cret\n")
	s.write("soc", "whsec_"+base64.StdEncoding.EncodeToString([]byte(signingSecret))+"\n")
	s.edit("directory: east}", "directory: east, foreignAnchors: [{name: partner, file: partner.pem}]}", "server:", `notify:
  after: 0s
  receivers:
    ops: {slack: {urlFrom: {file: slack}}}
    pager: {pagerDuty: {routingKeyFrom: {file: key}, url: "`+r.URL+`"}}
    soc: {webhook: {url: "`+r.URL+`/soc", secretFrom: {file: soc}}}
`+more+`
    - {match: {finding: [NotConverged]}, receivers: []}
server:`)
	s.must("init", "--config", "certd.yaml", "--yes")
	return s
}

// realAlertmanager runs Debian's, and returns its URL.
func realAlertmanager(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "am.yml")
	if err := os.WriteFile(config, []byte("route: {receiver: none}\nreceivers: [{name: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus-alertmanager", "--config.file="+config, "--storage.path="+dir, "--web.listen-address=127.0.0.1:0", "--cluster.listen-address=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal("a real Alertmanager is needed (make deps): ", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	listening := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, out)
			return "http://" + m[1]
		}
	}
	t.Fatal("Alertmanager does not listen")
	return ""
}

// firing are the alerts that an Alertmanager shows.
func firing(t *testing.T, url string) (lines []string) {
	t.Helper()
	resp, err := http.Get(url + "/api/v2/alerts?active=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var alerts []struct{ Labels map[string]string }
	if err := json.NewDecoder(resp.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		lines = append(lines, strings.Join([]string{a.Labels["alertname"], a.Labels["fleet"], a.Labels["cluster"], a.Labels["severity"]}, " "))
	}
	slices.Sort(lines)
	return lines
}

// A finding opens, gets worse and is over, and each receiver is told so in its own
// way, a real Alertmanager among them; a receiver that is down is a finding, and
// gets what it missed.
func TestFindingsAreTold(t *testing.T) {
	r := newTold(t)
	am := realAlertmanager(t)
	s := newTellingFolders(t, r, `    am: {alertmanager: {url: "`+am+`"}}
  default: []
  routes:
    - {match: {severity: [critical]}, receivers: [pager], continue: true}
    - {match: {labels: "tier=prod", finding: [ForeignAnchorExpiring]}, receivers: [ops, soc, am]}`)
	d := s.run()
	s.healthy("east")
	s.healthy("west")

	turn := func(when string, days int, want map[string][]string, alerts ...string) {
		t.Helper()
		s.write("partner.pem", partnerAnchor(t, days))
		got := map[string][]string{}
		s.eventually(20*time.Second, func() string {
			for path, lines := range want {
				got[path] = append(got[path], r.take(path)...)
				if len(got[path]) < len(lines) {
					return fmt.Sprintf("%s: %s was told %q, not %q", when, path, got[path], lines)
				}
			}
			if now := firing(t, am); !slices.Equal(now, alerts) {
				return fmt.Sprintf("%s: Alertmanager shows %q, not %q", when, now, alerts)
			}
			return ""
		})
		for path, lines := range want {
			for i, line := range lines {
				if !regexp.MustCompile(line).MatchString(got[path][i]) {
					t.Errorf("%s: %s was told %q, not %q", when, path, got[path], lines)
				}
			}
		}
	}
	const id = "ForeignAnchorExpiring"
	turn("it opens", 40, map[string][]string{
		"/slack/hook-s3cret": {`:warning: \[folders\] warning: east: ` + id + `: the anchor of partner mesh partner ends in \d+d`},
		"/soc":               {"finding.opened east " + id + " warning"},
	}, "Certd"+id+" folders east warning")
	if n := r.count("/v2/enqueue"); n != 0 {
		t.Errorf("a warning woke somebody: %q", r.take("/v2/enqueue"))
	}
	turn("it gets worse", 10, map[string][]string{
		"/slack/hook-s3cret": {`:red_circle: \[folders\] critical: east: ` + id},
		"/soc":               {"finding.escalated east " + id + " critical"},
		"/v2/enqueue":        {"trigger folders/east/" + id + " critical"},
	}, "Certd"+id+" folders east critical")

	// certd is killed, and what is told of is known to the next one.
	s.eventually(10*time.Second, s.nothingWaits)
	d.cmd.Process.Kill()
	<-d.done
	d = s.run()
	s.answering()
	turn("it is over", 3000, map[string][]string{
		"/slack/hook-s3cret": {`:white_check_mark: \[folders\] over: east: ` + id + `, after \d`},
		"/soc":               {"finding.cleared east " + id + " critical"},
		"/v2/enqueue":        {"resolve folders/east/" + id},
	})
	s.eventually(10*time.Second, s.nothingWaits)
	if st, code := s.status(); code != 0 || len(st.Daemon.Receivers) != 4 || st.Daemon.Receivers[0].LastDelivery == nil {
		t.Errorf("exit %d, %+v", code, st.Daemon)
	}

	// A receiver that is away gets what it missed, once.
	r.answers(http.StatusServiceUnavailable)
	s.write("partner.pem", partnerAnchor(t, 40))
	s.eventually(20*time.Second, func() string {
		st, _ := s.status()
		if x := st.Daemon.Receivers[1]; x.Name != "ops" || x.FailingSince == nil || x.Waiting != 1 || !strings.Contains(x.Error, "503") {
			return fmt.Sprintf("%+v", st.Daemon.Receivers)
		}
		return ""
	})
	s.refused(69, "soc has not taken the test.*503", nil, "debug", "notify", "soc", "--config", "certd.yaml")
	s.refused(64, "there are am, ops, pager, soc", nil, "debug", "notify", "sco", "--config", "certd.yaml")
	r.answers(0)
	turn("it is back", 3000, map[string][]string{
		"/slack/hook-s3cret": {`warning: east: ` + id, "over: east: " + id},
		"/soc":               {"finding.opened east " + id + " warning", "finding.cleared east " + id + " warning"},
	})
	if out := s.must("debug", "notify", "soc", "--config", "certd.yaml"); !strings.Contains(out, "soc has taken a test, msg_") {
		t.Error(out)
	}
	if got := r.take("/soc"); len(got) != 1 || got[0] != "test   info" && got[0] != "test info" {
		t.Errorf("soc was told %q", got)
	}
	d.term()

	for _, e := range s.history() {
		if strings.Contains(e.Reason+e.Detail+string(e.Step), "notif") {
			t.Errorf("in the history: %+v", e)
		}
	}
	journal, said := s.read("state/certd.db"), d.log.String()
	for _, secret := range []string{"hook-s3cret", "key-s3cret", signingSecret, base64.StdEncoding.EncodeToString([]byte(signingSecret))} {
		if strings.Contains(said, secret) || strings.Contains(journal, secret) || strings.Contains(strings.ReplaceAll(r.raw.String(), `"routing_key":"key-s3cret"`, ""), secret) {
			t.Errorf("%q is in the log (%v), the journal (%v), or a message", secret, strings.Contains(said, secret), strings.Contains(journal, secret))
		}
	}
}

// nothingWaits is "" when every receiver has taken what is for it.
func (s *site) nothingWaits() string {
	var st rotation.FleetStatus
	out, _, _ := s.certd("status", "--config", "certd.yaml", "-o", "json")
	_ = json.Unmarshal([]byte(out), &st) // nothing, where the daemon is dying
	if st.Daemon == nil || slices.ContainsFunc(st.Daemon.Receivers, func(x rotation.ReceiverStatus) bool { return x.Waiting > 0 || x.FailingSince != nil }) {
		return fmt.Sprintf("something waits: %+v", st.Daemon)
	}
	return ""
}

// killable is certd with crash points and without the race detector.
func killable(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(program), "killable")
	if out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build certd: %v\n%s", err, out)
	}
	return path
}

// certd is killed at each write of the outbox: between the event and the outbox,
// between outbox and send, between send and acknowledgement. Each receiver is told
// of each event all the same, and a webhook that comes twice has the same id.
func TestKilledBetweenEventAndAcknowledgement(t *testing.T) {
	r := newTold(t)
	s := newTellingFolders(t, r, "  default: [pager, soc]\n  routes:")
	raced := program
	program = killable(t)
	t.Cleanup(func() { program = raced })
	former := "" // what pager was told of before, and may be told once more
	d := s.run()
	s.healthy("east")
	d.term()
	kills := 0
	for n := 1; n <= 6; n++ { // event, and two acknowledgements, before and after each
		for _, turn := range []struct {
			days         int
			event, dedup string
		}{
			{10, "finding.opened east ForeignAnchorExpiring critical", "trigger folders/east/ForeignAnchorExpiring critical"},
			{3000, "finding.cleared east ForeignAnchorExpiring critical", "resolve folders/east/ForeignAnchorExpiring"},
		} {
			s.write("partner.pem", partnerAnchor(t, turn.days))
			d := s.run(fmt.Sprintf("CERTD_CRASH_AT=%d", n), "CERTD_CRASH_IN=notify")
			var soc, pager []string
			died := false
			s.eventually(40*time.Second, func() string {
				select {
				case <-d.done:
					if !died && d.cmd.ProcessState.ExitCode() != -1 {
						t.Fatalf("ended with %d\n%s", d.cmd.ProcessState.ExitCode(), d.log)
					}
					if !died {
						kills++
						died = true
						d = s.run()
					}
				default:
				}
				soc, pager = append(soc, r.take("/soc")...), append(pager, r.take("/v2/enqueue")...)
				if len(soc) == 0 || !slices.Contains(pager, turn.dedup) {
					return fmt.Sprintf("kill at %d: soc was told %q, pager %q", n, soc, pager)
				}
				return s.nothingWaits()
			})
			if len(soc) != 1 || soc[0] != turn.event {
				t.Errorf("kill at %d: soc was told %q, not %q", n, soc, turn.event)
			}
			for i, line := range pager {
				if line != turn.dedup && (line != former || slices.Contains(pager[:i], turn.dedup)) {
					t.Errorf("kill at %d: pager was told %q, not %q", n, line, turn.dedup)
				}
			}
			former = turn.dedup
			select {
			case <-d.done:
			default:
				d.cmd.Process.Kill()
				<-d.done
			}
		}
	}
	if kills < 12 {
		t.Errorf("killed %d times only", kills)
	}
	if out, _, code := s.certd("history", "--config", "certd.yaml", "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
}
