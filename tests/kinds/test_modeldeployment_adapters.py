"""LoRA adapters of a ModelDeployment: their files, conditions, names, and the route."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kinds.reconcile_world import DIGEST, SETTINGS, SOURCE, World, resource, route_of

from headrace import environment
from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.public_names import Names
from headrace.reconcile.world import ChildKey, Manifest, ResourceKey
from headrace.sources.location import location

SQL = "hf://acme/smollm2-sql@main"
CHAT = "s3://models/chat/"
OTHER = "sha256:" + "cd" * 32


def adapted(*adapters: dict[str, str], **spec: Any) -> dict[str, Any]:
    given = list(adapters or ({"name": "sql", "uri": SQL}, {"name": "chat", "uri": CHAT}))
    return {"runtime": {"llm": {"adapters": given}}, "replicas": 1, **spec}


def job_of(world: World, uri: str) -> ChildKey:
    """The Job that fetches a source."""
    return next(key for key, child in world.children.items() if key.kind == "Job" and uri_of(child) == uri)


def uri_of(job: Manifest) -> str:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return next(str(each["value"]) for each in container["env"] if each["name"] == environment.SOURCE_URI)


def end_fetch(world: World, uri: str, digest: str = DIGEST, *, failure: dict[str, str] | None = None) -> None:
    """The fetch of an adapter ends."""
    key = job_of(world, uri)
    (pod,) = [name for name, pod in world.pods.items() if pod["metadata"]["labels"]["owner"] == key.name]
    if failure is not None:
        ended = {"terminated": {"exitCode": 10, "reason": "Error", "message": json.dumps(failure)}}
        world.container(pod, {"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=1, lastState=ended)
        return
    said = json.dumps({"digest": digest, "path": location(uri, None), "bytes": 1_000})
    world.container(pod, {"terminated": {"exitCode": 0, "reason": "Completed", "message": said}})
    world.children[key]["status"] = {"succeeded": 1}


def fetched_world(**spec: Any) -> World:
    world = World(manifest=resource(**adapted(**spec)))
    world.look()
    world.fetch()
    world.look()
    return world


def served_world(**spec: Any) -> World:
    world = fetched_world(**spec)
    end_fetch(world, SQL)
    end_fetch(world, CHAT)
    world.calm()
    return world


def test_adapters_when_applied_then_one_fetch_for_each() -> None:
    world = World(manifest=resource(**adapted()))
    world.look()
    assert {uri_of(child) for key, child in world.children.items() if key.kind == "Job"} == {SOURCE, SQL, CHAT}


def test_replica_when_an_adapter_is_missing_then_not_started() -> None:
    world = fetched_world()
    end_fetch(world, SQL)
    world.pass_time(30)  # changed messages are throttled
    assert world.says(v.MODEL_CACHED) == ("True", v.CACHED)
    assert world.says(v.WORKLOADS_READY) == ("False", v.WAITING_FOR_MODEL)
    assert world.says(v.READY) == ("False", v.FETCHING)
    assert world.condition(v.READY)["message"].startswith("adapter chat: ")
    assert [each["reason"] for each in world.manifest["status"]["adapters"]] == [v.CACHED, v.FETCHING]
    assert world.runtimes() == []


def test_replica_when_all_files_are_cached_then_gets_them() -> None:
    world = served_world()
    assert world.says(v.READY) == ("True", v.RUNNING)
    (deployment,) = [child for key, child in world.children.items() if key.kind == "Deployment"]
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    given = [arguments[at + 1] for at, each in enumerate(arguments) if each == "--adapter"]
    directory = SETTINGS.models_directory
    assert given == [f"smol:{name}={directory}/{location(uri, None)}" for name, uri in (("sql", SQL), ("chat", CHAT))]
    assert route_of(world.outcome).adapters == ("smol:sql", "smol:chat")


def test_fetch_when_an_adapter_is_not_found_then_ready_names_it() -> None:
    world = fetched_world()
    end_fetch(world, CHAT, failure={"reason": v.SOURCE_UNREACHABLE, "message": "s3://models/chat/ has 0 objects"})
    end_fetch(world, SQL)
    world.look()
    assert world.says(v.READY) == ("False", v.SOURCE_UNREACHABLE)
    assert world.condition(v.READY)["message"] == "adapter chat: s3://models/chat/ has 0 objects"
    assert world.refused() == v.SOURCE_UNREACHABLE


def test_file_when_finished_jobs_are_removed_then_not_refetched() -> None:
    world = served_world()
    before = world.manifest["status"]["adapters"]
    world.remove_finished_jobs()
    world.memory = None
    world.pass_time(10)
    assert not [key for key in world.children if key.kind == "Job"]
    assert world.manifest["status"]["adapters"] == before


def test_file_when_it_has_changed_then_mismatch_names_the_field() -> None:
    world = served_world()
    world.remove_finished_jobs()
    world.manifest["status"]["adapters"][0]["reason"] = v.PENDING  # to be verified again
    world.look()
    world.look()
    end_fetch(world, SQL, OTHER)
    world.look()
    assert world.manifest["status"]["adapters"][0]["reason"] == v.DIGEST_MISMATCH
    assert "spec.runtime.llm.adapters" in world.manifest["status"]["adapters"][0]["message"]


def test_rollout_when_an_adapter_is_added_then_stable_serves() -> None:
    """The route has the new name only once the candidate revision receives requests."""
    world = served_world()
    (stable,) = world.revisions()
    world.apply(**adapted({"name": "sql", "uri": SQL}, {"name": "code", "uri": "hf://acme/code@main"}))
    world.look()
    assert route_of(world.outcome).adapters == ("smol:sql", "smol:chat")
    world.look()
    end_fetch(world, "hf://acme/code@main")
    world.calm()
    assert route_of(world.outcome).adapters == ("smol:sql", "smol:code")
    assert stable not in world.revisions()


def test_name_when_taken_by_another_then_condition_says_it() -> None:
    world = World(manifest=resource(**adapted()), names_taken={"smol:sql": "older"})
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.NAME_TAKEN)
    assert "smol:sql" in world.condition(v.ACCEPTED)["message"]


def test_names_when_an_adapter_has_one_then_it_is_taken() -> None:
    names, first, second = Names(), *(ResourceKey("ModelDeployment", "default", each) for each in ("smol", "other"))
    manifest = resource(**adapted())
    status = {"publicName": "smol", "adapters": [{"name": "sql"}]}
    names.update(first, {**manifest, "status": status})
    other = resource(model={"name": "smol:sql", "source": {"uri": SOURCE}})
    other["metadata"] = {**other["metadata"], "name": "other", "creationTimestamp": "2025-01-01T00:00:00Z"}
    names.update(second, other)
    assert names.taken(second) == {"smol:sql": "smol"}
    assert "smol:sql" not in names.taken(first)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (adapted({"name": "a", "uri": "pvc://claim/a"}), "adapters[0].uri"),
        (adapted({"name": "a", "uri": SQL}, {"name": "a", "uri": CHAT}), "name twice"),
        (adapted({"name": "a b", "uri": SQL}), "adapters[0].name"),
        (adapted(model={"source": {"uri": "pvc://claim/model.gguf"}}), "pvc://"),
        (adapted(runtime={"type": "Container", "llm": {"adapters": []}}), "type is LLM"),
    ],
)
def test_spec_when_adapters_are_invalid_then_refused(spec: dict[str, Any], says: str) -> None:
    world = World(manifest=resource(**spec))
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)
    assert says in world.condition(v.ACCEPTED)["message"]
