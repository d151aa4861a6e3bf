"""The model's file: fetched before anything runs, its digest recorded, its failures named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kinds.reconcile_world import DIGEST, SOURCE, World, replica_failure, resource, route_of, serving_world

from headrace import environment
from headrace.api import vocabulary as v
from headrace.errors import NoSpace
from headrace.events.messages import FetchProgress
from headrace.kinds.modeldeployment.reconcile import STEADY_REQUEUE_SECONDS, WORKING_REQUEUE_SECONDS
from headrace.reconcile.world import Manifest
from headrace.sources.location import location

OTHER = "sha256:" + "cd" * 32


def started(**spec: Any) -> World:
    """A world whose fetch has begun."""
    world = World(manifest=resource(**spec))
    world.look()
    world.look()
    return world


def job(world: World) -> Manifest:
    return next(child for key, child in world.children.items() if key.kind == "Job")


def test_fetch_when_the_resource_is_new_then_job_before_replicas() -> None:
    world = started(replicas=1)
    assert world.fetch_pod() is not None
    assert list(world.revisions().values()) == [0]
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCHING)
    assert world.says(v.WORKLOADS_READY) == ("False", v.WAITING_FOR_MODEL)
    assert world.says(v.READY) == ("False", v.FETCHING)


def test_fetch_when_a_pod_only_has_its_jobs_prefix_then_not_read() -> None:
    """A former Job of the name had another uid."""
    world = started(replicas=1)
    name = world.fetch_pod()
    assert name is not None
    world.fetch_fails(json.dumps({"reason": v.SOURCE_UNREACHABLE, "message": "no route to host"}))
    world.pods[name]["metadata"]["ownerReferences"][0]["uid"] = "former"
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCHING)


@pytest.mark.parametrize(("received", "told"), [(0, "0%"), (24, "0%"), (41, "25%"), (99, "75%"), (100, "100%")])
def test_fetch_when_under_way_then_quarters_and_stage_are_told(received: int, told: str) -> None:
    world = started(replicas=1)
    world.now += 1
    world.progress = FetchProgress(uri=SOURCE, received_bytes=received, total_bytes=100)
    outcome = world.look()
    assert world.condition(v.MODEL_CACHED)["message"].endswith(f": {told}")
    assert (route_of(outcome).stage, route_of(outcome).unavailable) == ("fetching", None)


def test_fetch_when_under_way_then_passes_only_on_news() -> None:
    world = started(scaling={"maxReplicas": 4})
    assert world.look().requeue_seconds is None
    world.ask(queued=1)
    assert world.look().requeue_seconds == WORKING_REQUEUE_SECONDS


def test_fetch_when_it_fails_then_later_passes_check_it() -> None:
    world = started(replicas=1)
    world.fetch_fails("Killed")
    world.now += 1
    assert world.look().requeue_seconds == STEADY_REQUEUE_SECONDS


def test_fetch_when_done_then_file_recorded_and_replicas_start() -> None:
    world = started(replicas=1)
    world.fetch()
    world.look()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.manifest["status"]["source"] == {
        "uri": SOURCE,
        "digest": DIGEST,
        "path": location(SOURCE, None),
        "bytes": 144_811_360,
    }
    assert list(world.revisions().values()) == [1]


def test_fetch_when_its_finished_pod_removed_then_record_holds() -> None:
    world = serving_world(replicas=1)
    del world.pods[world.fetch_pod() or ""]
    world.restart_loop()
    world.look()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.manifest["status"]["source"]["digest"] == DIGEST


@pytest.mark.parametrize(
    "reason", [v.SOURCE_UNREACHABLE, v.DIGEST_MISMATCH, v.NO_SPACE, v.SOURCE_NOT_ALLOWED, v.FETCH_FAILED]
)
def test_fetch_when_it_fails_then_its_reason_in_every_condition(reason: str) -> None:
    world = started(replicas=1)
    world.fetch_fails(json.dumps({"reason": reason, "message": "it went so and so"}))
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", reason)
    assert world.says(v.READY) == ("False", reason)
    assert world.refused() == reason
    assert [event.type for event in world.events if event.reason == reason] == ["Warning"]


@pytest.mark.parametrize("message", ["", "Killed", "[]", '{"reason": "Sulking"}'])
def test_fetch_when_it_dies_without_a_word_then_fetch_failed(message: str) -> None:
    world = started(replicas=1)
    world.fetch_fails(message, code=137)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCH_FAILED)
    assert "exit code 137" in world.condition(v.MODEL_CACHED)["message"]


def test_fetch_when_disk_full_for_message_then_exit_code_tells() -> None:
    world = started(replicas=1)
    world.fetch_fails("", code=NoSpace.exit_code)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.NO_SPACE)


def test_fetch_when_later_attempt_succeeds_then_everything_heals() -> None:
    world = started(replicas=1)
    world.fetch_fails(json.dumps({"reason": v.SOURCE_UNREACHABLE, "message": "refused"}))
    world.look()
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)
    assert world.refused() is None


def test_fetch_when_a_later_attempt_runs_then_requests_are_held() -> None:
    world = started(replicas=1)
    world.fetch_fails(json.dumps({"reason": v.SOURCE_UNREACHABLE, "message": "refused"}))
    world.look()
    world.container(world.fetch_pod() or "", {"running": {"startedAt": world.stamp()}})
    world.progress = FetchProgress(uri=SOURCE, received_bytes=5, total_bytes=100)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.SOURCE_UNREACHABLE)
    world.pass_time(11)
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCHING)
    assert world.refused() is None


def test_fetch_when_it_fails_for_good_then_job_retries_for_ever() -> None:
    template = job(started())["spec"]
    assert template["backoffLimit"] >= 1_000_000
    assert template["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_digest_when_given_then_the_fetch_must_find_it() -> None:
    world = started(model={"source": {"uri": SOURCE, "digest": DIGEST}})
    (container,) = job(world)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["headrace-fetch"]
    assert container["args"] == ["--directory", "/models", "--digest", DIGEST]
    assert {"name": environment.SOURCE_URI, "value": SOURCE} in container["env"]


def test_digest_when_file_changes_then_named_and_serving_goes_on() -> None:
    world = serving_world(replicas=1)
    world.fetch(OTHER)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.DIGEST_MISMATCH)
    assert world.manifest["status"]["source"]["digest"] == DIGEST
    assert list(world.revisions().values()) == [1]
    assert world.refused() is None


def test_digest_when_file_changes_then_fetched_until_as_recorded() -> None:
    world = serving_world(replicas=1)
    world.fetch(OTHER)
    world.look()
    (container,) = job(world)["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--expect", DIGEST]
    world.look()
    world.fetch_fails(json.dumps({"reason": v.DIGEST_MISMATCH, "message": "it is another one"}))
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.DIGEST_MISMATCH)
    world.fetch(DIGEST)
    world.calm()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_digest_when_file_changed_at_zero_then_wake_is_refused() -> None:
    world = serving_world(scaling={})
    world.fetch(OTHER)
    world.ask(queued=1)
    world.look()
    assert list(world.revisions().values()) == [0]
    assert world.refused() == v.DIGEST_MISMATCH


def test_digest_when_given_another_then_the_record_is_dropped() -> None:
    world = serving_world(replicas=0)
    world.apply(model={"source": {"uri": SOURCE, "digest": OTHER}})
    world.look()
    assert "source" not in world.manifest["status"]
    world.look()
    world.fetch(OTHER)
    world.look()
    assert world.manifest["status"]["source"]["digest"] == OTHER


def test_source_when_it_changes_then_new_job_and_record_dropped() -> None:
    world = serving_world(replicas=0)
    before = job(world)["metadata"]["name"]
    world.apply(model={"source": {"uri": SOURCE.replace("0.1.2", "0.1.3")}})
    world.look()
    assert "source" not in world.manifest["status"]
    assert job(world)["metadata"]["name"] != before


def test_job_when_finished_then_kubernetes_is_told_to_remove_it() -> None:
    world = serving_world(replicas=1)
    assert job(world)["spec"]["ttlSecondsAfterFinished"] > 0


def test_job_when_platform_settings_change_then_another_name() -> None:
    """A Job's template is immutable."""
    world = started(replicas=1)
    before = job(world)["metadata"]["name"]
    world.settings = type(world.settings)(
        gateway_url=world.settings.gateway_url, nats_url="nats://127.0.0.1:9", models_directory="/models"
    )
    world.look()
    assert job(world)["metadata"]["name"] != before


@pytest.mark.parametrize(
    ("waiting", "reason", "refused"),
    [
        ("ImagePullBackOff", v.IMAGE_PULL_FAILED, v.IMAGE_PULL_FAILED),
        ("CreateContainerConfigError", v.FETCH_FAILED, v.FETCH_FAILED),
        (None, v.UNSCHEDULABLE, None),
    ],
)
def test_fetch_when_its_pod_cannot_run_then_waits_only_for_room(
    waiting: str | None, reason: str, refused: str | None
) -> None:
    world = started()
    pod = world.fetch_pod()
    assert pod is not None
    if waiting is None:
        world.no_room(pod)
    else:
        world.container(pod, {"waiting": {"reason": waiting, "message": "for a reason"}})
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", reason)
    assert world.refused() == refused
    world.calm()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)


@pytest.mark.parametrize(
    ("message", "age", "reason", "refused"),
    [
        ("exceeded quota: small, requested: cpu=100m, used: cpu=1, limited: cpu=1", 0, v.UNSCHEDULABLE, None),
        ("exceeded quota: small, requested: cpu=100m, used: cpu=0, limited: cpu=50m", 0, v.REFUSED, v.REFUSED),
        ("violates PodSecurity", 5, v.FETCHING, None),
        ("violates PodSecurity", 15, v.REFUSED, v.REFUSED),
    ],
    ids=["full", "smaller than a pod", "for a moment", "for long"],
)
def test_fetch_when_it_gets_no_pod_then_the_condition_says_why(
    message: str, age: int, reason: str, refused: str | None
) -> None:
    world = started(replicas=1)
    world.pods.clear()
    job(world)["status"] = {"conditions": [replica_failure(world, message)]}
    world.now += age
    decided = world.decide()
    conditions = {each["type"]: each for each in decided.status["conditions"]}
    assert (conditions[v.MODEL_CACHED]["reason"], conditions[v.READY]["reason"]) == (reason, reason)
    assert message in conditions[v.MODEL_CACHED]["message"]
    answer = route_of(decided).unavailable
    assert (answer.reason if answer else None) == refused


def test_fetch_when_it_has_no_pod_then_requeued_without_news() -> None:
    world = started(scaling={"maxReplicas": 4})
    world.pods.clear()
    assert world.decide().requeue_seconds == STEADY_REQUEUE_SECONDS
