"""What a revision is stands in one annotation of its Deployment; Deployments of the builds before it are still read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, World, resource, route_of, serving_world
from kinds.test_modeldeployment_custom_container import spec
from kinds.test_modeldeployment_manifests import child
from pydantic import ValidationError

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.reporters import reporters
from headrace.kinds.modeldeployment.revision_info import RevisionInfo, observed_revisions
from headrace.reconcile.world import Manifest
from headrace.routes import Engine, Route, operations

CUSTOM = RevisionInfo(
    runtime="Container",
    public_name="smol",
    model_name="inside",
    port=9000,
    readiness_path="/health",
    self_registers=False,
    explains_unready=True,
    capacity=3,
    operations=("chat", "completions"),
    capabilities=(),
)
FORMER: dict[str, Manifest] = json.loads((Path(__file__).parent / "former_deployments.json").read_text())
"""Spec, Deployment and route of revisions that commit d02bebd made, which wrote no record."""
FIELDS: dict[str, Any] = {"modelName": "inside", "readinessPath": "/health", "maxConcurrentRequests": 3}


def revisions(world: World) -> list[RevisionInfo]:
    return list(observed_revisions(world.observed(), world.manifest).values())


def as_before(world: World) -> World:
    """Replace the record by what the builds before it wrote."""
    for key, deployment in world.children.items():
        if key.kind == "Deployment":
            info = RevisionInfo.decode(deployment["metadata"]["annotations"][v.REVISION_INFO_ANNOTATION].encode())
            custom = {v.ENGINE_MODEL_ANNOTATION: info.model_name or ""} if info.runtime == "Container" else {}
            deployment["metadata"]["annotations"] = {v.PUBLIC_NAME_ANNOTATION: info.public_name, **custom}
    world.restart_loop()
    return world


def annotations_of(world: World) -> Manifest:
    found: Manifest = child(world, "Deployment")["metadata"]["annotations"]
    return found


def test_record_when_custom_container_then_it_has_the_spec() -> None:
    assert revisions(serving_world(**spec(**FIELDS))) == [CUSTOM]


def test_record_when_llm_runtime_then_it_has_the_profile() -> None:
    world = serving_world(runtime={"type": "LLM", "llm": {"maxConcurrentRequests": 7}})
    assert json.loads(annotations_of(world)[v.REVISION_INFO_ANNOTATION]) == {
        "runtime": "LLM",
        "public_name": "smol",
        "port": 8000,
        "readiness_path": "/health/ready",
        "self_registers": True,
        "explains_unready": False,
        "capacity": 7,
        "operations": list(operations.TEXT),
        "capabilities": ["Drain", "LoadReports", "Progress"],
        "adapters": [],
    }


def test_route_when_rendered_then_has_operations_of_revisions() -> None:
    (own,) = route_of(serving_world(replicas=1).outcome).revisions
    (custom,) = route_of(serving_world(**spec()).outcome).revisions
    assert (own.operations, own.capabilities) == (operations.TEXT, ("Drain", "LoadReports", "Progress"))
    assert (custom.operations, custom.capabilities) == (("chat", "completions"), ())


@pytest.mark.parametrize("fields", [spec(**FIELDS), spec(announces=True), {"replicas": 1}])
def test_deployment_when_of_an_earlier_build_then_record_derived(
    fields: dict[str, Any],
) -> None:
    world = serving_world(**fields)
    recorded = revisions(world)
    assert revisions(as_before(world)) == recorded


@pytest.mark.parametrize("record", ["", "other-1", "{}", '{"runtime": 3}'])
def test_record_when_unreadable_then_written_again(record: str) -> None:
    world = serving_world(**spec(**FIELDS))
    annotations_of(world)[v.REVISION_INFO_ANNOTATION] = record
    world.look()
    assert revisions(world) == [CUSTOM]


def spoil(world: World, record: str = "other-1") -> World:
    """Make every record unreadable, and remove what else the annotations say."""
    for key, deployment in world.children.items():
        if key.kind == "Deployment":
            deployment["metadata"]["annotations"] = {v.REVISION_INFO_ANNOTATION: record}
    return world


def seen_of(world: World) -> tuple[object, ...]:
    """What a decision publishes and who reports."""
    return route_of(world.decide()), reporters(world.manifest, world.observed()), revisions(world)


ENGINES = [spec(**FIELDS), spec(announces=True), {"replicas": 1}]


@pytest.mark.parametrize("fields", ENGINES, ids=["Container", "self-registering", "LLM"])
def test_record_when_unreadable_then_route_and_reporters_stay(fields: dict[str, Any]) -> None:
    world = serving_world(**fields)
    before = seen_of(world)
    assert seen_of(spoil(world)) == before


@pytest.mark.parametrize("fields", ENGINES, ids=["Container", "self-registering", "LLM"])
def test_record_when_unreadable_and_spec_rejected_then_they_stay(fields: dict[str, Any]) -> None:
    world = serving_world(**fields)
    world.apply(replicas=-1)
    world.look()
    before = seen_of(world)
    assert seen_of(spoil(world)) == before


@pytest.mark.parametrize("fields", ENGINES, ids=["Container", "self-registering", "LLM"])
def test_record_when_unreadable_on_old_revision_then_they_stay(fields: dict[str, Any]) -> None:
    world = serving_world(**fields)
    world.apply(template={"env": [{"name": "NEXT", "value": "1"}]})
    world.look()
    assert len(revisions(world)) == 2
    before = seen_of(world)
    assert seen_of(spoil(world)) == before


@pytest.mark.parametrize("field", ["name", "modelName", "maxConcurrentRequests", "type"])
@pytest.mark.parametrize("value", [[], -1, "x" * 2000])
def test_record_when_unreadable_and_spec_invalid_then_readable(field: str, value: object) -> None:
    world = spoil(serving_world(**spec(**FIELDS)))
    model, runtime = world.manifest["spec"]["model"], world.manifest["spec"]["runtime"]
    {"name": model, "type": runtime}.get(field, runtime["container"])[field] = value
    assert [each.port for each in revisions(world)] == [9000]


def test_record_when_of_later_release_then_unknown_ignored() -> None:
    """Every field that a later release adds has a default, so this record of release 0.1.0 stays readable."""
    record = (
        '{"runtime":"Container","public_name":"smol","model_name":"inside","port":9000,"readiness_path":"/health",'
        '"self_registers":false,"explains_unready":true,"capacity":3,"operations":["chat","completions"],'
        '"capabilities":[],"of_a_later_release":1}'
    )
    assert RevisionInfo.decode(record.encode()) == CUSTOM


def test_operator_when_upgraded_then_record_and_no_restart() -> None:
    world = as_before(serving_world(**spec(**FIELDS)))
    template, pods = copy.deepcopy(child(world, "Deployment")["spec"]["template"]), list(world.pods)
    world.look()
    assert v.REVISION_INFO_ANNOTATION in annotations_of(world)
    assert (child(world, "Deployment")["spec"]["template"], list(world.pods)) == (template, pods)


def test_operator_when_upgraded_in_a_rollout_then_stable_serves() -> None:
    world = serving_world(**spec(**FIELDS))
    world.apply(**spec(**FIELDS, image="next"), model={**world.manifest["spec"]["model"], "name": "renamed"})
    world.look()
    before = route_of(as_before(world).look())
    (old,) = [each.revision for each in before.revisions]
    assert before.public_name == "smol"
    assert Engine(revision=old, readiness_path="/health", model_name="inside", announces=False) in before.engines
    world.apply(replicas=-1)
    assert route_of(world.look()).public_name == "smol"


def test_capacity_when_no_record_and_invalid_spec_then_default() -> None:
    world = as_before(serving_world(**spec(**FIELDS)))
    world.manifest["spec"]["runtime"] = {"container": []}
    assert [each.capacity for each in revisions(world)] == [16]


def test_capacity_when_changed_then_record_without_a_restart() -> None:
    world = World(manifest=resource(**spec()), settings=SETTINGS)
    world.calm()
    pods = list(world.pods)
    world.apply(**spec(maxConcurrentRequests=2))
    world.look()
    assert [each.capacity for each in revisions(world)] == [2]
    assert list(world.pods) == pods


@pytest.mark.parametrize("many", [["x"] * 33, ["x" * 65]])
def test_record_when_its_names_are_too_many_or_long_then_invalid(many: list[str]) -> None:
    for field in ("operations", "capabilities"):
        with pytest.raises(ValidationError):
            RevisionInfo.model_validate(CUSTOM.model_dump() | {field: many})


@pytest.mark.parametrize("case", FORMER.values(), ids=FORMER.keys())
def test_deployment_when_of_a_former_build_then_read_identically(case: Manifest) -> None:
    """Route, capabilities and reporters are those of a Deployment with the record, though the spec changed since."""
    world = World(manifest=resource(**case["spec"]))
    world.calm()
    (key,) = [key for key in world.children if key.kind == "Deployment"]
    recorded = revisions(world)
    world.children[key] = case["deployment"]
    world.manifest["spec"]["replicas"] = -1
    route = route_of(world.decide())
    old = Route.model_validate(case["route"])
    (share,), (before,) = route.revisions, old.revisions
    assert share == before.model_copy(
        update={"capabilities": recorded[0].capabilities, "operations": recorded[0].operations}
    )
    assert (route.engines, route.public_name) == (old.engines, old.public_name)
    assert revisions(world) == recorded


@pytest.mark.parametrize("case", FORMER.values(), ids=FORMER.keys())
def test_deployment_when_former_build_reads_it_then_as_its_own(case: Manifest) -> None:
    """After a rollback: it knows of the record nothing, and of a Container by its annotation."""
    world = World(manifest=resource(**case["spec"]))
    world.calm()
    made, former = child(world, "Deployment"), case["deployment"]
    assert made["spec"] == former["spec"]
    assert made["metadata"]["labels"] == former["metadata"]["labels"]
    assert made["metadata"]["annotations"].items() >= former["metadata"]["annotations"].items()
