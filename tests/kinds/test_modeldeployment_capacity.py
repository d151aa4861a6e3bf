"""Rollouts without a surge, for lack of capacity or by the spec: the stable revision is scaled down first."""

from __future__ import annotations

from typing import Any

import pytest
from kinds.reconcile_world import SOURCE, World, serving_world

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.capacity import CAPACITY_WAIT_SECONDS
from headrace.reconcile.failure_status import failure_status

NEW = {"type": "LLM", "llm": {"maxModelLen": 4096}}
NEVER = {"rollingUpdate": {"surge": "Never"}}


def changed(replicas: int, room: int | None, quota: int | None = None, **spec: Any) -> tuple[World, str, str]:
    """A world that has room for so many pods, and a spec that has just changed; the old revision and the new one."""
    world = serving_world(replicas=replicas, **spec)
    (old,) = world.revisions()
    world.room, world.quota = room, quota
    world.apply(runtime=NEW)
    world.look()
    (new,) = world.revisions().keys() - {old}
    return world, old, new


def serve(world: World) -> None:
    """Every pod that has a place serves."""
    for pod in world.runtimes():
        if world.has_place(pod):
            world.serve(pod)
    world.look()


def test_surge_when_no_room_then_stable_serves_ten_seconds() -> None:
    world, old, new = changed(1, room=1)
    world.pass_time(CAPACITY_WAIT_SECONDS - 1)
    assert world.revisions() == {new: 1, old: 1}
    assert world.says(v.PROGRESSING) == ("False", v.NO_CAPACITY_FOR_SURGE)
    assert world.weights() == {old: 100}


def test_surge_when_quota_has_no_room_then_waits_ten_seconds() -> None:
    world, old, new = changed(2, room=None, quota=2)
    world.pass_time(CAPACITY_WAIT_SECONDS - 1)
    assert world.revisions() == {new: 2, old: 2}
    assert world.says(v.PROGRESSING) == ("False", v.NO_CAPACITY_FOR_SURGE)
    assert "exceeded quota" in world.condition(v.PROGRESSING)["message"]
    assert quota_retry(world, new) == "2"
    world.pass_time(2)
    assert world.revisions() == {new: 1, old: 1}
    assert world.says(v.PROGRESSING) == ("True", v.NO_CAPACITY_FOR_SURGE)
    assert [event.reason for event in world.events].count(v.NO_CAPACITY_FOR_SURGE) == 1
    for _ in range(2):
        serve(world)
        world.look()
    world.pass_time(2)
    assert world.revisions() == {new: 2}
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert quota_retry(world, new) is None


def test_surge_when_old_pod_terminates_slowly_then_retried_after() -> None:
    world, _, new = changed(1, room=None, quota=1)
    world.lingers = True
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert quota_retry(world, new) == "1"
    world.quota = 0
    world.depart()
    world.look()
    assert quota_retry(world, new) == "0"


def quota_retry(world: World, revision: str) -> str | None:
    """What changes on the Deployment when there is reason to try again."""
    (found,) = [child for key, child in world.children.items() if key.name.endswith(f"-{revision}")]
    value: str | None = found["metadata"]["annotations"].get(v.QUOTA_RETRY_ANNOTATION)
    return value


def test_surge_when_room_comes_in_time_then_nobody_gives_way() -> None:
    world, old, new = changed(1, room=1)
    world.pass_time(CAPACITY_WAIT_SECONDS - 2)
    world.room = 2
    world.pass_time(1)
    world.room = 1
    world.pass_time(CAPACITY_WAIT_SECONDS - 1)
    assert world.revisions() == {new: 1, old: 1}


def test_surge_when_no_room_for_one_then_zero_and_requests_held() -> None:
    """Then the candidate starts."""
    world, old, new = changed(1, room=1)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.runtimes(old) == []
    assert world.has_place(world.runtimes(new)[0])
    assert world.refused() is None
    serve(world)
    world.pass_time(2)
    assert world.revisions() == {new: 1}
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_surge_when_no_room_for_three_then_replaced_one_by_one() -> None:
    """The weight follows."""
    world, old, new = changed(3, room=3)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.revisions() == {new: 1, old: 2}
    assert world.says(v.PROGRESSING) == ("True", v.NO_CAPACITY_FOR_SURGE)
    world.pass_time(60)
    assert world.revisions() == {new: 1, old: 2}
    assert world.weights() == {old: 100}
    serve(world)
    assert world.revisions() == {new: 2, old: 1}
    assert world.weights() == {new: 50, old: 50}
    serve(world)
    serve(world)
    world.pass_time(2)
    assert world.revisions() == {new: 3}
    assert world.weights() == {new: 100}
    assert world.says(v.PROGRESSING) == ("False", v.STABLE)


def test_surge_when_one_needs_the_room_of_two_then_another_goes() -> None:
    """After as long again."""
    world, old, new = changed(3, room=2)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.revisions() == {new: 1, old: 2}
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.revisions() == {new: 2, old: 1}


def test_surge_when_old_pod_still_drains_then_its_room_awaited() -> None:
    world, old, new = changed(2, room=2)
    world.lingers = True
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.revisions() == {new: 1, old: 1}
    world.pass_time(30)
    assert world.revisions() == {new: 1, old: 1}


def test_surge_when_loop_restarts_then_stable_stays_small() -> None:
    world, old, new = changed(3, room=3)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    world.restart_loop()
    world.pass_time(2)
    assert world.revisions() == {new: 1, old: 2}


def test_replacement_when_the_next_passes_fail_then_it_goes_on() -> None:
    """The status remembers it, whatever its conditions say meanwhile."""
    world, old, new = changed(3, room=3)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    assert world.manifest["status"]["replacingForCapacity"] is True
    world.manifest["status"] = failure_status(world.manifest, "the API server is unavailable", world.wall, v.CONDITIONS)
    assert world.says(v.PROGRESSING) == ("Unknown", v.RECONCILE_FAILED)
    world.restart_loop()
    world.pass_time(2)
    assert world.revisions() == {new: 1, old: 2}


def test_replacement_when_complete_then_the_status_forgets_it() -> None:
    world, _, new = changed(1, room=1)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    serve(world)
    world.pass_time(2)
    assert world.revisions() == {new: 1}
    assert "replacingForCapacity" not in world.manifest["status"]


def test_surge_when_the_stable_spec_returns_then_it_grows_again() -> None:
    """It has all requests."""
    world, old, _ = changed(3, room=3)
    world.pass_time(CAPACITY_WAIT_SECONDS + 1)
    serve(world)
    world.apply(runtime=None)
    world.look()
    assert world.weights() == {old: 100}
    world.pass_time(2)
    assert world.revisions() == {old: 3}


def test_surge_never_when_spec_changes_then_never_too_many() -> None:
    """The stable revision is scaled down at once."""
    world, old, new = changed(3, room=None, rollout=NEVER)
    seen = [world.revisions()]
    assert world.says(v.PROGRESSING) == ("True", v.REPLACING)
    for _ in range(3):
        serve(world)
        seen.append(world.revisions())
    world.pass_time(2)
    assert seen[:2] == [{new: 1, old: 2}, {new: 2, old: 1}]
    assert all(sum(revisions.values()) == 3 for revisions in seen)
    assert world.revisions() == {new: 3}


def test_surge_never_when_file_is_missing_then_stable_serves_on() -> None:
    world = serving_world(replicas=1, rollout=NEVER)
    (old,) = world.revisions()
    world.apply(model={"source": {"uri": SOURCE.replace("0.1.2", "0.1.3")}})
    world.look()
    assert world.revisions()[old] == 1
    world.calm()
    assert old not in world.revisions()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_recreate_when_spec_changes_then_after_the_last_pod() -> None:
    world = serving_world(replicas=2, rollout={"type": "Recreate"})
    (old,) = world.revisions()
    world.lingers = True
    world.apply(runtime=NEW)
    world.look()
    (new,) = world.revisions().keys() - {old}
    assert world.revisions() == {new: 0, old: 0}
    assert world.says(v.PROGRESSING) == ("True", v.REPLACING)
    assert world.says(v.READY) == ("False", v.STARTING)
    world.pass_time(20)
    assert world.runtimes(new) == []
    assert world.refused() is None
    world.lingers = False
    world.depart()
    world.look()
    assert world.revisions() == {new: 2}
    assert world.refused() is None
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_recreate_when_the_file_is_missing_then_stable_serves_on() -> None:
    world = serving_world(replicas=1, rollout={"type": "Recreate"})
    (old,) = world.revisions()
    world.apply(model={"source": {"uri": SOURCE.replace("0.1.2", "0.1.3")}})
    world.look()
    assert world.revisions()[old] == 1
    assert world.weights() == {old: 100}


@pytest.mark.parametrize("rollout", [NEVER, {"type": "Recreate"}])
def test_change_when_at_zero_then_the_candidate_replaces_at_once(rollout: dict[str, Any]) -> None:
    world = serving_world(scaling={}, rollout=rollout)
    world.apply(runtime=NEW)
    world.look()
    assert list(world.revisions().values()) == [0]
    assert world.says(v.READY) == ("True", v.IDLE)
