"""Facts of one reconcile pass: the observed state of an accepted ModelDeployment, and the memory between passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.kinds.modeldeployment.adapter_files import AdapterFile, adapter_files, all_files, signals_of
from headrace.kinds.modeldeployment.deployments import deployments, weights
from headrace.kinds.modeldeployment.fetching import source_state
from headrace.kinds.modeldeployment.manifests.common import deployment_name
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import RuntimePod, terminating_revisions
from headrace.kinds.modeldeployment.refusals import Refusals, refusals_of
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision import revision_of
from headrace.kinds.modeldeployment.source import NOTHING_TO_FETCH, SourceState
from headrace.kinds.modeldeployment.startup import StartupWatch
from headrace.kinds.modeldeployment.wake import Wake
from headrace.reconcile.world import Child, Manifest, Observed, Settings, Signals
from headrace.scaling.autoscaler import ScaleState

LISTENING_SECONDS = 5.0
"""Time after a (re)start of the loop within which every running replica and gateway responds to the solicitation."""

ROUTING_SECONDS = 5.0
"""Gateways route to a replica some milliseconds after it reports Ready; after so long something is wrong."""


@dataclass(frozen=True, slots=True)
class Memory:
    """State between two passes. Its loss in a restart does not affect correctness."""

    since: float
    """Monotonic time of the first pass."""
    accepted: ModelDeployment | None = None
    """The last accepted spec, kept because parsing takes most of the time of a pass."""
    scale: ScaleState | None = None
    startup: StartupWatch = field(default_factory=StartupWatch)
    wake: Wake | None = None
    weight_moved: float | None = None
    """Monotonic time at which the weight moved to the desired revision, until the stable revision is removed."""
    lacking_since: float | None = None
    """Monotonic time since which the desired revision has lacked capacity, or of the last scale-down for it."""
    exited: frozenset[str] = frozenset()
    """Pods that exited after they were ready, and are not ready again."""
    unrouted: Mapping[str, float] = field(default_factory=dict)
    """Monotonic time since which no gateway routes to a pod that reports Ready, by pod (`RuntimePod.unrouted`)."""
    converted: frozenset[str] = frozenset()
    """Starting replicas for which a standby pod was tried."""
    message_changed: float = -math.inf
    """Monotonic time of the last change of a condition's message without a change of its reason."""

    def listening(self, now: float) -> bool:
        """Return whether every sender had time to report since the loop (re)started; then a missing report counts."""
        return now - self.since >= LISTENING_SECONDS


@dataclass(frozen=True, slots=True)
class Facts:
    """Arguments of a pass, and what was derived from them."""

    resource: ModelDeployment
    manifest: Manifest
    observed: Observed
    signals: Signals
    settings: Settings
    memory: Memory
    pods: tuple[RuntimePod, ...]
    """The runtime pods of all revisions, without those that are being deleted."""
    revision: str
    """The desired revision, that of the present spec: the candidate during a rollout."""
    deployments: Mapping[str, Manifest]
    """Deployments by revision."""
    terminating: frozenset[str]
    """Revisions with terminating pods."""
    shares: Mapping[str, int]
    """The route weights as last written, percent by revision, in the order of the status."""
    source: SourceState
    """State of the model's own file."""
    adapters: tuple[AdapterFile, ...]
    files: SourceState
    """State of the first file that is missing, the model's or an adapter's; of the model's if none is."""
    fetches: tuple[Child, ...]
    """The Jobs that fetch the files that are missing."""
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
        """Monotonic time since which no gateway routes to a pod that reports Ready, by pod."""
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
        """Whether the desired revision is a canary, which requires another revision."""
        return self.resource.spec.rollout.type == "Canary" and bool(self.deployments.keys() - {self.revision})

    def serving(self, revision: str) -> int:
        """Return the number of pods of a revision that report Ready."""
        return sum(pod.serving and pod.revision == revision for pod in self.pods)

    def routable(self, revision: str) -> int:
        """Return the number of pods of a revision that every live gateway routes to."""
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
    source, fetch = _model_file(resource, before, observed, signals, settings)
    adapters = adapter_files(resource, before, observed, signals, settings)
    fetches = {job.key: job for job in (fetch, *(each.fetch for each in adapters)) if job is not None}
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
        terminating=terminating_revisions(observed),
        shares=weights(before),
        source=source,
        adapters=adapters,
        files=all_files(source, adapters),
        fetches=tuple(fetches.values()),
        refusals=refusals_of(revision, deployment_name(resource, revision), observed, signals.wall),
    )


def _model_file(
    resource: ModelDeployment, before: Manifest, observed: Observed, signals: Signals, settings: Settings
) -> tuple[SourceState, Child | None]:
    source = resource.spec.model.source
    if source is None:
        return NOTHING_TO_FETCH, None
    signals = signals_of(source.uri, signals)
    return source_state(resource, source, before, observed, signals, settings, peers_of(observed).fetcher)
