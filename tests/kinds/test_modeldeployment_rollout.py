"""From one revision to the next: the old one serves until the new one does."""

from __future__ import annotations

from dataclasses import replace

from kinds.reconcile_pods import set_condition
from kinds.reconcile_world import SOURCE, World, route_of, serving_world

from headrace.api import vocabulary as v

NEW = {"runtime": {"type": "LLM", "llm": {"maxModelLen": 4096}}}
OLD = {"runtime": {"type": "LLM", "llm": {"maxModelLen": 2048}}}


def the_revision(world: World) -> str:
    (revision,) = world.revisions()
    return revision


def changed(world: World) -> tuple[str, str]:
    """Apply a change that makes a revision; return the old and the new one."""
    old = the_revision(world)
    world.apply(**NEW)
    world.look()
    (new,) = world.revisions().keys() - {old}
    return old, new


def test_rollout_when_it_begins_then_stable_keeps_all_requests() -> None:
    """A full candidate starts beside it."""
    world = serving_world(replicas=2)
    old, new = changed(world)
    assert world.revisions() == {new: 2, old: 2}
    assert world.weights() == {old: 100}
    assert world.says(v.PROGRESSING) == ("True", v.ROLLING_OUT)
    assert world.says(v.READY) == ("True", v.ROLLING_OUT)
    assert [event.reason for event in world.events] == [v.REVISION_CREATED]


def test_rollout_when_candidate_partly_ready_then_weight_stays() -> None:
    world = serving_world(replicas=2)
    old, new = changed(world)
    world.serve(world.runtimes(new)[0])
    world.look()
    assert world.weights() == {old: 100}


def test_rollout_when_candidate_not_admitted_then_weight_stays() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.serve(world.runtimes(new)[0], admitted=False)
    world.look()
    assert world.weights() == {old: 100}


def test_rollout_when_candidate_is_admitted_then_weight_moves() -> None:
    """The former stable revision waits."""
    world = serving_world(replicas=2)
    old, new = changed(world)
    for pod in world.runtimes(new):
        world.serve(pod)
    world.look()
    assert world.weights() == {new: 100}
    assert world.says(v.READY) == ("True", v.RUNNING)
    world.now += 0.5
    world.look()
    assert world.revisions() == {new: 2, old: 2}


def test_rollout_when_gateways_had_time_to_see_it_then_old_goes() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.serve(world.runtimes(new)[0])
    world.look()
    world.pass_time(1)
    assert world.revisions() == {new: 1}
    assert world.weights() == {new: 100}
    assert world.says(v.PROGRESSING) == ("False", v.STABLE)
    retired = [event.message for event in world.events if event.reason == v.REVISION_RETIRED]
    assert len(retired) == 1
    assert old in retired[0]


def test_rollout_when_it_ends_then_no_scaling_in_the_events() -> None:
    world = serving_world(scaling={"minReplicas": 1})
    world.apply(**NEW)
    world.calm()
    assert v.SCALED not in {event.reason for event in world.events}


def test_rollout_when_weight_moved_and_a_pod_fails_then_it_stays() -> None:
    world = serving_world(replicas=2)
    old, new = changed(world)
    for pod in world.runtimes(new):
        world.serve(pod)
    world.look()
    world.crash(world.runtimes(new)[0], "lost")
    world.pass_time(2)
    assert world.weights() == {new: 100}
    assert old not in world.revisions()


def test_rollout_when_candidate_fails_then_stable_serves_on() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.crash(world.runtimes(new)[0], "the model file is cut. Fetch it again")
    world.pass_time(300)
    assert world.weights() == {old: 100}
    assert world.revisions()[old] == 1
    assert world.refused() is None
    assert world.says(v.PROGRESSING) == ("False", v.CRASH_LOOP)
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)
    assert "the model file is cut" in world.condition(v.READY)["message"]
    assert old in world.condition(v.READY)["message"]


def test_rollout_when_no_room_for_candidate_then_says_so() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    set_condition(world.pods[world.runtimes(new)[0]], "PodScheduled", "False", "0/1 nodes: insufficient cpu")
    world.look()
    assert world.says(v.PROGRESSING) == ("False", v.NO_CAPACITY_FOR_SURGE)
    assert world.says(v.WORKLOADS_READY) == ("False", v.UNSCHEDULABLE)
    assert world.weights() == {old: 100}


def test_rollback_when_stable_spec_is_applied_then_it_takes_over() -> None:
    """The failed candidate goes."""
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.crash(world.runtimes(new)[0], "cut")
    world.look()
    world.apply(**OLD)
    world.look()
    assert world.revisions() == {old: 1}
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_rollout_when_stable_never_served_then_replaced_at_once() -> None:
    world = serving_world(replicas=1)
    world.crash_loop(world.runtimes()[0], "cut")
    world.look()
    _, new = changed(world)
    assert world.revisions() == {new: 1}


def test_rollout_when_stable_loses_its_pod_then_it_gets_another() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    del world.pods[world.runtimes(old)[0]]
    world.look()
    assert world.revisions() == {new: 1, old: 1}
    assert len(world.runtimes(old)) == 1


def test_rollout_when_both_revisions_fail_then_both_stay() -> None:
    """Either may heal."""
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.crash(world.runtimes(new)[0], "cut")
    world.look()
    world.crash_loop(world.runtimes(old)[0], "lost")
    world.pass_time(30)
    assert world.revisions() == {new: 1, old: 1}
    assert world.refused() == v.CRASH_LOOP
    world.serve(world.runtimes(old)[0])
    world.look()
    assert world.weights() == {old: 100}


def test_rollout_when_at_zero_then_candidate_replaces_stable() -> None:
    world = serving_world(scaling={})
    _, new = changed(world)
    assert world.revisions() == {new: 0}
    assert world.weights() == {new: 100}
    assert world.says(v.READY) == ("True", v.IDLE)


def test_rollout_when_at_zero_without_file_then_stable_wakes() -> None:
    world = serving_world(scaling={})
    old = the_revision(world)
    world.apply(model={"source": {"uri": SOURCE.replace("0.1.2", "0.1.3")}})
    world.ask(queued=1)
    world.look()
    assert world.revisions()[old] == 1
    assert world.weights() == {old: 100}
    assert world.refused() is None
    world.calm()
    assert old not in world.revisions()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_rollout_when_demand_grows_then_both_revisions_follow_it() -> None:
    world = serving_world(scaling={"minReplicas": 1, "maxReplicas": 4})
    old, new = changed(world)
    world.ask(queued=24)
    world.pass_time(7)
    assert world.revisions() == {new: 3, old: 3}


def test_rollout_when_changed_on_the_way_then_serving_one_stays() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.apply(runtime={"type": "LLM", "llm": {"maxModelLen": 8192}})
    world.look()
    assert old in world.revisions()
    assert new not in world.revisions()
    assert world.weights() == {old: 100}


def test_rollout_when_gateway_restarts_then_stable_still_counts() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.gateways = frozenset({"gw-2"})
    world.look()
    assert world.revisions() == {new: 1, old: 1}
    assert world.weights() == {old: 100}


def test_rollout_when_the_loop_restarts_then_stable_still_counts() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.restart_loop()
    world.pass_time(10)
    assert world.revisions() == {new: 1, old: 1}
    assert world.weights() == {old: 100}


def test_public_name_when_it_changes_then_moves_with_the_weight() -> None:
    world = serving_world(replicas=1)
    old = the_revision(world)
    world.apply(model={"name": "bigger", "source": {"uri": SOURCE}})
    world.look()
    assert (route_of(world.outcome).public_name, world.weights()) == ("smol", {old: 100})
    outcome = world.calm()
    assert route_of(outcome).public_name == "bigger"


def test_revision_when_only_scale_fields_change_then_it_stays() -> None:
    """Replicas, scaling, suspend or the deadline."""
    world = serving_world(replicas=1)
    before = the_revision(world)
    world.apply(replicas=2, suspend=True, scaling={}, rollout={"startupDeadlineSeconds": 5})
    world.look()
    assert the_revision(world) == before


def test_revision_when_runtimes_image_changes_then_rolled_out() -> None:
    world = serving_world(replicas=1)
    before = the_revision(world)
    world.settings = replace(world.settings, images={"runtime": "headrace-runtime-llm:next", "fetch": "headrace-fetch"})
    world.look()
    assert len(world.revisions()) == 2
    assert world.weights() == {before: 100}


def test_revision_when_nats_moves_then_it_stays() -> None:
    world = serving_world(replicas=1)
    before = the_revision(world)
    world.settings = replace(world.settings, nats_url="nats://127.0.0.1:1")
    world.look()
    assert the_revision(world) == before


def test_rollout_when_both_are_ready_then_serving_one_is_counted() -> None:
    """The autoscaler counts the revision that has the requests."""
    metric = {"type": "QueueDelay", "queueDelay": {"targetMilliseconds": 100}}
    world = serving_world(scaling={"minReplicas": 1, "maxReplicas": 9, "metric": metric})
    _, new = changed(world)
    world.serve(world.runtimes(new)[0])
    world.look()
    world.now += 0.5
    world.ask(queued=1, waited=200)
    outcome = world.look()
    assert outcome.memory.scale is not None
    assert outcome.memory.scale.window.buckets[-1].peak == 2
