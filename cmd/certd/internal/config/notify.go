package config

import (
	"crypto/x509"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"certd.internal/backends/receiver"
	"certd.internal/cmd/certd/internal/notify"
	"certd.internal/rotation"
)

func notifyFields() []field {
	severities := []string{string(rotation.StateCritical), string(rotation.StateWarning), string(rotation.StateUnknown), string(receiver.StateInfo)}
	return []field{
		{name: "after", kind: kindDuration, builtin: "1m", max: 24 * time.Hour, doc: "How long a finding has to last before it is told of, and to be gone before that is."},
		{name: "giveUp", kind: kindDuration, builtin: "1d", min: time.Minute, max: 30 * day, doc: "How long a message is tried; then it is counted as lost, and told of as such."},
		{name: "receivers", kind: kindMap, fields: receiverFields(), oneOf: receiverKinds(), doc: "Who can be told, by name."},
		{name: "routes", kind: kindList, doc: "Who is told of what: the first route that matches decides.", fields: []field{
			{name: "match", kind: kindObject, doc: "What it is for; all of these have to match, and what is left out does. Everything if left out.", fields: []field{
				{name: "event", kind: kindWords, filled: true, words: []string{notify.EventFinding, notify.EventTrust}, doc: "finding: something that a person should know; trust: a stage of a change of the trust anchor."},
				{name: "severity", kind: kindWords, filled: true, words: severities, doc: "How grave it is; info is what is no finding."},
				{name: "cluster", kind: kindDomains, filled: true, doc: "Names of clusters; findings of the fleet as a whole do not match."},
				{name: "labels", kind: kindSelector, doc: "A selector for clusters' labels, as in kubectl -l; likewise."},
				{name: "finding", kind: kindWords, filled: true, words: rotation.FindingIDs(), doc: "Ids of findings."},
			}},
			{name: "receivers", kind: kindDomains, required: true, doc: "Names of those who are told; [] for nobody."},
			{name: "continue", kind: kindBool, builtin: "false", doc: "Ask later routes, too."},
		}},
		{name: "default", kind: kindDomains, doc: "Names of those who are told of what no route matches."},
		{name: "digest", kind: kindObject, doc: "How things stand, at fixed times, whatever happens: proof of life.", fields: []field{
			{name: "schedule", kind: kindSchedule, required: true, doc: "When: a cron expression of five fields."},
			{name: "timeZone", kind: kindZone, builtin: "UTC", doc: "Where its wall clock hangs."},
			{name: "receivers", kind: kindDomains, required: true, filled: true, doc: "Names of those who get it."},
		}},
	}
}

func receiverKinds() []string { return []string{"slack", "pagerDuty", "alertmanager", "webhook"} }

func receiverFields() []field {
	return []field{
		{name: "slack", kind: kindObject, doc: "An incoming webhook of Slack's, or of one that takes the same.", fields: []field{
			{name: "urlFrom", kind: kindSecret, required: true, doc: "Its URL, which is a secret."},
		}},
		{name: "pagerDuty", kind: kindObject, doc: "A service of PagerDuty's, by Events API v2: an incident for each finding, resolved when it is over.", fields: []field{
			{name: "routingKeyFrom", kind: kindSecret, required: true, doc: "The integration key."},
			{name: "url", kind: kindURL, builtin: receiver.PagerDutyURL, doc: "https://events.eu.pagerduty.com for accounts in Europe."},
		}},
		{name: "alertmanager", kind: kindObject, doc: "An Alertmanager, by API v2, for those whose Prometheus does not scrape certd. Gets findings only.", fields: []field{
			{name: "url", kind: kindURL, required: true, doc: "Its address, without /api/v2/alerts."},
			{name: "basicAuth", kind: kindObject, doc: "Basic authentication.", fields: []field{
				{name: "username", kind: kindID, required: true, doc: "The user."},
				{name: "passwordFrom", kind: kindSecret, required: true, doc: "The password."},
			}},
			{name: "bearerTokenFrom", kind: kindSecret, doc: "A token to be sent instead."},
		}},
		{name: "webhook", kind: kindObject, doc: "Whoever takes signed webhooks as of Standard Webhooks.", fields: []field{
			{name: "url", kind: kindURL, required: true, doc: "Its address."},
			{name: "secretFrom", kind: kindSecret, required: true, doc: "What the messages are signed with: whsec_ and base64 of 24 to 64 bytes. While it is changed, both, with white space between them."},
		}},
		{name: "perMinute", kind: kindCount, builtin: "10", most: 600, doc: "How many messages it gets within a minute; more become one summary."},
		{name: "allowPrivate", kind: kindBool, builtin: "false", doc: "Its name may lead to an address that is not public."},
		{name: "allowHTTP", kind: kindBool, builtin: "false", doc: "It may be told unencrypted. This host may always."},
		{name: "proxy", kind: kindURL, doc: "The HTTP proxy to go through; none if left out, whatever the environment says."},
		{name: "caFile", kind: kindPath, doc: "CA certificates (PEM) that its own is checked against; the system's if left out."},
	}
}

// notify reads who is told of what.
func (b *builder) notify() {
	n := b.doc.sub("notify")
	fleet := layers{{"", b.doc}}
	p := notify.Policy{Receivers: map[string]notify.Receiver{}}
	if n == nil {
		b.config.Notify = p
		return
	}
	p.After = b.value(fleet, b.table, "notify", "after").duration
	p.GiveUp = b.value(fleet, b.table, "notify", "giveUp").duration
	receivers := n.sub("receivers")
	for _, name := range receivers.keysOf() {
		p.Receivers[name] = b.receiver(fleet, receivers.values[name], name)
	}
	named := map[string]bool{}
	names := func(list *node) (all []string) {
		if list == nil {
			return nil
		}
		for _, item := range list.items {
			if named[item.text] = true; receivers.sub(item.text) == nil && !b.reported(item.path) {
				b.problems.add(item.at, item.path, "there is no receiver %q%s", item.text, didYouMean(item.text, receivers.keysOf()))
			}
			all = append(all, item.text)
		}
		b.show(list.path, strings.Join(all, ", "), list, "")
		return all
	}
	everything := false // some route takes all that comes to it
	if routes := n.sub("routes"); routes != nil {
		for _, route := range routes.items {
			if everything {
				b.config.Warnings.add(route.at, route.path, "it is never asked: a route before it matches everything, without continue: true")
			}
			r := b.route(route)
			r.Receivers = names(route.sub("receivers"))
			p.Routes = append(p.Routes, r)
			everything = everything || !r.Continue && len(route.sub("match").keysOf()) == 0
		}
	}
	p.Default = names(n.sub("default"))
	if digest := n.sub("digest"); digest != nil {
		zone, err := time.LoadLocation(b.valueOf(digest, "timeZone").text)
		schedule, wrong := rotation.ParseSchedule(digest.textOf("schedule"), zone)
		if err == nil && wrong == nil {
			b.show(join(digest.path, "schedule"), schedule.String(), digest.sub("schedule"), "")
			p.Digest = &notify.Digest{Schedule: schedule, Receivers: names(digest.sub("receivers"))}
		}
	}
	for _, name := range receivers.keysOf() {
		if r := receivers.values[name]; !named[name] {
			b.config.Warnings.add(r.at, r.path, "no route, default or digest names this receiver: it is told nothing")
		}
	}
	if len(p.Receivers) > 0 && !everything && n.sub("default") == nil {
		b.config.Warnings.add(n.at, n.path, "what no route matches is told to nobody; name receivers in notify.default, or write default: [] if that is meant")
	}
	b.config.Notify = p
}

// valueOf is what holds below an element of a list or a map: what it says, or the
// default.
func (b *builder) valueOf(element *node, path ...string) *node {
	n := element.sub(path...)
	if n == nil {
		f := &element.field
		for _, name := range path {
			f = f.sub(name)
		}
		n = &node{field: *f, path: element.path + "." + strings.Join(path, "."), text: f.builtin, flag: f.builtin == "true"}
		n.check() // a test sees to it that every default passes
	}
	if n.text != "" || n.kind == kindBool {
		b.show(n.path, n.text, n, "")
	}
	return n
}

func (b *builder) route(n *node) notify.Route {
	r := notify.Route{Continue: b.valueOf(n, "continue").flag}
	m := n.sub("match")
	texts := func(name string) (all []string) {
		list := m.sub(name)
		if list == nil {
			return nil
		}
		for _, item := range list.items {
			all = append(all, item.text)
		}
		b.show(list.path, strings.Join(all, ", "), list, "")
		return all
	}
	r.Events, r.Clusters, r.Findings = texts("event"), texts("cluster"), texts("finding")
	for _, text := range texts("severity") {
		r.Severities = append(r.Severities, rotation.State(text))
	}
	if clusters := m.sub("cluster"); clusters != nil {
		var known []string
		for _, c := range b.config.Clusters {
			known = append(known, c.Policy.Cluster)
		}
		for _, item := range clusters.items {
			if !slices.Contains(known, item.text) && !b.reported("clusters", "clustersDir") {
				b.problems.add(item.at, item.path, "there is no cluster %q%s", item.text, didYouMean(item.text, known))
			}
		}
	}
	if selector := m.sub("labels"); selector != nil {
		r.Labels, _ = labels.Parse(selector.text) // checked where it stands
		b.show(selector.path, selector.text, selector, "")
	}
	return r
}

// receiver reads one of notify.receivers. What is missing or wrong by itself has
// been reported.
func (b *builder) receiver(fleet layers, n *node, name string) notify.Receiver {
	r := notify.Receiver{PerMinute: b.valueOf(n, "perMinute").count}
	access := receiver.Access{AllowPrivate: b.valueOf(n, "allowPrivate").flag, AllowHTTP: b.valueOf(n, "allowHTTP").flag}
	if proxy := n.sub("proxy"); proxy != nil {
		access.Proxy, _ = url.Parse(proxy.text) // checked where it stands
		b.show(proxy.path, proxy.text, proxy, "")
	}
	if ca := n.sub("caFile"); ca != nil {
		access.Roots = b.roots(ca)
	}
	secret := func(path ...string) receiver.Secret {
		return b.secret(fleet, append([]string{"notify", "receivers", name}, path...)...)
	}
	address := func(kind string) string {
		u := b.valueOf(n, kind, "url")
		if !b.reported(u.path) {
			if _, err := access.Check(u.text); err != nil {
				b.problems.add(u.at, u.path, "%.80s: %v", u.text, err)
			}
		}
		return u.text
	}
	switch {
	case n.sub("slack") != nil:
		r.Receiver = receiver.Slack{Access: access, URL: secret("slack", "urlFrom")}
	case n.sub("pagerDuty") != nil:
		r.Receiver = receiver.PagerDuty{Access: access, URL: address("pagerDuty"), RoutingKey: secret("pagerDuty", "routingKeyFrom")}
	case n.sub("alertmanager") != nil:
		a := receiver.Alertmanager{Access: access, URL: address("alertmanager")}
		if basic := n.sub("alertmanager", "basicAuth"); basic != nil {
			a.User, a.Password = basic.textOf("username"), secret("alertmanager", "basicAuth", "passwordFrom")
			if bearer := n.sub("alertmanager", "bearerTokenFrom"); bearer != nil {
				b.problems.add(bearer.at, bearer.path, "there is basicAuth, too: leave one of the two out")
			}
		} else if n.sub("alertmanager", "bearerTokenFrom") != nil {
			a.Bearer = secret("alertmanager", "bearerTokenFrom")
		}
		r.Receiver = a
	case n.sub("webhook") != nil:
		r.Receiver = receiver.Webhook{Access: access, URL: address("webhook"), Secret: secret("webhook", "secretFrom")}
	}
	return r
}

// roots reads CA certificates, and has their file watched.
func (b *builder) roots(n *node) *x509.CertPool {
	path := b.absolute(n)
	b.show(n.path, path, n, "")
	if !slices.Contains(b.config.Read, path) {
		b.config.Read = append(b.config.Read, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.problems.add(n.at, n.path, "%s", err)
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		b.problems.add(n.at, n.path, "%s holds no certificate in PEM", path)
	}
	return pool
}
