"""The condition Ready: whether the model serves requests; its message has the changes in progress."""

from __future__ import annotations

from typing import Any

import pytest
from kinds.reconcile_pods import set_condition
from kinds.reconcile_world import World, replica_failure, resource, serving_world

from headrace.api import vocabulary as v
from headrace.events.messages import ReplicaState

NEW = {"runtime": {"type": "LLM", "llm": {"maxModelLen": 4096}}}


def message(world: World) -> str:
    return str(world.condition(v.READY)["message"])


def test_scale_up_when_the_new_replica_starts_then_ready_stays() -> None:
    world = serving_world(replicas=2)
    world.apply(replicas=3)
    world.look()
    *_, pod = world.runtimes()
    world.load(pod, percent=41)
    world.pass_time(1)
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert message(world) == f"requests go to 2 replicas; 2 of 3 replicas run; {pod}: loading-weights"
    assert world.says(v.WORKLOADS_READY) == ("False", v.STARTING)
    assert world.look().requeue_seconds == 1.0


def test_scale_down_when_it_begins_then_ready_counts_who_stays() -> None:
    world = serving_world(replicas=3)
    world.apply(replicas=2)
    world.look()
    assert (world.says(v.READY), message(world)) == (("True", v.RUNNING), "requests go to 2 replicas")


def test_replica_when_one_of_two_is_drained_then_ready_stays() -> None:
    world = serving_world(replicas=2)
    world.lingers = True
    world.pods[world.runtimes()[0]]["metadata"]["deletionTimestamp"] = world.stamp()
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert "1 of 2 replicas run" in message(world)


def test_replica_when_one_of_two_not_admitted_then_ready_stays() -> None:
    world = serving_world(replicas=2)
    world.serve(world.runtimes()[0], admitted=False)
    world.look()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert "1 of 2 serving replicas are admitted by every gateway" in message(world)


def test_scale_up_when_a_quota_has_no_room_then_ready_says_why() -> None:
    world = serving_world(replicas=1)
    world.quota = 1
    world.apply(replicas=2)
    world.look()
    world.pass_time(1)
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert "exceeded quota" in message(world)
    assert world.says(v.WORKLOADS_READY) == ("False", v.UNSCHEDULABLE)


@pytest.mark.parametrize(
    "rollout",
    [{}, {"rollingUpdate": {"surge": "Never"}}, {"type": "Canary", "canary": {"percent": 50}}],
    ids=["surge", "replace", "canary"],
)
def test_rollout_when_it_runs_then_ready_never_leaves_true(rollout: dict[str, Any]) -> None:
    """At each step of it, the new pods being ready one after another, and promoted at the end."""
    world = serving_world(replicas=2, rollout=rollout)
    (old,) = world.revisions()
    world.apply(**NEW)
    world.look()
    assert world.says(v.READY) == ("True", v.ROLLING_OUT)
    assert "is being rolled out" in message(world)
    for _ in range(6):
        for pod in [pod for pod in world.runtimes() if pod not in world.reports][:1]:
            world.serve(pod)
        world.pass_time(1)
        assert world.says(v.READY)[0] == "True"
    world.apply(rollout={"type": "RollingUpdate"})
    world.calm()
    assert (world.says(v.READY), old in world.revisions()) == (("True", v.RUNNING), False)


def test_rollout_when_candidate_waits_for_room_then_ready_stays() -> None:
    world = serving_world(replicas=1)
    world.apply(**NEW)
    world.look()
    *_, pod = world.runtimes()
    set_condition(world.pods[pod], "PodScheduled", "False", "0/1 nodes: insufficient cpu")
    world.look()
    assert world.says(v.READY) == ("True", v.ROLLING_OUT)
    assert "insufficient cpu" in message(world)


def test_rollout_when_no_stable_replica_is_left_then_not_ready() -> None:
    world = serving_world(replicas=1)
    (old,) = world.runtimes()
    world.apply(**NEW)
    world.look()
    del world.pods[old]
    world.look()
    assert world.says(v.READY) == ("False", v.STARTING)


@pytest.mark.parametrize("kind", ["Service", "Deployment", "Job"])
def test_spec_when_a_child_is_refused_then_not_ready(kind: str) -> None:
    """Though the stable revision serves."""
    world = serving_world(replicas=1)
    source = {"uri": world.manifest["spec"]["model"]["source"]["uri"].replace("0.1.2", "0.1.3")}
    world.apply(model={"source": source})
    world.look()
    if kind == "Deployment":
        world.fetch()
    key = next(child.key for child in world.decide().children if child.key.kind == kind)
    world.not_taken[key] = 'failed calling webhook "deny.example": connection refused'
    world.children.pop(key)
    world.look()
    world.look()
    assert world.says(v.READY) == ("False", v.REFUSED)
    assert "deny.example" in message(world)
    assert world.condition(v.READY)["observedGeneration"] == 2
    assert world.refused() is None


def test_stable_when_cluster_keeps_it_then_progressing_says_so() -> None:
    world = serving_world(replicas=1)
    (old,) = [key for key in world.children if key.kind == "Deployment"]
    world.apply(**NEW)
    world.calm()
    world.refused_last = {old: "denied by policy"}
    outcome = world.decide()
    conditions = {each["type"]: each for each in outcome.status["conditions"]}
    assert (conditions[v.PROGRESSING]["reason"], conditions[v.READY]["status"]) == (v.REFUSED, "True")
    assert f"{old.name}: denied by policy" in conditions[v.PROGRESSING]["message"]


def test_job_when_refused_then_requests_rejected_and_not_held() -> None:
    world = World(manifest=resource(replicas=1))
    key = next(child.key for child in world.decide().children if child.key.kind == "Job")
    world.not_taken[key] = "denied by policy"
    world.look()
    world.look()
    assert world.refused() == v.REFUSED


# -- a new leader ------------------------------------------------------------------------------------------------


def test_leader_when_new_then_no_gateway_only_after_listening() -> None:
    world = serving_world(replicas=1)
    world.restart_loop()
    world.gateways = frozenset()
    for _ in range(4):
        world.pass_time(1)
        assert world.says(v.READY) == ("True", v.RUNNING)
        assert world.says(v.ROUTABLE) == ("True", v.ADMITTED)
    assert "according to their previous reports" in world.condition(v.ROUTABLE)["message"]
    world.pass_time(2)
    assert world.says(v.ROUTABLE) == world.says(v.READY) == ("False", v.NO_GATEWAY)


@pytest.mark.parametrize(("was", "says"), [(True, ("True", v.IDLE)), (False, ("Unknown", v.PENDING))])
def test_leader_when_new_then_model_at_zero_as_ready_as_before(*, was: bool, says: tuple[str, str]) -> None:
    world = serving_world(scaling={})
    if not was:
        world.manifest["status"].pop("conditions")
    world.restart_loop()
    world.gateways = frozenset()
    world.look()
    assert world.says(v.READY) == says
    world.pass_time(6)
    assert world.says(v.READY) == ("False", v.NO_GATEWAY)


def test_quota_when_no_room_and_nothing_serves_then_not_ready() -> None:
    world = serving_world(replicas=1)
    world.pods.pop(world.runtimes()[0])
    deployment = next(child for key, child in world.children.items() if key.kind == "Deployment")
    deployment["status"] = {"conditions": [replica_failure(world, "exceeded quota: in words of tomorrow")]}
    assert world.decide().status["conditions"][0]["reason"] == v.UNSCHEDULABLE


# -- a readiness path that does not answer -------------------------------------------------------------------------

FAULT = "its readiness path /v1/models on port 8000 responds with status 404"


def test_container_when_readiness_path_fails_then_told_how() -> None:
    world = serving_world(replicas=1, rollout={"startupDeadlineSeconds": 10})
    (pod,) = world.runtimes()
    world.load(pod, "starting")
    world.admissions.clear()
    world.probe_faults = {pod: FAULT}
    world.look()
    assert world.says(v.READY) == ("False", v.STARTING)
    assert message(world) == f"0 of 1 replicas run; {pod}: {FAULT}"
    world.pass_time(12)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert FAULT in message(world)


@pytest.mark.parametrize(
    ("state", "stage", "percent", "told"),
    [
        (ReplicaState.READY, "", None, True),
        (ReplicaState.LOADING, "", None, True),
        (ReplicaState.LOADING, "loading-weights", None, False),
        (ReplicaState.LOADING, "starting", 3, False),
        (ReplicaState.DRAINING, "", None, False),
    ],
)
def test_container_when_it_reports_its_progress_then_that_shown(
    state: ReplicaState, stage: str, percent: int | None, *, told: bool
) -> None:
    world = serving_world(replicas=1)
    (pod,) = world.runtimes()
    world.load(pod)
    world.report(pod, state, stage, percent)
    world.admissions.clear()
    world.probe_faults = {pod: FAULT}
    world.look()
    assert (FAULT in world.condition(v.WORKLOADS_READY)["message"] + world.condition(v.ROUTABLE)["message"]) is told
