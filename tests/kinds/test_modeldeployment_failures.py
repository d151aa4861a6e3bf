"""Failing pods: the same cause in the conditions, in the events and in responses to requests."""

from __future__ import annotations

import pytest
from kinds.reconcile_pods import set_condition
from kinds.reconcile_world import World, route_of, serving_world, unavailable, woken

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.startup import PAUSE_SECONDS
from headrace.reconcile.world import Manifest


def test_crash_loop_when_the_runtime_gave_a_cause_then_quoted() -> None:
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


def test_crash_loop_when_it_runs_for_a_moment_then_no_recovery() -> None:
    world, pod = woken()
    world.crash(pod, "cut")
    world.look()
    world.load(pod)
    world.look()
    assert world.says(v.WORKLOADS_READY) == ("False", v.CRASH_LOOP)
    assert len([event for event in world.events if event.reason == v.CRASH_LOOP]) == 1


def test_crash_loop_when_it_serves_after_all_then_all_heals() -> None:
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
def test_crash_when_replica_was_ready_before_then_requests_held(crashes: int) -> None:
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
    assert "being restarted; it exited (exit code 139): segm" in world.condition(v.READY)["message"]


def test_crash_when_not_ready_since_the_last_one_then_crash_loop() -> None:
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
def test_crash_when_loop_restarts_then_readiness_is_remembered(
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
def test_oom_when_the_replica_was_ready_then_one_warning_event(*, back_off: bool) -> None:
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


def test_container_when_it_cannot_be_created_then_cause_is_told() -> None:
    world, pod = woken()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "headrace-nats" not found'}
    world.container(pod, {"waiting": waiting})
    world.look()
    assert 'secret "headrace-nats" not found' in world.condition(v.READY)["message"]


def test_unschedulable_when_no_node_has_room_then_requests_held() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 5})
    set_condition(world.pods[pod], "PodScheduled", "False", "0/3 nodes are available")
    world.pass_time(30)
    assert world.says(v.READY) == ("False", v.UNSCHEDULABLE)
    assert world.refused() is None
    assert world.runtimes() == [pod]


def test_deadline_when_pod_gets_nowhere_then_requests_refused() -> None:
    """The start is given up."""
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    world.load(pod, "warming-up")
    world.pass_time(12)
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert world.refused() == v.STARTUP_DEADLINE_EXCEEDED
    assert "warming-up" in world.condition(v.READY)["message"]
    assert world.runtimes() == []


def test_start_when_process_ended_once_then_its_error_is_told() -> None:
    """While it starts again."""
    world, pod = woken()
    world.crash(pod, "NATS refuses the login runtime-default", code=1)
    world.container(pod, {"running": {"startedAt": world.stamp()}}, restartCount=1, lastState=last_state(world, pod))
    world.look()
    assert world.says(v.READY) == ("False", v.STARTING)
    assert "exited (exit code 1): NATS refuses the login" in world.condition(v.READY)["message"]


def test_deadline_when_its_process_ended_then_its_error_is_told() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    world.crash(pod, "block 7 is wrong", code=3)
    world.container(pod, {"running": {"startedAt": world.stamp()}}, restartCount=1, lastState=last_state(world, pod))
    world.pass_time(12)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "It previously exited (exit code 3): block 7 is wrong" in world.condition(v.READY)["message"]


def last_state(world: World, pod: str) -> Manifest:
    state: Manifest = world.pods[pod]["status"]["containerStatuses"][0]["lastState"]
    return state


def test_deadline_when_ready_but_unreachable_then_told_only() -> None:
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


def test_pod_when_its_reports_ignored_then_condition_says_why() -> None:
    world, pod = woken()
    world.container(pod, {"running": {"startedAt": world.stamp()}}, ready=True)
    world.ignored = {pod: "not a valid Announcement: percent"}
    world.pass_time(6)
    assert "ignored (not a valid Announcement: percent)" in world.condition(v.WORKLOADS_READY)["message"]


def test_deadline_when_the_pod_makes_progress_then_extended() -> None:
    world, pod = woken(rollout={"startupDeadlineSeconds": 10})
    for percent in range(0, 100, 10):
        world.load(pod, percent=percent)
        world.pass_time(9)
    assert world.runtimes() == [pod]
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTING)


def test_deadline_when_exceeded_then_retried_after_a_pause() -> None:
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


def test_deadline_when_others_serve_then_nothing_is_removed() -> None:
    world = serving_world(replicas=1, rollout={"startupDeadlineSeconds": 10})
    world.apply(replicas=2)
    world.pass_time(30)
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert len(world.runtimes()) == 2
    assert world.refused() is None


def test_message_when_it_is_endless_then_cut_to_the_api_limit() -> None:
    world, pod = woken()
    world.crash(pod, "x" * 10_000)
    outcome = world.look()
    assert len(world.condition(v.READY)["message"]) == 1024
    assert len(unavailable(outcome).message) == 1024


def test_pod_when_it_is_being_deleted_then_it_counts_for_nothing() -> None:
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    world.pods[pod]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    outcome = world.decide()
    assert outcome.routable_pods == frozenset()
    assert outcome.status["replicas"] == 0


def test_pod_when_it_was_evicted_then_it_counts_for_nothing() -> None:
    world, pod = woken()
    world.pods[pod]["status"]["phase"] = "Failed"
    assert world.decide().status["replicas"] == 0


def test_request_when_no_room_for_model_then_its_stage_says_so() -> None:
    world, pod = woken()
    world.no_room(pod)
    outcome = world.look()
    assert (route_of(outcome).stage, route_of(outcome).unavailable) == ("unschedulable", None)
