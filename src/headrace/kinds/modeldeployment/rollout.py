"""Rollout strategies: replicas of each revision, and their shares of new requests.

The *target* is the desired revision, that of the present spec: the candidate during a rollout. The *stable* revision
is the other one.

*Surge*, the default: the target grows to the desired number of replicas while the stable revision serves all requests.
When every live gateway routes to all target replicas, the weight moves to the target. When the gateways have had time
to read the new weights, the stable revision is removed and its pods drain. If the target does not become ready, the
stable revision serves without a time limit.

*Replace*, without capacity for both (`capacity`) or if the spec forbids a surge: the stable revision is scaled down
replica by replica, each time that the gateways route to the replacement of the previous one. The weights are
proportional to the replicas. The stable revision is never scaled up again, so the replicas of its Deployment show the
last step. The cause, missing capacity, is stored in the status (`replacingForCapacity`).

*Recreate*: the stable revision is scaled to zero; after its last pod is deleted, the target starts. Requests are
queued meanwhile.

*Canary*: the target gets its share of replicas in addition to all stable ones, and its share of requests once the
gateways route to all of them. A canary that fails receives no requests until the spec changes.

A rollback needs no strategy of its own: applying the previous spec makes the stable revision the target, which still
has pods, so the weight returns at once. At zero, and if all pods of the stable revision fail, the target replaces it
directly, but never before the model's file is verified: until then a request starts the stable revision. If both
revisions fail, both are kept, because either may recover.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from headrace.kinds.modeldeployment import spec as api
from headrace.kinds.modeldeployment.deployments import replicas_of
from headrace.kinds.modeldeployment.facts import Facts
from headrace.kinds.modeldeployment.pods import RuntimePod
from headrace.routes import RevisionWeight

WHOLE = 100
"""Sum of the weights, in percent."""
SETTLE_SECONDS = 1.0
"""Time in which every gateway reads a changed weight. For a slower one, the stable pods still drain."""


class Strategy(Enum):
    """Ways in which the target replaces the stable revision."""

    SURGE = auto()
    REPLACE = auto()
    RECREATE = auto()
    CANARY = auto()


@dataclass(frozen=True, slots=True)
class RolloutInputs:
    """Inputs of a rollout step."""

    facts: Facts
    desired: int
    """Desired replicas of the model."""
    can_start: bool
    """Whether the target may have pods: its file is verified, and it is not refused or paused."""
    failing: bool
    """Whether the target fails to start, or failed as a canary."""
    settled: bool
    """Whether the gateways have had time to read that the weight moved to the target."""
    lacks_capacity: bool
    """Whether the target has lacked capacity for so long that the stable revision is scaled down."""

    @property
    def target(self) -> str:
        """The desired revision, that of the present spec."""
        return self.facts.revision

    @property
    def others(self) -> dict[str, int]:
        """Desired replicas of the other existing revisions."""
        deployments = self.facts.deployments.items()
        return {name: replicas_of(manifest) for name, manifest in deployments if name != self.target}

    @property
    def strategy(self) -> Strategy:
        """Strategy by which the target replaces the stable revision."""
        spec = self.facts.resource.spec.rollout
        if spec.type == "Canary":
            return Strategy.CANARY
        if spec.type == "Recreate":
            return Strategy.RECREATE
        replaces = never_surges(spec) or self.facts.before.get("replacingForCapacity", False) or self.lacks_capacity
        return Strategy.REPLACE if replaces else Strategy.SURGE

    @property
    def startable(self) -> int:
        """Replicas that the target may have now."""
        return self.desired if self.can_start else 0

    @property
    def ready(self) -> int:
        """Number of target pods that every gateway routes to."""
        return self.facts.routable(self.target)

    @property
    def primary(self) -> str | None:
        """The revision with all requests, or the older of two that share them."""
        sharing = [revision for revision, share in self.facts.shares.items() if share]
        return sharing[-1] if sharing else None

    @property
    def other_pods_exist(self) -> bool:
        """Whether pods of other revisions exist, including terminating ones."""
        return any(pod.revision != self.target for pod in self.facts.pods) or bool(
            self.facts.terminating - {self.target}
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """Desired replicas and weights of each revision."""

    target: str
    """The desired revision, that of the present spec."""
    replicas: dict[str, int]
    """By revision, the target first; other revisions are removed."""
    serving: str
    """The stable revision until the target has all requests, then the target."""
    aim: int
    """Desired replicas of the target in this rollout: all, or a canary's share."""
    strategy: Strategy
    share: int = 0
    """Share of the target in new requests during the rollout, in percent."""

    @property
    def weights(self) -> tuple[RevisionWeight, ...]:
        """Weights for the route."""
        if self.share in (0, WHOLE):
            return (RevisionWeight(revision=self.target if self.share else self.serving, weight_percent=WHOLE),)
        rest = next(revision for revision in self.replicas if revision != self.target)
        return (
            RevisionWeight(revision=self.target, weight_percent=self.share),
            RevisionWeight(revision=rest, weight_percent=WHOLE - self.share),
        )

    @property
    def rolling(self) -> bool:
        """Whether the stable revision is still needed."""
        return len(self.replicas) > 1


def plan(inputs: RolloutInputs) -> Rollout:
    """Return the next step of the rollout towards `desired` replicas of `target`."""
    stable = _stable_to_keep(inputs)
    if stable is None:
        return _only_target(inputs)
    if inputs.primary == inputs.target and inputs.ready:
        return _only_target(inputs) if inputs.settled else _settle(inputs, stable)
    if inputs.strategy is Strategy.CANARY:
        return _canary(inputs, stable)
    if not inputs.can_start:
        return Rollout(
            inputs.target, {inputs.target: 0, stable: inputs.desired}, stable, inputs.desired, inputs.strategy
        )
    if inputs.strategy is Strategy.RECREATE:
        return _recreate(inputs, stable)
    if 0 < inputs.desired <= inputs.ready:
        return _settle(inputs, stable)
    return _replace(inputs, stable) if inputs.strategy is Strategy.REPLACE else _surge(inputs, stable)


def never_surges(strategy: api.Rollout) -> bool:
    """Whether the spec forbids a surge."""
    return strategy.rolling_update is not None and strategy.rolling_update.surge == "Never"


def all_pods_fail(revision: str, pods: tuple[RuntimePod, ...]) -> bool:
    """Whether a revision has pods, and all of them fail."""
    failures = [pod.failure for pod in pods if pod.revision == revision]
    return bool(failures) and None not in failures


def _stable_to_keep(inputs: RolloutInputs) -> str | None:
    """Return the stable revision if it is still needed, else None."""
    if inputs.strategy is Strategy.RECREATE and inputs.can_start:
        # In any case: with Recreate, the target never runs beside the stable revision.
        needed = [name for name, replicas in inputs.others.items() if replicas or inputs.other_pods_exist]
    else:
        # Not "serves": an eviction, or a gateway that admits its pods again, must not remove the stable revision.
        # A canary is kept at zero, because the next cold start is for both revisions.
        present = [name for name, replicas in inputs.others.items() if replicas or inputs.strategy is Strategy.CANARY]
        needed = [name for name in present if inputs.failing or not all_pods_fail(name, inputs.facts.pods)]
    if inputs.can_start and inputs.desired == 0 and inputs.strategy is not Strategy.CANARY:
        needed = []
    if not inputs.can_start and not needed:
        needed = list(inputs.others)
    # Of several (after a change during a rollout), the primary is kept.
    return max(needed, key=lambda name: (name == inputs.primary, inputs.facts.shares.get(name, 0)), default=None)


def _only_target(inputs: RolloutInputs) -> Rollout:
    replicas = inputs.startable
    if inputs.strategy is Strategy.RECREATE and inputs.other_pods_exist:
        replicas = min(replicas, _present(inputs))
    return Rollout(inputs.target, {inputs.target: replicas}, inputs.target, inputs.desired, inputs.strategy)


def _settle(inputs: RolloutInputs, stable: str) -> Rollout:
    """Move the weight to the target, and keep the stable revision until every gateway has read the change."""
    waiting = min(inputs.others[stable], inputs.desired)
    return Rollout(
        inputs.target,
        {inputs.target: inputs.startable, stable: waiting},
        inputs.target,
        inputs.desired,
        inputs.strategy,
        WHOLE,
    )


def _surge(inputs: RolloutInputs, stable: str) -> Rollout:
    """Start all target replicas beside the stable ones; a canary that is being promoted keeps its share."""
    share = inputs.facts.shares.get(inputs.target, 0) if inputs.ready and not inputs.failing else 0
    replicas = {inputs.target: inputs.desired, stable: inputs.desired}
    return Rollout(inputs.target, replicas, stable, inputs.desired, Strategy.SURGE, share)


def _replace(inputs: RolloutInputs, stable: str) -> Rollout:
    """Replace one replica at a time, and one more while target pods lack capacity, because they may be larger."""
    before = inputs.others[stable]
    left = max(0, min(before - inputs.lacks_capacity, inputs.desired - inputs.ready - 1))
    share = WHOLE * inputs.ready // (inputs.ready + left) if inputs.ready else 0
    replicas = {inputs.target: inputs.desired - left, stable: left}
    serving = inputs.target if share == WHOLE else stable
    return Rollout(inputs.target, replicas, serving, inputs.desired, Strategy.REPLACE, share)


def _recreate(inputs: RolloutInputs, stable: str) -> Rollout:
    replicas = {inputs.target: min(inputs.desired, _present(inputs)), stable: 0}
    serving, share = (inputs.target, WHOLE) if inputs.ready else (stable, 0)
    return Rollout(inputs.target, replicas, serving, inputs.desired, Strategy.RECREATE, share)


def _canary(inputs: RolloutInputs, stable: str) -> Rollout:
    canary = inputs.facts.resource.spec.rollout.canary
    assert canary is not None
    count = -(-inputs.desired * canary.percent // WHOLE)  # rounded up
    began = inputs.facts.shares.get(inputs.target, 0) > 0
    receives = inputs.ready >= (1 if began else max(count, 1)) and not inputs.failing
    replicas = {inputs.target: min(count, inputs.startable), stable: inputs.desired}
    return Rollout(inputs.target, replicas, stable, count, Strategy.CANARY, canary.percent if receives else 0)


def _present(inputs: RolloutInputs) -> int:
    return sum(pod.revision == inputs.target for pod in inputs.facts.pods)
