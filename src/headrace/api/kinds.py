"""Names of kinds: headrace's own and the Kubernetes kinds that it handles."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v


@dataclass(frozen=True, slots=True)
class Kind:
    """Names of a kind in manifests, in API paths and on the command line."""

    api_version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    """False: its objects are cluster-scoped."""

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api_version.rpartition("/")[2]


MODEL_DEPLOYMENT = Kind(v.API_VERSION, v.MODEL_DEPLOYMENT, "modeldeployments", "modeldeployment", ("mdep",))

DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments", "deployment", ("deploy",))
DAEMON_SET = Kind("apps/v1", "DaemonSet", "daemonsets", "daemonset", ("ds",))
JOB = Kind("batch/v1", "Job", "jobs", "job")
POD = Kind("v1", "Pod", "pods", "pod", ("po",))
SERVICE = Kind("v1", "Service", "services", "service", ("svc",))
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps", "configmap", ("cm",))
SECRET = Kind("v1", "Secret", "secrets", "secret")
EVENT = Kind("v1", "Event", "events", "event", ("ev",))
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", "serviceaccount", ("sa",))
POD_DISRUPTION_BUDGET = Kind(
    "policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", ("pdb",)
)
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "networkpolicy", ("netpol",))
