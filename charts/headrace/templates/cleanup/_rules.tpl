{{/* Permissions of the clean-up in the namespaces with models, while it runs. */}}
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
# It lists only Secrets with the operator's label, but RBAC does not support labels; deletion is restricted by name.
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

{{/* Metadata of a hook. RBAC precedes the Job; succeeded objects are deleted, failed ones are kept for diagnosis. */}}
{{- define "headrace.cleanup.annotations" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* Not empty if the claims that the operator created are deleted too. Claims of users are never deleted. */}}
{{- define "headrace.cleanup.deletesModels" -}}
{{- if and (not .Values.cleanup.keepModels) (not .Values.models.existingClaim) }}true{{ end -}}
{{- end -}}
