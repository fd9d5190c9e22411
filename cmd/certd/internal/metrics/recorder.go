// Package metrics tells Prometheus what certd knows: what the loop does is
// counted as it happens (Recorder), how the fleet is, is read from the report
// behind certd status at each scrape (Handler).
package metrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"certd.internal/rotation"
)

// recorded is what is counted as it happens.
type recorded struct {
	rotations     *prometheus.CounterVec
	rotationTook  *prometheus.HistogramVec
	repairs       *prometheus.CounterVec
	vaultTook     *prometheus.HistogramVec
	notifications *prometheus.CounterVec
}

func newRecorded(t *table) recorded {
	return recorded{
		rotations: t.counter("certd_rotations_total", "Certificates that certd tried to replace, repairs included. One that fails is counted at each try; one whose answer was lost as an error, and as ok once it is seen to be there. Of kind anchor: its renewals, and the changes of the trust anchor that have ended.",
			"cluster", "kind", "result"),
		rotationTook: t.histogram("certd_rotation_duration_seconds", "How long it took to sign a certificate, to write it and to look at it, where that succeeded.",
			[]float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}, "kind"),
		repairs: t.counter("certd_drift_repaired_total", "What somebody else had changed or removed and certd put back.", "cluster", "object", "by"),
		vaultTook: t.histogram("certd_vault_request_duration_seconds", "Requests to Vault, each once: certd repeats none by itself.",
			[]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}, "operation", "code"),
		notifications: t.counter("certd_notifications_total", "Notifications: `ok` was taken, `error` is one that failed and is tried again, `lost` one that was given up.", "receiver", "result"),
	}
}

// Recorder counts. It is safe for concurrent use, and quick.
type Recorder struct {
	recorded

	mu         sync.Mutex
	clusters   map[string]map[string]bool // those with series → who wrote there
	reloadedAt time.Time
	vaultUp    bool
	vaultAt    time.Time // when that was found; zero: never
}

// NewRecorder has counted nothing yet. The configuration counts as loaded now.
func NewRecorder() *Recorder {
	return &Recorder{recorded: newRecorded(&table{}), clusters: map[string]map[string]bool{}, reloadedAt: time.Now()}
}

// mostWriters bounds the names of others that one cluster can bring into labels.
const mostWriters = 8

// Tried counts a step: it is rotation.Options.Tried.
func (r *Recorder) Tried(a rotation.Attempt) {
	kind, result := rotated(a)
	if kind != "" && result != "" {
		r.know(a.Cluster)
		r.rotations.WithLabelValues(a.Cluster, kind, result).Inc()
		if result == resultOK && a.Took > 0 {
			r.rotationTook.WithLabelValues(kind).Observe(a.Took.Seconds())
		}
	}
	switch a.Step {
	case rotation.StepRepairBundle, rotation.StepRepairIssuer, rotation.StepRepairMetadata, rotation.StepRepairTrust, rotation.StepRepairWebhook:
		if a.Err == nil {
			r.repairs.WithLabelValues(a.Cluster, text(a.Object), r.writer(a.Cluster, a.Writer)).Inc()
		}
	}
}

const (
	resultOK        = "ok"
	resultError     = "error"
	resultNotLoaded = "not_loaded"
)

// rotated says which kind of certificate a step was to replace, if any, and how
// that went.
func rotated(a rotation.Attempt) (kind, result string) {
	result = resultOK
	if a.Err != nil {
		result = resultError
	}
	switch a.Step {
	case rotation.StepIssuer, rotation.StepRepairIssuer:
		return kindIssuer, result
	case rotation.StepWebhook, rotation.StepRepairWebhook:
		return kindWebhook, result
	case rotation.StepWebhookCA:
		return kindWebhookCA, result
	case rotation.StepTrustRenew, rotation.StepTrustChange:
		return kindAnchor, result
	case rotation.StepIssuerReload, rotation.StepWebhookReload:
		if a.Err != nil {
			return "", "" // it will be tried again
		}
		if a.Step == rotation.StepIssuerReload {
			return kindIssuer, resultNotLoaded
		}
		return kindWebhook, resultNotLoaded
	}
	return "", ""
}

// know notes that a cluster has series.
func (r *Recorder) know(cluster string) map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.knowNow(cluster)
}

func (r *Recorder) knowNow(cluster string) map[string]bool {
	if r.clusters[cluster] == nil {
		r.clusters[cluster] = map[string]bool{}
	}
	return r.clusters[cluster]
}

// writer is what somebody is called in labels. The name comes from the cluster,
// where anybody may call himself anything.
func (r *Recorder) writer(cluster, name string) string {
	if name == "" {
		return "unknown"
	}
	name = text(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.knowNow(cluster)
	if !known[name] && len(known) >= mostWriters {
		return "other"
	}
	known[name] = true
	return name
}

// text is a label of moderate length that Prometheus takes.
func text(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}

// Keep drops what is counted of clusters that are no longer configured, and has
// the others begin at 0.
func (r *Recorder) Keep(clusters []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := map[string]bool{"": true}
	for _, c := range clusters {
		keep[c] = true
		r.knowNow(c)
		r.rotations.WithLabelValues(c, kindIssuer, resultOK)
		r.rotations.WithLabelValues(c, kindIssuer, resultError)
	}
	for c := range r.clusters {
		if !keep[c] {
			r.rotations.DeletePartialMatch(prometheus.Labels{"cluster": c})
			r.repairs.DeletePartialMatch(prometheus.Labels{"cluster": c})
			delete(r.clusters, c)
		}
	}
}

// VaultRequest counts one exchange: it is vault.Config.Observe.
func (r *Recorder) VaultRequest(operation, code string, took time.Duration) {
	r.vaultTook.WithLabelValues(operation, code).Observe(took.Seconds())
}

// VaultHealth notes whether Vault answers and is unsealed.
func (r *Recorder) VaultHealth(up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vaultUp, r.vaultAt = up, time.Now()
}

// Reloaded notes that a configuration was taken over.
func (r *Recorder) Reloaded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reloadedAt = time.Now()
}

// Notified counts notifications of which something became: none of a receiver that
// there is shows it with zeros.
func (r *Recorder) Notified(receiver, result string, by int) {
	r.notifications.WithLabelValues(receiver, result).Add(float64(by))
}
