package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"

	"certd.internal/deploy/lab/internal/certs"
)

//go:embed manifests/webhooks-*.yaml
var webhookManifests embed.FS

// components are what can be installed, with their usual namespaces.
var components = map[string]string{"control-plane": "linkerd", "viz": "linkerd-viz", "jaeger": "linkerd-jaeger", "custom": ""}

// How a component's webhooks get their TLS material.
const (
	selfSigned = "self-signed" // as the charts make it by default, anew at each run
	external   = "external"    // as with X.externalSecret and X.injectCaFromSecret: by somebody else
	noTLS      = "none"        // it is left as it is
)

// injectCA is the annotation that the charts set for injectCaFromSecret.
const injectCA = "cert-manager.io/inject-ca-from-secret"

// webhookOptions are the values of a component's manifest, and how it is
// written.
type webhookOptions struct {
	kubeconfig, component string

	Namespace     string
	Name          string // of all objects of component custom
	Container     string // of component custom: webhook or webhook-reread
	Replicas      int
	FailurePolicy string
	Port          int // of the Services

	tls, lag, manager string
}

// parseWebhooks reads the flags that both commands have, and those that define
// adds.
func parseWebhooks(command string, args []string, define func(*flag.FlagSet, *webhookOptions)) (webhookOptions, error) {
	o := webhookOptions{Name: "gatekeeper", Container: "webhook", Replicas: 3, FailurePolicy: "Ignore", Port: 443, tls: selfSigned}
	flags := flag.NewFlagSet("lab "+command, flag.ExitOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "an admin's kubeconfig: DIR/kube/cN of a lab")
	flags.StringVar(&o.component, "component", "control-plane", "control-plane, viz, jaeger or custom")
	flags.StringVar(&o.Namespace, "namespace", "", "default: linkerd, linkerd-viz, linkerd-jaeger; for custom as -name")
	flags.StringVar(&o.Name, "name", o.Name, "with -component custom: of Deployment, Service, Secret and configuration")
	define(flags, &o)
	flags.Parse(args)
	namespace, ok := components[o.component]
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; see lab %s -h", flags.Arg(0), command)
	case o.kubeconfig == "":
		return o, errors.New("-kubeconfig is missing")
	case !ok:
		return o, fmt.Errorf("-component %s: there are %v", o.component, slices.Sorted(maps.Keys(components)))
	}
	o.Namespace = or(o.Namespace, or(namespace, o.Name))
	return o, nil
}

// installWebhooks applies what a chart makes of its webhooks, and, as helm
// upgrade does, applies it once more on the next run.
func installWebhooks(ctx context.Context, args []string) error {
	o, err := parseWebhooks("install-webhooks", args, func(flags *flag.FlagSet, o *webhookOptions) {
		if os.Geteuid() != 0 {
			o.Port = 8443 // ports below 1024 are root's
		}
		flags.IntVar(&o.Replicas, "replicas", o.Replicas, "of each Deployment")
		flags.StringVar(&o.tls, "tls", o.tls, "self-signed: certificates as Helm makes them, new ones at each run; external: none, and no caBundle; none: leave Secrets and caBundles alone")
		flags.StringVar(&o.FailurePolicy, "failure-policy", o.FailurePolicy, "Fail or Ignore, which is the charts' default")
		flags.StringVar(&o.lag, "lag", "", `from a changed Secret to that of the files in pods; several for several nodes: "0s,2s,5s" (default: the lab's)`)
		flags.StringVar(&o.manager, "field-manager", "helm", "who writes the objects")
		flags.IntVar(&o.Port, "service-port", o.Port, "of the Services")
		flags.StringVar(&o.Container, "container", o.Container, "with -component custom: webhook reloads as Linkerd's Go servers do, webhook-reread as those built on kubert")
	})
	if err != nil {
		return err
	}
	if !slices.Contains([]string{selfSigned, external, noTLS}, o.tls) {
		return fmt.Errorf("-tls %s: there are %s, %s and %s", o.tls, selfSigned, external, noTLS)
	}
	m, err := o.objects()
	if err != nil {
		return err
	}
	a, err := newApplierFor(o.kubeconfig)
	if err != nil {
		return err
	}
	for _, object := range m {
		if err := a.upgrade(ctx, object, o.manager, o.tls == noTLS); err != nil {
			return err
		}
	}
	return nil
}

// removeWebhooks deletes what installWebhooks has made, but for the Namespace,
// where other things may be. It returns when all of it is gone.
func removeWebhooks(ctx context.Context, args []string) error {
	o, err := parseWebhooks("remove-webhooks", args, func(*flag.FlagSet, *webhookOptions) {})
	if err != nil {
		return err
	}
	m, err := o.objects()
	if err != nil {
		return err
	}
	a, err := newApplierFor(o.kubeconfig)
	if err != nil {
		return err
	}
	// The configurations come last in a manifest and go first here: without
	// their servers they would be in everybody's way.
	slices.Reverse(m)
	m = m.of(func(object *unstructured.Unstructured) bool { return object.GetKind() != "Namespace" })
	for _, object := range m {
		if err := ignoreNotFound(a.delete(ctx, manifest{object})); err != nil {
			return err
		}
	}
	for _, object := range m {
		if err := a.waitGone(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

func newApplierFor(kubeconfig string) (*applier, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // else seconds pass between a Secret and its caBundle
	return newApplier(config)
}

// objects is the component's manifest with its options, Secrets included.
func (o webhookOptions) objects() (manifest, error) {
	name := "manifests/webhooks-" + o.component + ".yaml"
	t, err := template.ParseFS(webhookManifests, name)
	if err != nil {
		return nil, fmt.Errorf("read the manifest of %s: %w", o.component, err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, o); err != nil {
		return nil, fmt.Errorf("fill in the manifest of %s: %w", o.component, err)
	}
	m, err := parseManifest(text.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read the manifest of %s: %w", o.component, err)
	}
	var secrets manifest
	for _, object := range m {
		if object.GetKind() == "Deployment" && o.lag != "" {
			if err := unstructured.SetNestedField(object.Object, o.lag, "spec", "template", "metadata", "annotations", "lab/projection-lag"); err != nil {
				return nil, err
			}
		}
		service := calledService(object)
		if service == "" {
			continue
		}
		secret, err := o.addTLS(object, service)
		if err != nil {
			return nil, err
		}
		if secret != nil {
			secrets = append(secrets, secret)
		}
	}
	// After the Namespace and before whatever mounts them.
	return slices.Concat(m[:1], secrets, m[1:]), nil
}

// calledService is the Service that a configuration's caBundle is for, "" for
// objects without one.
func calledService(object *unstructured.Unstructured) string {
	switch object.GetKind() {
	case "APIService":
		name, _, _ := unstructured.NestedString(object.Object, "spec", "service", "name")
		return name
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		for _, webhook := range webhooksOf(object) {
			name, _, _ := unstructured.NestedString(webhook, "clientConfig", "service", "name")
			return name
		}
	}
	return ""
}

// webhooksOf returns the webhooks of a configuration; what is changed in them
// is changed in the object.
func webhooksOf(object *unstructured.Unstructured) []map[string]any {
	list, _ := object.Object["webhooks"].([]any)
	var webhooks []map[string]any
	for _, w := range list {
		if webhook, ok := w.(map[string]any); ok {
			webhooks = append(webhooks, webhook)
		}
	}
	return webhooks
}

// withCABundle is where an object has its caBundles: one map of an APIService,
// one for each webhook of a configuration.
func withCABundle(object *unstructured.Unstructured) []map[string]any {
	var holders []map[string]any
	if spec, ok := object.Object["spec"].(map[string]any); ok && object.GetKind() == "APIService" {
		holders = append(holders, spec)
	}
	for _, webhook := range webhooksOf(object) {
		if client, ok := webhook["clientConfig"].(map[string]any); ok {
			holders = append(holders, client)
		}
	}
	return holders
}

// addTLS gives a configuration its caBundle, or the annotation in place of one,
// and returns the Secret that goes with it; nil where that is not made here.
func (o webhookOptions) addTLS(object *unstructured.Unstructured, service string) (*unstructured.Unstructured, error) {
	secret := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}}
	secret.SetNamespace(o.Namespace)
	secret.SetName(service + "-k8s-tls")
	if o.component == "custom" {
		secret.SetName(o.Name)
	}
	switch o.tls {
	case external:
		object.SetAnnotations(map[string]string{injectCA: o.Namespace + "/" + secret.GetName()})
		return nil, nil
	case noTLS:
		return nil, nil
	}
	cert, key, err := certs.SelfSigned(service + "." + o.Namespace + ".svc")
	if err != nil {
		return nil, err
	}
	secret.SetLabels(object.GetLabels())
	secret.Object["data"] = map[string]any{"tls.crt": base64.StdEncoding.EncodeToString(cert), "tls.key": base64.StdEncoding.EncodeToString(key)}
	for _, holder := range withCABundle(object) {
		holder["caBundle"] = base64.StdEncoding.EncodeToString(cert)
	}
	return secret, nil
}
