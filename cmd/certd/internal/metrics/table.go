package metrics

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// table is every metric there is, in the order of the reference: what is
// registered and what is written about it come from the same words.
type table struct{ rows []row }

type row struct {
	name, kind, help string
	labels           []string
	desc             *prometheus.Desc // of a gauge
}

func (t *table) gauge(name, help string, labels ...string) *prometheus.Desc {
	desc := prometheus.NewDesc(name, help, labels, nil)
	t.rows = append(t.rows, row{name, "gauge", help, labels, desc})
	return desc
}

func (t *table) counter(name, help string, labels ...string) *prometheus.CounterVec {
	t.rows = append(t.rows, row{name, "counter", help, labels, nil})
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func (t *table) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	t.rows = append(t.rows, row{name, "histogram", help, labels, nil})
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// labelled is what labels hold, in the order of the reference.
func labelled() [][2]string {
	return [][2]string{
		{"cluster", "the cluster's name in the configuration; empty for what belongs to the fleet"},
		{"kind", "`anchor`, `foreign-anchor` (of a partner mesh), `issuer`, `webhook` or `webhook-ca`"},
		{"name", "of an anchor or webhook CA its generation (`g1`, `w1`), of a partner mesh or a webhook its name, of an issuer `linkerd-identity-issuer`"},
		{"seen_in", "`secret`: what was delivered; `identity`: what linkerd-identity has loaded, the earliest of its replicas'; `webhook`: what the webhook's pods serve, likewise; `bundle`: what proxies are told to trust; `journal`: the fleet's anchors and webhook CAs, as certd made them"},
		{"serial, anchor", "of the certificate in the Secret: its serial number, and the generation that signed it (empty where certd does not know it)"},
		{"trust", "`current`: the pod trusts what the cluster's bundle says; `stale`: it has to be created anew; `unknown`: it cannot be seen"},
		{"result", "of a rotation `ok`, `error`, or `not_loaded`: delivered, and not taken up until certd swapped the files once more; of a notification `ok` or `error`"},
		{"object, by", "what was mended, and who wrote it last, as far as the cluster tells (`unknown`); from the ninth writer of a cluster on, `other`"},
		{"state", "`ok`, `warning`, `critical` or `unknown`, as `certd status` says it"},
		{"id, severity", "of a [finding](findings.md)"},
		{"phase", "`idle`, `create`, `bridge`, `spread`, `restart`, `finish`, `retire` or `rollback`; exactly one is 1"},
		{"operation", "what Vault was asked: `sign`, `sign-issuer`, `read-key`, `read-ca`, `create-key`, `import-key`, `wrapping-key`, `login`, `renew-token`, `lookup-token`, `lookup-wrapping`, `unwrap`, `capabilities`, `list-audit`, `read-mirror`, `read-mirror-version`, `write-mirror` or `health`"},
		{"code", "HTTP status of Vault's answer; `none` if there was none"},
		{"receiver", "of notifications, by its name in the configuration"},
		{"version, revision, goversion", "of this build"},
	}
}

// Reference is docs/reference/metrics.md.
func Reference() []byte {
	var t table
	newReported(&t)
	newRecorded(&t)
	var b strings.Builder
	b.WriteString(`# Metrics

Where ` + "`server.listen`" + ` says so, certd answers Prometheus at ` + "`/metrics`" + `: [how to scrape it](../how-to/observe.md). This page
is made from the program (` + "`make generate`" + `).

Times are absolute, in Unix seconds: ` + "`x - time()`" + ` is how long there is, whenever it was scraped. **What is not known
is absent, never 0**: a cluster that nobody looked at has no ` + "`certd_cluster_up`" + `, one whose linkerd-identity cannot be seen
no ` + "`certd_issuer_loaded`" + `, a folder no ` + "`certd_proxies`" + `. What was seen before and cannot be seen now stays where it is a date
(the ends of certificates; ` + "`certd_cluster_last_contact_timestamp_seconds`" + ` says how old that is), and goes where it is a state.
Nothing here asks a cluster or Vault when it is scraped.

| metric | type | labels | meaning |
|---|---|---|---|
`)
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.name, r.kind, strings.Join(r.labels, ", "), r.help)
	}
	b.WriteString(`
## Labels

| label | values |
|---|---|
`)
	for _, l := range labelled() {
		fmt.Fprintf(&b, "| %s | %s |\n", l[0], l[1])
	}
	b.WriteString(`
Counters and histograms count since certd started, in clusters that are configured. Besides these there are the usual
metrics of a Go program (` + "`go_…`, `process_…`" + `) and of the answers themselves (` + "`promhttp_…`" + `).

A cluster with an issuer and three webhooks has about 34 series, so that 500 of them have 17,000; one with an issuer alone
about 16. Names come from the configuration and from certd, never from pods; who else writes in a cluster is bounded.
`)
	return []byte(b.String())
}

// labelsOf are the names of all labels that are explained.
func labelsOf() (names []string) {
	for _, l := range labelled() {
		names = append(names, strings.Split(l[0], ", ")...)
	}
	slices.Sort(names)
	return names
}
