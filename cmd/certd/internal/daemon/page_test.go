package daemon

import (
	"strings"
	"testing"
)

// A running daemon shows its fleet to a browser, and a cluster of it.
func TestARunningDaemonHasAStatusPage(t *testing.T) {
	file := foldersConfig(t, `, listen: "127.0.0.1:0"`, "east", "west")
	address, _ := started(t, file)
	for path, want := range map[string][]string{
		"/":              {"<title>✓ ok · ", "nothing breaks before ", `href="clusters/west"`, "What was done"},
		"/clusters":      {"2 clusters: 2 ok", `href="clusters/east"`},
		"/clusters/east": {"<title>✓ east · ", "certd status east --config " + file, "trust anchor g1"},
	} {
		status, body := get(t, "http://"+address+path)
		if status != 200 {
			t.Errorf("%s: %d", path, status)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: there is no %q in\n%s", path, w, body)
			}
		}
	}
	if status, _ := get(t, "http://"+address+"/clusters/north"); status != 404 {
		t.Errorf("a cluster that there is none: %d", status)
	}
}
