"""Cold starts: kept replicas, the number of status writes, and the report of a failed start."""

from __future__ import annotations

import pytest
from kinds.reconcile_pods import set_condition
from kinds.reconcile_world import SOURCE, World, resource, serving_world, woken

from headrace.api import vocabulary as v
from headrace.events.messages import FetchProgress

IMPATIENT = {"scaling": {"idleTimeoutSeconds": 2}}


# -- activating replicas -------------------------------------------------------------------------------------


def test_start_when_longer_than_idle_timeout_then_it_answers() -> None:
    """A start takes 12 s, the idle timeout is 2 s, the client gives up after 3 s and asks again 3 s later."""
    world = serving_world(**IMPATIENT)
    made = world.made
    for second in range(12):
        world.ask(queued=second % 6 < 3)
        world.look()
        for pod in world.runtimes():
            world.load(pod)
        world.now += 1
    (pod,) = world.runtimes()
    assert world.made == made + 1
    world.serve(pod)
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_idle_when_replica_became_ready_then_counts_from_then() -> None:
    world, pod = woken(**IMPATIENT)
    world.load(pod)
    world.pass_time(12)
    world.serve(pod)
    world.pass_time(1)
    assert world.runtimes() == [pod]
    world.pass_time(2)
    assert world.runtimes() == []
    assert world.says(v.READY) == ("True", v.IDLE)


@pytest.mark.parametrize("stage", ["no container yet", "loading"])
def test_start_when_the_loop_restarts_then_still_activating(stage: str) -> None:
    world, pod = woken(**IMPATIENT)
    for _ in range(3):
        if stage == "loading":
            world.load(pod)
        world.pass_time(10)
        world.restart_loop()
    world.pass_time(30)
    assert world.runtimes() == [pod]


def test_idle_when_loop_restarts_then_ready_is_not_activating() -> None:
    """It was ready once, which its readiness gate tells, and loads again after a crash."""
    world, pod = woken(**IMPATIENT)
    world.serve(pod)
    world.look()
    world.load(pod)
    world.look()
    world.restart_loop()
    world.pass_time(5)
    assert world.runtimes() == []


def test_start_when_its_deadline_passed_then_zero_without_retry() -> None:
    world, pod = woken(scaling={"idleTimeoutSeconds": 2}, rollout={"startupDeadlineSeconds": 20})
    made = world.made
    world.load(pod)
    world.pass_time(19)
    assert world.runtimes() == [pod]
    world.pass_time(120)
    assert (world.runtimes(), world.made) == ([], made)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)


def test_start_when_no_room_then_waits_until_the_deadline() -> None:
    world, pod = woken(scaling={"idleTimeoutSeconds": 2}, rollout={"startupDeadlineSeconds": 20})
    set_condition(world.pods[pod], "PodScheduled", "False", "0/3 nodes are available")
    world.pass_time(19)
    assert world.runtimes() == [pod]
    world.pass_time(4)
    assert world.runtimes() == []
    assert world.says(v.READY) == ("False", v.UNSCHEDULABLE)


def test_shrinking_when_another_waits_for_room_then_not_held() -> None:
    world = serving_world(scaling={"maxReplicas": 3, "idleTimeoutSeconds": 600})
    world.room = 2
    world.ask(queued=24)
    for _ in range(3):
        world.look()
        for pod in filter(world.has_place, world.runtimes()):
            world.serve(pod)
    assert list(world.revisions().values()) == [3]
    world.ask(in_flight=1)
    world.pass_time(120)
    assert list(world.revisions().values()) == [1]


# -- status writes -------------------------------------------------------------------------------------------

MOST_WRITES = 8
"""In a wake, as in `make bench-operator`."""


@pytest.mark.parametrize("percent_seconds", [0.001, 0.1, 3.0])
def test_wake_when_every_percent_reported_then_few_status_writes(percent_seconds: float) -> None:
    world = serving_world(scaling={"maxReplicas": 1})
    world.ask(queued=1)
    writes = [look(world)]
    (pod,) = world.runtimes()
    for stage in ("starting", "loading-weights", "warming-up"):
        for percent in range(100):
            world.now += percent_seconds
            world.load(pod, stage, percent)
            writes.append(look(world))
    world.serve(pod, admitted=False)
    writes.append(look(world))
    world.serve(pod)
    writes.append(look(world))
    world.pass_time(2)
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert sum(writes) <= MOST_WRITES


@pytest.mark.parametrize("percent_seconds", [0.001, 0.1, 3.0])
def test_fetch_when_every_percent_comes_then_few_status_writes(percent_seconds: float) -> None:
    world = World(manifest=resource(scaling={"maxReplicas": 1}))
    writes = [look(world), look(world)]
    for percent in range(100):
        world.now += percent_seconds
        world.progress = FetchProgress(uri=SOURCE, received_bytes=percent, total_bytes=100)
        writes.append(look(world))
    world.fetch()
    writes.append(look(world))
    assert world.says(v.READY) == ("True", v.IDLE)
    assert sum(writes) <= MOST_WRITES


def test_messages_when_changed_within_a_second_then_last_is_told() -> None:
    world, pod = woken()
    world.load(pod, "first")
    world.look()
    world.load(pod, "second")
    assert world.look().requeue_seconds == 1.0
    assert "first" in world.condition(v.READY)["message"]
    world.now += 1
    world.look()
    assert "second" in world.condition(v.READY)["message"]


def look(world: World) -> bool:
    """Look; return whether that wrote the status."""
    before = world.manifest.get("status")
    return world.look().status != before


# -- failed starts -------------------------------------------------------------------------------------------


def failed() -> tuple[World, str]:
    """A world at zero whose last start failed."""
    world, pod = woken()
    world.crash(pod, "cut")
    world.pass_time(101)
    assert world.runtimes() == []
    return world, pod


def test_failed_start_when_at_zero_then_not_ready_and_wakeable() -> None:
    """The condition has the cause."""
    world, _ = failed()
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)
    assert "the next request starts it again: the runtime keeps" in world.condition(v.READY)["message"]
    assert world.says(v.WORKLOADS_READY) == ("False", v.IDLE)
    assert world.refused() is None
    assert world.look().requeue_seconds is None
    world.ask(queued=1)
    world.look()
    assert len(world.runtimes()) == 1


def test_failed_start_when_the_loop_restarts_then_remembered() -> None:
    world, _ = failed()
    world.restart_loop()
    world.pass_time(10)
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)


def test_failed_start_when_next_one_succeeds_then_ready_again() -> None:
    world, _ = failed()
    world.ask(queued=1)
    world.calm()
    world.ask()
    assert world.says(v.READY) == ("True", v.RUNNING)
    world.pass_time(101)
    assert world.says(v.READY) == ("True", v.IDLE)


def test_failed_start_when_next_fails_otherwise_then_last_cause() -> None:
    world, _ = failed()
    world.ask(queued=1)
    world.look()
    world.ask()
    (pod,) = world.runtimes()
    world.container(pod, {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}})
    world.pass_time(101)
    assert world.says(v.READY) == ("False", v.IMAGE_PULL_FAILED)


def test_failed_start_when_the_spec_changes_then_not_blamed() -> None:
    world, _ = failed()
    world.apply(template={"env": [{"name": "A", "value": "B"}]})
    world.look()
    assert world.says(v.READY) == ("True", v.IDLE)
    assert "startFailure" not in world.manifest["status"]


def test_failed_start_when_spec_refused_between_then_not_blamed() -> None:
    world, _ = failed()
    world.apply(scaling={"minReplicas": 3, "maxReplicas": 1})
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)
    world.apply(scaling={"idleTimeoutSeconds": 5})
    world.look()
    assert world.says(v.READY) == ("True", v.IDLE)


def test_failed_start_when_no_gateway_reached_it_then_not_ready() -> None:
    world, pod = woken(scaling={"idleTimeoutSeconds": 2}, rollout={"startupDeadlineSeconds": 10})
    world.serve(pod, admitted=False)
    world.pass_time(30)
    assert world.runtimes() == []
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "127.1.0.1, port 8000" in world.condition(v.READY)["message"]
