package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"strings"
	"text/template"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
)

//go:embed manifests/linkerd-identity.yaml
var identityManifest string

// installIdentity applies what Linkerd's chart makes of its identity
// controller, as far as the lab needs it. Secret and ConfigMap are certd's.
func installIdentity(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab install-identity", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "an admin's kubeconfig: DIR/kube/cN of a lab")
	namespace := flags.String("namespace", linkerdNamespace, "where, and which meshed pods are its own; several beside each other are meshes of their own")
	replicas := flags.Int64("replicas", 2, "how many replicas")
	scheme := flags.String("scheme", "kubernetes.io/tls", "which files of the issuer it reads: kubernetes.io/tls or linkerd.io/tls")
	leaf := flags.String("leaf-lifetime", "24h0m0s", "how long the leaves it would issue live (-identity-issuance-lifetime)")
	flags.Parse(args)
	if *kubeconfig == "" {
		return errors.New("-kubeconfig is missing")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	m, err := identityObjects(*namespace, *replicas, map[string]string{"identity-scheme": *scheme, "identity-issuance-lifetime": *leaf})
	if err != nil {
		return err
	}
	a, err := newApplier(config)
	if err != nil {
		return err
	}
	return a.apply(ctx, m)
}

// identityObjects is the manifest with its namespace, other replicas and arguments.
func identityObjects(namespace string, replicas int64, arguments map[string]string) (manifest, error) {
	var text bytes.Buffer
	t, err := template.New("linkerd-identity").Parse(identityManifest)
	if err == nil {
		err = t.Execute(&text, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("fill in the manifest of linkerd-identity: %w", err)
	}
	m, err := parseManifest(text.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read the manifest of linkerd-identity: %w", err)
	}
	for _, object := range m.of(func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" }) {
		if err := unstructured.SetNestedField(object.Object, replicas, "spec", "replicas"); err != nil {
			return nil, err
		}
		containers, _, err := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
		if err != nil {
			return nil, err
		}
		for _, c := range containers {
			if args, ok := c.(map[string]any)["args"].([]any); ok {
				for i, arg := range args {
					text, _ := arg.(string)
					name, _, _ := strings.Cut(strings.TrimPrefix(text, "-"), "=")
					if value, ok := arguments[name]; ok {
						args[i] = "-" + name + "=" + value
					}
				}
			}
		}
		if err := unstructured.SetNestedSlice(object.Object, containers, "spec", "template", "spec", "containers"); err != nil {
			return nil, err
		}
	}
	return m, nil
}
