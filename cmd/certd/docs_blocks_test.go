package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"certd.internal/docs/runbooks"
	"certd.internal/rotation"
)

// block is a code block of a page: fenced, or indented.
type block struct {
	page string // below the repository
	line int
	lang string // "" of an indented one, and of a fenced one that says nothing
	text string
}

func (b block) where() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// blocksOf reads the code blocks of a page of Markdown, also those within lists, where
// what is indented by four more than nothing is code wherever it begins after an empty line.
func blocksOf(page, text string) (all []block) {
	lines := strings.Split(text, "\n")
	fence := regexp.MustCompile("^( *)```([a-z]*)$")
	for i := 0; i < len(lines); i++ {
		b := block{page: page, line: i + 1}
		var body []string
		if m := fence.FindStringSubmatch(lines[i]); m != nil {
			b.lang = m[2]
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
				body = append(body, strings.TrimPrefix(lines[i], m[1]))
			}
		} else if strings.HasPrefix(lines[i], "    ") && (i == 0 || lines[i-1] == "") {
			margin := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " "))]
			for ; i < len(lines) && (strings.HasPrefix(lines[i], margin) || lines[i] == "" && i+1 < len(lines) && strings.HasPrefix(lines[i+1], margin)); i++ {
				body = append(body, strings.TrimPrefix(lines[i], margin))
			}
		} else {
			continue
		}
		b.text = strings.TrimSpace(strings.Join(body, "\n"))
		all = append(all, b)
	}
	return all
}

// pagesForHands are those that tell a person what to type.
func pagesForHands(t *testing.T) (all []block) {
	t.Helper()
	pages := []string{"README.md"}
	for _, dir := range []string{"docs/tutorial", "docs/how-to"} {
		found, err := filepath.Glob("../../" + dir + "/*.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			pages = append(pages, dir+"/"+filepath.Base(f))
		}
	}
	for _, page := range pages {
		all = append(all, blocksOf(page, readFile(t, "../../"+page))...)
	}
	if len(all) < 60 {
		t.Fatalf("only %d blocks were found: the test looks in the wrong place", len(all))
	}
	return all
}

// What a block is.
const (
	commands   = "commands"      // of which certd's run here
	foreign    = "other tools"   // at least one line is for a tool that is not certd's
	ours       = "configuration" // of certd
	theirs     = "configuration of others"
	shown      = "shown"      // what certd prints
	transcript = "transcript" // a command after "$ ", and what it prints
)

// kind tells by a block's looks what it is, or says why nobody knows.
func (b block) kind() string {
	// Programs that do their work outside of certd, or on the reader's machine as root.
	tools := regexp.MustCompile(`(?m)(?:^|\| *|\$\()(?:[A-Z_]+=\S+ )?(?:vault|kubectl|sha256sum|govulncheck|git|go version|helm|systemctl|systemd-sysusers|journalctl|make|apt-get|npm|sed|chmod|install -[dom])\b`)
	switch {
	case strings.HasPrefix(b.text, "$ "):
		return transcript
	case b.lang == "json", b.lang == "text":
		return shown
	case b.lang == "" && regexp.MustCompile(`^(\[\w+\]|# systemctl edit|[A-Z_]+=\S+$)`).MatchString(b.text):
		return theirs
	case b.lang == "yaml", b.lang == "" && regexp.MustCompile(`^[A-Za-z_]+:( |\n)`).MatchString(b.text):
		for _, key := range []string{"inhibit_rules", "livenessProbe", "scrape_configs", "config"} { // Alertmanager's, a pod's, Prometheus', the chart's
			if strings.HasPrefix(b.text, key+":") {
				return theirs
			}
		}
		return ours
	case tools.MatchString(b.text):
		return foreign
	case b.lang == "" || b.lang == "sh":
		return commands
	}
	return "a block in " + b.lang
}

// typedBy are blocks whose commands need API servers, or two people, and which test types
// them there.
func typedBy(b block) (test string, args []string) {
	for _, row := range [][]string{
		{"docs/how-to/expired.md", "certd rotate webhooks", "TestNoAdmissionFails", "rotate", "webhooks"},
		{"docs/how-to/webhooks.md", "certd rotate webhooks", "TestNoAdmissionFails", "rotate", "webhook-ca"},
		{"docs/how-to/trust-anchor.md", "certd trust approve", "TestTwoUsersOfAHostRetireAnAnchor", "trust", "approve"},
	} {
		if b.page == row[0] && strings.HasPrefix(b.text, row[1]) {
			return row[2], row[3:]
		}
	}
	return "", nil
}

// Each block of the pages that tell what to type is run here, or typed by a test that
// has API servers, or is not certd's. Configurations are loaded.
func TestWhatTheDocumentationSaysToTypeWorks(t *testing.T) {
	pages := map[string][]block{}
	var order []string
	for _, b := range pagesForHands(t) {
		if !slices.Contains(order, b.page) {
			order = append(order, b.page)
		}
		pages[b.page] = append(pages[b.page], b)
	}
	for _, page := range order {
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			var r *reader
			for _, b := range pages[page] {
				switch kind := b.kind(); kind {
				case ours:
					loads(t, b)
				case foreign, theirs, shown: // certd's lines among them are parsed by the command line's own test
				case commands, transcript:
					if test, args := typedBy(b); test != "" {
						isTyped(t, b, test, args)
						continue
					}
					if r == nil {
						if r = newReader(t, page); r == nil {
							t.Errorf("%s: nothing runs this block, and no test types it: give its page a reader, or say which test does\n%s", b.where(), b.text)
							return
						}
					}
					r.types(b)
				default:
					t.Errorf("%s: %s: commands are indented or fenced as sh, configurations as yaml\n%s", b.where(), kind, b.text)
				}
			}
		})
	}
}

// isTyped wants the test to be there, and to type these arguments.
func isTyped(t *testing.T, b block, test string, args []string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		_, body, found := strings.Cut(readFile(t, f), "\nfunc "+test+"(")
		if !found {
			continue
		}
		body, _, _ = strings.Cut(body, "\n}\n")
		if !strings.Contains(body, `"`+strings.Join(args, `", "`)+`"`) {
			t.Errorf("%s: %s does not type %v", b.where(), test, args)
		}
		return
	}
	t.Errorf("%s: there is no test %s", b.where(), test)
}

// within are the places of what pages show alone.
func within(part string) string {
	indented := func(by string) string { return strings.ReplaceAll("\n"+part, "\n", "\n"+by) }
	switch key, _, _ := strings.Cut(part, ":"); key {
	case "foreignAnchors":
		return "defaults:" + indented("  ")
	case "am":
		return "notify:\n  receivers:" + indented("    ")
	case "auth":
		return "keys:\n  vault:\n    address: https://vault.example:8200" + indented("    ")
	case "keys":
		if strings.HasPrefix(part, "keys:\n  vault:\n    mirror:") {
			return part + "\n    address: https://vault.example:8200\n    auth: {tokenFile: token}"
		}
	}
	return part
}

// loads has certd load the configuration that the block is a part of: what it says is in
// the place of what a fleet of folders says there.
func loads(t *testing.T, b block) {
	t.Helper()
	s := newFolders(t)
	// What it names is there.
	for _, name := range regexp.MustCompile(`/etc/certd/[a-z0-9./-]+`).FindAllString(b.text, -1) {
		text := "https://hooks.example.org/services/x\n"
		switch name = strings.TrimPrefix(name, "/etc/certd/"); name {
		case "partner.pem", "vault-ca.pem":
			text = partnerAnchor(t, 400)
		case "pagerduty-key":
			text = "0123456789abcdef0123456789abcdef\n"
		case "kube/prod-eu-1":
			text = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n" +
				"contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
		}
		if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		s.write(name, text)
	}
	var whole, part yaml.MapSlice
	if err := yaml.Unmarshal([]byte(folders), &whole); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(within(strings.ReplaceAll(b.text, "/etc/certd/", s.dir+"/"))), &part); err != nil {
		t.Errorf("%s: %v\n%s", b.where(), err, b.text)
		return
	}
	for _, p := range part {
		whole = append(slices.DeleteFunc(whole, func(w yaml.MapItem) bool { return w.Key == p.Key }), p)
	}
	text, err := yaml.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	s.write("certd.yaml", string(text))
	if out, code := s.with(nil, "config", "validate", "--config", "certd.yaml"); code != 0 {
		t.Errorf("%s: exit %d\n%s\n%s", b.where(), code, out, text)
	}
}

// reader is somebody who types what a page says, in its order.
type reader struct {
	t      *testing.T
	s      *site
	listen string            // where the daemon answers over HTTP
	swap   *strings.Replacer // names in the pages → names here
	next   map[string]func() // what happens in between, before the block that begins so
}

// shim is what the reader has for certd: it says yes, has the daemon run in the
// background until it works, and lets watch for a moment only.
const shim = `#!/bin/bash
at=$(dirname "$(dirname "$0")")
dead() { # until the daemon is gone
	test ! -e "$at/pid" && return
	kill -TERM "$(cat "$at/pid")" 2>/dev/null
	for _ in $(seq 300); do kill -0 "$(cat "$at/pid")" 2>/dev/null || break; sleep 0.1; done
	rm -f "$at/pid"
}
if [ "$1" = stopped ]; then dead; exit 0; fi
if [ "$1" = run ]; then
	dead
	[ "$2" = --dev ] && export CERTD_CONFIG=certd-dev/certd.yaml
	"$CERTD_PROGRAM" "$@" >>"$at/daemon.log" 2>&1 &
	echo $! >"$at/pid"
	for _ in $(seq 300); do
		said=$("$CERTD_PROGRAM" status 2>&1); code=$?
		[ $code -le 1 ] && [[ $said != *"; reading "* ]] && exit 0
		kill -0 "$(cat "$at/pid")" || break
		sleep 0.1
	done
	echo "certd run does not come up: $said" >&2
	cat "$at/daemon.log" >&2
	exit 1
fi
more=()
[[ " $* " != *" --dry-run "* && " $* " != *" --yes "* ]] && "$CERTD_PROGRAM" "$@" --help 2>/dev/null | grep -q -- '--yes ' && more=(--yes)
if [[ " $* " == *" --watch "* || " $* " == *" --follow "* ]]; then
	timeout --foreground -s INT 2 "$CERTD_PROGRAM" "$@" </dev/null
	code=$?
	[ $code = 124 ] && exit 0
	exit $code
fi
"$CERTD_PROGRAM" "$@" "${more[@]}"
code=$?
# A look may find something to warn of.
[[ $code = 1 && ( $1 = status || $1 = check || $1 = verify || "$1 $2" = "trust status" ) ]] && exit 0
exit $code
`

// fetch is what the reader has for curl and a browser: one GET from the daemon that
// runs here, whatever port the page has.
const fetch = `#!/bin/bash
for url; do [[ $url == http://* ]] && break; done
path=/${url#http://*/}
exec 3<>"/dev/tcp/127.0.0.1/$LISTEN" || exit 7
printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$path" "$LISTEN" >&3
read -r _ code _ <&3
while read -r line && [ "$line" != $'\r' ]; do :; done <&3
cat <&3
[ "$code" = 200 ]
`

// newReader is the reader of a page, in the situation that the page is about; nil if
// nobody reads it.
func newReader(t *testing.T, page string) *reader {
	t.Helper()
	r := &reader{t: t, s: newFolders(t), listen: closedPort(t), next: map[string]func(){}}
	for _, dir := range []string{"bin", "etc", "backup"} {
		if err := os.Mkdir(r.s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"bin/certd": shim, "bin/curl": fetch} {
		if err := os.WriteFile(r.s.path(name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { r.must("certd stopped") })
	r.swap = strings.NewReplacer("/etc/certd/", r.s.dir+"/etc/", "/backup/", r.s.dir+"/backup/", "/var/lib/certd/", r.s.dir+"/state/", "go run ./cmd/certd", "certd", "xdg-open", "curl", "CLUSTER", "prod-eu-1")
	// A fleet that is well, of the names that the pages have; its daemon answers over HTTP.
	r.s.edit("name: east", "name: prod-eu-1", "name: west", "name: prod-us-1", "server: {", "server: {listen: '127.0.0.1:"+r.listen[strings.LastIndex(r.listen, ":")+1:]+"', ")
	well := func() {
		r.must("certd init; certd run")
		r.s.eventually(20*time.Second, func() string {
			st, code := r.s.status()
			if code != 0 || slices.ContainsFunc(st.Clusters, func(c rotation.ClusterStatus) bool { return c.Issuer == nil }) {
				return fmt.Sprintf("exit %d, %+v", code, st)
			}
			return ""
		})
	}
	switch page {
	case "README.md", "docs/how-to/pause.md", "docs/how-to/kubernetes.md", "docs/how-to/observe.md", "docs/how-to/trust-anchor.md",
		"docs/how-to/clusters.md", "docs/how-to/high-availability.md", "docs/how-to/simulate.md", "docs/how-to/uninstall.md", "docs/how-to/emergencies.md", "docs/how-to/lose-vault.md":
		well()
	case "docs/how-to/upgrade.md":
		well()
		r.next["certd restore"] = func() { // of the certd before, here this one
			r.must("certd stopped; cp backup/certd-before-upgrade.db state/certd.db.schema-5")
		}
	case "docs/tutorial/first-steps.md":
		// Where other tests run, its port may be taken: it is started again with another.
		r.next["go run ./cmd/certd status"] = func() {
			r.must("certd stopped")
			r.s.write("certd-dev/certd.yaml", replaced(t, r.s.read("certd-dev/certd.yaml"), "server: {", "server: {listen: '"+r.listen+"', "))
			r.must("certd run --dev")
			r.s.eventually(time.Minute, func() string { // nobody types the next line as soon as that
				if out, err := r.shell("certd status --config certd-dev/certd.yaml"); err != nil {
					return out
				}
				return ""
			})
		}
	case "docs/how-to/expired.md":
		r.s.edit("defaults:", "trust: {lifetime: 9y}\ndefaults:")
		well()
		r.next["certd trust renew"] = func() {
			r.s.edit("9y", "10y")
			r.must("certd run") // a new start
		}
	case "docs/how-to/adopt.md":
		r.s.edit("prod-eu-1", "east")
		anchor, crt, key := issuerOfAnother(t, time.Now().AddDate(0, 3, 0))
		for name, text := range map[string][]byte{rotation.BundleObject + "/ca-bundle.crt": anchor, rotation.IssuerObject + "/ca.crt": anchor, rotation.IssuerObject + "/tls.crt": crt, rotation.IssuerObject + "/tls.key": key} {
			name = r.s.path("east/linkerd/" + name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		r.must("certd init; certd run")
		r.next["certd trust rotate"] = func() {
			r.s.eventually(30*time.Second, func() string {
				if out, err := r.shell("certd trust rotate --dry-run"); err != nil {
					return out
				}
				return ""
			})
		}
	case "docs/how-to/lose-the-disk.md":
		well()
		r.next["certd restore"] = func() {
			r.must("certd stopped; cp backup/certd-before-upgrade.db backup/certd-2026-11-28.db")
		}
		r.next["certd recover"] = func() { r.must("certd stopped; rm -r state") }
	case "docs/how-to/notify.md":
		told := newTold(t)
		r.s.write("slack", told.URL+"/slack/hook-s3cret\n")
		r.s.edit("server:", "notify: {receivers: {ops: {slack: {urlFrom: {file: slack}}}}}\nserver:")
		well()
	default:
		return nil
	}
	return r
}

// shell runs a line as the reader does.
func (r *reader) shell(line string) (string, error) {
	cmd := exec.Command("bash", "-o", "pipefail", "-c", "set -e\n"+line)
	cmd.Dir = r.s.dir
	cmd.Env = append(os.Environ(), "PATH="+r.s.path("bin")+":"+os.Getenv("PATH"), "CERTD_PROGRAM="+program, "CERTD_CONFIG=certd.yaml", "LISTEN="+r.listen[strings.LastIndex(r.listen, ":")+1:], "NO_COLOR=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *reader) must(line string) string {
	r.t.Helper()
	out, err := r.shell(line)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// types types a block, a line after another.
func (r *reader) types(b block) {
	r.t.Helper()
	for first, f := range r.next {
		if strings.HasPrefix(b.text, first) {
			f()
		}
	}
	text, want := b.text, ""
	if b.kind() == transcript {
		text, want, _ = strings.Cut(strings.TrimPrefix(text, "$ "), "\n")
	}
	out, err := r.shell(r.swap.Replace(text))
	switch {
	case err != nil:
		r.t.Errorf("%s: %v\n%s\n%s", b.where(), err, b.text, out)
	case want != "" && b.page != "README.md" && strings.TrimSpace(out) != want: // README.md shows another fleet
		r.t.Errorf("%s: it prints\n%s", b.where(), out)
	}
}

// What the documentation names within its sentences is there: each finding and alert, and
// what is written with its path and begins as a key of the configuration does: that key,
// or a field of certd's JSON.
func TestWhatTheDocumentationNamesIsThere(t *testing.T) {
	rules := readFile(t, "../../deploy/alerts/certd.rules.yaml")
	var schemas []map[string]any
	files, err := filepath.Glob("../../docs/reference/*.schema.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, f := range files {
		var schema map[string]any
		if err := json.Unmarshal([]byte(readFile(t, f)), &schema); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		schemas = append(schemas, schema)
	}
	name := regexp.MustCompile("`([A-Z][a-z]+(?:[A-Z][A-Za-z]+)+)`")
	key := regexp.MustCompile("`([a-z][A-Za-z]+(?:\\.[a-zA-Z]+)+)(?:: [^`]*)?`")
	begins := map[string]bool{}
	config := schemas[slices.Index(files, "../../docs/reference/certd.schema.json")]["properties"].(map[string]any)
	for _, fields := range []any{config, config["defaults"].(map[string]any)["properties"]} {
		for field := range fields.(map[string]any) {
			begins[field] = true
		}
	}
	seen := 0
	pages, err := filepath.Glob("../../docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md", "../../docs/threat-model.md") {
		text := readFile(t, page)
		if filepath.Base(filepath.Dir(page)) == "adr" { // what was decided then
			continue
		}
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			seen++
			_, runbook := runbooks.Find(m[1])
			if !runbook && !slices.Contains(rotation.FindingIDs(), m[1]) && !strings.Contains(rules, "alert: "+m[1]+"\n") &&
				!regexp.MustCompile(`^(Test|Fuzz)[A-Z]|Report$`).MatchString(m[1]) { // tests, and kinds of documents
				t.Errorf("%s: %s is neither a finding nor an alert", page, m[1])
			}
		}
		for _, m := range key.FindAllStringSubmatch(text, -1) {
			path := strings.Split(m[1], ".")
			if !begins[path[0]] || m[1] == "trust.stage" { // an event that receivers are told of
				continue
			}
			seen++
			if !slices.ContainsFunc(schemas, func(s map[string]any) bool { return hasPath(s, s, path) }) {
				t.Errorf("%s: nothing is called %s, neither in certd.yaml nor in certd's JSON", page, m[1])
			}
		}
	}
	if seen < 150 {
		t.Errorf("only %d names were found: the test looks in the wrong place", seen)
	}
}

// hasPath says whether somewhere in a part of a JSON Schema an object has a property of
// the first name, which has one of the second, and so on.
func hasPath(schema, part any, path []string) bool {
	switch s := part.(type) {
	case map[string]any:
		if ref, ok := s["$ref"].(string); ok {
			return ref != "" && hasPath(schema, schema.(map[string]any)["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")], path)
		}
		if p, ok := s["properties"].(map[string]any); ok {
			if inner, ok := p[path[0]]; ok && (len(path) == 1 || hasPath(schema, inner, path[1:])) {
				return true
			}
		}
		for _, inner := range s {
			if hasPath(schema, inner, path) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(s, func(inner any) bool { return hasPath(schema, inner, path) })
	}
	return false
}
