{{/* What the clean-up may do where models are, for the seconds that it runs. */}}
{{- define "headrace.cleanup.rules" -}}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [list, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, delete]
# It asks for those labelled as the operator's alone; RBAC knows no labels, and deletion is by name.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [headrace-nats]
  verbs: [delete]
{{- if include "headrace.cleanup.deletesModels" . }}
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  resourceNames: [{{ include "headrace.modelsClaim" . }}]
  verbs: [delete]
{{- end }}
{{- end -}}

{{/* A hook's metadata. RBAC comes before the Job; what succeeded goes, and what failed stays to be looked at. */}}
{{- define "headrace.cleanup.annotations" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Not empty when the claims that the operator made go too. Yours never do. */}}
{{- define "headrace.cleanup.deletesModels" -}}
{{- if and (not .Values.cleanup.keepModels) (not .Values.models.existingClaim) }}true{{ end -}}
{{- end -}}
