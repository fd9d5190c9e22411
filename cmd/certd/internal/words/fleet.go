package words

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// Verdict is the state of a fleet in which that many problems were found:
// "warning, 2 problems".
func Verdict(s rotation.State, problems int) string {
	if problems == 0 {
		return string(s)
	}
	return string(s) + ", " + Count(problems, "problem")
}

// Breaking says how long there is until something stops working if certd does
// nothing more, at length and shorter; or what has stopped working. Both are ""
// where nothing is known that could.
func (c Clock) Breaking(st rotation.FleetStatus) (long, short string) {
	at := st.NothingBreaksBefore
	if at == nil {
		return "", ""
	}
	if left := at.Sub(c.Now); left > 0 {
		short = fmt.Sprintf("nothing breaks before %s (%s)", c.Day(*at), Coarse(left))
		return short + ", even if certd stops now", short
	}
	what := "something"
	if b := st.FirstToBreak; b != nil {
		what = strings.TrimSpace(b.Cluster + " " + b.Kind)
		if b.Kind == "webhook" {
			what += " " + b.Name
		}
		if b.Kind == "webhook" && !b.At.Before(st.ObservedAt) {
			// Its time is not over, and yet it does not work.
			return what + " is refused by the API server", what + " is refused"
		}
	}
	short = fmt.Sprintf("%s ended %s", what, c.Day(*at))
	return fmt.Sprintf("%s (%s ago)", short, Span(c.Now.Sub(*at))), short
}

// IssuerUsableUntil is when an issuer that was delivered stops: what
// linkerd-identity has loaded counts where it ends earlier than what lies in the
// Secret.
func IssuerUsableUntil(i *rotation.IssuerStatus) time.Time {
	end := i.Delivered.NotAfter
	if i.Loaded != nil && i.Loaded.NotAfter != nil && i.Loaded.NotAfter.Before(end) {
		end = *i.Loaded.NotAfter
	}
	return end
}

// NextOf is what comes next in a cluster, and when; nil where nothing does.
func NextOf(c rotation.ClusterStatus) (what string, at *time.Time) {
	if c.NextStep != nil {
		return strings.TrimSpace(string(c.NextStep.Step) + " " + c.NextStep.Webhook), &c.NextStep.At
	}
	if c.Mode == string(rotation.Watched) {
		return "", nil
	}
	earlier := func(step string, t *time.Time) {
		if t != nil && (at == nil || t.Before(*at)) {
			what, at = step, t
		}
	}
	if c.Issuer != nil {
		earlier(string(rotation.StepIssuer), c.Issuer.NextRun)
	}
	if c.WebhookCA != nil {
		earlier(string(rotation.StepWebhookCA), c.WebhookCA.NextRun)
	}
	for _, w := range c.Webhooks {
		earlier("webhooks", w.NextRun)
	}
	return what, at
}

// Next is what comes next in any of the clusters, and when: one line for each that
// comes at that very time. at is nil where nothing comes.
func Next(clusters []rotation.ClusterStatus) (what []string, at *time.Time) {
	for _, c := range clusters {
		switch step, t := NextOf(c); {
		case t == nil:
		case at == nil || t.Before(*at):
			at, what = t, []string{c.Name + ": " + step}
		case t.Equal(*at):
			what = append(what, c.Name+": "+step)
		}
	}
	return what, at
}

// A Planned is a step, or the same step for several webhooks at once.
type Planned struct {
	rotation.PlanItem
	Webhooks []string
}

// Together joins items that differ in nothing but the webhook, as far as minutes
// show.
func Together(items []rotation.PlanItem) (all []Planned) {
	type alike struct {
		cluster string
		step    rotation.Step
		at, due time.Time
	}
	at := map[alike]int{}
	for _, item := range items {
		if item.Webhook == "" {
			all = append(all, Planned{item, nil})
			continue
		}
		key := alike{item.Cluster, item.Step, item.At.Truncate(time.Minute), item.Due.Truncate(time.Minute)}
		i, seen := at[key]
		if !seen {
			i, at[key] = len(all), len(all)
			all = append(all, Planned{item, nil})
		}
		all[i].Webhooks = append(all[i].Webhooks, item.Webhook)
	}
	return all
}

// What is the step in words.
func (p Planned) What() string {
	what := string(p.Step)
	switch n := len(p.Webhooks); {
	case n == 1:
		what += " " + p.Webhooks[0]
	case n > 1:
		what += fmt.Sprintf(" (%d)", n)
	}
	return what
}

// Side names one side of a change of the trust anchor: where clusters that were
// taken over are brought to the fleet's anchor, each comes from its own.
func Side(id string) string { return cmp.Or(id, "what the meshes came with") }

// ChangeHead says in a sentence where a change of the trust anchor stands.
func ChangeHead(r rotation.RotationStatus) string {
	head := fmt.Sprintf("the trust anchor is being changed from %s to %s: stage %d of %d, %s", Side(r.From), Side(r.To), r.Number, r.Of, r.Stage)
	if r.Back {
		head = fmt.Sprintf("the change of the trust anchor was turned around, from %s back to %s: stage %d of %d, %s", Side(r.From), Side(r.To), r.Number, r.Of, r.Stage)
	}
	if r.Compromised {
		head = fmt.Sprintf("%s counts as compromised: trust turns to %s at once: stage %d of %d, %s", Side(r.From), Side(r.To), r.Number, r.Of, r.Stage)
	}
	if r.Held {
		head += " (held: certd trust resume)"
	}
	return head
}

// StaleOwners are the owners of a cluster's stale pods, each once, also where its
// pods trust different anchors.
func StaleOwners(p rotation.ProxiesStatus) (owners []rotation.StaleOwner) {
	for _, o := range p.Restart {
		i := slices.IndexFunc(owners, func(x rotation.StaleOwner) bool {
			return x.Namespace == o.Namespace && x.Kind == o.Kind && x.Name == o.Name
		})
		if i < 0 {
			owners = append(owners, o)
			continue
		}
		owners[i].Pods += o.Pods
	}
	return owners
}
