{{/*
Permissions of the operator in the namespaces with models. No wildcards, no pod logs, no deletion of data.

The login Secret and the claim of a namespace are granted by name, including their creation: the operator writes them by
server-side apply, whose request contains the name. An existing claim is only read.
*/}}
{{- define "headrace.operator.rules" -}}
- apiGroups: [headrace.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [headrace.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# Gives no access by itself. With the admission plugin OwnerReferencesPermissionEnforcement (OpenShift), it is required
# for owner references to a ModelDeployment.
- apiGroups: [headrace.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
# The children.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Status of the children's pods, their readiness gate, and the labels by which a standby pod becomes a replica.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# API keys. The operator lists only Secrets with the label headrace.dev/api-key, but RBAC does not support labels, so it
# can read every Secret in the namespaces that it serves. `watchNamespaces` limits that.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
# The broker's credentials for the runtimes of a namespace.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [headrace-nats]
  verbs: [get, create, patch, delete]
{{- if not .Values.models.existingClaim }}
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  resourceNames: [{{ include "headrace.modelsClaim" . }}]
  verbs: [get, create, patch]
{{- end }}
# The operator's events, and those of a fetch Job without a pod, the only source of the cause.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, patch]
{{- end -}}
