"""Pods that do not work: the same cause in the conditions, in the events and in what requests are told."""

from __future__ import annotations

import pytest
from kinds.reconcile_world import (
    World,
    replica_failure,
    resource,
    route_of,
    serving_world,
    set_condition,
    unavailable,
    woken,
)

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.startup import PAUSE_SECONDS
from headrace.reconcile.world import ChildKey, Manifest


def test_crash_loop_when_the_runtime_said_why_then_it_is_quoted_everywhere() -> None:
    world, pod = woken()
    world.crash(pod, "the file is not a GGUF model. Check spec.model.source", code=14)
    outcome = world.look()
    assert world.says(v.WORKLOADS_READY) == ("False", v.CRASH_LOOP)
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)
    assert world.refused() == v.CRASH_LOOP
    assert unavailable(outcome).message == world.condition(v.READY)["message"]
    assert "exit code 14" in unavailable(outcome).message
    assert "not a GGUF model" in unavailable(outcome).message
    (warning,) = [event for event in world.events if event.reason == v.CRASH_LOOP]
    assert (warning.type, "not a GGUF model" in warning.message) == ("Warning", True)


def test_crash_loop_when_it_runs_again_for_a_moment_then_that_is_no_recovery() -> None:
    world, pod = woken()
    world.crash(pod, "cut")
    world.look()
    world.load(pod)
    world.look()
    assert world.says(v.WORKLOADS_READY) == ("False", v.CRASH_LOOP)
    assert len([event for event in world.events if event.reason == v.CRASH_LOOP]) == 1


def test_crash_loop_when_it_serves_after_all_then_everything_heals() -> None:
    world, pod = woken()
    world.crash(pod, "cut")
    world.look()
    world.serve(pod)
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.refused() is None


def test_crash_of_one_when_others_serve_then_requests_go_on() -> None:
    world = serving_world(replicas=2)
    world.crash_loop(world.runtimes()[0], "lost")
    world.look()
    assert world.says(v.WORKLOADS_READY) == ("False", v.CRASH_LOOP)
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.condition(v.READY)["message"].startswith("requests go to 1 replica; the runtime keeps exiting")
    assert world.refused() is None


@pytest.mark.parametrize("crashes", [1, 2, 5])
def test_crash_when_the_replica_was_ready_before_each_then_requests_are_held(crashes: int) -> None:
    """However long a kubelet waits before the next start."""
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    for _ in range(crashes):
        world.serve(pod)
        world.pass_time(2)
        world.crash(pod, "segmentation fault", code=139)
        world.pass_time(30)
        assert world.says(v.READY) == ("False", v.STARTING)
        assert world.refused() is None
    assert "started again; it exited (exit code 139): segm" in world.condition(v.READY)["message"]


def test_crash_when_the_replica_was_not_ready_since_the_last_one_then_crash_loop() -> None:
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    world.crash_loop(pod, "cut")
    world.look()
    assert world.says(v.READY) == ("False", v.CRASH_LOOP)
    assert world.refused() == v.CRASH_LOOP
    world.load(pod)
    world.look()
    assert world.refused() == v.CRASH_LOOP
    world.serve(pod)
    world.pass_time(2)
    world.crash(pod, "cut")
    world.look()
    assert world.refused() is None


@pytest.mark.parametrize(("served", "refused"), [(True, None), (False, v.CRASH_LOOP)])
def test_crash_when_the_loop_restarts_then_it_still_knows_whether_the_replica_was_ready(
    served: bool,  # noqa: FBT001 - a parameter
    refused: str | None,
) -> None:
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    if served:
        world.crash(pod, "cut")
        world.pass_time(5)
    else:
        world.crash_loop(pod, "cut")
    world.restart_loop()
    world.pass_time(10)
    assert world.refused() == refused


def test_oom_when_the_kernel_killed_it_then_the_limit_is_blamed() -> None:
    world, pod = woken()
    world.crash(pod, "", code=137, reason="OOMKilled")
    world.look()
    assert world.says(v.READY) == ("False", v.OOM_KILLED)
    assert world.refused() == v.OOM_KILLED


@pytest.mark.parametrize("back_off", [True, False])
def test_oom_when_the_replica_was_ready_then_it_is_named_and_one_warning_event(*, back_off: bool) -> None:
    """Whether or not the kubelet delays the next start: it does not after a first exit."""
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    for _ in range(2):
        world.crash(pod, "", code=137, reason="OOMKilled")
        if not back_off:
            world.container(pod, {"running": {"startedAt": world.stamp()}})
        world.pass_time(5)
        assert world.says(v.READY) == ("False", v.STARTING)
        assert "OOMKilled" in world.condition(v.READY)["message"]
        assert "limits.memory" in world.condition(v.READY)["message"]
        (event,) = [event for event in world.events if event.type == "Warning"]
        assert (event.reason, pod in event.message) == (v.OOM_KILLED, True)
        world.serve(pod)
        world.pass_time(5)
        world.events.clear()


@pytest.mark.parametrize("waiting", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_image_when_it_cannot_be_had_then_image_pull_failed(waiting: str) -> None:
    world, pod = woken()
    world.container(pod, {"waiting": {"reason": waiting, "message": "manifest unknown"}})
    world.look()
    assert world.says(v.READY) == ("False", v.IMAGE_PULL_FAILED)
    assert world.refused() == v.IMAGE_PULL_FAILED


def test_container_when_it_cannot_be_created_then_the_cause_is_told() -> None:
    world, pod = woken()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "headrace-nats" not found'}
    world.container(pod, {"waiting": waiting})
    world.look()
    assert 'secret "headrace-nats" not found' in world.condition(v.READY)["message"]


def test_unschedulable_when_no_node_has_room_then_requests_are_held_because_room_may_come() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 5})
    set_condition(world.pods[pod], "PodScheduled", "False", "0/3 nodes are available")
    world.pass_time(30)
    assert world.says(v.READY) == ("False", v.UNSCHEDULABLE)
    assert world.refused() is None
    assert world.runtimes() == [pod]


def test_deadline_when_a_pod_gets_nowhere_then_it_is_given_up_and_requests_are_refused() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    world.load(pod, "warming-up")
    world.pass_time(12)
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert world.refused() == v.STARTUP_DEADLINE_EXCEEDED
    assert "warming-up" in world.condition(v.READY)["message"]
    assert world.runtimes() == []


def test_start_when_the_process_ended_once_then_its_last_words_are_told_while_it_starts_again() -> None:
    world, pod = woken()
    world.crash(pod, "NATS refuses the login runtime-default", code=1)
    world.container(pod, {"running": {"startedAt": world.stamp()}}, restartCount=1, lastState=last_state(world, pod))
    world.look()
    assert world.says(v.READY) == ("False", v.STARTING)
    assert "exited (exit code 1): NATS refuses the login" in world.condition(v.READY)["message"]


def test_deadline_when_its_process_has_ended_meanwhile_then_its_last_words_are_told() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    world.crash(pod, "block 7 is wrong", code=3)
    world.container(pod, {"running": {"startedAt": world.stamp()}}, restartCount=1, lastState=last_state(world, pod))
    world.pass_time(12)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "It exited before (exit code 3): block 7 is wrong" in world.condition(v.READY)["message"]


def last_state(world: World, pod: str) -> Manifest:
    state: Manifest = world.pods[pod]["status"]["containerStatuses"][0]["lastState"]
    return state


def test_deadline_when_it_is_ready_where_no_gateway_reaches_it_then_it_is_told_where_and_goes_on() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    world.serve(pod, admitted=False)
    world.look()
    assert world.says(v.ROUTABLE) == ("False", v.WAITING_FOR_GATEWAYS)
    assert f"{pod}: it reports Ready at 127.1.0.1, port 8000" in world.condition(v.ROUTABLE)["message"]
    world.pass_time(12)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "127.1.0.1, port 8000" in world.condition(v.READY)["message"]
    assert world.runtimes() == [pod]
    world.serve(pod)
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_pod_when_what_it_announces_is_ignored_then_the_condition_says_why() -> None:
    world, pod = woken()
    world.container(pod, {"running": {"startedAt": world.stamp()}}, ready=True)
    world.ignored = {pod: "not a valid Announcement: percent"}
    world.pass_time(6)
    assert "ignored (not a valid Announcement: percent)" in world.condition(v.WORKLOADS_READY)["message"]


def test_deadline_when_the_pod_makes_progress_then_it_is_extended() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    for percent in range(0, 100, 10):
        world.load(pod, percent=percent)
        world.pass_time(9)
    assert world.runtimes() == [pod]
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTING)


def test_deadline_when_exceeded_then_after_a_pause_it_tries_again_and_may_heal() -> None:
    world, pod = woken(replicas=1, scaling=None, rollout={"startupDeadlineSeconds": 10})
    world.load(pod)
    world.pass_time(12)
    world.pass_time(PAUSE_SECONDS)
    (again,) = world.runtimes()
    assert world.refused() == v.STARTUP_DEADLINE_EXCEEDED
    world.serve(again)
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.refused() is None


def test_deadline_when_others_serve_then_it_is_told_and_nothing_is_taken_down() -> None:
    world = serving_world(replicas=1, rollout={"startupDeadlineSeconds": 10})
    world.apply(replicas=2)
    world.pass_time(30)
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert len(world.runtimes()) == 2
    assert world.refused() is None


def test_message_when_it_is_endless_then_it_is_cut_to_what_an_api_takes() -> None:
    world, pod = woken()
    world.crash(pod, "x" * 10_000)
    outcome = world.look()
    assert len(world.condition(v.READY)["message"]) == 1024
    assert len(unavailable(outcome).message) == 1024


def test_pod_that_is_being_deleted_when_looked_at_then_it_counts_for_nothing() -> None:
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    world.pods[pod]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    outcome = world.decide()
    assert outcome.routable_pods == frozenset()
    assert outcome.status["replicas"] == 0


def refusing(world: World, kind: str) -> ChildKey:
    """Have the cluster refuse the first child of a kind that the rule wants now."""
    key = next(child.key for child in world.decide().children if child.key.kind == kind)
    world.not_taken[key] = "spec.template: must be less than or equal to memory limit"
    return key


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"scaling": {"maxReplicas": 1}}])
def test_deployment_when_the_cluster_refuses_it_then_its_words_are_in_every_condition(spec: dict[str, object]) -> None:
    world = World(manifest=resource(**spec))
    key = refusing(world, "Deployment")
    world.look()
    world.fetch()
    world.look()
    for condition in (v.READY, v.WORKLOADS_READY):
        assert world.says(condition) == ("False", v.REFUSED)
        assert f"{key.name}: spec.template: must be less" in world.condition(condition)["message"]
    assert world.refused() == v.REFUSED
    assert [event.type for event in world.events if event.reason == v.REFUSED] == ["Warning"]
    world.not_taken.clear()
    world.calm()
    assert world.says(v.READY)[0] == "True"
    assert world.refused() is None


@pytest.mark.parametrize(
    "rollout",
    [
        {},
        {"type": "Recreate"},
        {"rollingUpdate": {"surge": "Never"}},
        {"type": "Canary", "canary": {"percent": 50}},
    ],
)
def test_deployment_when_refused_in_a_rollout_then_the_old_revision_serves_on_and_scales(
    rollout: dict[str, object],
) -> None:
    world = serving_world(replicas=1, rollout=rollout)
    (old,) = world.revisions()
    world.apply(template={"env": [{"name": "A", "value": "B"}]}, replicas=2)
    refusing(world, "Deployment")
    world.look()
    assert world.revisions() in ({old: 1}, {old: 2})
    world.calm()
    assert world.revisions() == {old: 2}
    assert len(world.runtimes(old)) == 2
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None


def test_deployment_when_refused_at_zero_then_a_request_wakes_the_old_revision() -> None:
    world = serving_world(scaling={"maxReplicas": 1})
    (old,) = world.revisions()
    world.apply(template={"env": [{"name": "A", "value": "B"}]})
    refusing(world, "Deployment")
    world.look()
    assert world.says(v.READY) == ("False", v.REFUSED)
    world.ask(queued=1)
    world.calm()
    assert world.revisions() == {old: 1}
    assert world.refused() is None
    assert world.weights() == {old: 100}


def test_deployment_when_its_scaling_is_refused_then_the_pods_that_are_there_stay() -> None:
    world = serving_world(replicas=1)
    world.apply(replicas=3)
    refusing(world, "Deployment")
    world.calm()
    assert len(world.runtimes()) == 1
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None


@pytest.mark.parametrize("spec", [{"replicas": 1}, {"scaling": {"maxReplicas": 1}}])
def test_service_when_refused_then_it_is_told_and_requests_are_answered(spec: dict[str, object]) -> None:
    world = serving_world(**spec)
    refusing(world, "Service")
    world.look()
    world.look()
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert world.refused() is None
    world.ask(queued=1)
    world.calm()
    assert len(world.runtimes()) == 1


def test_job_when_refused_then_it_is_the_source_that_is_not_there() -> None:
    world = World(manifest=resource(replicas=1))
    refusing(world, "Job")
    world.look()
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.REFUSED)
    assert world.says(v.READY) == ("False", v.REFUSED)


QUOTA = 'pods "x" is forbidden: exceeded quota: small, requested: {}, used: requests.memory=6Gi, limited: {}'


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (QUOTA.format("requests.memory=8Gi", "requests.memory=10Gi"), v.UNSCHEDULABLE),
        (QUOTA.format("cpu=300m,requests.memory=8Gi", "cpu=1,requests.memory=8589934592"), v.UNSCHEDULABLE),
        ("exceeded quota: in words of tomorrow", v.UNSCHEDULABLE),
        (QUOTA.format("cpu=300m,requests.memory=80Gi", "cpu=1,requests.memory=10Gi"), v.REFUSED),
        (QUOTA.format("cpu=1500m", "cpu=1"), v.REFUSED),
        ("violates PodSecurity", v.REFUSED),
    ],
    ids=["full", "full, in other units", "full, it seems", "smaller than a pod", "less than a pod", "a policy"],
)
def test_pods_when_they_are_refused_then_requests_wait_only_where_room_may_come(message: str, reason: str) -> None:
    world, pod = woken()
    deployment = next(child for key, child in world.children.items() if key.kind == "Deployment")
    world.pods.pop(pod)
    deployment["status"] = {"conditions": [replica_failure(world, message)]}
    world.now += 11
    assert world.decide().status["conditions"][0]["reason"] == reason
    assert message in world.decide().status["conditions"][0]["message"]
    route = route_of(world.decide())
    held = reason == v.UNSCHEDULABLE
    assert (route.unavailable is None, route.stage == "unschedulable") == (held, held)
    deployment["status"] = {"conditions": []}
    assert world.decide().status["conditions"][0]["reason"] == v.STARTING


def test_pods_when_they_are_refused_for_a_moment_then_requests_wait_for_the_next_try() -> None:
    world, pod = woken()
    deployment = next(child for key, child in world.children.items() if key.kind == "Deployment")
    world.pods.pop(pod)
    deployment["status"] = {"conditions": [replica_failure(world, "failed calling webhook: connection refused")]}
    route = route_of(world.decide())
    assert route.unavailable is None
    deployment["status"]["conditions"][0]["reason"] = "FailedDelete"
    assert world.decide().status["conditions"][0]["reason"] == v.STARTING


def test_pod_when_it_was_evicted_then_it_counts_for_nothing() -> None:
    world, pod = woken()
    world.pods[pod]["status"]["phase"] = "Failed"
    assert world.decide().status["replicas"] == 0


def test_request_when_there_is_no_room_for_the_model_then_its_stage_says_so() -> None:
    world, pod = woken()
    world.no_room(pod)
    outcome = world.look()
    assert (route_of(outcome).stage, route_of(outcome).unavailable) == ("unschedulable", None)
