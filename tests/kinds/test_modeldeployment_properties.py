"""What holds of the rule whatever the world does: a state machine that breaks things, then lets them heal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kinds.reconcile_pods import set_condition
from kinds.reconcile_world import DIGEST, SOURCE, World, resource, route_of
from typing_extensions import override

from headrace.api import vocabulary as v
from headrace.events.messages import FetchProgress
from headrace.kinds.modeldeployment.facts import Memory
from headrace.reconcile.world import Manifest, Outcome

SPECS: dict[str, list[Any]] = {
    "replicas": [0, 1, 2, 3],
    "scaling": [
        None,
        {"maxReplicas": 3, "idleTimeoutSeconds": 5},
        {"minReplicas": 1, "maxReplicas": 2},
        {"maxReplicas": 4, "metric": {"type": "QueueDelay", "queueDelay": {"targetMilliseconds": 100}}},
        {"minReplicas": 3, "maxReplicas": 1},  # invalid
    ],
    "suspend": [None, True],
    "runtime": [
        None,
        {"type": "LLM", "llm": {"maxModelLen": 4096}},
        {"type": "Container", "container": {"image": "engine:1", "modelName": "m"}},
    ],
    "rollout": [
        None,
        {"startupDeadlineSeconds": 3},
        {"drainTimeoutSeconds": 5},
        {"type": "Recreate"},
        {"rollingUpdate": {"surge": "Never"}},
        {"type": "Canary", "canary": {"percent": 10}},
        {"type": "Canary", "canary": {"percent": 60}, "startupDeadlineSeconds": 3},
        {"type": "Canary"},  # invalid
    ],
    "model": [
        {"source": {"uri": SOURCE}},
        {"source": {"uri": SOURCE.replace("0.1.2", "0.1.3")}},
        {"source": {"uri": SOURCE, "digest": DIGEST}},
        {"name": "taken", "source": {"uri": SOURCE}},
        {"source": {"uri": "gopher://nowhere/x"}},  # invalid
        {"name": "custom"},  # without a source: invalid unless a container brings it
    ],
}
changes = st.sampled_from([(name, value) for name, values in SPECS.items() for value in values])
picks = st.integers(0, 7)
VERY_LONG_SECONDS = 1e6
FETCH_WORDS = ["", "Killed", json.dumps({"reason": v.NO_SPACE, "message": "full"}), '{"reason": 3}', "[1]"]


class Faults(RuleBasedStateMachine):
    """One resource in a world that does its worst."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(names_taken={"taken": "other"})
        self.outcome: Outcome[Memory] | None = None

    @initialize(spec=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SPECS.items()}))
    def first(self, spec: dict[str, Any]) -> None:
        self.world.manifest = resource(**{name: value for name, value in spec.items() if value is not None})

    # -- what may happen -------------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        self.outcome = self.world.look()

    @rule(seconds=st.floats(0.01, 90))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.outcome = self.world.look()

    @rule()
    def look_again(self) -> None:
        """Once it has seen what it made, a look that follows at once finds nothing to do, and has nothing to say.

        Nor does one after any time, where no look was asked for.
        """
        for _ in range(2):  # Recreate: the old ones go, and then the new ones come
            self.world.look()
        first = self.world.look()
        if self.world.decide().requeue_seconds is None:
            self.world.now += VERY_LONG_SECONDS
        again = self.outcome = self.world.decide()
        assert (again.children, again.status, again.publications) == (first.children, first.status, first.publications)
        assert (again.events, again.routable_pods) == ((), first.routable_pods)

    @rule(change=changes)
    def spec_changes(self, change: tuple[str, Any]) -> None:
        self.world.apply(**{change[0]: change[1]})
        self.outcome = self.world.look()

    @rule(queued=st.integers(0, 60), in_flight=st.integers(0, 60), waited=st.floats(0, 1000))
    def demand_changes(self, queued: int, in_flight: int, waited: float) -> None:
        self.world.ask(queued, in_flight, waited)

    @rule()
    def fetch_ends_well(self) -> None:
        self.world.fetch()

    @rule(word=st.sampled_from(FETCH_WORDS))
    def fetch_fails(self, word: str) -> None:
        if self.world.fetch_pod() is not None:
            self.world.fetch_fails(word)

    @rule(received=st.integers(0, 100))
    def fetch_progresses(self, received: int) -> None:
        self.world.progress = FetchProgress(uri=SOURCE, received_bytes=received, total_bytes=100)

    @precondition(lambda self: self.world.runtimes())
    @rule(
        pick=picks,
        fate=st.sampled_from(
            ["serve", "unadmitted", "load", "crash", "oom", "no room", "no image", "deleted", "killed"]
        ),
    )
    def pod_meets_its_fate(self, pick: int, fate: str) -> None:
        world = self.world
        pod = world.runtimes()[pick % len(world.runtimes())]
        match fate:
            case "serve" | "unadmitted":
                world.serve(pod, admitted=fate == "serve")
            case "load":
                world.load(pod, percent=pick * 10)
            case "crash":
                world.crash(pod, "cut. Fetch it again. " * 100)
            case "oom":
                world.crash(pod, "", code=137, reason="OOMKilled")
            case "no room":
                set_condition(world.pods[pod], "PodScheduled", "False", "0/1 nodes are available")
            case "no image":
                world.container(pod, {"waiting": {"reason": "ErrImagePull"}})
            case "deleted":
                world.pods[pod]["metadata"]["deletionTimestamp"] = world.stamp()
            case _:
                world.pods.pop(pod)
                world.reports.pop(pod, None)
                world.admissions.pop(pod, None)

    @rule()
    def messages_are_lost(self) -> None:
        self.world.reports, self.world.admissions, self.world.demand = {}, {}, {}

    @rule(connected=st.booleans())
    def nats_comes_and_goes(self, connected: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        self.world.connected = connected

    @rule(
        gateways=st.sampled_from([frozenset(), frozenset({"gw-1"}), frozenset({"gw-2"}), frozenset({"gw-1", "gw-2"})])
    )
    def gateways_come_and_go(self, gateways: frozenset[str]) -> None:
        self.world.gateways = gateways
        self.world.demand = {gateway: demand for gateway, demand in self.world.demand.items() if gateway in gateways}

    @rule(room=st.one_of(st.none(), st.integers(0, 4)))
    def room_grows_and_shrinks(self, room: int | None) -> None:
        self.world.room = room

    @rule(quota=st.one_of(st.none(), st.integers(0, 4)))
    def quota_is_changed(self, quota: int | None) -> None:
        self.world.quota = quota

    @rule(lingers=st.booleans())
    def pods_go_slowly_or_at_once(self, lingers: bool) -> None:  # noqa: FBT001 - hypothesis passes by name
        self.world.lingers = lingers

    @rule()
    def grace_periods_end(self) -> None:
        self.world.depart()

    @rule()
    def loop_restarts(self) -> None:
        self.world.restart_loop()
        self.outcome = self.world.look()

    @precondition(lambda self: self.world.children)
    @rule(pick=picks)
    def cluster_refuses(self, pick: int) -> None:
        """From now on it does not take one of the children that are wanted."""
        wanted = sorted(child.key for child in self.world.decide().children)
        if wanted:
            self.world.not_taken[wanted[pick % len(wanted)]] = "it may not be"

    @precondition(lambda self: self.world.children)
    @rule(pick=picks)
    def somebody_deletes_a_child(self, pick: int) -> None:
        del self.world.children[sorted(self.world.children)[pick % len(self.world.children)]]

    # -- what holds always -----------------------------------------------------------------------------------

    @invariant()
    def outcome_is_sound(self) -> None:
        if self.outcome is not None:
            assert_sound(self.world.manifest, self.outcome)

    @override
    def teardown(self) -> None:
        """Once the faults stop, the world comes to the rest that the spec asks for."""
        world = self.world
        world.connected, world.gateways, world.demand = True, frozenset({"gw-1"}), {}
        world.names_taken, world.room, world.quota, world.lingers = {}, None, None, False
        world.not_taken.clear()
        world.depart()
        for pod in list(world.pods.values()):
            pod["status"]["conditions"] = [c for c in pod["status"]["conditions"] if c["type"] != "PodScheduled"]
        world.calm()  # a pause after a given-up start may have to end
        outcome = world.calm()
        assert_sound(world.manifest, outcome)
        assert_at_rest(world, outcome)


def assert_sound(manifest: Manifest, outcome: Outcome[Memory]) -> None:
    generation = manifest["metadata"]["generation"]
    conditions = outcome.status["conditions"]
    assert tuple(condition["type"] for condition in conditions) == v.CONDITIONS
    for condition in conditions:
        assert condition["observedGeneration"] == generation
        assert condition["message"]
        assert condition["status"] in ("True", "False", "Unknown")
        assert condition["reason"].isalnum()
        assert condition["lastTransitionTime"]
    for child in outcome.children:
        assert list(owners(child.manifest)) == [manifest["metadata"]["uid"]]
        assert child.key.namespace == manifest["metadata"]["namespace"]
    assert_shares(manifest, outcome)


def assert_shares(manifest: Manifest, outcome: Outcome[Memory]) -> None:
    accepted = next(c for c in outcome.status["conditions"] if c["type"] == v.ACCEPTED)["status"] == "True"
    replicas = [c.manifest["spec"]["replicas"] for c in outcome.children if c.key.kind == "Deployment"]
    if outcome.publications[0].value is not None:
        shares = [weight.weight_percent for weight in route_of(outcome).revisions]
        assert sum(shares) in ((100,) if accepted else (0, 100))
        assert 0 not in shares
    if accepted:
        assert len(replicas) in (1, 2)  # two only while one takes over from the other
        if manifest["spec"].get("suspend"):
            assert sum(replicas) == 0


def owners(manifest: Manifest) -> Iterator[str]:
    for owner in manifest["metadata"]["ownerReferences"]:
        assert owner["controller"] is True
        yield owner["uid"]


def assert_at_rest(world: World, outcome: Outcome[Memory]) -> None:
    spec = world.manifest["spec"]
    if world.says(v.ACCEPTED)[0] != "True":
        return
    assert outcome.events == ()
    if len(world.revisions()) == 2:
        replicas = assert_canary_at_rest(world)
    else:
        (replicas,) = world.revisions().values()
        assert world.says(v.PROGRESSING) == ("False", v.STABLE)
        assert len(world.runtimes()) == replicas
    if spec.get("suspend"):
        assert replicas == 0
    elif "scaling" not in spec:
        assert replicas == spec.get("replicas", 1)
    else:
        assert spec["scaling"].get("minReplicas", 0) <= replicas <= spec["scaling"]["maxReplicas"]
    off = spec.get("suspend") or ("scaling" not in spec and replicas == 0)
    taken_back = any("failure" in each for each in world.manifest["status"]["revisions"])
    not_started = replicas == 0 and "startFailure" in world.manifest["status"]
    assert world.says(v.READY)[0] == ("False" if off or taken_back or not_started else "True")


def assert_canary_at_rest(world: World) -> int:
    """Two revisions stay only as a canary beside the stable one; return how many replicas the latter has."""
    spec, shares = world.manifest["spec"], world.weights()
    assert spec["rollout"]["type"] == "Canary"
    percent = spec["rollout"]["canary"]["percent"]
    canary, stable = (each["name"] for each in world.manifest["status"]["revisions"])
    few, replicas = world.revisions()[canary], world.revisions()[stable]
    assert few == -(-replicas * percent // 100)
    assert len(world.runtimes()) == few + replicas
    status, reason = world.says(v.PROGRESSING)
    if shares == {canary: percent, stable: 100 - percent}:
        assert (status, reason) == ("True", v.CANARY)
    else:
        assert shares == {stable: 100}
        assert status == "False" or replicas == 0
    return replicas


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=80, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
