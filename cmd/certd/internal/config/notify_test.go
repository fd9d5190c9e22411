package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
)

const receivers = `notify:
  receivers:
    ops: {slack: {urlFrom: {file: slack}}}
    pager: {pagerDuty: {routingKeyFrom: {env: KEY}, url: "https://events.eu.pagerduty.com"}, perMinute: 3}
    am: {alertmanager: {url: "http://10.0.0.7:9093"}, allowHTTP: true, allowPrivate: true, proxy: "http://proxy.example:3128"}
    soc: {webhook: {url: "https://soc.example/in", secretFrom: {credential: soc}}}
`

func TestNotify(t *testing.T) {
	path := write(t, map[string]string{"slack": "https://hooks.slack.com/services/s3cret\n", "certd.yaml": minimal + receivers + `  routes:
    - {match: {severity: [critical, unknown], cluster: [east], finding: [IssuerExpired], event: [finding]}, receivers: [pager, ops], continue: true}
    - {match: {labels: "tier in (dev,test)"}, receivers: []}
  default: [ops, am]
  digest: {schedule: "0 9 * * MON", timeZone: Europe/Berlin, receivers: [soc]}
`})
	c := loaded(t, path)
	p := c.Notify
	if p.After != time.Minute || p.GiveUp != 24*time.Hour || strings.Join(p.Default, " ") != "ops am" || len(c.Warnings) != 0 {
		t.Errorf("%+v\n%s", p, c.Warnings)
	}
	ops, pager, am, soc := p.Receivers["ops"], p.Receivers["pager"], p.Receivers["am"], p.Receivers["soc"]
	if s := ops.Receiver.(receiver.Slack); ops.PerMinute != 10 || s.URL.(Secret).File != filepath.Join(filepath.Dir(path), "slack") {
		t.Errorf("ops: %+v", ops)
	}
	if pd := pager.Receiver.(receiver.PagerDuty); pager.PerMinute != 3 || pd.URL != "https://events.eu.pagerduty.com" || pd.RoutingKey.(Secret).Env != "KEY" {
		t.Errorf("pager: %+v", pager)
	}
	if a := am.Receiver.(receiver.Alertmanager); a.URL != "http://10.0.0.7:9093" || !a.Access.AllowHTTP || !a.Access.AllowPrivate || a.Access.Proxy.Host != "proxy.example:3128" || a.Bearer != nil || a.Password != nil {
		t.Errorf("am: %+v", am)
	}
	if w := soc.Receiver.(receiver.Webhook); w.URL != "https://soc.example/in" || w.Secret.(Secret).Credential != "soc" || w.Access != (receiver.Access{}) {
		t.Errorf("soc: %+v", soc)
	}
	r := p.Routes[0]
	if len(p.Routes) != 2 || !r.Continue || r.Severities[1] != rotation.StateUnknown || r.Clusters[0] != "east" || r.Findings[0] != "IssuerExpired" || r.Events[0] != "finding" || r.Labels != nil ||
		strings.Join(r.Receivers, " ") != "pager ops" || p.Routes[1].Labels == nil || len(p.Routes[1].Receivers) != 0 {
		t.Errorf("%+v", p.Routes)
	}
	if d := p.Digest; d.Schedule.String() != "0 9 * * MON" || d.Schedule.Zone().String() != "Europe/Berlin" || d.Receivers[0] != "soc" {
		t.Errorf("%+v", d)
	}
	shown := map[string]string{}
	for _, v := range c.Values {
		shown[v.Path] = v.Value
		if strings.Contains(v.Value, "s3cret") {
			t.Errorf("a secret is shown: %+v", v)
		}
	}
	for path, want := range map[string]string{
		"notify.after": "1m", "notify.receivers.pager.perMinute": "3", "notify.receivers.ops.perMinute": "10", "notify.receivers.pager.pagerDuty.routingKeyFrom": "{env: KEY}",
		"notify.routes[0].match.severity": "critical, unknown", "notify.default": "ops, am", "notify.digest.timeZone": "Europe/Berlin",
	} {
		if shown[path] != want {
			t.Errorf("%s is shown as %q, want %q", path, shown[path], want)
		}
	}
	if c := loaded(t, write(t, map[string]string{"certd.yaml": minimal})); len(c.Notify.Receivers) != 0 || len(c.Warnings) != 0 {
		t.Errorf("without: %+v", c.Notify)
	}
}

func TestRoutesThatSurprise(t *testing.T) {
	for _, row := range []struct{ routes, want string }{
		{"  default: [ops, pager, am, soc]\n", ""},
		{"  default: []\n  routes: [{match: {severity: [critical]}, receivers: [ops, pager, am, soc]}]\n", ""},
		{"  routes: [{receivers: [ops, pager, am, soc]}]\n", ""},
		{"  routes: [{match: {severity: [critical]}, receivers: [ops, pager, am, soc]}]\n", "what no route matches is told to nobody"},
		{"  default: [ops, pager, am]\n", "names this receiver: it is told nothing"},
		{"  routes: [{receivers: [ops]}, {match: {severity: [critical]}, receivers: [pager, am, soc]}]\n", "it is never asked"},
		{"  routes: [{receivers: [ops], continue: true}, {receivers: [pager, am, soc]}]\n", ""},
	} {
		c := loaded(t, write(t, map[string]string{"slack": "x", "certd.yaml": minimal + receivers + row.routes}))
		if got := c.Warnings.Error(); (row.want == "") != (got == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: %q, want %q", row.routes, got, row.want)
		}
	}
}
