package audit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/cmd/certd/internal/audit"
	"certd.internal/rotation"
)

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }

// line is an entry of Vault's audit log.
func line(minutes int, kind, id, operation, path, failed string) string {
	return fmt.Sprintf(`{"time":%q,"type":%q,"error":%q,"auth":{"display_name":"approle"},"request":{"id":%q,"operation":%q,"path":%q,"remote_address":"10.0.0.7","data":{"input":"hmac-sha256:aa"}}}`+"\n",
		at(minutes).Format(time.RFC3339Nano), kind, failed, id, operation, path)
}

const anchor, webhook = "certd-transit/sign/acme-anchor-1/sha2-256", "certd-transit-webhooks/sign/acme-webhook-eu-1/sha2-256"

func signed(seq uint64, minutes int, id string) rotation.HistoryItem {
	return rotation.HistoryItem{Seq: seq, At: at(minutes), IntentAt: at(minutes), Step: rotation.StepSign, SignRequest: id}
}

func TestTheHistoryAgainstTheLog(t *testing.T) {
	keys := audit.Keys{Prefixes: []string{"certd-transit/sign/acme-anchor-", "certd-transit-webhooks/sign/acme-webhook-"}}
	begin, end := line(0, "response", "x", "read", "sys/health", ""), line(100, "response", "y", "read", "sys/health", "")
	for _, row := range []struct {
		sentence  string
		log       string
		items     []rotation.HistoryItem
		state     rotation.State
		matched   int
		strangers []string
		missing   []uint64
		older     int
		refused   int
		bad       int
	}{
		{"nothing was signed", begin + end, nil, rotation.StateOK, 0, nil, nil, 0, 0, 0},
		{"the log is empty", "", nil, rotation.StateUnknown, 0, nil, nil, 0, 0, 0},
		{"each is in the other", begin + line(10, "request", "a", "update", anchor, "") + line(10, "response", "a", "update", anchor, "") + line(20, "response", "b", "update", webhook, "") + end,
			[]rotation.HistoryItem{signed(1, 10, "a"), signed(2, 20, "b")}, rotation.StateOK, 2, nil, nil, 0, 0, 0},
		{"two devices log the same request", begin + strings.Repeat(line(10, "response", "a", "update", anchor, ""), 2) + end, []rotation.HistoryItem{signed(1, 10, "a")}, rotation.StateOK, 1, nil, nil, 0, 0, 0},
		{"somebody else signed", begin + line(10, "response", "a", "update", anchor, "") + line(11, "response", "z", "update", anchor, "") + end, []rotation.HistoryItem{signed(1, 10, "a")}, rotation.StateCritical, 1, []string{"z"}, nil, 0, 0, 0},
		{"somebody else was refused", begin + line(10, "response", "z", "update", anchor, "permission denied") + end, []rotation.HistoryItem{signed(1, 1, "")}, rotation.StateOK, 0, nil, nil, 0, 1, 0},
		{"other keys on the mount are nobody's business here", begin + line(10, "response", "z", "update", "certd-transit/sign/other-anchor-1", "") + end, nil, rotation.StateOK, 0, nil, nil, 0, 0, 0},
		{"looking at a key is no signature", begin + line(10, "response", "z", "read", "certd-transit/keys/acme-anchor-1", "") + end, nil, rotation.StateOK, 0, nil, nil, 0, 0, 0},
		{"the log lacks one", begin + end, []rotation.HistoryItem{signed(7, 50, "a")}, rotation.StateWarning, 0, nil, []uint64{7}, 0, 0, 0},
		{"the log does not go that far", begin + end, []rotation.HistoryItem{signed(7, -3, "a"), signed(8, 98, "b"), signed(9, 100, "c"), signed(10, 200, "d")}, rotation.StateWarning, 0, nil, []uint64{8}, 0, 0, 0},
		{"what is older than the history is not judged", begin + line(5, "response", "z", "update", anchor, "") + end, []rotation.HistoryItem{signed(7, 10, "")}, rotation.StateOK, 0, nil, nil, 1, 0, 0},
		{"a line is torn", begin + end + `{"time":"2026-`, nil, rotation.StateOK, 0, nil, nil, 0, 0, 1},
		{"a line is endless", begin + `{"time":"` + strings.Repeat("9", 3<<20) + "\n" + end, nil, rotation.StateOK, 0, nil, nil, 0, 0, 1},
	} {
		var log audit.Log
		if err := log.Read(strings.NewReader(row.log), keys); err != nil {
			t.Errorf("%s: %v", row.sentence, err)
		}
		begins := start
		if len(row.items) > 0 {
			begins = row.items[0].IntentAt
		}
		if row.items == nil {
			row.items = []rotation.HistoryItem{}
		}
		r := log.Against(rotation.HistoryList{Fleet: "acme", Items: row.items}, begins)
		var strangers []string
		for _, s := range r.Strangers {
			strangers = append(strangers, s.Request)
			if s.By != "approle" || s.Address != "10.0.0.7" || !strings.Contains(s.Path, "/sign/") {
				t.Errorf("%s: %+v", row.sentence, s)
			}
		}
		var missing []uint64
		for _, m := range r.Missing {
			missing = append(missing, m.Seq)
		}
		type counts struct{ Matched, Older, Refused, Unreadable int }
		if r.State != row.state || !cmp.Equal(strangers, row.strangers) || !cmp.Equal(missing, row.missing) || (counts{r.Matched, r.Older, r.Refused, r.Unreadable}) != (counts{row.matched, row.older, row.refused, row.bad}) {
			t.Errorf("%s: %+v", row.sentence, r)
		}
	}
}

// Parts of a rotated log may come in any order.
func TestPartsOfALog(t *testing.T) {
	keys := audit.Keys{Prefixes: []string{"certd-transit/sign/acme-anchor-"}}
	var log audit.Log
	for _, part := range []string{line(50, "response", "b", "update", anchor, "") + line(90, "response", "y", "read", "sys/health", ""), line(0, "response", "x", "read", "sys/health", "") + line(10, "response", "a", "update", anchor, "")} {
		if err := log.Read(strings.NewReader(part), keys); err != nil {
			t.Fatal(err)
		}
	}
	r := log.Against(rotation.HistoryList{Items: []rotation.HistoryItem{signed(1, 10, "a"), signed(2, 30, "c")}}, start)
	if !r.From.Equal(at(0)) || !r.To.Equal(at(90)) || r.Requests != 4 || r.Matched != 1 || len(r.Strangers) != 1 || r.Strangers[0].Request != "b" || len(r.Missing) != 1 {
		t.Errorf("%+v", r)
	}
}
