{{/* Shared parts of the chart's pods, with least privileges. */}}

{{/* Call: (list $ "operator" withToken) inside a pod's spec. The component's values define its placement. */}}
{{- define "headrace.podSpec" -}}
{{- $ := index . 0 -}}
{{- $name := index . 1 -}}
{{- $component := index $.Values $name -}}
serviceAccountName: {{ include "headrace.fullname" $ }}-{{ $name }}
{{ include "headrace.podBasics" (list $ (index . 2)) }}
{{- with $component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- include "headrace.placement" $component }}
{{- if hasKey $component "topologySpreadConstraints" }}
{{- include "headrace.spread" (list $ $name) }}
{{- end }}
{{- end -}}

{{/*
Spread of a component's replicas. Call: (list $ "gateway"). Begins with a line break.

Over nodes by a spread constraint, over zones by affinity: the scheduler ignores every node that lacks the topology key
of *any* soft constraint, so a second constraint by zone would disable the one by node if nodes have no zone.
*/}}
{{- define "headrace.spread" -}}
{{- $ := index . 0 -}}
{{- $component := index $.Values (index . 1) -}}
{{- $selector := include "headrace.selector" . }}
topologySpreadConstraints:
  {{- with $component.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    # Only the pods of this revision: otherwise the pods that are being replaced would count.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- if not (or $component.affinity $component.topologySpreadConstraints) }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: topology.kubernetes.io/zone
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
{{- end }}
{{- end -}}

{{/* Call: (list $ withToken). Passes the restricted pod security standard. */}}
{{- define "headrace.podBasics" -}}
{{- $ := index . 0 -}}
automountServiceAccountToken: {{ index . 1 }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Call: a component's values. Begins with a line break unless it is empty. */}}
{{- define "headrace.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "headrace.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* One variable from a key of one of the broker's Secrets. Call: (list $ VARIABLE "gateway" "password"). */}}
{{- define "headrace.natsVariable" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "headrace.natsSecret" (list (index . 0) (index . 2)) }}
      key: {{ index . 3 }}
{{- end -}}
