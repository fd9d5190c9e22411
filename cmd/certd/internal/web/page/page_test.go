package page

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func berlin(t testing.TB) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func runbook(f rotation.Finding) string { return "certd runbook " + f.ID }

// pageOf shows a source at the time of the tests.
func pageOf(t testing.TB, s Source) *Page {
	return New(Options{Source: s, Runbook: runbook, Zone: berlin(t), Now: func() time.Time { return now }, Log: quiet})
}

func get(h http.Handler, path string) (status int, header http.Header, body string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Header(), w.Body.String()
}

// goldenOf is a page without what is the same on all of them, or never the same.
func goldenOf(html string) string {
	html = strings.Replace(html, style, "(page.css)", 1)
	html = strings.Replace(html, refresh, "(refresh.js)", 1)
	return regexp.MustCompile(`nonce="[^"]+"`).ReplaceAllString(html, `nonce="NONCE"`)
}

func TestPages(t *testing.T) {
	fleet := func(c *canned) http.Handler { return pageOf(t, c) }
	for _, row := range []struct {
		name, path string
		page       http.Handler
	}{
		{"healthy", "/", fleet(small())},
		{"overdue", "/", fleet(overdue())},
		{"large-unreachable", "/", fleet(large())},
		{"change", "/", fleet(changing())},
		{"expired", "/", fleet(expired())},
		{"unseen", "/", fleet(unseen())},
		{"cluster-healthy", "/clusters/stage-eu-1", fleet(small())},
		{"cluster-overdue", "/clusters/prod-us-1", fleet(overdue())},
		{"cluster-change", "/clusters/prod-eu-1", fleet(changing())},
		{"cluster-expired", "/clusters/prod-eu-1", fleet(expired())},
		{"cluster-unseen", "/clusters/prod-eu-1", fleet(unseen())},
		{"table-overdue", "/clusters", fleet(overdue())},
	} {
		t.Run(row.name, func(t *testing.T) {
			status, _, html := get(row.page, row.path)
			if status != http.StatusOK {
				t.Errorf("answered %d", status)
			}
			got, path := goldenOf(html), filepath.Join("testdata", row.name+".html")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Whatever a name or a server's error says, it stays text.
func TestTextFromOutsideStaysText(t *testing.T) {
	c := hostile()
	p := pageOf(t, c)
	for _, path := range []string{"/", "/clusters", "/clusters/" + url.PathEscape(hostileName)} {
		status, _, html := get(p, path)
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
		own := html
		for _, ours := range []string{style, refresh} {
			if strings.Count(own, ours) != 1 {
				t.Errorf("%s: its styles or its script are not as they were written", path)
			}
			own = strings.Replace(own, ours, "", 1)
		}
		for _, smuggled := range []string{"<script>alert", "<img", "<style>*", "</style><style>", `href="javascript:`, " onerror=alert(1)>", "\u202e", "\x1b", "\x00"} {
			if strings.Contains(own, smuggled) {
				t.Errorf("%s: there is %q", path, smuggled)
			}
		}
		if n := strings.Count(own, "<script"); n != 1 {
			t.Errorf("%s: %d scripts", path, n)
		}
		for _, m := range regexp.MustCompile(`<[a-z0-9]+[^>]*?\s(on[a-z]+|style|autofocus)[\s=>]`).FindAllString(own, -1) {
			t.Errorf("%s: %s", path, m)
		}
		if path != "/clusters" && !strings.Contains(html, `--config &#39;/tmp/a b&#39;\&#39;&#39;$(reboot)&#39;`) {
			t.Errorf("%s: the configuration is not quoted for a shell", path)
		}
	}
	_, _, html := get(p, "/")
	href := regexp.MustCompile(`id="c0" class="[^"]*" href="([^"]+)"`).FindStringSubmatch(html)
	if href == nil {
		t.Fatal("there is no tile")
	}
	if status, _, page := get(p, "/"+strings.ReplaceAll(href[1], "&#43;", "+")); status != http.StatusOK || !strings.Contains(page, "Delivered") {
		t.Errorf("the tile leads to %s: %d", href[1], status)
	}
}

// A reader learns neither where keys are called what, nor serials, nor PEM; not even
// where an error tells of them.
func TestNothingThatIsNoReadersBusiness(t *testing.T) {
	c := overdue()
	c.status.Findings = append(c.status.Findings, rotation.Finding{ID: "KeyUnfit", Severity: rotation.StateCritical, Message: "the key acme-mesh-anchor-1 of trust anchor g1 is gone: -----BEGIN CERTIFICATE----- MIIB -----END CERTIFICATE----- and acme-mesh-anchor-10 is there"})
	p := pageOf(t, c)
	for _, path := range []string{"/", "/clusters", "/clusters/prod-us-1"} {
		_, _, html := get(p, path)
		for _, no := range []string{"acme-mesh-anchor-1 ", "acme-mesh-anchor-1<", "acme-mesh-webhook-", "5e91", "77aa", digest[:8], "BEGIN", "MIIB", "request-"} {
			if strings.Contains(html, no) {
				t.Errorf("%s has %q", path, no)
			}
		}
		if path != "/clusters" && !strings.Contains(html, "the key (a key) of trust anchor g1 is gone: (PEM left out) and acme-mesh-anchor-10 is there") {
			t.Errorf("%s does not tell of the key", path)
		}
	}
}

func TestHeaders(t *testing.T) {
	p := pageOf(t, small())
	seen := map[string]bool{}
	for _, path := range []string{"/", "/clusters", "/clusters/prod-eu-1", "/clusters/gone"} {
		_, h, html := get(p, path)
		nonce := regexp.MustCompile(`<script nonce="([A-Za-z0-9_-]{20,})">`).FindStringSubmatch(html)
		if nonce == nil || seen[nonce[1]] {
			t.Fatalf("%s: no nonce, or one from before: %v", path, nonce)
		}
		seen[nonce[1]] = true
		sum := sha256.Sum256([]byte(style))
		want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; script-src 'nonce-" + nonce[1] + "'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
		for header, want := range map[string]string{"Content-Security-Policy": want, "Content-Type": "text/html; charset=utf-8", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Set-Cookie": ""} {
			if got := h.Get(header); got != want {
				t.Errorf("%s: %s is %q, not %q", path, header, got, want)
			}
		}
	}
	for path, want := range map[string]int{"/clusters/gone": 404, "/nothing": 404, "/clusters/": 404} {
		if got, _, _ := get(p, path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		w := httptest.NewRecorder()
		if p.ServeHTTP(w, httptest.NewRequest(method, "/", nil)); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	w := httptest.NewRecorder()
	if p.ServeHTTP(w, httptest.NewRequest("HEAD", "/", nil)); w.Code != http.StatusOK {
		t.Errorf("HEAD: %d", w.Code)
	}
}

// The links between pages hold wherever a proxy puts them.
func TestLinksAreRelative(t *testing.T) {
	p := pageOf(t, large())
	for path, rooted := range map[string]string{"/": "", "/clusters": "", "/clusters/edge-107": "../"} {
		_, _, html := get(p, path)
		links := regexp.MustCompile(`<a [^>]*?href="([^"]*)"`).FindAllStringSubmatch(html, -1)
		if len(links) < 4 {
			t.Errorf("%s has %d links", path, len(links))
		}
		for _, l := range links {
			if to := l[1]; !strings.HasPrefix(to, "#") && to != "./" && to != "../" && !strings.HasPrefix(to, rooted+"clusters") {
				t.Errorf("%s leads to %q", path, to)
			}
		}
	}
}

// When certd cannot say any more how the fleet is, the page says so and shows what
// was known, with its age, and never as well.
func TestTheLastReportStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := small()
		p := New(Options{Source: c, Zone: time.UTC, Log: quiet})
		c.status.ObservedAt = time.Now()
		if status, _, html := get(p, "/"); status != 200 || !strings.Contains(html, "<title>✓ ok · acme-mesh</title>") {
			t.Fatalf("%d %s", status, html)
		}
		c.err = errGone
		time.Sleep(time.Hour + 5*time.Minute)
		for path, title := range map[string]string{"/": "? no answer · acme-mesh", "/clusters/prod-eu-1": "? prod-eu-1 · acme-mesh"} {
			status, _, html := get(p, path)
			for _, want := range []string{"<title>" + title + "</title>", "certd runs and cannot say how the fleet is: read the journal: input/output error. What follows is what it knew 1h 5m ago.", "unknown, no answer", "It was ok: nothing breaks before"} {
				if status != 200 || !strings.Contains(html, want) {
					t.Errorf("%s: %d, no %q", path, status, want)
				}
			}
		}
		c.err = nil
		time.Sleep(time.Minute)
		c.status.ObservedAt = time.Now()
		if _, _, html := get(p, "/"); !strings.Contains(html, "<title>✓ ok · acme-mesh</title>") {
			t.Error("it does not come back")
		}
	})
}

func TestNothingIsKnownYet(t *testing.T) {
	c := small()
	c.err = errGone
	for _, path := range []string{"/", "/clusters", "/clusters/prod-eu-1"} {
		status, h, html := get(pageOf(t, c), path)
		if status != http.StatusServiceUnavailable || !strings.Contains(html, "read the journal: input/output error") || !strings.Contains(html, "<title>? no answer · certd</title>") || h.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: %d %s", path, status, html)
		}
	}
}

// stuck is a source whose history never answers, nor its status once asked to hang,
// until it is let go.
type stuck struct {
	*canned
	hangs atomic.Bool
	free  chan struct{}
	asked atomic.Int32
}

func (s *stuck) Status(ctx context.Context) (rotation.FleetStatus, error) {
	if s.hangs.Load() {
		s.asked.Add(1)
		<-s.free // a lock: no deadline ends the wait for it
	}
	return s.canned.Status(ctx)
}

func (s *stuck) History(ctx context.Context, _ api.HistoryQuery) (rotation.HistoryList, error) {
	<-ctx.Done()
	return rotation.HistoryList{}, ctx.Err()
}

// A question that is not answered is asked once, and holds up readers for two seconds
// at most, and only at first.
func TestAStuckSourceHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &stuck{canned: small(), free: make(chan struct{})}
		p := New(Options{Source: c, Zone: time.UTC, Now: func() time.Time { return now }, Log: quiet})
		if status, _, html := get(p, "/"); status != 200 || !strings.Contains(html, "certd does not say what was done: ") || !strings.Contains(html, "<title>✓ ok") {
			t.Errorf("without a history: %d", status)
		}
		time.Sleep(time.Minute)
		c.hangs.Store(true)
		begun := time.Now()
		for range 50 {
			if status, _, html := get(p, "/clusters"); status != 200 || !strings.Contains(html, "cannot say how the fleet is: no answer for 2s") {
				t.Fatalf("stuck: %d %s", status, html)
			}
		}
		if took := time.Since(begun); took != patience || c.asked.Load() != 1 {
			t.Errorf("50 answers took %s, and asked %d times", took, c.asked.Load())
		}
		close(c.free)
		synctest.Wait()
		if _, _, html := get(p, "/clusters"); strings.Contains(html, "cannot say") {
			t.Error("it does not come back")
		}
	})
}

// The stages say how far the fleet is, by what is in the clusters.
func TestStagesOfAChange(t *testing.T) {
	for _, row := range []struct {
		name    string
		change  func(*rotation.RotationStatus)
		stages  string
		state   string
		command string
	}{
		{"under way", func(*rotation.RotationStatus) {}, "create done g2; bridge done 4 of 4 clusters; spread now 2 of 4 clusters; restart later; finish later; retire later", "info", "certd trust rollback # turn around"},
		{"held", func(r *rotation.RotationStatus) { r.Held = true }, "create done g2; bridge done 4 of 4 clusters; spread now 2 of 4 clusters; restart later; finish later; retire later", warning, "certd trust resume # go on"},
		{"restarting", func(r *rotation.RotationStatus) { r.Number, r.Stage, r.Phase = 4, "restart", "restart" }, "create done g2; bridge done 4 of 4 clusters; spread done 2 of 4 clusters; restart now 324 of 486 proxies; finish later; retire later", "info", ""},
		{"compromised", func(r *rotation.RotationStatus) { r.Number, r.Stage, r.Compromised = 4, "restart", true }, "create done g2; bridge left out; spread left out; restart now 324 of 486 proxies; finish later; retire later", critical, "certd trust status"},
		{"last stage", func(r *rotation.RotationStatus) { r.Number, r.Stage = 6, "retire" }, "create done g2; bridge done 4 of 4 clusters; spread done 2 of 4 clusters; restart done 324 of 486 proxies; finish done 0 of 4 clusters; retire now 0 of 4 clusters", "info", ""},
		{"to be approved", func(r *rotation.RotationStatus) {
			r.Number, r.Stage, r.Approval = 6, "retire", &rotation.ApprovalStatus{Of: "g1", Not: "lee@cli", Since: &now}
		}, "create done g2; bridge done 4 of 4 clusters; spread done 2 of 4 clusters; restart done 324 of 486 proxies; finish done 0 of 4 clusters; retire now 0 of 4 clusters", warning, "certd trust approve g1 # by a second person"},
	} {
		st := changing().status
		row.change(st.Trust.Rotation)
		c := drawing{Clock: words.Clock{Now: now, Zone: time.UTC}, st: st}.trust().Change
		var got []string
		for _, s := range c.Stages {
			got = append(got, strings.TrimSpace(s.Name+" "+s.State+" "+s.Count))
		}
		if strings.Join(got, "; ") != row.stages || c.State != row.state {
			t.Errorf("%s: %s, %s", row.name, c.State, strings.Join(got, "; "))
		}
		if row.command != "" && !slices.Contains(c.Commands, row.command) {
			t.Errorf("%s: to type is %q", row.name, c.Commands)
		}
	}
}
