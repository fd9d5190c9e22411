{{- define "certd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "certd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "certd.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "certd.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "certd.selector" -}}
app.kubernetes.io/name: {{ include "certd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "certd.labels" -}}
{{ include "certd.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "certd.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "certd.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "certd.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* certd.yaml: config, with what the chart knows better than certd's own defaults. */ -}}
{{- define "certd.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $own := dict "apiVersion" "certd/v1" "kind" "Fleet" "defaults" (dict "webhooks" (dict "probeNamespace" .Release.Namespace)) -}}
{{- toYaml (mergeOverwrite $own $config) -}}
{{- end -}}

{{- /* The cluster of config that certd runs in, as YAML; nothing if there is none. */ -}}
{{- define "certd.home" -}}
{{- $home := list -}}
{{- range .Values.config.clusters -}}
{{- if .inCluster -}}
{{- $home = append $home . -}}
{{- end -}}
{{- end -}}
{{- if gt (len $home) 1 -}}
{{- fail (printf "config.clusters: %s and %s are both the cluster that certd runs in (inCluster)" (index $home 0).name (index $home 1).name) -}}
{{- end -}}
{{- range $home -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "certd.linkerdNamespace" -}}
{{- $home := include "certd.home" . | fromYaml -}}
{{- $all := include "certd.config" . | fromYaml -}}
{{- dig "linkerd" "namespace" (dig "defaults" "linkerd" "namespace" "linkerd" $all) $home -}}
{{- end -}}

{{- define "certd.checkNamespace" -}}
{{- $home := include "certd.home" . | fromYaml -}}
{{- $all := include "certd.config" . | fromYaml -}}
{{- dig "webhooks" "probeNamespace" (dig "defaults" "webhooks" "probeNamespace" .Release.Namespace $all) $home -}}
{{- end -}}

{{- /* The port of server.listen. */ -}}
{{- define "certd.port" -}}
{{- $listen := .Values.config.server.listen -}}
{{- if regexMatch "^(127\\.|localhost|\\[::1\\])" $listen -}}
{{- fail (printf "config.server.listen is %s, which kubelets do not reach: they ask for /livez and /readyz at the pod's address. Set it to 0.0.0.0:9843" $listen) -}}
{{- end -}}
{{- regexFind "[0-9]+$" $listen -}}
{{- end -}}

{{- /* The Lease of leaderElection in the cluster that certd runs in, as YAML; nothing if there is none. */ -}}
{{- define "certd.lease" -}}
{{- $home := include "certd.home" . | fromYaml -}}
{{- with .Values.config.leaderElection -}}
{{- if or (not .cluster) (eq .cluster ($home.name | default "")) -}}
{{- toYaml .lease -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Several pods need an election, and a volume each. */ -}}
{{- define "certd.several" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not .Values.config.leaderElection -}}
{{- fail (printf "replicas is %d, and config.leaderElection is not set: one certd writes to a fleet. Set config.leaderElection.lease to {namespace: %s, name: %s}, and config.keys.vault.mirror, which it needs" (int .Values.replicas) .Release.Namespace (include "certd.fullname" .)) -}}
{{- end -}}
{{- if .Values.persistence.existingClaim -}}
{{- fail (printf "replicas is %d, and persistence.existingClaim names one volume: each certd needs one of its own. Leave existingClaim out" (int .Values.replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whether certd.yaml names the file that vaultToken makes. */ -}}
{{- define "certd.vaultToken" -}}
{{- if contains "/etc/certd/vault-token" (toYaml .Values.config.keys) -}}true{{- end -}}
{{- end -}}

{{- /*
What certd may do in the cluster it runs in: the files of deploy/rbac (make generate
copies them to files/rbac), with the names of this release and its configuration.
*/ -}}
{{- define "certd.rbac" -}}
{{- $root := . -}}
{{- $linkerd := include "certd.linkerdNamespace" . -}}
{{- $check := include "certd.checkNamespace" . -}}
{{- $lease := include "certd.lease" . | fromYaml -}}
{{- $files := list -}}
{{- if include "certd.home" . -}}
{{- $files = append $files (ternary "certd-bootstrap" "certd" .Values.rbac.bootstrap) -}}
{{- range $feature, $file := dict "viz" "certd-viz" "jaeger" "certd-jaeger" "proxies" "certd-proxies" "restartWorkloads" "certd-restart-workloads" -}}
{{- if index $root.Values.rbac $feature -}}
{{- $files = append $files $file -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $lease -}}
{{- $files = append $files "certd-lease" -}}
{{- end -}}
{{- range $file := $files -}}
{{- range $doc := splitList "\n---\n" ($root.Files.Get (printf "files/rbac/%s.yaml" $file)) -}}
{{- $o := fromYaml $doc -}}
{{- if or (not $o) (hasKey $o "Error") -}}
{{- fail (printf "files/rbac/%s.yaml cannot be read: %v" $file $o) -}}
{{- end -}}
{{- if not (has $o.kind (list "Namespace" "ServiceAccount")) -}}
{{- $_ := set $o.metadata "labels" (include "certd.labels" $root | fromYaml) -}}
{{- if eq $file "certd-lease" -}}
{{- $_ := set $o.metadata "namespace" $lease.namespace -}}
{{- else if eq ($o.metadata.namespace | default "") "linkerd" -}}
{{- $_ := set $o.metadata "namespace" $linkerd -}}
{{- else if eq ($o.metadata.namespace | default "") "certd" -}}
{{- $_ := set $o.metadata "namespace" $check -}}
{{- end -}}
{{- range $rule := $o.rules -}}
{{- if and (has "namespaces" $rule.resources) (has "linkerd" ($rule.resourceNames | default list)) -}}
{{- $_ := set $rule "resourceNames" (list $linkerd) -}}
{{- else if and (has "leases" $rule.resources) $rule.resourceNames -}}
{{- $_ := set $rule "resourceNames" (list $lease.name) -}}
{{- end -}}
{{- end -}}
{{- if $o.subjects -}}
{{- $_ := set $o "subjects" (list (dict "kind" "ServiceAccount" "name" (include "certd.serviceAccount" $root) "namespace" $root.Release.Namespace)) -}}
{{- end }}
---
{{ toYaml $o }}
{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /*
What narrows these rights down: deploy/rbac/certd-policy.yaml for this release's account,
with the Secrets of all webhooks that the configuration adds.
*/ -}}
{{- define "certd.policies" -}}
{{- $root := . -}}
{{- $linkerd := include "certd.linkerdNamespace" . -}}
{{- $account := printf "system:serviceaccount:%s:%s" .Release.Namespace (include "certd.serviceAccount" .) -}}
{{- $layers := list (.Values.config.defaults | default dict) -}}
{{- range $group := .Values.config.groups -}}
{{- $layers = append $layers $group -}}
{{- end -}}
{{- range $cluster := .Values.config.clusters -}}
{{- $layers = append $layers $cluster -}}
{{- end -}}
{{- $last := "'linkerd-jaeger/jaeger-injector-k8s-tls'" -}}
{{- $own := $last -}}
{{- range $layer := $layers -}}
{{- range $webhook := dig "webhooks" "extra" list $layer -}}
{{- $own = printf "%s, '%s/%s'" $own $webhook.secret.namespace $webhook.secret.name -}}
{{- end -}}
{{- end -}}
{{- $text := .Files.Get "files/rbac/certd-policy.yaml" -}}
{{- $text = $text | replace "system:serviceaccount:certd:certd" $account -}}
{{- $text = $text | replace "['linkerd']" (printf "['%s']" $linkerd) | replace "'linkerd/" (printf "'%s/" $linkerd) | replace $last $own -}}
{{- range $doc := splitList "\n---\n" $text -}}
{{- $o := fromYaml $doc -}}
{{- if or (not $o) (hasKey $o "Error") -}}
{{- fail (printf "files/rbac/certd-policy.yaml cannot be read: %v" $o) -}}
{{- end -}}
{{- $_ := set $o.metadata "labels" (include "certd.labels" $root | fromYaml) }}
---
{{ toYaml $o }}
{{ end -}}
{{- end -}}
