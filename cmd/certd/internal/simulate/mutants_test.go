package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
)

// A mutant is a certd that is wrong in one place. The simulation is as good as the mutants
// that it kills.
type mutant struct {
	name  string
	edits []edit
	// killers are the tests that are to find it, "package: name", one by one until one
	// does. Hard changes and hard lives take as many seeds as they need, a thousand at most.
	killers []string
}

type edit struct{ file, old, new string }

const (
	byHardLives = "./cmd/certd/internal/simulate: TestHardLives"
	byChanges   = "./cmd/certd/internal/simulate: TestHardChanges"
	byLives     = "./cmd/certd/internal/simulate: TestAQuarterOfAYear|TestTenYearsWithANewAnchorCertificate|TestWithoutVault|TestWithoutCertd"
	byDaemons   = "./rotation: TestTwoDaemonsForAnHour"
	byBrief     = "./rotation: TestANewIssuerTakesTwoReads"
)

var mutants = []mutant{
	{"a drain of seven tenths", []edit{{"rotation/change.go", "return max(leaf, p.LeafLifetime) + 2*max(skew, p.ClockSkew) + 2*cmp.Or(p.ClockError, MaxClockSkew)", "_ = cmp.Or(skew, p.ClockError)\n\treturn max(leaf, p.LeafLifetime) * 7 / 10"}}, []string{byChanges, byHardLives}},
	{"no drain", []edit{{"rotation/change.go", "if at := two.Add(v.drain()); now.Before(at) {", "if at := two; now.Before(at) {"}}, []string{byChanges, byHardLives}},
	{"clocks forgotten in the drain", []edit{{"rotation/change.go", "return max(leaf, p.LeafLifetime) + 2*max(skew, p.ClockSkew) + 2*cmp.Or(p.ClockError, MaxClockSkew)", "_ = cmp.Or(skew, p.ClockError)\n\treturn max(leaf, p.LeafLifetime)"}}, []string{byChanges, byHardLives}},
	{"linkerd-identity is not restarted before the order turns", []edit{{"rotation/change.go", "if old := g.outdated(v, w, now); old || g.held {", "if g.held {"}}, []string{byChanges, byHardLives}},
	{"kubelets are taken to show a bundle at once", []edit{{"rotation/change.go", "return at.Add(projectionOf(v.Policy))", "return at"}}, []string{byChanges, byHardLives}},
	{"an issuer is taken to be loaded when it was delivered", []edit{{"rotation/change.go", "return g.loaded(v, w.orderSince, now)\n}", "return true\n}"}}, []string{byChanges, byHardLives}},
	{"what a replica uses is not asked for", []edit{{"rotation/change.go", "case now.Sub(r.At) > evidenceAge || r.NotAfter.IsZero() || !v.deliveredSince(delivered, r.NotAfter):\n\t\t\tg.wait(\"%s is to load the issuer\", r.Pod)\n\t\t\treturn false", "case false:"}}, []string{byChanges, "./rotation: TestDecideInAChange"}},
	{"pods that are stale are not waited for", []edit{{"rotation/change.go", "if stale == 0 || p.Err != nil {\n\t\treturn\n\t}", "if stale >= 0 {\n\t\treturn\n\t}"}}, []string{byChanges, byHardLives}},
	// While a change is under way they are counted each minute, and in the minute of difference no seed
	// has had a pod created: it takes the decision itself to see it.
	{"pods counted before the bundle changed count", []edit{{"rotation/change.go", "case p.At.IsZero() || p.At.Before(from):", "case p.At.IsZero() && p.At.Before(from):"}}, []string{"./rotation: TestDecideInAChange"}},
	{"one cluster that waits is passed over", []edit{{"rotation/change.go", "case pr.Waits != \"\":\n\t\t\twaiting = append(waiting, name+\": \"+pr.Waits)", "case pr.Waits != \"\" && name != f.Policy.Clusters[len(f.Policy.Clusters)-1].Cluster:\n\t\t\twaiting = append(waiting, name+\": \"+pr.Waits)"}}, []string{byChanges, byHardLives}},
	{"a cluster that is not seen is passed over", []edit{{"rotation/change.go", "case !current:\n\t\t\twaiting = append(waiting, name+\": has not been seen, or is not managed, since the stage began\")", "case !current:"}}, []string{byChanges, byHardLives, "./rotation: TestAChange"}},
	{"no cluster goes ahead", []edit{{"rotation/change.go", "if c.Stage == StageFinish && !f.canary(v.Policy.Cluster) {", "if false {"}}, []string{byChanges, byHardLives, "./rotation: TestAChange"}},
	{"the old anchor is retired at once", []edit{{"rotation/change.go", "if end := c.ProvedAt.Add(longest); now.Before(end) {\n\t\treturn c, \"\", []string{\"leaves from before end by \" + clock(end)}\n\t}", ""}}, []string{byChanges, byHardLives, "./rotation: TestAChange"}},
	{"the order turns before the bundle is there", []edit{{"rotation/change.go", "g.bundle, g.signers, g.tolerated = both, []*Anchor{from, to}, []pki.Bundle{old, both, next}", "g.bundle, g.signers, g.tolerated = both, []*Anchor{to, from}, []pki.Bundle{old, both, next}"}}, []string{byChanges, byHardLives}},
	{"the issuer's first certificate is the new one from the bridge on", []edit{{"rotation/change.go", "g.bundle, g.signers = old, []*Anchor{from, to}", "g.bundle, g.signers = old, []*Anchor{to, from}"}}, []string{byChanges, byHardLives}},
	{"the bundle turns without both in between", []edit{{"rotation/change.go", "g.bundle, g.signers, g.tolerated = both, []*Anchor{from, to}, []pki.Bundle{old, both, next}", "g.bundle, g.signers, g.tolerated = next, []*Anchor{from, to}, []pki.Bundle{old, both, next}"}}, []string{byChanges, byHardLives}},
	{"the issuer is under one anchor at the bridge", []edit{{"rotation/change.go", "g.bundle, g.signers = old, []*Anchor{from, to}", "g.bundle, g.signers = old, []*Anchor{from}"}}, []string{byChanges, byHardLives, "./rotation: TestAChange"}},
	{"nothing is renewed before it ends", []edit{{"rotation/lifetime.go", "must := notAfter.Add(-max(p.RenewBefore, floor))", "must := notAfter.Add(-time.Minute)"}}, []string{byLives}},
	{"a renewal waits for the last firing before the end", []edit{{"rotation/lifetime.go", "must := notAfter.Add(-max(p.RenewBefore, floor))", "must := notAfter.Add(-floor / 4)"}}, []string{byLives, byHardLives}},
	{"the floor does not hold without a firing", []edit{{"rotation/lifetime.go", "if firing.IsZero() || firing.After(must) {\n\t\t\tfiring = must\n\t\t}", "if firing.IsZero() {\n\t\t\tfiring = notAfter\n\t\t}"}}, []string{byLives, "./rotation: TestDates"}},
	{"a failed step waits for a month", []edit{{"rotation/act.go", "return min(bound, first<<min(n-1, 10))", "_, _ = bound, first\n\treturn 30 * 24 * time.Hour"}}, []string{byLives, byHardLives}},
	{"the API servers' caches are forgotten", []edit{{"rotation/webhook_decide.go", "if at := wd.settledAt(v, now); now.Before(at) {", "if at := wd.settledAt(v, now); false {"}}, []string{byChanges, byHardLives}},
	{"a webhook gets its certificate before its CA is trusted", []edit{{"rotation/webhook_decide.go", "if o.CABundle.Holds(ca) {\n\t\t\tcontinue", "if o.CABundle.Holds(ca) || true {\n\t\t\tcontinue"}}, []string{byChanges, byHardLives}},
	{"a caBundle is replaced, not added to", []edit{{"rotation/webhook_decide.go", "a.cas = bounded(wd.need, o.CABundle)\n\t\tif o.Marks.Fleet", "a.cas = ca\n\t\tif o.Marks.Fleet"}}, []string{byChanges, byHardLives, "./rotation: Test.*Webhook"}},
	{"an old webhook CA is dropped before all replicas serve the new", []edit{{"rotation/webhook_decide.go", "ev := wd.evidence\n\tif wd.Leaf == nil ||", "ev := wd.evidence\n\tif wd.Leaf != nil {\n\t\treturn true\n\t}\n\tif wd.Leaf == nil ||"}}, []string{byChanges, byHardLives, "./rotation: Test.*Webhook"}},
	{"webhook CAs are never renewed", []edit{{"rotation/webhook_decide.go", "return p.Webhooks.CA.Dates(p.Cluster, ca.CreatedAt, ca.Certificate.NotAfter, p.Webhooks.Leaf.Lifetime)", "d := p.Webhooks.CA.Dates(p.Cluster, ca.CreatedAt, ca.Certificate.NotAfter, p.Webhooks.Leaf.Lifetime)\n\td.RenewAt, d.NextRun, d.MustRenewBy = ca.Certificate.NotAfter, ca.Certificate.NotAfter, ca.Certificate.NotAfter\n\treturn d"}}, []string{"./rotation: TestDecideWebhooks", byLives}},
	{"neither epoch nor mirror is asked", []edit{{"rotation/decide.go", "case epoch > f.Epoch:", "case false && epoch > f.Epoch:"}, {"rotation/mirror.go", "if lost == nil && (away.IsZero()", "if lost == nil && false && (away.IsZero()"}, {"rotation/mirror.go", "if errors.Is(lost, ErrSecondDaemon) {", "if false && errors.Is(lost, ErrSecondDaemon) {"}, {"rotation/mirror.go", "case r.fence.Lost() == nil:\n\t\treturn false\n\t}\n\tr.mirrorTold", "case true:\n\t\treturn false\n\t}\n\tr.mirrorTold"}}, []string{byDaemons}},
	{"an epoch does not grow", []edit{{"rotation/loop.go", "r.epoch, err = o.Journal.RaiseEpoch(uint64(r.wall().Unix()))", "r.epoch, err = 1, nil"}}, []string{byHardLives, byDaemons}},
	{"a lost answer is a failure, and nobody looks", []edit{{"rotation/act.go", "case errors.Is(err, ErrOutcomeUnknown) && tookEffect(in, m.view().Observed):", "case false:"}}, []string{byChanges, "./rotation: TestALost|TestACrash"}},
	{"what a lost answer left open is never closed", []edit{{"rotation/act.go", "if oerr := r.observe(hand, m); oerr != nil && errors.Is(err, ErrOutcomeUnknown) {\n\t\t\tr.addPending(m, open)\n\t\t\treturn err\n\t\t}", "if oerr := r.observe(hand, m); oerr != nil && errors.Is(err, ErrOutcomeUnknown) {\n\t\t\t_ = open\n\t\t\treturn err\n\t\t}"}}, []string{byChanges, byHardLives}},
	{"an issuer is signed without another look at the bundle", []edit{{"rotation/loop.go", "brief := r.issuerIsDue(m) && r.reread(ctx, m, BundleObject) == nil", "brief := r.issuerIsDue(m)"}}, []string{byBrief}},
	{"an issuer is signed after a brief look although something has changed", []edit{{"rotation/loop.go", "told := m.news || r.change", "told := r.change"}}, []string{byBrief}},
	{"what a crash left open is never closed", []edit{{"rotation/loop.go", "out, ours := unseen(p.Step, \"certd ended\")", "out, ours := unseen(p.Step, \"certd ended\")\n\t\tif p.Step == StepSign || p.Step == StepCanary {\n\t\t\tcontinue\n\t\t}"}}, []string{byHardLives, "./rotation: TestACrash"}},
	{"the journal is written after the effect", []edit{{"rotation/sign.go", "id, err := s.journal.Begin(in)\n\t\tif err != nil {\n\t\t\treturn nil, fmt.Errorf(\"record the intent to sign with %s: %w\", in.Key, err)\n\t\t}\n\t\tsig, err := s.key.SignDigest(s.ctx, digest)", "sig, err := s.key.SignDigest(s.ctx, digest)\n\t\tid, berr := s.journal.Begin(in)\n\t\tif berr != nil {\n\t\t\treturn nil, fmt.Errorf(\"record the intent to sign with %s: %w\", in.Key, berr)\n\t\t}"}}, []string{byHardLives}},
	{"a signature counts that is not recorded", []edit{{"rotation/sign.go", "// A signature whose outcome is not on disk is not used.\n\t\t\treturn nil, errors.Join(err, fmt.Errorf(\"record the outcome of signing with %s: %w\", in.Key, ferr))", "_ = ferr"}}, []string{"./rotation: TestASignatureThatCannotBeRecordedIsNotUsed"}},
	{"the trust anchor is never renewed", []edit{{"rotation/renew.go", "if !f.renewalDue(r.wall()) {", "if true {"}}, []string{byLives}},
	{"linkerd-identity keeps the dates that end", []edit{{"rotation/renew.go", "due = left < restartIdentityFor\n", "due = false\n"}}, []string{byLives, "./rotation: TestAnAnchorIsRenewed"}},
	{"a replica that missed its issuer is left alone", []edit{{"rotation/decide.go", "if d.Loaded == nil || d.Loaded.State != \"no\" ||", "if d.Loaded == nil || d.Loaded.State != \"\" ||"}}, []string{byHardLives}},
	{"a damaged bundle is left alone", []edit{{"rotation/decide.go", "d.repair(StepRepairBundle, BundleObject, \"the trust bundle is gone\", o.Bundle)", "d.Why = \"\""}}, []string{byHardLives}},
	{"a lost journal takes any anchor for its own", []edit{{"rotation/care.go", "if key == nil {\n\t\t\tr.mu.Lock()", "if key == nil {\n\t\t\tfound = append(found, Anchor{ID: generationID(9), Key: anchorKeyName(f.Policy.KeyPrefix, 9), Certificate: c, CreatedAt: c.NotBefore})\n\t\t\tr.mu.Lock()"}}, []string{"./rotation: TestALostJournal"}},
	{"the mirror is believed without its keys", []edit{{"rotation/mirror.go", "case errors.Is(err, ErrKeyNotFound), errors.Is(err, ErrKeyUnfit):\n\t\treturn nil, nil", "case errors.Is(err, ErrKeyNotFound), errors.Is(err, ErrKeyUnfit):\n\t\treturn &a, nil"}}, []string{"./rotation: TestAForgedMirrorIsNotBelieved"}},
	{"a canary is never signed", []edit{{"rotation/care.go", "case now.Sub(last).Abs() >= canaryEvery:", "case false:"}}, []string{byLives}},
	{"every firing renews", []edit{{"rotation/lifetime.go", "if !p.EveryFiring {\n\t\tdates.NextRun = dates.RenewAt\n\t}", ""}}, []string{byLives}},
	{"a certificate lives a second longer", []edit{{"pki/profile.go", "notBefore.Add(lifetime - time.Second).Truncate(time.Second)", "notBefore.Add(lifetime).Truncate(time.Second)"}}, []string{"./pki: ."}},
	{"a cluster's clock is not asked", []edit{{"rotation/decide.go", "case wrong != \"\":", "case false && wrong != \"\":"}}, []string{byDaemons, "./rotation: Test.*Clock"}},
	{"who began a change may approve of its end", []edit{{"rotation/approval.go", "case actor == p.Actor || actor == p.ByID:", "case false:"}}, []string{byChanges}},
	{"an approval outlives a turn", []edit{{"rotation/change.go", "c.CanaryAt, c.ProvedAt, c.Proceed, c.Approval = StageBridge, now, time.Time{}, time.Time{}, false, nil", "c.CanaryAt, c.ProvedAt, c.Proceed = StageBridge, now, time.Time{}, time.Time{}, false"}, {"rotation/change.go", "next.Proceed, next.First, next.Approval = false, \"\", nil", "next.Proceed, next.First = false, \"\""}}, []string{byChanges}},
	{"nobody has to approve", []edit{{"rotation/change.go", "if c.Stage == StageRetire && f.unapproved() {", "if false {"}}, []string{byChanges}},
	{"an approval outlives that a cluster is gone on without", []edit{{"rotation/change_loop.go", "c.Without, c.Approval = slices.Clone(c.Without), nil // who approved, had others in mind", "c.Without = slices.Clone(c.Without)"}}, []string{byChanges}},
	{"who began a change by number may approve by name", []edit{{"rotation/approval.go", "case actor == p.Actor || actor == p.ByID:", "case actor == p.Actor:"}}, []string{byChanges}},
	{"what another certd has undone of a change that is over is put right at once", []edit{{"rotation/care.go", "if f.Change != nil || f.Active() == nil || f.stays(v) {", "if f.Change != nil || f.Active() != nil || f.stays(v) {"}}, []string{"./rotation: TestAnotherCertdHasUndoneAChangeThatIsOver"}},
	{"an anchor is sought no further than the first key that was destroyed", []edit{{"rotation/webhook_act.go", "case !errors.Is(err, ErrKeyNotFound):\n\t\t\treturn 0, nil, fmt", "default:\n\t\t\treturn 0, nil, fmt"}}, []string{"./rotation: TestALostJournalAndADestroyedKey"}},
	{"who loses an issuer's second certificate in the bridge is passed over", []edit{{"rotation/change.go", "!c.ProvedAt.IsZero() && lateAt.After(c.ProvedAt) {", "false && lateAt.After(c.ProvedAt) {"}}, []string{"./rotation: TestAnIssuerFromBeforeTheChangeIsPutBackInTheBridge"}},
	{"another certd's issuer in between is passed over", []edit{{"rotation/change.go", "|| r.Serial != there; w.after {", "|| r.Serial == \"\" && there != \"\"; w.after {"}}, []string{byChanges, "./rotation: TestDecideInAChange"}},
	{"a restored journal keeps what it has proved", []edit{{"state/backup.go", "c != nil && !c.Compromised {", "c != nil && c.Compromised {"}}, []string{byChanges, "./state: TestRestoreHasAChangeBeginAnew"}},
	// The simulation restores such journals seldom: the scenarios do nothing else.
	{"a restored journal goes on with a change that is over", []edit{{"rotation/care.go", "if older == nil || newest == nil {", "if c.Stage != \"\" {"}}, []string{"./rotation: TestARestoredJournalIsFromBeforeAnotherChange"}},
	{"what another certd has undone counts as proved", []edit{{"rotation/loop.go", "case c != nil && !c.Compromised:\n\t\tagain := c.Again(r.wall())", "case c != nil && c.Compromised:\n\t\tagain := c.Again(r.wall())"}}, []string{"./rotation: TestAnotherCertdHasUndoneTheChange"}},
	{"who is deposed forgets it", []edit{{"rotation/loop.go", "m.epoch = max(m.epoch, seen)", "m.epoch = 0"}}, []string{"./rotation: TestAnEpochOfTheFuture"}},
	{"a pause lets certificates end", []edit{{"rotation/pause.go", "if over(d.caDates.MustRenewBy)", "if false && over(d.caDates.MustRenewBy)"}}, []string{"./rotation: Test.*Paused"}},
	{"leaves from before an upgrade of Linkerd are forgotten", []edit{{"rotation/terms.go", "if now.Before(t.Until.Add(p.drain(t.Lifetime, t.Skew)))", "if now.Before(t.Until)"}}, []string{byChanges, byHardLives}},
}

// TestMutantsDie: line R6. It builds each mutant over the sources, and none may outlive a
// thousand seeds.
func TestMutantsDie(t *testing.T) {
	run := scoreboard.Start(t, "R6", 1)
	run.Limit(uint64(len(mutants)))
	for i := range run.Seeds() {
		m := mutants[i]
		by, took := killed(t, m)
		if by == "" {
			t.Errorf("mutant %d outlives: %s", i, m.name)
			continue
		}
		run.Add("mutants killed", 1)
		t.Logf("mutant %d, %s: killed by %s in %s", i, m.name, by, took.Round(time.Second))
	}
}

// TestMutantsAreCertds: what each mutant changes is there, once.
func TestMutantsAreCertds(t *testing.T) {
	for i, m := range mutants {
		if _, err := m.overlay(t.TempDir()); err != nil {
			t.Errorf("mutant %d, %s: %v", i, m.name, err)
		}
	}
	if len(mutants) < 40 {
		t.Errorf("there are only %d", len(mutants))
	}
}

// overlay writes the changed files, and what `go build -overlay` takes.
func (m mutant) overlay(dir string) (path string, err error) {
	root, err := filepath.Abs("../../../..")
	if err != nil {
		return "", err
	}
	texts := map[string]string{}
	for _, e := range m.edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times", e.file, e.old, n)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range texts {
		changed := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = changed
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, b, 0o600)
}

// killed says which test found a mutant, "" if none did.
func killed(t *testing.T, m mutant) (by string, took time.Duration) {
	t.Helper()
	dir, begun := t.TempDir(), time.Now()
	overlay, err := m.overlay(dir)
	if err != nil {
		t.Errorf("%s: %v", m.name, err)
		return "", 0
	}
	for i, killer := range m.killers {
		pkg, name, _ := strings.Cut(killer, ": ")
		program := filepath.Join(dir, fmt.Sprintf("%d.test", i))
		build := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", program, pkg)
		build.Dir = "../../../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", m.name, err, out)
			return "", 0
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		run := exec.CommandContext(ctx, program, "-test.run", "^("+name+")", "-test.failfast", "-test.timeout", "30m")
		if name == "." {
			run.Args[2] = "."
		}
		run.Dir = filepath.Join("../../../..", pkg)
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, scoreboard.Dir+"=") && !strings.HasPrefix(v, scoreboard.Seeds+"=") {
				run.Env = append(run.Env, v)
			}
		}
		if killer == byHardLives || killer == byChanges {
			run.Env = append(run.Env, scoreboard.Seeds+"=0:1000")
		}
		out, err := run.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		switch {
		case bytes.Contains(out, []byte("no tests to run")):
			t.Errorf("%s: %s is no test", m.name, killer)
			return "", 0
		case err == nil:
			continue
		case !errors.As(err, &exit):
			t.Errorf("%s: %v", m.name, err)
			return "", 0
		}
		failed := regexp.MustCompile(`--- FAIL: (\S+)`).FindSubmatch(out)
		if failed == nil {
			t.Errorf("%s: %s did not end as a test does:\n%s", m.name, killer, out[max(0, len(out)-2000):])
			return "", 0
		}
		first := regexp.MustCompile(`seed \d+: .{0,160}`).Find(out)
		return strings.TrimSpace(string(failed[1]) + " " + string(first)), time.Since(begun)
	}
	return "", time.Since(begun)
}
