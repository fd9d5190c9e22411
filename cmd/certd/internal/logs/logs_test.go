package logs

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestALevelFallsBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var base slog.LevelVar
		f := NewFuse(&base)
		var falls atomic.Int64
		back := func() { falls.Add(1) }
		until := f.Set(slog.LevelDebug, 10*time.Minute, back)
		if f.Level() != slog.LevelDebug || time.Until(until) != 10*time.Minute {
			t.Errorf("%s until %s", f.Level(), until)
		}
		base.Set(slog.LevelWarn) // a reload meanwhile counts afterwards
		time.Sleep(10*time.Minute - time.Second)
		if f.Level() != slog.LevelDebug || falls.Load() != 0 {
			t.Errorf("%s, fallen back %d times, a second before the end", f.Level(), falls.Load())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if now, configured, until := f.State(); now != slog.LevelWarn || configured != slog.LevelWarn || !until.IsZero() || falls.Load() != 1 {
			t.Errorf("%s, configured %s until %s, fallen back %d times", now, configured, until, falls.Load())
		}

		// The later word counts: the end of the first is not that of the second.
		f.Set(slog.LevelDebug, time.Minute, back)
		f.Set(slog.LevelError, time.Hour, back)
		time.Sleep(30 * time.Minute)
		if f.Level() != slog.LevelError || falls.Load() != 1 {
			t.Errorf("%s, fallen back %d times", f.Level(), falls.Load())
		}
		f.Reset()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if f.Level() != slog.LevelWarn || falls.Load() != 1 {
			t.Errorf("%s after a reset, fallen back %d times", f.Level(), falls.Load())
		}
	})
}

func TestLevelsHaveTheWordsOfTheConfiguration(t *testing.T) {
	for _, word := range []string{"debug", "info", "warn", "error"} {
		l, err := ParseLevel(word)
		if err != nil || Word(l) != word {
			t.Errorf("%s: %s, %v", word, Word(l), err)
		}
	}
	for _, word := range []string{"", "DEBUG", "trace", "info+1"} {
		if _, err := ParseLevel(word); err == nil {
			t.Errorf("%q is taken for a level", word)
		}
	}
}

func TestEventsAreWords(t *testing.T) {
	for message, want := range map[string]string{
		"decision":   "decision",
		"step done":  "step_done",
		"certd runs": "certd_runs",
		"configuration not reloaded; the old one stays in force":                           "configuration_not_reloaded",
		"the wall clock stepped or the host slept: looking at everything again":            "the_wall_clock_stepped_or_the_host_slept",
		"a webhook CA's key is there that this journal did not make; the next is taken":    "a_webhook_cas_key_is_there_that_this_journal_did_not_make",
		"  Vault token may do more than certd needs; deploy/vault/certd-run.hcl is enough": "vault_token_may_do_more_than_certd_needs",
		"": "",
	} {
		if got := Event(message); got != want {
			t.Errorf("%q: %q, want %q", message, got, want)
		}
	}
}

func TestEachLineHasOneEvent(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(Events(slog.NewJSONHandler(&out, nil)))
	log.Info("step done", "cluster", "eu")
	log.With("cluster", "us").Warn("cluster not seen")
	log.With(EventKey, "kubernetes_client").Info("Waited before sending request")
	log.Info("anything", EventKey, "own")
	var got []string
	for line := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
		if strings.Count(line, `"event"`) != 1 {
			t.Errorf("%s", line)
		}
		var l struct{ Event string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Event)
	}
	if strings.Join(got, " ") != "step_done cluster_not_seen kubernetes_client own" {
		t.Errorf("events %s", got)
	}
}

func TestTheLastLinesAreKept(t *testing.T) {
	r := NewRecent(2000)
	var level slog.LevelVar
	var out bytes.Buffer
	log := slog.New(r.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: &level}))).With("cluster", "eu")
	log.Debug("not written, and not kept")
	for i := range 200 {
		log.Info("line", "n", i)
	}
	lines := r.Lines()
	size := 0
	for _, l := range lines {
		size += len(l)
		if !json.Valid([]byte(l)) || !strings.Contains(l, `"cluster":"eu"`) {
			t.Fatalf("kept: %q", l)
		}
	}
	if len(lines) < 10 || size > 2000 || !strings.Contains(lines[len(lines)-1], `"n":199`) || strings.Contains(out.String(), "not kept") || strings.Count(out.String(), "\n") != 200 {
		t.Errorf("%d lines of %d bytes kept, the last %s", len(lines), size, lines[len(lines)-1])
	}
	level.Set(slog.LevelDebug)
	log.Debug("kept now")
	if lines := r.Lines(); !strings.Contains(lines[len(lines)-1], "kept now") {
		t.Errorf("the last line is %s", lines[len(lines)-1])
	}
	io.WriteString(r, strings.Repeat("x", 5000)+"\n") // longer than all there is room for
	if n := len(r.Lines()); n != 0 {
		t.Errorf("%d lines after one that is too long", n)
	}
}

func TestSecretsAreTakenOut(t *testing.T) {
	key := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBkg/secret+bytes==\n-----END EC PRIVATE KEY-----"
	s := NewScrubber([]byte("correct horse battery staple\n"), []byte("b7f3a1d2-secret-id"), []byte("abc"))
	for _, row := range []struct{ name, text, gone, stays string }{
		{"a passphrase", "open: correct horse battery staple is wrong", "horse", "open: "},
		{"a passphrase in an address", "https://x/?p=correct+horse+battery+staple&q=1", "horse", "q=1"},
		{"a passphrase in base64", "data: Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==", "Y29ycm", "data: "},
		{"a secret id", `{"secret_id":"b7f3a1d2-secret-id"}`, "b7f3", "secret_id"},
		{"a short secret is no reason to tear a text to pieces", "abcdef abc", "nothing of it", "abcdef abc"},
		{"a key in PEM", "before " + key + " after", "MHcC", "before "},
		{"a key in PEM in JSON", `{"tls.key":"` + strings.ReplaceAll(key, "\n", `\n`) + `"}`, "MHcC", "tls.key"},
		{"a key that is cut off", "-----BEGIN PRIVATE KEY-----\nMHcCAQ", "MHcC", ""},
		{"a Vault token", "403 for hvs.CAESIJ0123456789abcdefghij", "CAESIJ", "403 for "},
		{"a batch token", "token hvb.AAAAAQ0123456789abcdefghij", "AAAAAQ", ""},
		{"an old token", "s.0123456789abcdefghijABCD", "0123456789", ""},
		{"a service account's token", "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "eyJ", ""},
		{"a header", "Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNl", "Authorization"},
		{"Vault's header", "X-Vault-Token: root-token-of-a-test", "root-token", ""},
		{"an address with a password", "dial https://certd:hunter2@vault.example:8200/v1", "hunter2", "@vault.example:8200/v1"},
		{"a webhook of Slack's", "POST https://hooks.slack.com/services/T000/B000/XXXX", "B000", "hooks.slack.com"},
		{"a routing key", `routing_key: "R0123456789ABCDEF"`, "R0123", "routing_key"},
		{"a certificate is none", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "nothing of it", "MIIB"},
		{"where a secret is kept is none", "passphraseFrom: {file: /etc/certd/passphrase}", "nothing of it", "/etc/certd/passphrase"},
		{"nor where a token is", "token: {env: VAULT_TOKEN}", "nothing of it", "{env: VAULT_TOKEN}"},
		{"a serial number is none", "serial 5e91000000000000000000000000000c", "nothing of it", "5e91000000000000000000000000000c"},
		{"a sentence about tokens is none", "Vault token not renewed, trying again", "nothing of it", "not renewed, trying again"},
	} {
		got := s.Clean(row.text)
		if strings.Contains(got, row.gone) || !strings.Contains(got, row.stays) {
			t.Errorf("%s: %q", row.name, got)
		}
		if again := s.Clean(got); again != got {
			t.Errorf("%s: cleaned twice: %q, then %q", row.name, got, again)
		}
	}
}
