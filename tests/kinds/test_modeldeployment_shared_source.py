"""What is known of a source without a Job of one's own."""

from __future__ import annotations

import json

import pytest
from kinds.reconcile_world import DIGEST, SOURCE, World, resource, serving_world

from headrace.api import vocabulary as v
from headrace.events.messages import FetchProgress
from headrace.reconcile.world import Manifest


def jobs(world: World) -> list[str]:
    return [key.name for key in world.children if key.kind == "Job"]


def fetcher(world: World, name: str = "first") -> Manifest:
    """Another model of the same source, with the status that a world's model has."""
    return {**world.manifest, "metadata": {**world.manifest["metadata"], "name": name, "uid": "uid-2"}}


# -- a Job that Kubernetes has removed


def test_file_when_the_finished_job_is_removed_then_no_new_job() -> None:
    """The status records the file."""
    world = serving_world(replicas=1)
    said, source = world.condition(v.MODEL_CACHED), world.manifest["status"]["source"]
    world.remove_finished_jobs()
    world.memory = None
    world.pass_time(10)
    assert jobs(world) == []
    assert (world.condition(v.MODEL_CACHED), world.manifest["status"]["source"]) == (said, source)
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_file_when_job_removed_at_zero_then_wake_starts_at_once() -> None:
    world = serving_world(scaling={})
    world.remove_finished_jobs()
    world.ask(queued=1)
    world.look()
    assert (jobs(world), list(world.revisions().values())) == ([], [1])


def test_file_when_platforms_settings_change_then_not_refetched() -> None:
    world = serving_world(replicas=1)
    world.settings = type(world.settings)(gateway_url="http://b", nats_url="nats://b:9", models_directory="/models")
    world.look()
    assert jobs(world) == []
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)


def test_file_when_job_is_removed_before_record_then_refetched() -> None:
    world = World(manifest=resource(replicas=1))
    world.look()
    world.look()
    world.fetch()
    world.remove_finished_jobs()
    world.look()
    assert len(jobs(world)) == 1
    assert world.says(v.MODEL_CACHED) == ("Unknown", v.PENDING)


def test_file_when_hidden_parts_of_uri_differ_then_another_file() -> None:
    address = "https://example.org/model.gguf"
    world = serving_world(replicas=0, model={"source": {"uri": f"{address}?version=1"}})
    world.remove_finished_jobs()
    world.apply(model={"source": {"uri": f"{address}?version=2"}})
    world.look()
    assert len(jobs(world)) == 1
    assert world.says(v.MODEL_CACHED) == ("Unknown", v.PENDING)


def crashing() -> World:
    """A world whose replica keeps crashing after the Job has gone."""
    world = serving_world(replicas=1)
    world.remove_finished_jobs()
    (pod,) = world.runtimes()
    world.crash_loop(pod, "cannot read the model's file")
    world.look()
    world.look()
    assert world.says(v.WORKLOADS_READY) == ("False", v.CRASH_LOOP)
    return world


def test_file_when_a_replica_keeps_crashing_then_job_verifies_it() -> None:
    """And no condition flaps."""
    world = crashing()
    assert len(jobs(world)) == 1
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    world.fetch()
    world.look()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)


def test_file_when_lost_then_verifying_job_refetches_and_reports() -> None:
    world = crashing()
    world.progress = FetchProgress(uri=SOURCE, received_bytes=41, total_bytes=100)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCHING)
    world.fetch_fails(json.dumps({"reason": v.NO_SPACE, "message": "the claim is full"}))
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.NO_SPACE)


def test_file_when_verifying_job_cannot_run_then_stays_verified() -> None:
    """A refused Job, refused pods and an image that cannot be pulled are no evidence about the file."""
    world = crashing()
    (job,) = [each for each in world.children if each.kind == "Job"]
    pod = world.fetch_pod()
    assert pod is not None
    world.container(pod, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    world.look()
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    del world.pods[pod], world.children[job]
    world.not_taken[job] = 'jobs "x" is forbidden: exceeded quota: q'
    world.pass_time(3)
    assert jobs(world) == []
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)


def test_file_when_spec_in_between_rejected_then_stays_verified() -> None:
    world = serving_world(scaling={})
    world.remove_finished_jobs()
    said = world.condition(v.MODEL_CACHED)["message"]
    accepted = world.manifest["spec"]
    world.apply(replicas="many")
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.condition(v.MODEL_CACHED)["message"] == said
    world.manifest["spec"] = accepted
    world.apply()
    world.ask(queued=1)
    world.look()
    assert (jobs(world), list(world.revisions().values())) == ([], [1])


def test_file_when_rejected_spec_has_another_source_then_unknown() -> None:
    world = serving_world(scaling={})
    for source in ({"uri": "https://example.org/other.gguf"}, {"uri": 7}, "x", None):
        world.apply(replicas="many", model={"source": source})
        world.look()
        assert world.says(v.MODEL_CACHED) == ("Unknown", v.PENDING)


# -- a source that another model fetches


def follower(other: World) -> World:
    world = World(manifest=resource(replicas=1), fetcher=fetcher(other))
    world.look()
    return world


def test_source_when_another_model_fetches_it_then_waits() -> None:
    first = World(manifest=resource(replicas=1))
    first.look()
    world = follower(first)
    assert jobs(world) == []
    assert world.says(v.MODEL_CACHED) == ("False", v.FETCHING)
    assert "first" in world.condition(v.MODEL_CACHED)["message"]
    assert list(world.revisions().values()) == [0]


def test_source_when_another_model_has_it_then_starts_at_once() -> None:
    world = follower(serving_world(replicas=1))
    assert (jobs(world), list(world.revisions().values())) == ([], [1])
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.manifest["status"]["source"]["digest"] == DIGEST
    world.fetcher = None  # it was deleted
    world.restart_loop()
    world.pass_time(10)
    assert (jobs(world), world.says(v.MODEL_CACHED)) == ([], ("True", v.CACHED))


@pytest.mark.parametrize("reason", [v.SOURCE_UNREACHABLE, v.NO_SPACE, v.DIGEST_MISMATCH])
def test_source_when_fetch_of_another_fails_then_same_reason(reason: str) -> None:
    first = World(manifest=resource(replicas=1))
    first.look()
    first.look()
    first.fetch_fails(json.dumps({"reason": reason, "message": "it went so and so"}))
    first.look()
    world = follower(first)
    assert world.says(v.READY) == ("False", reason)
    assert world.refused() == reason


def test_source_when_fetching_model_is_deleted_then_next_fetches() -> None:
    first = World(manifest=resource(replicas=1))
    first.look()
    world = follower(first)
    world.fetcher = None
    world.look()
    assert len(jobs(world)) == 1
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)


def test_source_when_this_model_has_begun_its_fetch_then_ends_it() -> None:
    """After a restart of the operator another one may be chosen: what runs is not cut off."""
    world = World(manifest=resource(replicas=1))
    world.look()
    other = World(manifest=resource(replicas=1))
    other.look()
    world.fetcher = fetcher(other)
    world.look()
    assert len(jobs(world)) == 1


def test_source_when_other_fetched_another_then_not_replaced() -> None:
    """Another file than was recorded."""
    first, world = serving_world(replicas=1), serving_world(replicas=1)
    world.remove_finished_jobs()
    recorded = world.manifest["status"]["source"] = {
        **world.manifest["status"]["source"],
        "digest": "sha256:" + "cd" * 32,
    }
    cached = world.condition(v.MODEL_CACHED)
    cached.update(status="False", reason=v.SOURCE_UNREACHABLE)
    world.fetcher = fetcher(first)
    world.look()
    assert world.says(v.MODEL_CACHED) == ("False", v.DIGEST_MISMATCH)
    assert recorded["digest"] in world.condition(v.MODEL_CACHED)["message"]
    assert world.manifest["status"]["source"] == recorded


def test_source_when_other_has_no_record_then_this_one_fetches() -> None:
    first = serving_world(replicas=1)
    del first.manifest["status"]["source"]
    assert len(jobs(follower(first))) == 1
    first.manifest["metadata"]["generation"] += 1
    assert jobs(follower(first)) == []  # what its status holds is of an earlier spec
