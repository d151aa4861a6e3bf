"""Which revision has how many replicas and what share of new requests.

*Surge*, the usual way: the new revision grows to the wanted number while the old one keeps serving all requests. When
every live gateway routes to all of the new replicas the weight moves to them; when the gateways have had time to see
that, the old revision goes (its pods drain). A new revision that does not become ready leaves the old one serving for
as long as it takes.

*Replace*, where there is no room for both (`headrace.reconcile.room`) or the spec forbids a surge: the old one gives
way replica by replica, the next as soon as the gateways route to what came in the place of the last, and the weight is
that of the replicas. It never grows again, so the step that was made last is read off its Deployment.

*Recreate*: the old one goes whole; when its last pod is gone the new one comes. Requests are held in between.

*Canary*: the new one gets its share of replicas beside a full old one, and its share of requests once the gateways
route to all of them. One that fails gets none any more, until the spec changes.

Taking back is no way of its own: the old spec makes the old revision the wanted one, which has its pods still, so the
weight returns to it at once. At zero, and where the old one only fails, the new one simply takes its place, but never
before its model's file is there: until then the old one is still what a request wakes. Where both fail, both stay:
either may heal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from headrace.api import model_deployment as api
from headrace.reconcile.pods import RuntimePod
from headrace.routes import RevisionWeight

WHOLE = 100
"""Percent."""
SETTLE_SECONDS = 1.0
"""Time in which every gateway has seen a moved weight; one that has not still finds the old pods draining, not gone."""


class Way(Enum):
    """How the wanted revision is taking over."""

    SURGE = auto()
    REPLACE = auto()
    RECREATE = auto()
    CANARY = auto()


@dataclass(frozen=True, slots=True)
class Scene:
    """What a plan is made from."""

    target: str
    """The wanted revision."""
    wanted: int
    """How many replicas the model should have."""
    strategy: api.Rollout
    olds: Mapping[str, int]
    """The other revisions that exist, and how many replicas each asks for now."""
    pods: tuple[RuntimePod, ...]
    """The runtime pods of all revisions, those on their way out left out."""
    leaving: frozenset[str]
    """Revisions with pods on their way out."""
    shares: Mapping[str, int]
    """The route weights as last written, percent by revision, in the order of the status."""
    can_start: bool
    """Whether the wanted revision may have pods now (its file is there)."""
    fails: bool
    """Whether the wanted revision is known not to start, or failed as a canary."""
    settled: bool
    """Whether the gateways have had time to see that the weight moved to the wanted revision."""
    replacing: bool
    """Whether the old one began to give way earlier."""
    no_room: bool
    """Whether the wanted revision has lacked room for long enough to take some."""

    @property
    def way(self) -> Way:
        """How the old revision is replaced, if there is one."""
        if self.strategy.type == "Canary":
            return Way.CANARY
        if self.strategy.type == "Recreate":
            return Way.RECREATE
        replaces = never_surges(self.strategy) or self.replacing or self.no_room
        return Way.REPLACE if replaces else Way.SURGE

    @property
    def startable(self) -> int:
        """How many replicas the wanted revision may have."""
        return self.wanted if self.can_start else 0

    @property
    def ready(self) -> int:
        """Pods of the wanted revision that every gateway routes to."""
        return sum(pod.revision == self.target and pod.routable for pod in self.pods)

    @property
    def holder(self) -> str | None:
        """The revision that stood for the model: it has all requests, or is the older of two that share them."""
        sharing = [revision for revision, share in self.shares.items() if share]
        return sharing[-1] if sharing else None

    @property
    def others_present(self) -> bool:
        """Whether pods of another revision exist, also those on their way out."""
        return any(pod.revision != self.target for pod in self.pods) or bool(self.leaving - {self.target})


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
    way: Way
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


def plan(scene: Scene) -> Rollout:
    """Return the next step towards `wanted` replicas of revision `target`."""
    old = _needed(scene)
    if old is None:
        return _alone(scene)
    if scene.holder == scene.target and scene.ready:
        return _alone(scene) if scene.settled else _taken_over(scene, old)
    if scene.way is Way.CANARY:
        return _canary(scene, old)
    if not scene.can_start:
        return Rollout(scene.target, {scene.target: 0, old: scene.wanted}, old, scene.wanted, scene.way)
    if scene.way is Way.RECREATE:
        return _recreate(scene, old)
    if 0 < scene.wanted <= scene.ready:
        return _taken_over(scene, old)
    return _replace(scene, old) if scene.way is Way.REPLACE else _surge(scene, old)


def never_surges(strategy: api.Rollout) -> bool:
    """Whether the spec forbids a new revision beside a full old one."""
    return strategy.rolling_update is not None and strategy.rolling_update.surge == "Never"


def only_fails(revision: str, pods: tuple[RuntimePod, ...]) -> bool:
    """Whether a revision has pods, and none that serves or may come to."""
    failures = [pod.failure for pod in pods if pod.revision == revision]
    return bool(failures) and None not in failures


def _needed(scene: Scene) -> str | None:
    """Return the old revision that is still needed."""
    if scene.way is Way.RECREATE and scene.can_start:
        # Needed or not: the wanted one does not come beside it.
        needed = [old for old, replicas in scene.olds.items() if replicas or scene.others_present]
    else:
        # Not "serves": an old one must not go because a pod of it was evicted, or a gateway admits its pods anew.
        # A canary is one at zero too: the next wake is for both.
        present = [old for old, replicas in scene.olds.items() if replicas or scene.way is Way.CANARY]
        needed = [old for old in present if scene.fails or not only_fails(old, scene.pods)]
    if scene.can_start and scene.wanted == 0 and scene.way is not Way.CANARY:
        needed = []
    if not scene.can_start and not needed:
        needed = list(scene.olds)
    # Of several (a change during a rollout) the one that stood for the model stays.
    return max(needed, key=lambda old: (old == scene.holder, scene.shares.get(old, 0)), default=None)


def _alone(scene: Scene) -> Rollout:
    replicas = scene.startable
    if scene.way is Way.RECREATE and scene.others_present:
        replicas = min(replicas, _present(scene))
    return Rollout(scene.target, {scene.target: replicas}, scene.target, scene.wanted, scene.way)


def _taken_over(scene: Scene, old: str) -> Rollout:
    """The weight has moved; the old one waits until every gateway has seen that."""
    waiting = min(scene.olds[old], scene.wanted)
    return Rollout(
        scene.target, {scene.target: scene.startable, old: waiting}, scene.target, scene.wanted, scene.way, WHOLE
    )


def _surge(scene: Scene, old: str) -> Rollout:
    """A canary that is being promoted keeps its share meanwhile."""
    share = scene.shares.get(scene.target, 0) if scene.ready and not scene.fails else 0
    replicas = {scene.target: scene.wanted, old: scene.wanted}
    return Rollout(scene.target, replicas, old, scene.wanted, Way.SURGE, share)


def _replace(scene: Scene, old: str) -> Rollout:
    """One replica is in motion at a time, and one more where the new ones still lack room: they may be larger."""
    before = scene.olds[old]
    left = max(0, min(before - scene.no_room, scene.wanted - scene.ready - 1))
    share = WHOLE * scene.ready // (scene.ready + left) if scene.ready else 0
    replicas = {scene.target: scene.wanted - left, old: left}
    serving = scene.target if share == WHOLE else old
    return Rollout(scene.target, replicas, serving, scene.wanted, Way.REPLACE, share)


def _recreate(scene: Scene, old: str) -> Rollout:
    replicas = {scene.target: min(scene.wanted, _present(scene)), old: 0}
    serving, share = (scene.target, WHOLE) if scene.ready else (old, 0)
    return Rollout(scene.target, replicas, serving, scene.wanted, Way.RECREATE, share)


def _canary(scene: Scene, old: str) -> Rollout:
    assert scene.strategy.canary is not None
    percent = scene.strategy.canary.percent
    count = -(-scene.wanted * percent // WHOLE)  # rounded up
    began = scene.shares.get(scene.target, 0) > 0
    takes = scene.ready >= (1 if began else max(count, 1)) and not scene.fails
    replicas = {scene.target: min(count, scene.startable), old: scene.wanted}
    return Rollout(scene.target, replicas, old, count, Way.CANARY, percent if takes else 0)


def _present(scene: Scene) -> int:
    return sum(pod.revision == scene.target for pod in scene.pods)
