package cli

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// A WebhookVerdict says what a webhook's certificate is worth: by itself, to
// the API server, and to what its pods really serve.
type WebhookVerdict struct {
	Name     string                `json:"name"`
	Secret   string                `json:"secret"`
	DNSName  string                `json:"dnsName"`
	Serves   Judgement             `json:"serves"` // what is in the Secret, to its servers
	Objects  []ObjectVerdict       `json:"objects"`
	Replicas []ReplicaVerdict      `json:"replicas,omitzero"` // absent where the pods were not asked
	Check    *rotation.CheckStatus `json:"check,omitempty"`
}

// An ObjectVerdict says whether the API server takes what is in the Secret.
type ObjectVerdict struct {
	Object   string    `json:"object"`
	Accepted Judgement `json:"accepted"`
	Ignored  bool      `json:"ignored"` // failurePolicy is Ignore
}

// A ReplicaVerdict says what a pod serves.
type ReplicaVerdict struct {
	Pod      string     `json:"pod"`
	State    string     `json:"state"`    // yes: what is in the Secret; no: something else; unknown
	Evidence string     `json:"evidence"` // how it was seen, or why it was not
	Serial   string     `json:"serial,omitempty"`
	NotAfter *time.Time `json:"notAfter,omitempty"`
	Accepted *Judgement `json:"accepted,omitempty"` // by the API server, whichever object it goes by
}

// texts are the parts of a stream of manifests.
func texts(input []byte) [][]byte {
	return bytes.Split(append([]byte("\n"), input...), []byte("\n---"))
}

// webhooksIn returns the webhooks that certd has fetched from a cluster; none
// if the input is anything else.
func webhooksIn(input []byte) (all []api.Webhook) {
	if !bytes.Contains(input, []byte(rotation.APIVersion)) {
		return nil
	}
	for _, text := range texts(input) {
		var w api.Webhook
		if bytes.Contains(text, []byte(rotation.APIVersion)) && yaml.Unmarshal(text, &w) == nil && w.APIVersion == rotation.APIVersion && w.Kind == "Webhook" {
			all = append(all, w)
		}
	}
	return all
}

// webhookSections are the texts of a webhook, each under where it stands.
func webhookSections(w api.Webhook, named bool) (all []section) {
	from := func(where string) string {
		if named {
			return w.Name + "/" + where
		}
		return where
	}
	all = []section{{from("tls.crt"), []byte(w.Chain)}, {from("ca.crt"), []byte(w.CAs)}}
	for _, o := range w.Objects {
		where := "caBundle"
		if len(w.Objects) > 1 {
			where += " of " + o.Object
		}
		all = append(all, section{from(where), []byte(o.CABundle)})
	}
	for _, r := range w.Replicas {
		all = append(all, section{from("served by " + r.Pod), []byte(r.Chain)})
	}
	return all
}

func judgeWebhook(w api.Webhook, now time.Time) WebhookVerdict {
	v := WebhookVerdict{Name: w.Name, Secret: w.Secret, DNSName: w.DNSName, Objects: []ObjectVerdict{}, Check: w.Check,
		Serves: Judgement{true, "its key is its own"}}
	chain, _ := pki.ReadCertificates([]byte(w.Chain))
	switch {
	case w.Problem != "":
		v.Serves = Judgement{false, w.Problem}
	case len(chain) == 0:
		v.Serves = Judgement{false, "it holds no certificate"}
	case now.After(chain[0].NotAfter):
		v.Serves = Judgement{false, fmt.Sprintf("its certificate ended %s ago", span(now.Sub(chain[0].NotAfter)))}
	}
	for _, o := range w.Objects {
		v.Objects = append(v.Objects, ObjectVerdict{o.Object, judgeServed(chain, o, w.DNSName, now), o.Ignored})
	}
	if w.Replicas != nil {
		v.Replicas = []ReplicaVerdict{}
	}
	for _, r := range w.Replicas {
		rv := ReplicaVerdict{Pod: r.Pod, State: "unknown", Evidence: r.Evidence}
		if served, _ := pki.ReadCertificates([]byte(r.Chain)); len(served) > 0 {
			rv.State, rv.Serial, rv.NotAfter = "yes", pki.Serial(served[0]), &served[0].NotAfter
			if len(chain) == 0 || !chain[0].Equal(served[0]) {
				rv.State = "no"
			}
			for _, o := range w.Objects {
				if j := judgeServed(served, o, w.DNSName, now); rv.Accepted == nil || !j.Usable {
					rv.Accepted = &j
				}
			}
		}
		v.Replicas = append(v.Replicas, rv)
	}
	return v
}

// judgeServed says whether the API server would take a chain by an object.
func judgeServed(chain []*x509.Certificate, o api.WebhookObject, name string, now time.Time) Judgement {
	set := pki.ParseCASet([]byte(o.CABundle))
	var err error
	switch {
	case len(chain) == 0:
		err = errors.New("there is no certificate")
	case name == "":
		err = errors.New("nothing says under which name it is called")
	case set.IsZero():
		err = errors.New("it is empty")
	default:
		err = set.Verify(chain, name, now)
	}
	if err != nil {
		return Judgement{false, err.Error()}
	}
	return Judgement{true, "as " + name}
}

// webhookVerdict tells it: a line for each thing that decides.
func (s style) webhookVerdict(v WebhookVerdict) []string {
	var lines []string
	say := func(m mark, format string, args ...any) {
		lines = append(lines, s.wrap(s.mark(m)+" ", "  ", s.clean(fmt.Sprintf(format, args...)))...)
	}
	if v.Serves.Usable {
		say(markOK, "webhook %s can serve with Secret %s: %s", v.Name, v.Secret, v.Serves.Why)
	} else {
		say(markCritical, "webhook %s cannot serve with Secret %s: %s", v.Name, v.Secret, v.Serves.Why)
	}
	for _, o := range v.Objects {
		switch j := o.Accepted; {
		case j.Usable:
			say(markOK, "accepted under the caBundle of %s %s", o.Object, j.Why)
		case o.Ignored:
			say(markCritical, "not accepted under the caBundle of %s: %s; failurePolicy is Ignore, so the API server goes on without it and tells nobody", o.Object, j.Why)
		default:
			say(markCritical, "not accepted under the caBundle of %s: %s", o.Object, j.Why)
		}
	}
	if v.Replicas != nil && len(v.Replicas) == 0 {
		say(markUnknown, "no pod serves it")
	}
	for _, r := range v.Replicas {
		m, what := markUnknown, "what "+r.Pod+" serves cannot be seen: "+cmp.Or(r.Evidence, "no reason is known")
		switch r.State {
		case "yes":
			m, what = markOK, r.Pod+" serves it ("+r.Evidence+")"
		case "no":
			m, what = markWarning, fmt.Sprintf("%s serves another certificate, %s until %s (%s)", r.Pod, brief(r.Serial), s.when(*r.NotAfter), r.Evidence)
			if r.Accepted != nil && r.Accepted.Usable {
				what += "; the API server accepts it, too"
			}
		}
		if r.Accepted != nil && !r.Accepted.Usable {
			m, what = markCritical, what+"; the API server does not accept it: "+r.Accepted.Why
		}
		say(m, "%s", what)
	}
	if c := v.Check; c != nil {
		switch c.State {
		case "yes":
			say(markOK, "%s", strings.TrimSpace("does its work, as tried now: "+c.Evidence))
		case "no":
			say(markCritical, "does not do its work: %s", c.Evidence)
		default:
			say(markUnknown, "whether it does its work could not be seen: %s", c.Evidence)
		}
	}
	return lines
}
