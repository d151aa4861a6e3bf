"""The kinds that the operator looks at, and which of their objects: the API server sends no others."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api.vocabulary import API_KEY_LABEL, API_VERSION, MANAGED_BY


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind, and the label selector of the objects that concern us."""

    api_version: str
    kind: str
    plural: str
    selector: str | None = f"{MANAGED_BY}=headrace"

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version in the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Return the path of an object, of a namespace's list, or (None) of the list of all."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name is not None else "")


MODEL_DEPLOYMENT = Watched(API_VERSION, "ModelDeployment", "modeldeployments", None)
POD = Watched("v1", "Pod", "pods")
SECRET = Watched("v1", "Secret", "secrets", API_KEY_LABEL)
CHILDREN = (
    Watched("apps/v1", "Deployment", "deployments"),
    Watched("batch/v1", "Job", "jobs"),
    Watched("v1", "Service", "services"),
    Watched("v1", "ServiceAccount", "serviceaccounts"),
    Watched("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Watched("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
)
ALL: dict[str, Watched] = {each.kind: each for each in (MODEL_DEPLOYMENT, POD, SECRET, *CHILDREN)}
"""By kind: those that we look at are distinct without their groups."""
CHILD_KINDS = frozenset(each.kind for each in CHILDREN)
EVENT = Watched("v1", "Event", "events")
CLAIM = Watched("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
