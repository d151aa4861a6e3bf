{{/* Names, labels and images. */}}

{{- define "headrace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters: the longest suffix is that of a StatefulSet's pod, and a name has 63. */}}
{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "headrace.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headrace.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select a component's pods; they can never change. Call: (list $ "gateway"). */}}
{{- define "headrace.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Call: (list $ "gateway"). */}}
{{- define "headrace.labels" -}}
{{- $ := index . 0 -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods: without versions, so that a new version of the chart alone does not restart pods. Call: (list $ "gateway" podLabels). */}}
{{- define "headrace.podLabels" -}}
{{- $ := index . 0 -}}
{{- /* The selector's labels have the highest precedence in the merge, so that no other label can override them. */ -}}
{{- $own := include "headrace.selector" (list $ (index . 1)) | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $.Release.Service -}}
{{- toYaml (merge $own (index . 2) $.Values.commonLabels) -}}
{{- end -}}

{{/* The reference of an image. Call: (list $ "gateway"); empty when it has no repository. */}}
{{- define "headrace.image" -}}
{{- $ := index . 0 -}}
{{- $image := index $.Values.images (index . 1) -}}
{{- if $image.repository -}}
{{- with $.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $.Values.images.tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "headrace.natsUrl" -}}
nats://{{ include "headrace.fullname" . }}-nats.{{ .Release.Namespace }}.svc:4222
{{- end -}}

{{- define "headrace.leaseName" -}}
{{ include "headrace.fullname" . }}-operator
{{- end -}}

{{- define "headrace.keptConfigMap" -}}
{{ include "headrace.fullname" . }}-node-kept
{{- end -}}

{{- define "headrace.modelsClaim" -}}
{{ .Values.models.existingClaim | default .Values.models.claim }}
{{- end -}}

{{/* URL for the status of models: the external address of the gateway, as far as it is known from the values. */}}
{{- define "headrace.gatewayUrl" -}}
{{- $gateway := .Values.gateway -}}
{{- if $gateway.publicUrl -}}
{{ $gateway.publicUrl | trimSuffix "/" }}
{{- else if and $gateway.ingress.enabled $gateway.ingress.hosts -}}
{{ ternary "https" "http" (ne $gateway.ingress.tlsSecretName "") }}://{{ first $gateway.ingress.hosts }}
{{- else if and $gateway.httpRoute.enabled $gateway.httpRoute.hostnames -}}
https://{{ first $gateway.httpRoute.hostnames }}
{{- else -}}
http://{{ include "headrace.fullname" . }}-gateway.{{ .Release.Namespace }}.svc{{ if ne (int $gateway.service.port) 80 }}:{{ $gateway.service.port }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Names of the Secrets with the broker's credentials: yours or the chart's. Call: (list $ "gateway"). */}}
{{- define "headrace.natsSecret" -}}
{{- $ := index . 0 -}}
{{- $suffix := dict "reconciler" "reconciler" "gateway" "gateway" "runtimeKey" "runtime-key" -}}
{{- index $.Values.nats.existingSecrets (index . 1) | default (printf "%s-nats-%s" (include "headrace.fullname" $) (index $suffix (index . 1))) -}}
{{- end -}}
