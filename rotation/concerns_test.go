package rotation

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Each finding counts for a promise, or is known to be about none: what a person
// has asked for, what is yet to be done, or what could not be seen, which I12 lists.
func TestEachFindingCountsForAPromise(t *testing.T) {
	none := []string{"NoAnchor", "NamespaceMissing", "WatchedOnly", "NotSeenYet", "NotSeenLately", "ClusterUnreachable", "ClusterDenied", "NotConverged",
		"IssuerLoadUnknown", "WebhookUnseen", "WebhookServedUnknown", "WebhookCheckUnknown", "ProxiesStale", "RestartWaits", "TrustChangeHeld", "ApprovalWanted", "ConfigReloadFailed", "NotifyFailing", "DaemonNotRunning",
		"Paused", "MirrorFailed", "BackupFailed"}
	doc, err := os.ReadFile("../docs/reference/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` ").FindAllStringSubmatch(string(doc), -1)
	if len(all) < 40 {
		t.Fatalf("only %d findings are documented: the test looks in the wrong place", len(all))
	}
	for _, m := range all {
		if (concerns[m[1]] == "") != slices.Contains(none, m[1]) {
			t.Errorf("%s counts for %q; known to be about no promise: %t", m[1], concerns[m[1]], slices.Contains(none, m[1]))
		}
	}
}
