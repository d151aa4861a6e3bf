"""A canary: a share of the replicas and of the requests, until it is promoted, rolled back, or fails."""

from __future__ import annotations

from typing import Any

import pytest
from kinds.reconcile_world import World, route_of, serving_world

from headrace.api import vocabulary as v

NEW = {"type": "LLM", "llm": {"maxModelLen": 4096}}
OLD = {"type": "LLM", "llm": {"maxModelLen": 2048}}


def canary(percent: int) -> dict[str, Any]:
    return {"type": "Canary", "canary": {"percent": percent}}


def begun(percent: int = 10, **spec: Any) -> tuple[World, str, str]:
    """A world whose canary has just been made; the old revision and the new one."""
    world = serving_world(**({"replicas": 1, "runtime": OLD} | spec))
    (old,) = world.revisions()
    world.apply(runtime=NEW, rollout=canary(percent))
    world.look()
    (new,) = world.revisions().keys() - {old}
    return world, old, new


def serving(percent: int = 10, **spec: Any) -> tuple[World, str, str]:
    """A world whose canary has its share."""
    world, old, new = begun(percent, **spec)
    serve_all(world, new)
    world.look()
    return world, old, new


def serve_all(world: World, revision: str) -> None:
    for pod in world.runtimes(revision):
        world.serve(pod)


@pytest.mark.parametrize(
    ("replicas", "percent", "count"), [(1, 1, 1), (1, 99, 1), (3, 10, 1), (4, 25, 1), (4, 26, 2), (10, 99, 10)]
)
def test_canary_when_it_begins_then_its_replicas_are_rounded_up(replicas: int, percent: int, count: int) -> None:
    """The stable revision stays full beside it."""
    world, old, new = begun(percent, replicas=replicas)
    assert world.revisions() == {new: count, old: replicas}
    assert world.weights() == {old: 100}
    assert world.says(v.READY) == ("True", v.ROLLING_OUT)


def test_canary_when_only_some_of_it_routable_then_no_share_yet() -> None:
    world, old, new = begun(50, replicas=4)
    world.serve(world.runtimes(new)[0])
    world.look()
    assert world.weights() == {old: 100}


def test_canary_when_all_of_it_is_routable_then_has_its_share() -> None:
    world, old, new = serving(30, replicas=4)
    world.pass_time(100)
    assert world.revisions() == {new: 2, old: 4}
    assert world.weights() == {new: 30, old: 70}
    assert world.says(v.PROGRESSING) == ("True", v.CANARY)
    assert world.says(v.READY) == ("True", v.RUNNING)
    shares = {each["name"]: each["weightPercent"] for each in world.manifest["status"]["revisions"]}
    assert shares == {new: 30, old: 70}


def test_canary_when_it_has_its_share_then_no_extra_passes() -> None:
    world, _, _ = serving()
    assert world.look().requeue_seconds == 5.0


def test_canary_when_one_of_its_pods_goes_then_others_keep_share() -> None:
    world, old, new = serving(50, replicas=4)
    del world.pods[world.runtimes(new)[0]]
    world.look()
    assert world.weights() == {new: 50, old: 50}


def test_canary_when_its_only_pod_goes_then_the_stable_has_all() -> None:
    """Until another pod is there."""
    world, old, new = serving()
    del world.pods[world.runtimes(new)[0]]
    world.look()
    assert world.weights() == {old: 100}
    serve_all(world, new)
    world.look()
    assert world.weights() == {new: 10, old: 90}


@pytest.mark.parametrize("rollout", [None, {"type": "RollingUpdate"}])
def test_canary_when_type_becomes_rolling_update_then_takes_over(
    rollout: dict[str, Any] | None,
) -> None:
    """It keeps its share until it is full."""
    world, old, new = serving(10, replicas=3)
    world.apply(rollout=rollout)
    world.look()
    assert world.revisions() == {new: 3, old: 3}
    assert world.weights() == {new: 10, old: 90}
    world.calm()
    assert world.revisions() == {new: 3}
    assert world.weights() == {new: 100}
    assert world.says(v.PROGRESSING) == ("False", v.STABLE)


def test_canary_when_the_stable_spec_is_applied_then_rolled_back() -> None:
    """The stable revision gets all requests at once; the canary goes when gateways have seen that."""
    world, old, new = serving(60, replicas=2)
    world.apply(runtime=OLD)
    world.look()
    assert world.weights() == {old: 100}
    assert world.revisions() == {old: 2, new: 2}
    world.pass_time(1)
    assert world.revisions() == {old: 2}
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_canary_when_another_one_follows_then_stable_one_stays() -> None:
    world, old, new = serving(90)
    world.apply(runtime={"type": "LLM", "llm": {"maxModelLen": 8192}})
    world.look()
    assert old in world.revisions()
    assert new not in world.revisions()
    assert world.weights() == {old: 100}


@pytest.mark.parametrize("restarted", [False, True])
def test_canary_when_it_crashes_then_no_share_until_spec_changes(restarted: bool) -> None:  # noqa: FBT001 - a parameter
    world, old, new = serving()
    (pod,) = world.runtimes(new)
    world.crash(pod, "it cannot add")
    world.look()
    assert world.weights() == {old: 100}
    assert world.says(v.PROGRESSING) == ("False", v.CRASH_LOOP)
    assert "it cannot add" in world.condition(v.PROGRESSING)["message"]
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)
    assert world.refused() is None
    if restarted:
        world.restart_loop()
    world.calm()
    assert world.revisions() == {new: 1, old: 1}
    assert world.weights() == {old: 100}
    assert world.says(v.PROGRESSING) == ("False", v.CRASH_LOOP)
    world.apply(rollout=canary(20))
    world.calm()
    assert world.weights() == {new: 20, old: 80}


def test_canary_when_its_image_unavailable_then_waits_and_heals() -> None:
    world, old, new = begun()
    (pod,) = world.runtimes(new)
    world.container(pod, {"waiting": {"reason": "ImagePullBackOff"}})
    world.look()
    assert world.says(v.PROGRESSING) == ("False", v.IMAGE_PULL_FAILED)
    world.calm()
    assert world.weights() == {new: 10, old: 90}


def test_canary_when_it_exceeds_its_deadline_then_rolled_back() -> None:
    world = serving_world(replicas=1, runtime=OLD)
    (old,) = world.revisions()
    world.apply(runtime=NEW, rollout={**canary(10), "startupDeadlineSeconds": 5})
    world.pass_time(9)
    assert world.says(v.PROGRESSING) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert world.weights() == {old: 100}
    assert world.refused() is None


def test_canary_when_no_room_then_stable_is_not_scaled_down() -> None:
    world, old, new = begun()
    world.no_room(world.runtimes(new)[0])
    world.pass_time(60)
    assert world.revisions() == {new: 1, old: 1}
    assert world.says(v.PROGRESSING) == ("False", v.NO_CAPACITY_FOR_SURGE)


def test_canary_when_the_model_is_first_then_it_has_everything() -> None:
    world = serving_world(replicas=2, rollout=canary(10))
    assert list(world.revisions().values()) == [2]
    assert world.says(v.PROGRESSING) == ("False", v.STABLE)


def test_canary_when_scaled_to_zero_then_stays_and_wake_for_both() -> None:
    world = serving_world(scaling={"idleTimeoutSeconds": 5, "maxReplicas": 2}, runtime=OLD)
    (old,) = world.revisions()
    world.apply(runtime=NEW, rollout=canary(10))
    world.calm()
    (new,) = world.revisions().keys() - {old}
    assert world.revisions() == {new: 0, old: 0}
    assert world.says(v.READY) == ("True", v.IDLE)
    world.ask(queued=1)
    world.look()
    assert world.revisions() == {new: 1, old: 1}
    serve_all(world, old)
    world.look()
    assert world.weights() == {old: 100}
    assert world.refused() is None
    serve_all(world, new)
    world.look()
    assert world.weights() == {new: 10, old: 90}


def test_canary_when_the_spec_becomes_invalid_then_shares_stay() -> None:
    world, old, new = serving()
    world.apply(replicas=-1)
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)
    assert world.weights() == {new: 10, old: 90}
    assert world.revisions() == {new: 1, old: 1}


def test_canary_when_it_renames_model_then_old_name_is_answered() -> None:
    """Until it is promoted."""
    world = serving_world(replicas=1)
    source = world.manifest["spec"]["model"]["source"]
    world.apply(model={"name": "bigger", "source": source}, rollout=canary(10))
    outcome = world.calm()
    assert route_of(outcome).public_name == "smol"
    world.apply(rollout=None)
    outcome = world.calm()
    assert route_of(outcome).public_name == "bigger"


def test_canary_when_only_revision_heals_then_nothing_is_undone() -> None:
    world = serving_world(replicas=1, rollout=canary(10))
    world.crash(world.runtimes()[0], "lost")
    world.look()
    assert "failure" not in world.manifest["status"]["revisions"][0]
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)
