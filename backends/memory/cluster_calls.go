package memory

import (
	"crypto/tls"
	"errors"
	"time"

	"certd.internal/rotation"
)

// WebhookCall is what an API server would do to admit an object: connect to one of a
// webhook's pods. Which one is chance.
type WebhookCall struct {
	Webhook string
	Object  rotation.ObjectRef // of the configuration
	Server  int                // of the API servers, from 0 on
	Name    string             // that the API server asks for in the certificate
	Pod     string             // "" where none is ready

	// CABundle is what the API server goes by, since it learned of it. It was written at
	// CAsWritten by CAsBy, and what the pod serves at ServedWritten by ServedBy.
	CABundle                  []byte
	CAsWritten, ServedWritten time.Time
	CAsBy, ServedBy           string

	served *served
}

var errServesNothing = errors.New("the pod has no certificate to serve")

// Serves is the certificate that the pod presents, with its key.
func (w WebhookCall) Serves() (*tls.Certificate, error) {
	s := w.served
	switch {
	case s == nil || len(s.crt) == 0:
		return nil, errServesNothing
	case s.problem != "":
		return nil, errors.New("the pod has no certificate to serve: " + s.problem)
	}
	if s.pair == nil {
		pair, err := tls.X509KeyPair(s.crt, s.key)
		if err != nil {
			return nil, err
		}
		s.pair = &pair
	}
	return s.pair, nil
}

// OnCalls has called called at each instant at which anything about a webhook has changed, or
// a certificate has begun or ended to be valid, with all calls that API servers could
// make then. They are what they are until called returns, which must ask nothing of
// the cluster. nil: nobody is told.
func (c *Cluster) OnCalls(called func(at time.Time, all []WebhookCall)) {
	c.asked(func(h *hooks, _ time.Time) { h.called = called })
}

// calls are those that could be made now.
func (h *hooks) calls() (all []WebhookCall) {
	for _, w := range h.installed {
		for _, ref := range w.spec.Objects {
			for server, views := range h.views {
				view := views[ref.String()]
				if view == nil {
					continue // it does not know of the webhook
				}
				call := WebhookCall{Webhook: w.spec.Name, Object: ref, Server: server, Name: w.spec.DNSNames[0], CABundle: view.text, CAsWritten: view.at, CAsBy: view.by}
				for _, r := range w.replicas {
					if r.started.IsZero() {
						continue
					}
					call.Pod, call.served = r.pod, r.served
					call.ServedWritten, call.ServedBy = r.served.at, r.served.by
					all = append(all, call)
				}
				if call.Pod == "" {
					all = append(all, call)
				}
			}
		}
	}
	return all
}
