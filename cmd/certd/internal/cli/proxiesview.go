package cli

import (
	"fmt"
	"slices"
	"strings"

	"certd.internal/rotation"
)

// mostOwners is how many owners of stale pods a cluster's view names.
const mostOwners = 10

// hasProxies says whether meshed pods were looked for in any of the clusters.
func hasProxies(clusters []rotation.ClusterStatus) bool {
	return slices.ContainsFunc(clusters, func(c rotation.ClusterStatus) bool { return c.Proxies != nil })
}

// aboutProxies says whether a finding is about what a cluster's pods trust.
func aboutProxies(f rotation.Finding) bool { return strings.HasPrefix(f.ID, "Proxies") }

// proxies is a cluster's cell of the table: the pods that trust the bundle, of
// all; with a question mark where the count is not whole.
func (v statusView) proxies(c rotation.ClusterStatus) cell {
	p := c.Proxies
	switch {
	case p == nil:
		return nothing(c)
	case p.Problem != "" && p.Total == 0:
		return text("?")
	}
	said := cell{text: fmt.Sprintf("%d/%d", p.Current, p.Total)}
	if p.Problem != "" {
		said.text += " ?"
	}
	if p.Stale > 0 {
		said.sgr = markWarning.sgr
	}
	return said
}

// proxyTotal counts the pods of the fleet, and those that trust the bundle.
func proxyTotal(clusters []rotation.ClusterStatus) (current, total int) {
	for _, c := range clusters {
		if p := c.Proxies; p != nil {
			current, total = current+p.Current, total+p.Total
		}
	}
	return current, total
}

func proxyWord(n int) string {
	if n == 1 {
		return "proxy"
	}
	return "proxies"
}

// thousands writes a count with a comma between each three digits.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// proxySection says what the meshed pods of a cluster trust, and what has to
// be restarted for it.
func (v statusView) proxySection(c rotation.ClusterStatus) []string {
	p := c.Proxies
	if p == nil {
		return nil
	}
	lines := []string{"PROXIES"}
	if p.Total > 0 {
		said := fmt.Sprintf("%s of %s trust the bundle", thousands(p.Current), thousands(p.Total))
		if p.Stale > 0 {
			said += fmt.Sprintf(" · %s other anchors", thousands(p.Stale))
		}
		if p.Unknown > 0 {
			said += fmt.Sprintf(" · %s cannot be told", thousands(p.Unknown))
		}
		if p.At != nil {
			said += " · counted " + span(v.now.Sub(*p.At)) + " ago"
		}
		lines = append(lines, v.wrap("  ", "  ", v.plain(said))...)
	}
	if p.Problem != "" {
		lead := "  " + v.mark(markUnknown) + " "
		lines = append(lines, v.wrap(lead, strings.Repeat(" ", cells(lead)), v.clean(p.Problem))...)
	}
	owners, named := staleOwners(*p), 0
	for i, o := range owners {
		named += o.Pods
		if i < mostOwners {
			lines = append(lines, v.restart(o)...)
		}
	}
	if more := len(owners) - mostOwners; more > 0 {
		lines = append(lines, v.wrap("  ", "  ", fmt.Sprintf("and %d more (certd status %s -o json)", more, v.clean(c.Name)))...)
	}
	if rest := p.Stale - named; rest > 0 && len(owners) > 0 {
		lines = append(lines, v.wrap("  ", "  ", fmt.Sprintf("and %s of owners that were not noted", count(rest, "pod")))...)
	}
	return append(lines, "")
}

// staleOwners are the owners of stale pods, each once, also where its pods
// trust different anchors.
func staleOwners(p rotation.ProxiesStatus) (owners []rotation.StaleOwner) {
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

// ofWhat names what makes an owner in its turn.
func ofWhat(o rotation.StaleOwner) string {
	if o.Of == nil {
		return ""
	}
	return fmt.Sprintf(" of %s %s", o.Of.Kind, o.Of.Name)
}

// restart is the command that creates an owner's pods anew, where there is one
// for its kind. The count is a shell's comment, so that the line can be typed.
func (v style) restart(o rotation.StaleOwner) []string {
	pods := count(o.Pods, "pod")
	command := rotation.RestartCommand(o.Owner())
	if command == "" {
		return v.wrap("    ", "    ", v.clean(fmt.Sprintf("%s/%s %s%s: %s, to be created anew: %s", o.Namespace, o.Kind, o.Name, ofWhat(o), pods, rotation.RestartAdvice(o.Owner()))))
	}
	return v.next(command + " # " + pods)
}
