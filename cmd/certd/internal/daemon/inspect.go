package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// lookFor bounds what a person waits for in front of the screen.
const lookFor = 15 * time.Second

// Certificates fetches what a cluster holds, from the cluster itself, in a form
// that inspect explains. part is "issuer" or "bundle" for PEM, "webhook/NAME"
// for an api.Webhook whose pods are asked, too, or "" for all of it, where they
// are not: that takes rights and time.
func (d Daemon) Certificates(ctx context.Context, path, cluster, part string) ([]byte, error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, err
	}
	for _, cc := range c.Clusters {
		if cc.Policy.Cluster != cluster {
			continue
		}
		l := newLazyCluster(cc, d.Log(c.LogLevel, c.LogFormat))
		defer l.Close()
		ctx, cancel := context.WithTimeout(ctx, lookFor)
		defer cancel()
		o, err := l.Observe(ctx)
		if err != nil {
			return nil, asService(fmt.Errorf("look at cluster %s: %w", cluster, err))
		}
		if part != "webhook" && !strings.HasPrefix(part, "webhook/") {
			return certificatesOf(o, cc.Policy.Namespace, part)
		}
		w, err := webhookNamed(o, cluster, strings.TrimPrefix(strings.TrimPrefix(part, "webhook"), "/"))
		if err != nil {
			return nil, err
		}
		doc := webhookDocument(w)
		addEvidence(&doc, l.ProbeWebhooks(ctx, []rotation.WebhookSpec{w.Spec})[w.Spec.Name])
		return json.Marshal(doc)
	}
	return nil, fmt.Errorf("cluster %q is not configured: %w", cluster, api.ErrUsage)
}

func certificatesOf(o rotation.Observation, namespace, part string) ([]byte, error) {
	issuer := pki.EncodeCertificates(o.IssuerFacts.Chain...)
	var text []byte
	switch part {
	case "issuer":
		text = issuer
	case "bundle":
		text = o.BundleText
	default:
		var err error
		if text, err = documents(o, namespace, issuer); err != nil {
			return nil, err
		}
	}
	if len(text) == 0 {
		return nil, errors.New("the cluster holds no such certificates")
	}
	return text, nil
}

// documents are all of a cluster's certificates as manifests, without keys.
func documents(o rotation.Observation, namespace string, issuer []byte) ([]byte, error) {
	type manifest struct {
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
		Data       map[string][]byte `json:"data,omitempty"`
		BinaryData map[string][]byte `json:"binaryData,omitempty"` // as it stands, whatever it is
	}
	var all []any
	if len(issuer) > 0 {
		all = append(all, manifest{Kind: "Secret", Metadata: map[string]string{"name": rotation.IssuerObject, "namespace": namespace}, Data: map[string][]byte{"tls.crt": issuer}})
	}
	if len(o.BundleText) > 0 {
		all = append(all, manifest{Kind: "ConfigMap", Metadata: map[string]string{"name": rotation.BundleObject, "namespace": namespace}, BinaryData: map[string][]byte{"ca-bundle.crt": o.BundleText}})
	}
	for _, w := range o.Webhooks {
		if w.Err == nil && len(w.Objects) > 0 {
			all = append(all, webhookDocument(w))
		}
	}
	var text []byte
	for _, one := range all {
		b, err := json.Marshal(one)
		if err != nil {
			return nil, fmt.Errorf("encode what the cluster holds: %w", err)
		}
		text = append(append(text, b...), "\n---\n"...)
	}
	return text, nil
}

// webhookNamed finds an installed webhook.
func webhookNamed(o rotation.Observation, cluster, name string) (rotation.Webhook, error) {
	var found []string
	for _, w := range o.Webhooks {
		switch {
		case w.Err == nil && len(w.Objects) == 0: // not installed
		case w.Spec.Name != name:
			found = append(found, w.Spec.Name)
		case w.Err != nil:
			return w, asService(fmt.Errorf("look at webhook %s of cluster %s: %w", name, cluster, w.Err))
		default:
			return w, nil
		}
	}
	if len(found) == 0 {
		return rotation.Webhook{}, fmt.Errorf("cluster %s has no webhooks: %w", cluster, api.ErrUsage)
	}
	return rotation.Webhook{}, fmt.Errorf("cluster %s has no webhook %q, but %s: %w", cluster, name, strings.Join(found, ", "), api.ErrUsage)
}

func webhookDocument(w rotation.Webhook) api.Webhook {
	doc := api.Webhook{APIVersion: rotation.APIVersion, Kind: "Webhook", Name: w.Spec.Name, Secret: w.Spec.Namespace + "/" + w.Spec.Secret,
		Problem: w.Facts.Problem, Chain: string(pki.EncodeCertificates(w.Facts.Chain...)), CAs: string(w.Facts.CAs.PEM()), Objects: []api.WebhookObject{}}
	if len(w.Spec.DNSNames) > 0 {
		doc.DNSName = w.Spec.DNSNames[0]
	}
	if !w.Secret.Exists {
		doc.Problem = "it does not exist"
	}
	for _, o := range w.Objects {
		doc.Objects = append(doc.Objects, api.WebhookObject{Object: o.Ref.String(), CABundle: string(o.CABundle.PEM()), Ignored: o.Ignores})
	}
	return doc
}

func addEvidence(doc *api.Webhook, ev rotation.WebhookEvidence) {
	doc.Replicas = []api.WebhookReplica{}
	for _, r := range ev.Replicas {
		doc.Replicas = append(doc.Replicas, api.WebhookReplica{Pod: r.Pod, Chain: string(pki.EncodeCertificates(r.Served...)), Evidence: r.Evidence})
	}
	if c := ev.Check; c.State != "" {
		at := c.At.UTC().Truncate(time.Second)
		doc.Check = &rotation.CheckStatus{State: c.State, Evidence: c.Evidence, At: &at}
	}
}
