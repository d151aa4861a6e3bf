"""Specs that are refused: it is said why, and nothing that runs is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, SOURCE, World, resource, route_of, serving_world

from headrace.api import vocabulary as v
from headrace.events.subjects import ROUTES_BUCKET
from headrace.reconcile.world import Publication

BROKEN = {"scaling": {"minReplicas": 3, "maxReplicas": 1}}


def test_spec_when_it_is_valid_then_accepted() -> None:
    assert serving_world().says(v.ACCEPTED) == ("True", v.VALID)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (BROKEN, "spec.scaling.minReplicas"),
        ({"replicas": -1}, "spec.replicas"),
        ({"repicas": 2}, "spec.repicas"),
        ({"model": {"source": {"uri": "gopher://x"}}}, "spec.model.source.uri"),
        ({"model": {"name": 7}}, "spec.model.name"),
        ({"model": None}, "spec.model"),
    ],
)
def test_spec_when_invalid_then_field_is_named_and_nothing_made(spec: dict[str, Any], field: str) -> None:
    world = World(manifest=resource(**spec))
    outcome = world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)
    assert field in world.condition(v.ACCEPTED)["message"]
    assert world.says(v.READY) == ("False", v.INVALID_SPEC)
    assert outcome.children == ()
    assert world.refused() == v.INVALID_SPEC
    assert [event.type for event in world.events] == ["Warning"]


@pytest.mark.parametrize("spec", [None, "text", []])
def test_spec_when_no_mapping_then_refused_without_exception(spec: object) -> None:
    manifest = resource()
    manifest["spec"] = spec
    world = World(manifest=manifest)
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.INVALID_SPEC)


def test_refused_spec_when_looked_at_again_then_no_second_event() -> None:
    world = World(manifest=resource(**BROKEN))
    world.look()
    world.look()
    assert len(world.events) == 1


def test_refused_spec_when_it_is_mended_then_it_runs() -> None:
    world = World(manifest=resource(**BROKEN))
    world.look()
    world.apply(scaling=None, replicas=1)
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)


@pytest.mark.parametrize("restarted", [False, True])
def test_refused_spec_when_replicas_run_then_they_serve_on(restarted: bool) -> None:  # noqa: FBT001 - a parameter
    world = serving_world(replicas=2)
    before = world.outcome
    assert before is not None
    children = {key: {k: x for k, x in child.items() if k != "status"} for key, child in world.children.items()}
    world.apply(**BROKEN)
    if restarted:
        world.memory = None
    outcome = world.look()
    assert {child.key: child.manifest for child in outcome.children} == children
    assert route_of(outcome).revisions == route_of(before).revisions
    assert route_of(outcome).unavailable is None
    assert outcome.routable_pods == frozenset(world.runtimes())
    assert world.says(v.READY) == ("False", v.INVALID_SPEC)


def test_refused_spec_when_server_added_fields_then_not_claimed() -> None:
    """Also over a restart of the loop."""
    world = serving_world(replicas=1)
    for child in world.children.values():
        child["metadata"] |= {
            "resourceVersion": "7",
            "managedFields": [{}],
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        child["metadata"].setdefault("annotations", {})["deployment.kubernetes.io/revision"] = "1"
    world.apply(**BROKEN)
    for kept in world.decide().children:
        assert kept.manifest["metadata"].keys() <= {"name", "namespace", "labels", "ownerReferences", "annotations"}
        assert "status" not in kept.manifest
        assert "deployment.kubernetes.io/revision" not in kept.manifest["metadata"].get("annotations", {})


def test_source_when_its_scheme_is_not_allowed_then_not_allowed() -> None:
    settings = replace(SETTINGS, allowed_schemes=frozenset({"https"}))
    world = World(manifest=resource(), settings=settings)
    world.look()
    assert world.says(v.ACCEPTED) == ("False", v.SOURCE_NOT_ALLOWED)
    assert "package://" in world.condition(v.ACCEPTED)["message"]
    assert world.refused() == v.SOURCE_NOT_ALLOWED


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("pvc://models/x.gguf", {"package", "https", "file"}),  # where there are no claims
        ("file:///x.gguf", {"package", "https", "pvc"}),  # where a path means another machine each time
    ],
)
def test_source_when_scheme_is_of_other_world_then_not_allowed(uri: str, allowed: set[str]) -> None:
    settings = replace(SETTINGS, allowed_schemes=frozenset(allowed))
    world = World(manifest=resource(model={"source": {"uri": uri}}), settings=settings)
    assert world.look().children == ()
    assert world.says(v.ACCEPTED) == ("False", v.SOURCE_NOT_ALLOWED)


def test_source_when_settings_are_defaults_then_claim_is_refused() -> None:
    world = World(manifest=resource(model={"source": {"uri": "pvc://models/x.gguf"}}))
    world.look()
    assert world.refused() == v.SOURCE_NOT_ALLOWED


def test_name_when_another_has_it_then_name_taken_and_no_route() -> None:
    world = World(manifest=resource(model={"name": "chat", "source": {"uri": SOURCE}}), names_taken={"chat": "older"})
    outcome = world.look()
    assert world.says(v.ACCEPTED) == ("False", v.NAME_TAKEN)
    assert "ModelDeployment older " in world.condition(v.ACCEPTED)["message"]
    assert outcome.publications == (Publication(ROUTES_BUCKET, "default.smol", None),)
    assert outcome.requeue_seconds is not None


def test_name_when_changed_to_taken_one_then_old_name_is_served() -> None:
    world = serving_world(replicas=1)
    world.names_taken = {"chat": "older"}
    world.apply(model={"name": "chat", "source": {"uri": SOURCE}})
    outcome = world.look()
    assert world.says(v.READY) == ("False", v.NAME_TAKEN)
    assert (route_of(outcome).public_name, route_of(outcome).unavailable) == ("smol", None)


def test_name_when_it_is_free_again_then_accepted() -> None:
    world = World(manifest=resource(replicas=1), names_taken={"smol": "older"})
    world.look()
    world.names_taken = {}
    world.calm()
    assert world.says(v.READY) == ("True", v.RUNNING)
