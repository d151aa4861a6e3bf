"""What one look at an accepted resource found out, for the modules that write it down."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.api.validation import ModelDeployment
from headrace.reconcile.demand import Wanted
from headrace.reconcile.pods import Failure, RuntimePod
from headrace.reconcile.rollout import Rollout
from headrace.reconcile.source import SourceState
from headrace.reconcile.startup import StartupWatch
from headrace.reconcile.world import Manifest, Observed, Signals


@dataclass(frozen=True, slots=True)
class Findings:
    """The facts and the decisions of one look."""

    resource: ModelDeployment
    before: Manifest
    """The status as it was."""
    signals: Signals
    source: SourceState
    wanted: Wanted
    pods: tuple[RuntimePod, ...]
    rollout: Rollout
    startup: StartupWatch

    @property
    def failure(self) -> Failure | None:
        """Why the wanted revision does not start."""
        return why_failing(self.revision, self.pods, self.startup)

    @property
    def revision(self) -> str:
        """The wanted revision."""
        return self.rollout.target

    def serving(self, revision: str) -> int:
        """Pods of a revision that say that they are ready."""
        return sum(pod.serving and pod.revision == revision for pod in self.pods)

    def routable(self, revision: str) -> int:
        """Pods of a revision that every live gateway routes to."""
        return sum(pod.routable and pod.revision == revision for pod in self.pods)

    @property
    def taking_over(self) -> bool:
        """Whether requests still go to an old revision."""
        return self.rollout.serving != self.revision


def deployments(observed: Observed) -> dict[str, Manifest]:
    """Return the Deployments by revision."""
    return {
        manifest["metadata"]["labels"][v.REVISION_LABEL]: manifest
        for key, manifest in sorted(observed.children.items())
        if key.kind == "Deployment"
    }


def existing_replicas(observed: Observed) -> int:
    """Return how many replicas the Deployments ask for now; during a rollout two revisions have the same number."""
    return max(map(replicas_of, deployments(observed).values()), default=0)


def replicas_of(deployment: Manifest) -> int:
    """Return how many replicas a Deployment asks for."""
    return int(deployment["spec"].get("replicas", 0))


def why_failing(revision: str, pods: tuple[RuntimePod, ...], startup: StartupWatch) -> Failure | None:
    """Return why a revision does not start: it was given up, or a pod of it fails."""
    failing = (pod.failure for pod in pods if pod.revision == revision and pod.failure is not None)
    return startup.failure(revision) or next(failing, None)


def weights(status: Manifest) -> dict[str, int]:
    """Return the route weights as last written, percent by revision."""
    return {item["name"]: int(item.get("weightPercent", 0)) for item in status.get("revisions", [])}
