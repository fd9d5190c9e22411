package alert

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// A panel is one of the dashboard. It uses certd's own metrics and no recording
// rule, so that it shows something also where the rules are not loaded.
type panel struct {
	Title   string
	Kind    string // stat, table, timeseries, heatmap or state-timeline
	About   string // what a person is to see in it
	W, H    int    // of 24 columns; rows of 30 pixels
	Unit    string // as Grafana names them
	Steps   []step // colours, from the lowest value on
	Queries []query
	Stacked bool
	Label   bool // of a stat the legend is what it has to say
}

type query struct {
	Expr   string
	Legend string // template of Grafana; in a table the name of the column
	Unit   string // of the column
	Steps  []step
}

type step struct {
	Colour string
	From   float64
}

var floors = [...]step{{"red", 0}, {"orange", 1}, {"green", 2}}

// section is a row of panels with a heading.
type section struct {
	Title  string
	Panels []panel
}

func sections() []section {
	yes := []step{{"red", 0}, {"green", 1}}
	no := []step{{"green", 0}, {"orange", 1}}
	return []section{
		{"How long there is", []panel{
			{Title: "Nothing breaks before", Kind: "stat", W: 5, H: 4, Unit: "dateTimeAsIso", About: "Even if certd stops now.",
				Queries: []query{{Expr: `min(certd_nothing_breaks_before_timestamp_seconds{job="$job"}) * 1000`}}},
			{Title: "That is in", Kind: "stat", W: 4, H: 4, Unit: "s", Steps: []step{{"red", 0}, {"green", 1}}, About: "Until then a dead certd is no outage.",
				Queries: []query{{Expr: `min(certd_nothing_breaks_before_timestamp_seconds{job="$job"}) - time()`}}},
			{Title: "Clusters", Kind: "stat", W: 4, H: 4, About: "By state, as in certd status.",
				Queries: []query{{Expr: `max by (state) (certd_clusters{job="$job"}) > 0`, Legend: "{{state}}"}}},
			{Title: "Last look", Kind: "stat", W: 3, H: 4, Unit: "s", Steps: []step{{"green", 0}, {"orange", 300}, {"red", 1800}}, About: "Since certd has come around all clusters; a minute is usual.",
				Queries: []query{{Expr: `time() - max(certd_cycle_last_success_timestamp_seconds{job="$job"})`}}},
			{Title: "Vault", Kind: "stat", W: 3, H: 4, Steps: yes, About: "1: it answers and is unsealed.",
				Queries: []query{{Expr: `max(certd_vault_up{job="$job"})`}}},
			{Title: "certd", Kind: "stat", W: 5, H: 4, Label: true, About: "Who runs.",
				Queries: []query{{Expr: `sum by (version) (certd_build_info{job="$job"})`, Legend: "{{version}}"}}},
			{Title: "Findings", Kind: "table", W: 12, H: 7, About: "What certd status reports. certd runbook ID says what to do about each.",
				Queries: []query{{Expr: `max by (severity, cluster, id) (certd_findings{job="$job", cluster=~"$cluster"})`, Legend: "how many"}}},
			{Title: "Alerts", Kind: "table", W: 12, H: 7, About: "certd runbook NAME says what to do about each.",
				Queries: []query{{Expr: `sum by (alertname, severity, cluster, name) (ALERTS{job="$job", alertname=~"Certd.*", alertstate="firing"})`, Legend: "firing"}}},
		}},
		{"The fleet", []panel{
			{Title: "Clusters", Kind: "table", W: 24, H: 10, About: "Left: of what is in use. Floors: left, by the least that an issuer there must have left; below 1 is a page.",
				Queries: []query{
					{Expr: `max by (cluster) (certd_cluster_up{job="$job", cluster=~"$cluster"})`, Legend: "answers", Steps: yes},
					{Expr: `min by (cluster) (certd_certificate_not_after_timestamp_seconds{job="$job", cluster=~"$cluster", kind="issuer"}) - time()`, Legend: "issuer left", Unit: "s"},
					{Expr: `(min by (cluster) (certd_certificate_not_after_timestamp_seconds{job="$job", cluster=~"$cluster", kind="issuer"}) - time()) / on (cluster) max by (cluster) (certd_emergency_floor_seconds{job="$job"})`, Legend: "floors", Steps: floors[:]},
					{Expr: `max by (cluster) (certd_issuer_loaded{job="$job", cluster=~"$cluster"})`, Legend: "loaded", Steps: yes},
					{Expr: `min by (cluster) (certd_trust_bundle_current{job="$job", cluster=~"$cluster"})`, Legend: "bundle current", Steps: yes},
					{Expr: `min by (cluster) (certd_certificate_not_after_timestamp_seconds{job="$job", cluster=~"$cluster", kind="webhook"}) - time()`, Legend: "webhooks left", Unit: "s"},
					{Expr: `sum by (cluster) (certd_proxies{job="$job", cluster=~"$cluster", trust="current"})`, Legend: "proxies current"},
					{Expr: `sum by (cluster) (certd_proxies{job="$job", cluster=~"$cluster", trust="stale"})`, Legend: "proxies stale", Steps: no},
					{Expr: `min by (cluster) (certd_certificate_planned_rotation_timestamp_seconds{job="$job", cluster=~"$cluster"}) * 1000`, Legend: "next rotation", Unit: "dateTimeAsIso"},
					{Expr: `time() - max by (cluster) (certd_cluster_last_contact_timestamp_seconds{job="$job", cluster=~"$cluster"})`, Legend: "last seen", Unit: "s"},
				}},
			{Title: "Time left, the ten that end first", Kind: "timeseries", W: 12, H: 8, Unit: "s", About: "A saw: each rotation lifts it. One that goes on down is not renewed.",
				Queries: []query{{Expr: `bottomk(10, min by (cluster, kind, name) (certd_certificate_not_after_timestamp_seconds{job="$job", cluster=~"$cluster", kind=~"issuer|webhook"}) - time())`, Legend: "{{cluster}} {{kind}} {{name}}"}}},
			{Title: "Time left, all", Kind: "heatmap", W: 12, H: 8, Unit: "s", About: "How many certificates have how much left. The lower edge is the floor of the schedules.",
				Queries: []query{{Expr: `min by (cluster, kind, name) (certd_certificate_not_after_timestamp_seconds{job="$job", cluster=~"$cluster", kind=~"issuer|webhook"}) - time()`, Legend: "{{cluster}} {{name}}"}}},
		}},
		{"Trust", []panel{
			{Title: "Proxies by what they trust", Kind: "timeseries", W: 9, H: 7, Stacked: true, About: "Stale ones keep the anchors they were created with until they are restarted.",
				Queries: []query{{Expr: `sum by (trust) (certd_proxies{job="$job", cluster=~"$cluster"})`, Legend: "{{trust}}"}}},
			{Title: "Change of the trust anchor", Kind: "state-timeline", W: 9, H: 7, Steps: []step{{"transparent", 0}, {"blue", 1}}, About: "The stage that is 1. Each is safe to stay in.",
				Queries: []query{{Expr: `max by (phase) (certd_trust_rotation_phase{job="$job"})`, Legend: "{{phase}}"}}},
			{Title: "It moved last", Kind: "stat", W: 3, H: 7, Unit: "s", About: "Of no meaning while no change is under way.",
				Queries: []query{{Expr: `time() - max(certd_trust_rotation_progress_timestamp_seconds{job="$job"})`}}},
			{Title: "Trust anchors end in", Kind: "stat", W: 3, H: 7, Unit: "s", Steps: []step{{"red", 0}, {"orange", 60 * 86400}, {"green", 365 * 86400}},
				Queries: []query{{Expr: `min by (name) (certd_certificate_not_after_timestamp_seconds{job="$job", kind="anchor"}) - time()`, Legend: "{{name}}"}}},
		}},
		{"What certd does", []panel{
			{Title: "Rotations", Kind: "timeseries", W: 8, H: 7, Stacked: true, About: "In each interval, by outcome.",
				Queries: []query{{Expr: `sum by (kind, result) (increase(certd_rotations_total{job="$job", cluster=~"$cluster"}[$__rate_interval]))`, Legend: "{{kind}} {{result}}"}}},
			{Title: "How long a rotation takes", Kind: "timeseries", W: 8, H: 7, Unit: "s", About: "Nine of ten are faster.",
				Queries: []query{{Expr: `histogram_quantile(0.9, sum by (le, kind) (rate(certd_rotation_duration_seconds_bucket{job="$job"}[$__rate_interval])))`, Legend: "{{kind}}"}}},
			{Title: "Repairs", Kind: "timeseries", W: 8, H: 7, Stacked: true, About: "Of what others changed; by whom.",
				Queries: []query{{Expr: `sum by (cluster, object, by) (increase(certd_drift_repaired_total{job="$job", cluster=~"$cluster"}[$__rate_interval]))`, Legend: "{{cluster}} {{object}}, by {{by}}"}}},
			{Title: "Late", Kind: "timeseries", W: 12, H: 7, Unit: "s", About: "Since the time that a rotation was planned for. Nothing here is as it should be.",
				Queries: []query{{Expr: `(time() - max by (cluster, kind, name) (certd_certificate_planned_rotation_timestamp_seconds{job="$job", cluster=~"$cluster"})) > 0`, Legend: "{{cluster}} {{kind}} {{name}}"}}},
			{Title: "Notifications", Kind: "timeseries", W: 12, H: 7, Stacked: true,
				Queries: []query{{Expr: `sum by (receiver, result) (increase(certd_notifications_total{job="$job"}[$__rate_interval]))`, Legend: "{{receiver}} {{result}}"}}},
		}},
		{"certd and Vault", []panel{
			{Title: "Latency of Vault", Kind: "timeseries", W: 8, H: 7, Unit: "s", About: "Of 100 requests 99 are faster.",
				Queries: []query{{Expr: `histogram_quantile(0.99, sum by (le, operation) (rate(certd_vault_request_duration_seconds_bucket{job="$job"}[$__rate_interval])))`, Legend: "{{operation}}"}}},
			{Title: "Answers of Vault", Kind: "timeseries", W: 8, H: 7, Unit: "reqps", Stacked: true,
				Queries: []query{{Expr: `sum by (operation, code) (rate(certd_vault_request_duration_seconds_count{job="$job"}[$__rate_interval]))`, Legend: "{{operation}} {{code}}"}}},
			{Title: "Vault token ends in", Kind: "timeseries", W: 8, H: 7, Unit: "s", About: "A saw: it is renewed at half of its life.",
				Queries: []query{{Expr: `min(certd_vault_token_expiration_timestamp_seconds{job="$job"}) - time()`, Legend: "token"}}},
			{Title: "Since the last look", Kind: "timeseries", W: 8, H: 7, Unit: "s", About: "Stays below two minutes where all is well.",
				Queries: []query{{Expr: `time() - max(certd_cycle_last_success_timestamp_seconds{job="$job"})`, Legend: "last look"}}},
			{Title: "Journal", Kind: "timeseries", W: 8, H: 7, Unit: "bytes",
				Queries: []query{{Expr: `max by (instance) (certd_store_size_bytes{job="$job"})`, Legend: "{{instance}}"}}},
			{Title: "Leader, configuration", Kind: "timeseries", W: 8, H: 7, About: "1: leads; 1: the last reload was taken.",
				Queries: []query{
					{Expr: `max by (instance) (certd_leader{job="$job"})`, Legend: "{{instance}} leads"},
					{Expr: `min by (instance) (certd_config_last_reload_successful{job="$job"})`, Legend: "{{instance}} configuration"},
				}},
		}},
	}
}

// object is one of JSON.
type object = map[string]any

// Dashboard is a dashboard of Grafana 10 and later, to be imported or provisioned.
func Dashboard() ([]byte, error) {
	var panels []any
	id, y := 0, 0
	place := func(kind, title string, x, w, h int) object {
		id++
		return object{"id": id, "type": kind, "title": title, "gridPos": object{"x": x, "y": y, "w": w, "h": h}}
	}
	for _, s := range sections() {
		head := place("row", s.Title, 0, 24, 1)
		head["collapsed"], head["panels"] = false, []any{}
		panels = append(panels, head)
		y++
		x, height := 0, 0
		for _, p := range s.Panels {
			if x+p.W > 24 {
				x, y, height = 0, y+height, 0
			}
			panels = append(panels, p.fill(place(p.Kind, p.Title, x, p.W, p.H)))
			x, height = x+p.W, max(height, p.H)
		}
		y += height
	}
	doc := object{
		"uid": "certd", "title": "certd", "tags": []string{"certd", "linkerd"}, "schemaVersion": 39, "version": 1, "editable": true,
		"description": "The certificates of a Linkerd fleet, and the certd that looks after them. Made by make generate from cmd/certd/internal/alert.",
		"time":        object{"from": "now-7d", "to": "now"}, "refresh": "1m", "timezone": "browser", "graphTooltip": 1,
		"annotations": object{"list": []any{}}, "links": []any{},
		"templating": object{"list": []any{
			object{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
			variable("job", `label_values(certd_build_info, job)`, false),
			variable("cluster", `label_values(certd_cluster_up{job="$job"}, cluster)`, true),
		}},
		"panels": panels,
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the dashboard as JSON: %w", err)
	}
	return append(text, '\n'), nil
}

func source() object { return object{"type": "prometheus", "uid": "${datasource}"} }

// variable is one that the person at the dashboard chooses.
func variable(name, values string, several bool) object {
	v := object{"name": name, "label": name, "type": "query", "datasource": source(), "refresh": 2, "sort": 1, "hide": 0,
		"query": object{"query": values, "refId": name}, "definition": values, "multi": several, "includeAll": several}
	if several {
		v["allValue"] = ".*"
	}
	return v
}

// fill writes the panel into its place.
func (p panel) fill(o object) object {
	o["datasource"] = source()
	if p.About != "" {
		o["description"] = p.About
	}
	var targets []any
	for i, q := range p.Queries {
		t := object{"refId": string(rune('A' + i)), "datasource": source(), "expr": q.Expr, "editorMode": "code"}
		switch p.Kind {
		case "table":
			t["format"], t["instant"], t["range"] = "table", true, false
		case "stat":
			t["instant"], t["range"] = true, false
		default:
			t["range"] = true
		}
		if q.Legend != "" {
			t["legendFormat"] = q.Legend
		}
		targets = append(targets, t)
	}
	o["targets"] = targets
	defaults := object{"unit": cmp.Or(p.Unit, "short")}
	if p.Steps != nil {
		colour(defaults, p.Steps)
	}
	fields := object{"defaults": defaults, "overrides": []any{}}
	o["fieldConfig"] = fields
	switch p.Kind {
	case "stat":
		show := "value"
		switch {
		case p.Label:
			show = "name"
		case p.Queries[0].Legend != "":
			show = "value_and_name"
		}
		o["options"] = object{"colorMode": "value", "graphMode": "none", "reduceOptions": object{"calcs": []string{"lastNotNull"}}, "textMode": show}
	case "timeseries":
		defaults["custom"] = object{"lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "stacking": object{"mode": "none"}}
		if p.Stacked {
			defaults["custom"] = object{"lineWidth": 1, "fillOpacity": 30, "showPoints": "never", "stacking": object{"mode": "normal", "group": "A"}}
		}
		o["options"] = object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi", "sort": "desc"}}
	case "heatmap":
		o["options"] = object{"calculate": true, "yAxis": object{"unit": p.Unit}, "color": object{"mode": "scheme", "scheme": "Blues"}, "tooltip": object{"mode": "single"}}
	case "state-timeline":
		defaults["custom"] = object{"fillOpacity": 80, "lineWidth": 0}
		o["options"] = object{"showValue": "never", "mergeValues": true, "legend": object{"showLegend": false}}
	case "table":
		p.columns(o, fields)
	}
	return o
}

func colour(into object, steps []step) {
	var list []any
	for i, s := range steps {
		at := object{"color": s.Colour, "value": s.From}
		if i == 0 {
			at["value"] = nil // whatever is lower
		}
		list = append(list, at)
	}
	into["thresholds"] = object{"mode": "absolute", "steps": list}
	into["color"] = object{"mode": "thresholds"}
}

// columns makes one table of a panel's queries, a column for each.
func (p panel) columns(o, fields object) {
	rename, order := object{}, object{"cluster": 0}
	var overrides []any
	for i, q := range p.Queries {
		from := "Value"
		if len(p.Queries) > 1 {
			from = "Value #" + string(rune('A'+i))
		}
		rename[from], order[from] = q.Legend, i+1
		properties := []any{}
		if q.Unit != "" {
			properties = append(properties, object{"id": "unit", "value": q.Unit})
		}
		if q.Steps != nil {
			c := object{}
			colour(c, q.Steps)
			properties = append(properties, object{"id": "thresholds", "value": c["thresholds"]}, object{"id": "color", "value": c["color"]},
				object{"id": "custom.cellOptions", "value": object{"type": "color-text"}})
		}
		if len(properties) > 0 {
			overrides = append(overrides, object{"matcher": object{"id": "byName", "options": q.Legend}, "properties": properties})
		}
	}
	if overrides != nil {
		fields["overrides"] = overrides
	}
	o["transformations"] = []any{
		object{"id": "merge", "options": object{}},
		object{"id": "organize", "options": object{"excludeByName": object{"Time": true}, "indexByName": order, "renameByName": rename}},
	}
	o["options"] = object{"showHeader": true, "cellHeight": "sm"}
}
