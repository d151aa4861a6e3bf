"""What one reconcile pass observed of an accepted ModelDeployment, in the terms in which the rule decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.deployments import deployments, weights
from headrace.kinds.modeldeployment.manifests.common import deployment_name
from headrace.kinds.modeldeployment.manifests.fetch_job import fetch_job
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import RuntimePod, leaving_revisions
from headrace.kinds.modeldeployment.refusals import Refusals, refusals_of
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision import revision_of
from headrace.kinds.modeldeployment.shared_source import fetched_by, known_source, was_verified, while_verified_again
from headrace.kinds.modeldeployment.source import NOTHING_TO_FETCH, SourceState, observe_source, recorded_source
from headrace.kinds.modeldeployment.startup import StartupWatch
from headrace.kinds.modeldeployment.wake import Wake
from headrace.reconcile.world import Child, Manifest, Observed, Settings, Signals
from headrace.scaling.autoscaler import ScaleState

LISTENING_SECONDS = 5.0
"""After a (re)start: by then every replica and gateway that is alive has answered the solicitation."""

ROUTING_SECONDS = 5.0
"""Gateways route to a replica some milliseconds after it reports Ready; after so long something is wrong."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one pass to the next; losing it (a restart) costs no correctness."""

    since: float
    """Monotonic time of the first pass."""
    accepted: ModelDeployment | None = None
    """The last accepted spec: parsing is most of the time of a pass."""
    scale: ScaleState | None = None
    startup: StartupWatch = field(default_factory=StartupWatch)
    wake: Wake | None = None
    moved: float | None = None
    """When the route's weight moved to the wanted revision, while an old one waits for the gateways to see it."""
    lacking: float | None = None
    """Since when the wanted revision lacks room (or since the stable one was last scaled down for it)."""
    lost: frozenset[str] = frozenset()
    """The replicas that had exited after they were ready, and were not ready again."""
    unrouted: Mapping[str, float] = field(default_factory=dict)
    """Since when no gateway routes to a pod that reports Ready, by pod (`RuntimePod.unrouted`)."""
    told: float = -math.inf
    """When a condition's message was last changed while its reason stayed."""

    def listening(self, now: float) -> bool:
        """Return whether every sender had time to report since the loop (re)started: before, silence means nothing."""
        return now - self.since >= LISTENING_SECONDS


@dataclass(frozen=True, slots=True)
class Facts:
    """The arguments of a pass, and what was read from them."""

    resource: ModelDeployment
    manifest: Manifest
    observed: Observed
    signals: Signals
    settings: Settings
    memory: Memory
    pods: tuple[RuntimePod, ...]
    """The runtime pods of all revisions, without those that are being deleted."""
    revision: str
    """The wanted revision."""
    deployments: Mapping[str, Manifest]
    """By revision."""
    leaving: frozenset[str]
    """Revisions with pods that are being deleted."""
    shares: Mapping[str, int]
    """The route weights as last written, percent by revision, in the order of the status."""
    source: SourceState
    fetch: Child | None
    """The Job that fetches the source; None when none is needed."""
    refusals: Refusals

    @property
    def before(self) -> Manifest:
        """The present status."""
        status: Manifest = self.manifest.get("status", {})
        return status

    @property
    def listening(self) -> bool:
        """Whether every sender had time to report since the loop (re)started."""
        return self.memory.listening(self.signals.now)

    @property
    def unrouted(self) -> dict[str, float]:
        """Since when no gateway routes to a pod that reports Ready, by pod."""
        now = self.signals.now
        return {pod.name: self.memory.unrouted.get(pod.name, now) for pod in self.pods if pod.unrouted}

    def fault_of(self, pod: RuntimePod) -> str:
        """Return the pod's fault; in the first seconds after it is ready, the gateways are expected to route to it."""
        since = self.unrouted.get(pod.name)
        if since is not None and self.signals.now - since < ROUTING_SECONDS:
            return "waiting for the gateways to route to it"
        return pod.fault

    @property
    def is_canary(self) -> bool:
        """Whether the wanted revision is a canary: it is none without another revision."""
        return self.resource.spec.rollout.type == "Canary" and bool(self.deployments.keys() - {self.revision})

    def serving(self, revision: str) -> int:
        """Pods of a revision that report that they are ready."""
        return sum(pod.serving and pod.revision == revision for pod in self.pods)

    def routable(self, revision: str) -> int:
        """Pods of a revision that every live gateway routes to."""
        return sum(pod.routable and pod.revision == revision for pod in self.pods)


def read(
    resource: ModelDeployment,
    manifest: Manifest,
    observed: Observed,
    signals: Signals,
    settings: Settings,
    memory: Memory,
    pods: tuple[RuntimePod, ...],
) -> Facts:
    """Return the facts of a pass. `resource` is the parsed `manifest`, and `pods` are its runtime pods."""
    before = manifest.get("status", {})
    revision = revision_of(resource, settings)
    source, fetch = _source(resource, before, observed, signals, settings)
    return Facts(
        resource=resource,
        manifest=manifest,
        observed=observed,
        signals=signals,
        settings=settings,
        memory=memory,
        pods=pods,
        revision=revision,
        deployments=deployments(observed),
        leaving=leaving_revisions(observed),
        shares=weights(before),
        source=source,
        fetch=fetch,
        refusals=refusals_of(revision, deployment_name(resource, revision), observed, signals.wall),
    )


def _source(
    resource: ModelDeployment, before: Manifest, observed: Observed, signals: Signals, settings: Settings
) -> tuple[SourceState, Child | None]:
    """Return what is known of the source, and its fetch (None: nothing is to be fetched for this resource).

    What is verified already, or fetched for another model of the namespace, is not fetched again
    (`headrace.kinds.modeldeployment.shared_source`). A Job that exists is kept until Kubernetes removes it.

    Once a fetch has brought another file than was recorded, the next one must bring the recorded one: it drops what is
    there and tries until the source is restored.
    """
    source = resource.spec.model.source
    if source is None:
        return NOTHING_TO_FETCH, None
    fetch = fetch_job(resource, source, settings)
    recorded = recorded_source(source, before)
    again = fetch
    if recorded is not None and source.digest is None:
        again = fetch_job(resource, source, settings, expected=recorded["digest"])
    if not {fetch.key, again.key} & observed.children.keys():
        if (known := known_source(source, before)) is not None:
            return known, None
        fetcher = peers_of(observed).fetcher
        if fetcher is not None and not was_verified(source, before):
            shared = fetched_by(fetcher, source, before)
            if shared is not None:
                return shared, None
    if again.key in observed.children:
        return observe_source(source, before, again.key, observed, signals), again
    state = observe_source(source, before, fetch.key, observed, signals)
    state = while_verified_again(state, source, before, signals)
    return state, again if state.condition.reason == v.DIGEST_MISMATCH else fetch
