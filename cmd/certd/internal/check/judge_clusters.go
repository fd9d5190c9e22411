package check

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"certd.internal/rotation"
)

// reachable is judged by the look just now; a finding tells better what that
// means, where it says the same.
func (j *judgement) reachable() (all []verdict) {
	for _, c := range j.Clusters {
		ids := []string{"ClusterUnreachable", "NotSeenYet", "NotSeenLately"}
		f := j.finding(c.name(), ids...)
		j.settled(c.name(), ids...)
		switch {
		case c.Err == nil && c.Observed == nil:
			all = append(all, verdict{cluster: c.name(), result: Unknown, say: "it was not looked at in time"})
		case c.Err == nil:
			all = append(all, held(c.name(), "%s", c.Observed.Version))
		case errors.Is(c.Err, rotation.ErrDenied): // it answers: no
			all = append(all, held(c.name(), ""))
		case f != nil && f.ID == "ClusterUnreachable":
			all = append(all, verdict{cluster: c.name(), result: Error, say: f.Message, hint: "certd clusters test " + c.name(), runbook: f.ID})
		default:
			all = append(all, verdict{cluster: c.name(), result: Error, say: c.Err.Error(), hint: "certd clusters test " + c.name(), runbook: "ClusterUnreachable"})
		}
	}
	return all
}

// clockTolerated is how far a cluster's clock may be off without a word.
const clockTolerated = 5 * time.Second

func (j *judgement) clock() []verdict {
	return j.each(func(c Cluster) []verdict {
		skew := c.Observed.ClockSkew
		switch off := skew.Abs(); {
		case c.Policy.Directory: // it has none
			return holds("")
		case off > rotation.MaxClockSkew:
			j.settled(c.name(), "ClockSkew")
			return []verdict{{result: Error, runbook: "ClockSkew", say: fmt.Sprintf("its clock differs from certd's by %s: nothing is signed or written there", off.Round(time.Second)), hint: "check NTP on this host and on the cluster's control plane"}}
		case off > clockTolerated:
			return []verdict{{result: Warning, runbook: "ClockSkew", say: fmt.Sprintf("its clock differs from certd's by %s", off.Round(time.Second)), hint: "check NTP on this host and on the cluster's control plane"}}
		}
		return holds("below %s", clockTolerated)
	})
}

func (j *judgement) credential() []verdict {
	return j.each(func(c Cluster) []verdict {
		own := c.Observed.Credential
		if own == nil {
			return holds("")
		}
		j.settled(c.name(), "CredentialEnds")
		say, state := own.Problem(j.Now)
		if say == "" {
			return holds("")
		}
		v := verdict{result: Warning, runbook: "CredentialEnds", say: say, hint: "renew it in " + own.From}
		if state == rotation.StateCritical {
			v.result = Error
		}
		return []verdict{v}
	})
}

func (j *judgement) distinct() []verdict {
	seen := map[string]string{}
	return j.each(func(c Cluster) []verdict {
		other, twice := seen[c.Observed.Target]
		seen[c.Observed.Target] = cmp.Or(other, c.name())
		if twice && c.Observed.Target != "" {
			j.settled(c.name(), "SameCluster")
			return []verdict{{result: Error, runbook: "SameCluster", say: "is the same cluster as " + other, hint: "remove one of the two from the configuration"}}
		}
		return holds("")
	})
}

func (j *judgement) namespace() []verdict {
	return j.each(func(c Cluster) []verdict {
		j.settled(c.name(), "NamespaceMissing")
		switch {
		case c.Observed.Namespace:
			return holds("")
		case c.Policy.CreateNamespace:
			return holds("certd makes it")
		}
		return []verdict{{result: Warning, runbook: "NamespaceMissing", say: fmt.Sprintf("namespace %s does not exist", c.Policy.Namespace),
			hint: "kubectl create namespace " + c.Policy.Namespace + ", or set linkerd.createNamespace: true"}}
	})
}

// oneWriter names who else wrote what certd manages in the two objects. Where it
// does not look after the cluster, that is as it should be.
func (j *judgement) oneWriter() []verdict {
	return j.each(func(c Cluster) []verdict {
		all := holds("")
		if rotation.Decide(j.Fleet, c.View, j.Now).Mode == rotation.Watched {
			return all
		}
		for _, o := range []struct {
			name string
			is   rotation.ObjectState
		}{{"ConfigMap " + rotation.BundleObject, c.Observed.Bundle}, {"Secret " + rotation.IssuerObject, c.Observed.Issuer}} {
			if w := o.is.Writers; len(w) > 0 && j.finding(c.name(), "SecondWriter") == nil {
				all = append(all, verdict{result: Warning, runbook: "SecondWriter", say: fmt.Sprintf("%s wrote fields of %s that certd manages, at %s", w[0].Name, o.name, clockOf(w[0].At.UTC())), hint: "certd history --cluster " + c.name()})
			}
		}
		return all
	})
}
