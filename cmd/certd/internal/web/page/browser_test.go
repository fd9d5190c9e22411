package page

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"certd.internal/cmd/certd/internal/web"
)

var pictures = flag.String("pictures", "", "`folder` to keep a picture of each page in")

// A browser is Debian's Chromium, as a person would have it.
type browser struct {
	t   *testing.T
	ctx context.Context
	at  string // where certd answers
	now atomic.Pointer[Page]
}

func (b *browser) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.now.Load().ServeHTTP(w, r) }

// show has certd answer with another source from now on.
func (b *browser) show(s Source) { b.now.Store(pageOf(b.t, s)) }

func startBrowser(t *testing.T) *browser {
	t.Helper()
	file := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			file = path
			break
		}
	}
	if file == "" {
		t.Fatal("there is no Chromium: install Debian's package chromium (make deps does)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, at: "http://" + l.Addr().String()}
	b.show(small())
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- web.NewServer(web.Options{Page: b, Log: quiet}).Serve(ctx, l)
	}()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(file), chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("disable-lcd-text", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocated, release := chromedp.NewExecAllocator(ctx, options...)
	var leave context.CancelFunc
	b.ctx, leave = chromedp.NewContext(allocated)
	t.Cleanup(func() {
		leave()
		release()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if err := chromedp.Do(b.ctx); err != nil {
		t.Fatalf("start %s: %v", file, err)
	}
	return b
}

// A view is how somebody looks.
type view struct {
	scheme string // light or dark
	width  int64
	script bool
}

// A tab is one page in a view. What it writes to the console is kept.
type tab struct {
	t     *testing.T
	ctx   context.Context
	lines chan string
}

const lastLine = "certd test: nothing comes after this"

func (b *browser) open(t *testing.T, v view, path string) *tab {
	t.Helper()
	ctx, leave := chromedp.NewContext(b.ctx)
	t.Cleanup(leave)
	x := &tab{t: t, ctx: ctx, lines: make(chan string, 100)}
	x.do(chromedp.Navigate("about:blank"))
	console := chromedp.Console(ctx)
	go func() {
		defer close(x.lines)
		for m, err := range console {
			if err != nil || m.Text == lastLine {
				return
			}
			x.lines <- string(m.Type) + ": " + m.Text
		}
	}()
	call(x, emulation.SetEmulatedMedia.Method, func() error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return err
	})
	call(x, "script", func() error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !v.script})
		return err
	})
	call(x, "timers", func() error {
		// The page renews itself when the test says so.
		_, err := chromedp.Call(ctx, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: "window.setInterval = renew => { window.renew = renew; }"})
		return err
	})
	x.do(chromedp.EmulateViewport(v.width, 800), chromedp.Navigate(b.at+path))
	return x
}

func call(x *tab, what string, f func() error) {
	x.t.Helper()
	if err := f(); err != nil {
		x.t.Fatalf("%s: %v", what, err)
	}
}

func (x *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	x.t.Helper()
	if err := chromedp.Do(x.ctx, steps...); err != nil {
		x.t.Fatal(err)
	}
}

// eval is what an expression comes to.
func eval[T any](x *tab, expression string) T {
	x.t.Helper()
	v, err := chromedp.Run(x.ctx, chromedp.Evaluate[T](expression, func(p *runtime.EvaluateParams) { p.AwaitPromise = new(true) }))
	if err != nil {
		x.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// console is all that the page and the browser had to say of it.
func (x *tab) console() (all []string) {
	x.t.Helper()
	eval[bool](x, "console.debug("+fmt.Sprintf("%q", lastLine)+") || true")
	for line := range x.lines {
		all = append(all, line)
	}
	return all
}

// judge has axe-core look at the page.
func (x *tab) judge(axe string) {
	x.t.Helper()
	x.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := chromedp.Evaluate[bool](axe+"; true")(ctx, t)
		return err
	}))
	type verdict struct {
		Passes     int      `json:"passes"`
		Violations []string `json:"violations"`
	}
	v := eval[verdict](x, `axe.run(document, {resultTypes: ["violations", "passes"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
		.then(r => ({passes: r.passes.length, violations: r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html + " " + n.failureSummary).join("; "))}))`)
	if v.Passes < 20 {
		x.t.Errorf("axe passed %d rules only: it looks at the wrong thing", v.Passes)
	}
	for _, violation := range v.Violations {
		x.t.Errorf("axe: %s", violation)
	}
}

// fits sees to it that nothing is wider than the screen.
func (x *tab) fits(width int64) {
	x.t.Helper()
	if got := eval[int64](x, "document.documentElement.scrollWidth"); got > width {
		wide := eval[string](x, fmt.Sprintf(`[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > %d && !e.closest(".skip, .hidden")).map(e => e.outerHTML.slice(0, 120)).slice(0, 5).join("\n")`, width))
		x.t.Errorf("the page is %d wide on a screen of %d:\n%s", got, width, wide)
	}
}

// picture keeps what the page looks like, for a person to look at: down to the end of
// what a selector finds.
func (x *tab) picture(file, until string) {
	x.t.Helper()
	size := eval[[2]float64](x, fmt.Sprintf("(e => [innerWidth, Math.ceil(e.getBoundingClientRect().bottom + scrollY + 8)])(document.querySelector(%q))", until))
	beyond := true
	png, err := chromedp.Call(x.ctx, cdppage.CaptureScreenshot, cdppage.CaptureScreenshotParams{CaptureBeyondViewport: &beyond, Clip: &cdppage.Viewport{Width: size[0], Height: size[1], Scale: 1}})
	if err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(file, png.Data, 0o644); err != nil {
		x.t.Fatal(err)
	}
}

func TestInABrowser(t *testing.T) {
	source, err := os.ReadFile("testdata/axe-core/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	axe := string(source)
	b := startBrowser(t)
	states := map[string]*canned{"overdue": overdue(), "large": large(), "change": changing(), "expired": expired(), "unseen": unseen(), "healthy": small(), "hostile": hostile()}
	documented := map[string]struct{ file, until string }{
		"overdue / light 1100":                   {"status-page-light.png", "main"},
		"change / light 1100":                    {"status-page-change.png", ".change"},
		"change / dark 1100":                     {"status-page-dark.png", ".change"},
		"overdue /clusters/prod-us-1 light 1100": {"status-page-cluster.png", ".pair"},
	}
	two := []view{{"light", 1100, true}, {"dark", 390, true}}
	four := append(two, view{"light", 390, true}, view{"dark", 1100, true})
	for _, row := range []struct {
		state, path string
		views       []view
	}{
		{"healthy", "/", two}, {"overdue", "/", four}, {"large", "/", two}, {"change", "/", four}, {"expired", "/", four}, {"unseen", "/", two}, {"hostile", "/", two},
		{"overdue", "/clusters/prod-us-1", four}, {"expired", "/clusters/prod-eu-1", two}, {"unseen", "/clusters/prod-eu-1", two}, {"hostile", "/clusters/" + url.PathEscape(hostileName), two},
		{"overdue", "/clusters", four}, {"large", "/clusters", two}, {"hostile", "/clusters", two}, {"healthy", "/clusters/gone", two},
	} {
		for _, v := range row.views {
			name := fmt.Sprintf("%s %s %s %d", row.state, strings.Replace(row.path, url.PathEscape(hostileName), "hostile", 1), v.scheme, v.width)
			t.Run(name, func(t *testing.T) {
				b.t = t
				b.show(states[row.state])
				x := b.open(t, v, row.path)
				x.judge(axe)
				x.fits(v.width)
				if d := documented[name]; d.file != "" && *update {
					x.picture(filepath.Join("../../../../../docs/images", d.file), d.until)
				}
				if *pictures != "" {
					x.picture(filepath.Join(*pictures, strings.NewReplacer(" /", "_", "/", "-", " ", "-").Replace(name)+".png"), "main")
				}
				for _, line := range x.console() {
					if !strings.Contains(line, "404 (Not Found)") || row.path != "/clusters/gone" {
						t.Errorf("console: %s", line)
					}
				}
			})
		}
	}
}

// Everything but the renewal works without a script.
func TestWithoutJavaScript(t *testing.T) {
	b := startBrowser(t)
	b.show(overdue())
	x := b.open(t, view{"light", 1100, false}, "/")
	if eval[bool](x, `"renew" in window`) {
		t.Fatal("a script ran")
	}
	visible := func(selector string) bool {
		return eval[bool](x, fmt.Sprintf(`!!document.querySelector(%q)?.checkVisibility()`, selector))
	}
	if visible("#pause") || !visible("noscript p") || !visible("#verdict") {
		t.Error("the button is there, or what is said instead is not")
	}
	x.do(chromedp.Click(chromedp.CSS("#c1")))
	x.do(chromedp.WaitVisible(chromedp.CSS("#truths")))
	if got := eval[string](x, "document.title"); got != "! prod-us-1 · acme-mesh" {
		t.Errorf("the tile leads to %q", got)
	}
	x.do(chromedp.Click(chromedp.CSS(".back a")))
	x.do(chromedp.WaitVisible(chromedp.CSS("#c1")))
	if lines := x.console(); len(lines) > 0 {
		t.Errorf("console: %v", lines)
	}
}

// The page draws itself anew without taking the keyboard's place away, tells of a
// changed verdict alone, and says when certd is gone.
func TestRenewal(t *testing.T) {
	b := startBrowser(t)
	x := b.open(t, view{"light", 1100, true}, "/")
	renew := func() { eval[bool](x, "Promise.resolve(renew()).then(() => true)") }
	said := func() string { return eval[string](x, `document.getElementById("said").textContent`) }
	eval[bool](x, `document.getElementById("c2").focus() || true`)
	before := eval[string](x, `document.getElementById("icon").href`)
	renew()
	if got := said(); got != "" {
		t.Errorf("nothing changed, and it said %q", got)
	}
	b.show(overdue())
	renew()
	if got := said(); got != "acme-mesh warning, 2 problems" {
		t.Errorf("it said %q", got)
	}
	if title, icon := eval[string](x, "document.title"), eval[string](x, `document.getElementById("icon").href`); title != "! 2 problems · acme-mesh" || icon == before {
		t.Errorf("the tab has %q and %q", title, icon)
	}
	if got := eval[string](x, "document.activeElement.id"); got != "c2" {
		t.Errorf("the focus went to %q", got)
	}
	eval[bool](x, `document.getElementById("pause").click() || true`)
	b.show(small())
	renew()
	if got := eval[string](x, "document.title"); got != "! 2 problems · acme-mesh" {
		t.Errorf("paused, it became %q", got)
	}
	eval[bool](x, `document.getElementById("pause").click() || true`)
	eval[bool](x, `getSelection().selectAllChildren(document.querySelector("code")) || true`)
	renew()
	if got := eval[string](x, "document.title"); got != "! 2 problems · acme-mesh" {
		t.Errorf("while text is selected, it became %q", got)
	}
	eval[bool](x, `getSelection().removeAllRanges() || true`)
	renew()
	if got := eval[string](x, "document.title"); got != "✓ ok · acme-mesh" {
		t.Errorf("it became %q", got)
	}
	if lines := x.console(); len(lines) > 0 {
		t.Errorf("console: %v", lines)
	}

	// certd is gone: what is shown stays, and is said to be old.
	eval[bool](x, `window.fetch = () => Promise.resolve(new Response("there is no answer yet", {status: 503})), true`)
	renew()
	if !eval[bool](x, `document.getElementById("lost").checkVisibility() && document.getElementById("c2") !== null`) || said() != "certd does not answer" {
		t.Errorf("it said %q", said())
	}
}

// All there is can be reached by the tabulator, in the order of the page, and the
// grid can be left out.
func TestByKeyboard(t *testing.T) {
	b := startBrowser(t)
	b.show(overdue())
	x := b.open(t, view{"light", 1100, true}, "/")
	press := func(key string) string {
		x.do(chromedp.KeyEvent(key))
		return eval[string](x, `(e => e === document.body ? "" : e.id || e.textContent.trim())(document.activeElement)`)
	}
	var walk []string
	for range 60 {
		at := press("\t")
		if at == "" {
			break
		}
		walk = append(walk, at)
		if eval[string](x, "getComputedStyle(document.activeElement).outlineStyle") == "none" {
			t.Errorf("one does not see that %q is reached", at)
		}
	}
	if len(walk) < 8 {
		t.Fatalf("only these are reached: %q", walk)
	}
	if want := []string{"Skip to the verdict", "certd", "pause", "prod-us-1", "prod-us-1", "prod-us-1", "The same as a table", "Skip the grid", "c1", "c0", "c2"}; !slices.Equal(walk[:len(want)], want) {
		t.Errorf("got  %q\nwant %q", walk[:len(want)], want)
	}
	if reachable := eval[int](x, `document.querySelectorAll("a, button").length`); len(walk) != reachable {
		t.Errorf("%d of %d are reached", len(walk), reachable)
	}

	x = b.open(t, view{"light", 1100, true}, "/")
	for range 8 {
		press("\t")
	}
	if at := press("\r"); at != "trust" {
		t.Errorf("the link over the grid leads to %q", at)
	}
	if at := press("\t"); strings.HasPrefix(at, "c") {
		t.Errorf("and then into the grid: %q", at)
	}
}
