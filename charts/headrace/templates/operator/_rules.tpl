{{/*
What the operator may do where models are. No wildcards, no pod logs, no deletion of anything that holds data.

The login and the claim of a namespace are granted by name, their creation too: the operator writes them by server-side
apply, whose request carries the name also when it creates. A claim that is there it only looks at.
*/}}
{{- define "headrace.operator.rules" -}}
- apiGroups: [headrace.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [headrace.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# Opens nothing by itself. Where the admission plugin OwnerReferencesPermissionEnforcement is on (OpenShift), an
# object may name a ModelDeployment as its owner only with this.
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
# What became of them; and the readiness gate.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# API keys. It asks for Secrets with the label headrace.dev/api-key alone, but RBAC knows no labels: this lets it see
# every Secret of the namespaces it serves. `watchNamespaces` bounds that.
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
# Its own; and those of a fetch Job that gets no pod, because nothing else says why.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, patch]
{{- end -}}
