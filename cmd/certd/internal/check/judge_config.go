package check

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

func (j *judgement) configValid() []verdict {
	if len(j.Problems) == 0 {
		what := plural(len(j.Config.Clusters), "cluster")
		if n := freezes(j.Config); n > 0 {
			what += ", " + plural(n, "freeze")
		}
		return holds("%s, %s", filepath.Base(j.Config.File), what)
	}
	var all []verdict
	for _, p := range j.Problems {
		all = append(all, verdict{result: Error, say: p, hint: "certd config validate"})
	}
	return all
}

// freezes are those of the file, which all clusters have alike.
func freezes(c *config.Config) int {
	if len(c.Clusters) == 0 {
		return 0
	}
	return len(c.Clusters[0].Policy.Freezes)
}

// sixtyDays tells the one warning of configurations that has claims of its own.
const sixtyDays = "`linkerd check` warns below 60 days"

func (j *judgement) configSurprises() []verdict {
	all := holds("")
	for _, w := range j.Config.Warnings {
		if !strings.Contains(w.Message, sixtyDays) {
			all = append(all, verdict{result: Warning, say: w.String(), hint: "certd config validate"})
		}
	}
	return all
}

func (j *judgement) issuerPolicy() []verdict {
	return j.sixtyDays("issuer", func(p rotation.Policy) (rotation.RenewalPolicy, bool) { return p.Issuer, !p.Directory })
}

func (j *judgement) webhookPolicy() []verdict {
	return j.sixtyDays("webhooks", func(p rotation.Policy) (rotation.RenewalPolicy, bool) {
		return p.Webhooks.Leaf, len(p.Webhooks.Specs) > 0
	})
}

// sixtyDays warns once where certificates always have less than 60 days left, by
// the file's own words: `linkerd check` is yellow there at all times.
func (j *judgement) sixtyDays(field string, renewal func(rotation.Policy) (is rotation.RenewalPolicy, there bool)) []verdict {
	var least time.Duration
	var short []string
	for _, c := range j.Config.Clusters {
		is, there := renewal(c.Policy)
		switch {
		case !there:
			continue
		case is.RenewBefore < linkerdWarns:
			short = append(short, c.Policy.Cluster)
		}
		if least == 0 || is.RenewBefore < least {
			least = is.RenewBefore
		}
	}
	switch {
	case least == 0:
		return nil
	case len(short) == 0:
		return holds("least: %s", left(least))
	}
	return []verdict{{result: Warning,
		say: fmt.Sprintf("they are renewed with %s left at the least, by policy, and `linkerd check` warns of all that have less than 60 days, for ever and without need: %s",
			rotation.FormatDuration(least), listed(short, 3)),
		hint: field + ": {lifetime: 90d, renewBefore: 61d} in the configuration keeps it quiet; or leave it so, and certd check --fail-on error"}}
}

func (j *judgement) schedules() []verdict {
	var first time.Time
	var what string
	for _, s := range j.Config.NextSlots(j.Now, 1) {
		if len(s.Next) > 0 && (first.IsZero() || s.Next[0].Before(first)) {
			first, what = s.Next[0], s.Cluster
		}
	}
	if first.IsZero() {
		return holds("for the next ten years")
	}
	return holds("next: %s, %s", clockOf(first), what)
}

// clockChanges finds firings that fall into an hour that a zone's clocks skip or
// show twice. certd carries them out all the same, once; but not when the
// expression says.
func (j *judgement) clockChanges() []verdict {
	var all []verdict
	var told []string
	for _, s := range j.Config.NextSlots(j.Now, 0) {
		i := slices.IndexFunc(j.Config.Clusters, func(c config.Cluster) bool { return c.Policy.Cluster == s.Cluster })
		p := j.Config.Clusters[i].Policy
		for _, k := range []struct {
			name string
			is   rotation.Schedule
			used bool
		}{{"issuer.schedule", p.Issuer.Schedule, true}, {"webhooks.schedule", p.Webhooks.Leaf.Schedule, len(p.Webhooks.Specs) > 0}} {
			for _, ch := range s.Changes {
				say := moved(k.is, ch)
				if say == "" || !k.used || !rare(k.is, ch.At) {
					continue
				}
				say = fmt.Sprintf("%s %q in %s: %s", k.name, k.is, k.is.Zone(), say)
				if !slices.Contains(told, say) {
					told = append(told, say)
					all = append(all, verdict{result: Warning, say: say, hint: "choose another hour, or timeZone: UTC; nothing lapses if you leave it so"})
				}
			}
		}
	}
	if len(all) == 0 {
		return holds("")
	}
	return all
}

// rare says whether a schedule fires so seldom that people expect its hour.
func rare(s rotation.Schedule, at time.Time) bool {
	next := s.Next(at.Add(2 * day))
	return s.Next(next).Sub(next) > time.Hour
}

// moved says what becomes of a firing in the hour that a change skips or repeats,
// "" where none falls into it. What clocks show is asked of the same expression
// where every hour comes once.
func moved(s rotation.Schedule, ch config.ClockChange) string {
	plain, err := rotation.ParseSchedule(s.String(), time.UTC)
	if err != nil {
		return ""
	}
	from, to := ch.To, ch.From // repeated: from 02:00 to 03:00
	if ch.Forward {
		from, to = ch.From, ch.To
	}
	begin, err1 := time.Parse("15:04", from)
	end, err2 := time.Parse("15:04", to)
	if err1 != nil || err2 != nil {
		return ""
	}
	y, m, d := ch.At.Date()
	at := func(t time.Time) time.Time { return time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, time.UTC) }
	next := plain.Next(at(begin).Add(-time.Second))
	if next.IsZero() || !next.Before(at(end)) {
		return ""
	}
	shown := next.Format("15:04") + " of " + ch.At.Format("2 Jan 2006")
	if ch.Forward {
		return fmt.Sprintf("%s does not exist, and it fires at %s", shown, ch.At.Format("15:04 MST"))
	}
	return fmt.Sprintf("%s comes twice, and it fires in the first pass", shown)
}

func (j *judgement) stateDir() []verdict {
	return j.StateDir.verdict("mkdir -p %s, owned by the user that runs certd, or correct stateDir")
}

func (j *judgement) socketDir() []verdict {
	return j.Socket.verdict("mkdir -p %s, owned by the user that runs certd, or correct server.socket")
}

func (p Place) verdict(hint string) []verdict {
	switch {
	case p.Err != nil:
		return []verdict{{result: Error, say: p.Err.Error(), hint: fmt.Sprintf(hint, p.Path)}}
	case !p.Exists:
		return holds("%s, which certd makes", p.Path)
	}
	return holds("%s", p.Path)
}

func (j *judgement) journal() []verdict {
	switch {
	case j.Journal.Busy != "":
		return []verdict{{result: Unknown, ignored: true, say: j.Journal.Busy, hint: "certd history --verify"}}
	case j.Journal.Err != nil:
		return []verdict{{result: Error, say: j.Journal.Err.Error(), hint: "certd history --verify"}}
	case j.Journal.Problem != "":
		return []verdict{{result: Error, say: fmt.Sprintf("entry %d: %s", j.Journal.BadSeq, j.Journal.Problem), hint: "certd history --verify"}}
	case !j.Journal.Exists:
		return holds("there is none yet; certd init makes it")
	}
	return holds("%d entries", j.Journal.Entries)
}

func (j *judgement) daemonRuns() []verdict {
	if j.Daemon != nil {
		j.settled("", "DaemonNotRunning")
		return holds("pid %d, since %s", j.Daemon.PID, clockOf(j.Daemon.StartedAt))
	}
	j.settled("", "DaemonNotRunning")
	return []verdict{{result: Error, say: j.Unanswered, hint: "certd run", runbook: "DaemonNotRunning"}}
}

// CyclesEvery is how long the daemon may go without finishing a look at some
// cluster: it looks at each once a minute, and a look that hangs takes a quarter.
const CyclesEvery = 5 * time.Minute

func (j *judgement) daemonCycles() []verdict {
	if j.Daemon == nil || j.Config != nil && len(j.Config.Clusters) == 0 {
		return nil
	}
	last := j.Daemon.StartedAt
	if j.Daemon.LastCycleAt != nil {
		last = *j.Daemon.LastCycleAt
	}
	switch ago := j.Now.Sub(last); {
	case ago > CyclesEvery:
		return []verdict{{result: Error, say: fmt.Sprintf("the last look ended %s ago", left(ago)), hint: "certd status; look at the daemon's log, then start it anew"}}
	case j.Daemon.LastCycleAt == nil:
		return holds("it has just started")
	default:
		return holds("last: %s ago", left(max(ago, 0).Truncate(time.Second)))
	}
}

// silence is how long a receiver of notifications may have taken none before it is worth
// a test: a fleet that is well has nothing to tell.
const silence = 30 * 24 * time.Hour

func (j *judgement) receivers() []verdict {
	if j.Daemon == nil || len(j.Daemon.Receivers) == 0 {
		return nil
	}
	var silent []verdict
	for _, r := range j.Daemon.Receivers {
		hint := "certd debug notify " + r.Name
		switch {
		case r.FailingSince != nil: // a finding says so
		case r.LastDelivery == nil:
			silent = append(silent, verdict{result: Warning, say: r.Name + " has never taken a notification", hint: hint})
		case j.Now.Sub(*r.LastDelivery) > silence:
			silent = append(silent, verdict{result: Warning, say: fmt.Sprintf("%s last took a notification %s ago", r.Name, left(j.Now.Sub(*r.LastDelivery))), hint: hint})
		}
	}
	if len(silent) > 0 {
		return silent
	}
	return holds("%d", len(j.Daemon.Receivers))
}

func (j *judgement) daemonVersion() []verdict {
	switch {
	case j.Daemon == nil:
		return nil
	case j.Version != j.DaemonVersion:
		return []verdict{{result: Warning, say: fmt.Sprintf("the daemon is %s, the command %s", j.DaemonVersion, j.Version), hint: "start the daemon anew with the version that is to run"}}
	}
	return holds("%s", j.Version)
}
