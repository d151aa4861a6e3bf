"""From one revision to the next: the old one serves until the new one does."""

from __future__ import annotations

from dataclasses import replace

from kinds.reconcile_world import SOURCE, World, route_of, serving_world, set_condition

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


def test_rollout_when_it_begins_then_the_old_one_keeps_all_requests_beside_a_full_new_one() -> None:
    world = serving_world(replicas=2)
    old, new = changed(world)
    assert world.revisions() == {new: 2, old: 2}
    assert world.weights() == {old: 100}
    assert world.says(v.PROGRESSING) == ("True", v.ROLLING_OUT)
    assert world.says(v.READY) == ("True", v.ROLLING_OUT)
    assert [event.reason for event in world.events] == [v.REVISION_CREATED]


def test_rollout_when_only_some_of_the_new_are_ready_then_the_weight_stays() -> None:
    world = serving_world(replicas=2)
    old, new = changed(world)
    world.serve(world.runtimes(new)[0])
    world.look()
    assert world.weights() == {old: 100}


def test_rollout_when_the_new_run_but_no_gateway_admitted_them_then_the_weight_stays() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.serve(world.runtimes(new)[0], admitted=False)
    world.look()
    assert world.weights() == {old: 100}


def test_rollout_when_all_of_the_new_are_admitted_then_the_weight_moves_and_the_old_waits() -> None:
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


def test_rollout_when_the_gateways_had_time_to_see_it_then_the_old_goes() -> None:
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


def test_rollout_when_it_ends_then_no_replica_was_scaled_in_the_events() -> None:
    world = serving_world(scaling={"minReplicas": 1})
    world.apply(**NEW)
    world.calm()
    assert v.SCALED not in {event.reason for event in world.events}


def test_rollout_when_the_weight_moved_and_one_new_pod_dies_then_the_weight_stays_moved() -> None:
    world = serving_world(replicas=2)
    old, new = changed(world)
    for pod in world.runtimes(new):
        world.serve(pod)
    world.look()
    world.crash(world.runtimes(new)[0], "lost")
    world.pass_time(2)
    assert world.weights() == {new: 100}
    assert old not in world.revisions()


def test_rollout_when_the_new_one_fails_then_the_old_serves_on_and_the_cause_is_told() -> None:
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


def test_rollout_when_there_is_no_room_for_the_new_one_then_it_says_so_and_holds_on() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    set_condition(world.pods[world.runtimes(new)[0]], "PodScheduled", "False", "0/1 nodes: insufficient cpu")
    world.look()
    assert world.says(v.PROGRESSING) == ("False", v.NO_CAPACITY_FOR_SURGE)
    assert world.says(v.WORKLOADS_READY) == ("False", v.UNSCHEDULABLE)
    assert world.weights() == {old: 100}


def test_rollback_when_the_old_spec_is_applied_again_then_its_revision_takes_over_and_the_failed_one_goes() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.crash(world.runtimes(new)[0], "cut")
    world.look()
    world.apply(**OLD)
    world.look()
    assert world.revisions() == {old: 1}
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_rollout_when_the_old_one_never_served_then_the_new_one_replaces_it_at_once() -> None:
    world = serving_world(replicas=1)
    world.crash_loop(world.runtimes()[0], "cut")
    world.look()
    _, new = changed(world)
    assert world.revisions() == {new: 1}


def test_rollout_when_the_old_one_loses_its_pod_meanwhile_then_it_gets_another() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    del world.pods[world.runtimes(old)[0]]
    world.look()
    assert world.revisions() == {new: 1, old: 1}
    assert len(world.runtimes(old)) == 1


def test_rollout_when_both_revisions_fail_then_both_stay_because_either_may_heal() -> None:
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


def test_rollout_when_at_zero_then_the_new_one_simply_takes_the_place() -> None:
    world = serving_world(scaling={})
    _, new = changed(world)
    assert world.revisions() == {new: 0}
    assert world.weights() == {new: 100}
    assert world.says(v.READY) == ("True", v.IDLE)


def test_rollout_when_at_zero_and_the_new_file_is_not_there_yet_then_a_request_wakes_the_old() -> None:
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


def test_rollout_when_demand_grows_meanwhile_then_both_revisions_follow_it() -> None:
    world = serving_world(scaling={"minReplicas": 1, "maxReplicas": 4})
    old, new = changed(world)
    world.ask(queued=24)
    world.pass_time(7)
    assert world.revisions() == {new: 3, old: 3}


def test_rollout_when_changed_again_on_the_way_then_the_one_that_serves_stays() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.apply(runtime={"type": "LLM", "llm": {"maxModelLen": 8192}})
    world.look()
    assert old in world.revisions()
    assert new not in world.revisions()
    assert world.weights() == {old: 100}


def test_rollout_when_a_gateway_restarts_meanwhile_then_the_old_one_is_not_taken_for_dead() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.gateways = frozenset({"gw-2"})
    world.look()
    assert world.revisions() == {new: 1, old: 1}
    assert world.weights() == {old: 100}


def test_rollout_when_the_loop_restarts_meanwhile_then_the_old_one_is_not_taken_for_dead() -> None:
    world = serving_world(replicas=1)
    old, new = changed(world)
    world.restart_loop()
    world.pass_time(10)
    assert world.revisions() == {new: 1, old: 1}
    assert world.weights() == {old: 100}


def test_public_name_when_it_changes_then_the_gateways_learn_it_with_the_weight() -> None:
    world = serving_world(replicas=1)
    old = the_revision(world)
    world.apply(model={"name": "bigger", "source": {"uri": SOURCE}})
    world.look()
    assert (route_of(world.outcome).public_name, world.weights()) == ("smol", {old: 100})
    outcome = world.calm()
    assert route_of(outcome).public_name == "bigger"


def test_revision_when_only_replicas_scaling_suspend_or_deadline_change_then_it_stays() -> None:
    world = serving_world(replicas=1)
    before = the_revision(world)
    world.apply(replicas=2, suspend=True, scaling={}, rollout={"startupDeadlineSeconds": 5})
    world.look()
    assert the_revision(world) == before


def test_revision_when_the_runtimes_image_changes_then_it_is_rolled_out() -> None:
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


def test_rollout_when_both_revisions_are_ready_then_the_autoscaler_counts_the_one_that_has_the_requests() -> None:
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
