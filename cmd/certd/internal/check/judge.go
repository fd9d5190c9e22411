package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

const day = 24 * time.Hour

// linkerdWarns is what `linkerd check` wants every certificate to have left
// (linkerd2, pkg/issuercerts/issuercerts.go, expirationWarningThresholdInDays).
const linkerdWarns = 60 * day

func holds(format string, args ...any) []verdict { return []verdict{held("", format, args...)} }

func held(cluster, format string, args ...any) verdict {
	return verdict{cluster: cluster, result: Success, say: fmt.Sprintf(format, args...)}
}

// finding returns what certd itself finds in a cluster, or of the fleet where it
// is "".
func (j *judgement) finding(cluster string, ids ...string) *Finding {
	i := slices.IndexFunc(j.Findings, func(f Finding) bool { return f.Cluster == cluster && slices.Contains(ids, f.ID) })
	if i < 0 {
		return nil
	}
	return &j.Findings[i]
}

// settled keeps findings out of a claim that was judged by what was seen just
// now.
func (j *judgement) settled(cluster string, ids ...string) {
	for _, id := range ids {
		j.said[cluster+"/"+id] = true
	}
}

// each judges a claim in every cluster that was seen; the others are unknown.
func (j *judgement) each(of func(c Cluster) []verdict) (all []verdict) {
	for _, c := range j.Clusters {
		if c.Err != nil || c.Observed == nil {
			all = append(all, verdict{cluster: c.name(), result: Unknown, say: "it could not be seen", follows: clusterReachable})
			continue
		}
		for _, v := range of(c) {
			v.cluster = c.name()
			all = append(all, v)
		}
	}
	return all
}

// eachSeen holds in each cluster that was seen, unless a finding says otherwise.
func (j *judgement) eachSeen() []verdict {
	return j.each(func(Cluster) []verdict { return holds("") })
}

// daemonOnly holds where a daemon answers, unless a finding says otherwise.
func (j *judgement) daemonOnly() []verdict {
	if j.Daemon == nil {
		return nil
	}
	return holds("")
}

// others are findings that no claim is about.
func (j *judgement) others() []verdict {
	all := holds("")
	known := map[string]bool{}
	for _, c := range Claims() {
		for _, id := range c.Findings {
			known[id] = true
		}
	}
	for _, f := range j.Findings {
		if !known[f.ID] {
			all = append(all, found(f))
		}
	}
	return all
}

// about says what a category is about, for its heading.
func (j *judgement) about(category string) string {
	switch category {
	case CategoryKeys:
		return j.Keys.About
	case CategoryClusters:
		return fmt.Sprint(len(j.Clusters))
	}
	return ""
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// left writes a duration in one unit, cut off: what is left is never overstated.
func left(d time.Duration) string {
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return rotation.FormatDuration(d)
}

func clockOf(t time.Time) string { return t.Format("Mon 2 Jan 2006 15:04 MST") }

// listed names a few of many.
func listed(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
