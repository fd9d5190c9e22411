package receiver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"certd.internal/rotation"
)

// Alertmanager is a Prometheus Alertmanager, asked by its API v2. It forgets an
// alert unless that is sent again, and ends those that certd no longer sends, be
// it that certd is dead. Its users are better served by Prometheus where that
// scrapes certd.
type Alertmanager struct {
	Access   Access
	URL      string // without /api/v2/alerts
	User     string // for basic authentication; "" for none
	Password Secret // of User
	Bearer   Secret // a token, instead of User; nil: none
}

const (
	// resend is how often what lasts is sent again, and lasts for how long an
	// alert holds without: some of those may get lost.
	resend = time.Minute
	lasts  = 5 * time.Minute
	// alertsAtOnce are the most in one request.
	alertsAtOnce = 500
)

// Traits implements Receiver.
func (Alertmanager) Traits() Traits {
	return Traits{Kind: "alertmanager", Batch: true, Resend: resend, FindingsOnly: true}
}

type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// Send implements Receiver.
func (a Alertmanager) Send(ctx context.Context, messages []Message) error {
	var alerts []alert
	now := time.Now().UTC()
	for _, m := range messages {
		for _, x := range alertsOf(m, now) {
			if err := x.check(); err != nil {
				return &Failure{Why: fmt.Sprintf("tell Alertmanager of %s: %v", m.Summary, err), Refused: true}
			}
			alerts = append(alerts, x)
		}
	}
	base, err := a.Access.Check(a.URL)
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell Alertmanager: its URL cannot be used: %v", err)}
	}
	header, err := a.authorization()
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell Alertmanager: %v", err)}
	}
	for part := range slices.Chunk(alerts, alertsAtOnce) {
		body, err := json.Marshal(part)
		if err != nil {
			return fmt.Errorf("tell Alertmanager: %w", err)
		}
		if err := a.Access.post(ctx, "Alertmanager", at(base, "api/v2/alerts"), header, body); err != nil {
			return err
		}
	}
	return nil
}

func (a Alertmanager) authorization() (http.Header, error) {
	header := http.Header{}
	switch {
	case a.Bearer != nil:
		token, err := a.Bearer.Read()
		if err != nil {
			return nil, err
		}
		header.Set("Authorization", "Bearer "+string(token))
	case a.User != "":
		password, err := a.Password.Read()
		if err != nil {
			return nil, err
		}
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(a.User+":"+string(password))))
	}
	return header, nil
}

// alertsOf makes of a message what Alertmanager takes. Its labels are what it
// knows an alert by, the severity among them: one that escalates is another one,
// and the former is ended.
func alertsOf(m Message, now time.Time) []alert {
	x := alert{Labels: map[string]string{"fleet": m.Fleet, "severity": severity(m.Severity, "unknown")}, Annotations: map[string]string{"summary": clip(m.Summary, 2000)},
		StartsAt: m.At, EndsAt: now.Add(lasts)}
	if m.Cluster != "" {
		x.Labels["cluster"] = m.Cluster
	}
	if m.Since != nil {
		x.StartsAt = *m.Since
	}
	switch f := m.Finding; {
	case m.Event == Test:
		x.Labels["alertname"] = "CertdTest"
		return []alert{x}
	case f == nil:
		return nil
	default:
		x.Labels["alertname"], x.Labels["finding"] = "Certd"+f.ID, f.ID
		if f.Message != "" {
			x.Annotations["description"] = clip(f.Message, 4000)
		}
		if f.Fix != "" {
			x.Annotations["fix"] = clip(f.Fix, 2000)
		}
		if f.Deadline != nil {
			x.Annotations["deadline"] = f.Deadline.UTC().Format(time.RFC3339)
		}
	}
	if x.StartsAt.After(now) { // the clock was set back
		x.StartsAt = now
	}
	all := []alert{x}
	if m.Event == Cleared {
		all[0].EndsAt = earlier(m.At, now)
	}
	if m.Event == Escalated && m.Formerly != "" {
		all = append(all, ended(x, m.Formerly, earlier(m.At, now)))
	}
	for i := range all {
		if all[i].EndsAt.Before(all[i].StartsAt) {
			all[i].EndsAt = all[i].StartsAt
		}
	}
	return all
}

// ended is an alert of another severity, at its end.
func ended(x alert, s rotation.State, at time.Time) alert {
	labels := map[string]string{}
	for name, value := range x.Labels {
		labels[name] = value
	}
	labels["severity"] = severity(s, "unknown")
	x.Labels, x.EndsAt = labels, at
	return x
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// check refuses what Alertmanager would refuse, or take and make nothing of: it
// answers 200 also to an alert without a name.
func (x alert) check() error {
	if x.Labels["alertname"] == "" {
		return errors.New("the alert has no name")
	}
	for _, set := range []map[string]string{x.Labels, x.Annotations} {
		for name, value := range set {
			switch {
			case !labelName.MatchString(name):
				return fmt.Errorf("%q is no name of a label", name)
			case value == "":
				return fmt.Errorf("label %s is empty", name)
			case !utf8.ValidString(value):
				return fmt.Errorf("label %s is not UTF-8", name)
			}
		}
	}
	switch {
	case x.StartsAt.IsZero():
		return errors.New("the alert has no beginning")
	case x.EndsAt.Before(x.StartsAt):
		return errors.New("the alert ends before it begins")
	}
	return nil
}
