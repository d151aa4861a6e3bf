"""Which revision has how many replicas and what share of new requests.

*Surge*, the usual way: the new revision grows to the wanted number while the old one keeps serving all requests. When
every live gateway routes to all of the new replicas the weight moves to them; when the gateways have had time to see
that, the old revision goes (its pods drain). A new revision that does not become ready leaves the old one serving for
as long as it takes.

*Replace*, where there is no room for both (`room`) or the spec forbids a surge: the old one is
scaled down replica by replica, the next as soon as the gateways route to what came in the place of the last, and the
weight is that of the replicas. It never grows again, so the step that was made last is read off its Deployment; that it
is replaced for lack of room is remembered in the status (`replacingForCapacity`).

*Recreate*: the old one goes whole; when its last pod is gone the new one comes. Requests are held in between.

*Canary*: the new one gets its share of replicas beside a full old one, and its share of requests once the gateways
route to all of them. One that fails gets none any more, until the spec changes.

A rollback needs no strategy of its own: the old spec makes the old revision the wanted one, which has its pods still,
so the weight returns to it at once. At zero, and where the old one only fails, the new one simply takes its place, but
never before its model's file is there: until then the old one is still what a request wakes. Where both fail, both
stay: either may heal.
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
"""Percent."""
SETTLE_SECONDS = 1.0
"""Time in which every gateway has seen a moved weight; one that has not still finds the old pods draining, not gone."""


class Strategy(Enum):
    """How the wanted revision is taking over."""

    SURGE = auto()
    REPLACE = auto()
    RECREATE = auto()
    CANARY = auto()


@dataclass(frozen=True, slots=True)
class RolloutInputs:
    """What a plan is made from."""

    facts: Facts
    wanted: int
    """How many replicas the model should have."""
    can_start: bool
    """Whether the wanted revision may have pods now (its file is there)."""
    fails: bool
    """Whether the wanted revision is known not to start, or failed as a canary."""
    settled: bool
    """Whether the gateways have had time to see that the weight moved to the wanted revision."""
    no_room: bool
    """Whether the wanted revision has lacked room for long enough to take some."""

    @property
    def target(self) -> str:
        """The wanted revision."""
        return self.facts.revision

    @property
    def olds(self) -> dict[str, int]:
        """The other revisions that exist, and how many replicas each asks for now."""
        others = self.facts.deployments.items()
        return {name: replicas_of(manifest) for name, manifest in others if name != self.target}

    @property
    def strategy(self) -> Strategy:
        """How the old revision is replaced, if there is one."""
        spec = self.facts.resource.spec.rollout
        if spec.type == "Canary":
            return Strategy.CANARY
        if spec.type == "Recreate":
            return Strategy.RECREATE
        replaces = never_surges(spec) or self.facts.before.get("replacingForCapacity", False) or self.no_room
        return Strategy.REPLACE if replaces else Strategy.SURGE

    @property
    def startable(self) -> int:
        """How many replicas the wanted revision may have."""
        return self.wanted if self.can_start else 0

    @property
    def ready(self) -> int:
        """Pods of the wanted revision that every gateway routes to."""
        return self.facts.routable(self.target)

    @property
    def holder(self) -> str | None:
        """The revision that stood for the model: it has all requests, or is the older of two that share them."""
        sharing = [revision for revision, share in self.facts.shares.items() if share]
        return sharing[-1] if sharing else None

    @property
    def others_present(self) -> bool:
        """Whether pods of another revision exist, also those on their way out."""
        return any(pod.revision != self.target for pod in self.facts.pods) or bool(
            self.facts.terminating - {self.target}
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """What each revision should have."""

    target: str
    """The wanted revision."""
    replicas: dict[str, int]
    """By revision, the wanted one first; a revision not in it goes."""
    serving: str
    """The revision that stands for the model: the old one until the wanted one has all requests."""
    aim: int
    """How many replicas the wanted revision is to have for now: all, or a canary's share."""
    strategy: Strategy
    share: int = 0
    """What the wanted revision has of the requests beside another one, percent."""

    @property
    def weights(self) -> tuple[RevisionWeight, ...]:
        """What the route says."""
        if self.share in (0, WHOLE):
            return (RevisionWeight(revision=self.target if self.share else self.serving, weight_percent=WHOLE),)
        rest = next(revision for revision in self.replicas if revision != self.target)
        return (
            RevisionWeight(revision=self.target, weight_percent=self.share),
            RevisionWeight(revision=rest, weight_percent=WHOLE - self.share),
        )

    @property
    def rolling(self) -> bool:
        """Whether an old revision is still needed."""
        return len(self.replicas) > 1


def plan(inputs: RolloutInputs) -> Rollout:
    """Return the next step towards `wanted` replicas of revision `target`."""
    old = _needed(inputs)
    if old is None:
        return _alone(inputs)
    if inputs.holder == inputs.target and inputs.ready:
        return _alone(inputs) if inputs.settled else _taken_over(inputs, old)
    if inputs.strategy is Strategy.CANARY:
        return _canary(inputs, old)
    if not inputs.can_start:
        return Rollout(inputs.target, {inputs.target: 0, old: inputs.wanted}, old, inputs.wanted, inputs.strategy)
    if inputs.strategy is Strategy.RECREATE:
        return _recreate(inputs, old)
    if 0 < inputs.wanted <= inputs.ready:
        return _taken_over(inputs, old)
    return _replace(inputs, old) if inputs.strategy is Strategy.REPLACE else _surge(inputs, old)


def never_surges(strategy: api.Rollout) -> bool:
    """Whether the spec forbids a new revision beside a full old one."""
    return strategy.rolling_update is not None and strategy.rolling_update.surge == "Never"


def only_fails(revision: str, pods: tuple[RuntimePod, ...]) -> bool:
    """Whether a revision has pods, and none that serves or may come to."""
    failures = [pod.failure for pod in pods if pod.revision == revision]
    return bool(failures) and None not in failures


def _needed(inputs: RolloutInputs) -> str | None:
    """Return the old revision that is still needed."""
    if inputs.strategy is Strategy.RECREATE and inputs.can_start:
        # Needed or not: the wanted one does not come beside it.
        needed = [old for old, replicas in inputs.olds.items() if replicas or inputs.others_present]
    else:
        # Not "serves": an old one must not go because a pod of it was evicted, or a gateway admits its pods anew.
        # A canary is one at zero too: the next wake is for both.
        present = [old for old, replicas in inputs.olds.items() if replicas or inputs.strategy is Strategy.CANARY]
        needed = [old for old in present if inputs.fails or not only_fails(old, inputs.facts.pods)]
    if inputs.can_start and inputs.wanted == 0 and inputs.strategy is not Strategy.CANARY:
        needed = []
    if not inputs.can_start and not needed:
        needed = list(inputs.olds)
    # Of several (a change during a rollout) the one that stood for the model stays.
    return max(needed, key=lambda old: (old == inputs.holder, inputs.facts.shares.get(old, 0)), default=None)


def _alone(inputs: RolloutInputs) -> Rollout:
    replicas = inputs.startable
    if inputs.strategy is Strategy.RECREATE and inputs.others_present:
        replicas = min(replicas, _present(inputs))
    return Rollout(inputs.target, {inputs.target: replicas}, inputs.target, inputs.wanted, inputs.strategy)


def _taken_over(inputs: RolloutInputs, old: str) -> Rollout:
    """The weight has moved; the old one waits until every gateway has seen that."""
    waiting = min(inputs.olds[old], inputs.wanted)
    return Rollout(
        inputs.target,
        {inputs.target: inputs.startable, old: waiting},
        inputs.target,
        inputs.wanted,
        inputs.strategy,
        WHOLE,
    )


def _surge(inputs: RolloutInputs, old: str) -> Rollout:
    """A canary that is being promoted keeps its share meanwhile."""
    share = inputs.facts.shares.get(inputs.target, 0) if inputs.ready and not inputs.fails else 0
    replicas = {inputs.target: inputs.wanted, old: inputs.wanted}
    return Rollout(inputs.target, replicas, old, inputs.wanted, Strategy.SURGE, share)


def _replace(inputs: RolloutInputs, old: str) -> Rollout:
    """One replica is in motion at a time, and one more where the new ones still lack room: they may be larger."""
    before = inputs.olds[old]
    left = max(0, min(before - inputs.no_room, inputs.wanted - inputs.ready - 1))
    share = WHOLE * inputs.ready // (inputs.ready + left) if inputs.ready else 0
    replicas = {inputs.target: inputs.wanted - left, old: left}
    serving = inputs.target if share == WHOLE else old
    return Rollout(inputs.target, replicas, serving, inputs.wanted, Strategy.REPLACE, share)


def _recreate(inputs: RolloutInputs, old: str) -> Rollout:
    replicas = {inputs.target: min(inputs.wanted, _present(inputs)), old: 0}
    serving, share = (inputs.target, WHOLE) if inputs.ready else (old, 0)
    return Rollout(inputs.target, replicas, serving, inputs.wanted, Strategy.RECREATE, share)


def _canary(inputs: RolloutInputs, old: str) -> Rollout:
    canary = inputs.facts.resource.spec.rollout.canary
    assert canary is not None
    count = -(-inputs.wanted * canary.percent // WHOLE)  # rounded up
    began = inputs.facts.shares.get(inputs.target, 0) > 0
    takes = inputs.ready >= (1 if began else max(count, 1)) and not inputs.fails
    replicas = {inputs.target: min(count, inputs.startable), old: inputs.wanted}
    return Rollout(inputs.target, replicas, old, count, Strategy.CANARY, canary.percent if takes else 0)


def _present(inputs: RolloutInputs) -> int:
    return sum(pod.revision == inputs.target for pod in inputs.facts.pods)
