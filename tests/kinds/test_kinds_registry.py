"""A second kind needs its record alone: CRD, validation, admission and columns follow from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kinds.greeting import GREETING, registered
from pydantic import Field

from headrace.api import kinds
from headrace.api.kinds import Kind
from headrace.api.parts import Int64, Part, StatusPart
from headrace.api.rules import Rule
from headrace.api.schema import Schema
from headrace.api.vocabulary import API_VERSION, READY
from headrace.cli.output import columns_of, table
from headrace.cli.targets import target_of
from headrace.errors import InvalidResource
from headrace.kinds import registry
from headrace.kinds.columns import AGE, AGE_PRINTED, NAME, Column, PrinterColumn
from headrace.kinds.crds import crd_of, render
from headrace.kinds.resource_kind import ResourceKind
from headrace.local.api_shapes import ReadOnly, kind_at
from headrace.local.cluster import LocalCluster
from headrace.local.objects import Objects

KIND = Kind(API_VERSION, "Cache", "caches", "cache", ("ch",))


class CacheSpec(Part):
    """How large it should be."""

    gibibytes: int = Field(ge=1, le=64, description="Size.")
    spill_gibibytes: int = Field(default=0, ge=0, le=64, description="Size of its part on disk.")


class CacheStatus(StatusPart):
    """How large it is."""

    gibibytes: Int64 | None = Field(default=None, description="Size.")


SPILL = Rule(
    path="spec",
    field="spillGibibytes",
    cel="self.spillGibibytes <= self.gibibytes",
    check=lambda self, _: bool(self["spillGibibytes"] <= self["gibibytes"]),
    message="must not be greater than gibibytes",
)
CACHE = replace(
    GREETING,
    kind=KIND,
    schema=lambda: Schema(KIND, "A cache.", CacheSpec, CacheStatus, (SPILL,)),
    children=(kinds.JOB, kinds.CONFIG_MAP),
    label="headrace.dev/cache",
    suffix="cache",
    printer_columns=(PrinterColumn("GiB", "integer", ".spec.gibibytes"), AGE_PRINTED),
    columns=(NAME, Column("GIB", lambda o: str(o["spec"]["gibibytes"])), AGE),
)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Register the kind, as its line in the registry would."""
    with registered(CACHE):
        yield


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[Objects]:
    cluster = LocalCluster(tmp_path / "state.sqlite", tmp_path / "logs")
    await cluster.start()
    yield Objects(cluster, lambda _: None)
    await cluster.stop(1)


def cache(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "fast", "namespace": "default"}
    return {"apiVersion": API_VERSION, "kind": "Cache", "metadata": metadata, "spec": spec}


def test_crds_when_a_kind_is_registered_then_it_has_one() -> None:
    assert set(render()) == {"modeldeployments.headrace.dev.yaml", "caches.headrace.dev.yaml"}
    spec = crd_of(CACHE)["spec"]
    (version,) = spec["versions"]
    assert spec["names"]["shortNames"] == ["ch"]
    assert version["subresources"] == {"status": {}}
    assert [column["name"] for column in version["additionalPrinterColumns"]] == ["GiB", "Age"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    assert properties["spec"]["required"] == ["gibibytes"]
    assert properties["spec"]["x-kubernetes-validations"][0]["fieldPath"] == ".spillGibibytes"
    assert set(properties["status"]["properties"]) == {"gibibytes", "conditions"}


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({}, "spec.gibibytes: is required"),
        ({"gibibytes": 65}, "spec.gibibytes: must be at most 64, not 65"),
        ({"gibibytes": 1, "gibibyte": 1}, "spec.gibibyte: unknown field; did you mean gibibytes?"),
        (
            {"gibibytes": 1, "spillGibibytes": 2},
            "spec.spillGibibytes: must not be greater than gibibytes",
        ),
    ],
)
def test_apply_when_it_is_invalid_then_the_field_is_named(objects: Objects, spec: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidResource, match="cache fast is invalid") as caught:
        objects.apply(cache(**spec))
    assert [str(cause) for cause in caught.value.causes] == [fault]


def test_apply_when_it_is_valid_then_it_is_stored_with_defaults(objects: Objects) -> None:
    assert objects.apply(cache(gibibytes=8)).created
    assert objects.get(KIND, "default", "fast")["spec"] == {"gibibytes": 8, "spillGibibytes": 0}
    with pytest.raises(ReadOnly, match="caches cannot be scaled"):
        objects.scale(KIND, "default", "fast", 2)
    objects.delete(KIND, "default", "fast")
    assert objects.list(KIND, None) == []


def test_command_line_when_a_kind_is_registered_then_knows_it() -> None:
    assert target_of(["ch/fast"]).kind is KIND
    assert kind_at(API_VERSION, "caches") is KIND
    lines = table(columns_of(KIND, wide=False, all_namespaces=False), [cache(gibibytes=8)])
    assert [line.split() for line in lines] == [["NAME", "GIB", "AGE"], ["fast", "8", "<none>"]]


def test_children_when_kinds_share_some_then_each_watched_once() -> None:
    watched = registry.child_kinds()
    assert len(set(watched)) == len(watched)
    assert {kinds.JOB, kinds.CONFIG_MAP} <= set(watched)


@pytest.mark.parametrize("field", ["kind", "label", "suffix"])
def test_register_refuses_a_taken_name_label_or_suffix(field: str) -> None:
    with pytest.raises(ValueError, match="of Cache"):
        registry.register(replace(GREETING, **{field: getattr(CACHE, field)}))
    assert GREETING.kind.kind not in registry.KINDS


@pytest.mark.parametrize(
    "child", [kinds.POD, kinds.SECRET, kinds.MODEL_DEPLOYMENT, GREETING.kind, replace(kinds.JOB, api_version="x/v1")]
)
def test_register_refuses_children_that_others_watch(child: Kind) -> None:
    with pytest.raises(ValueError, match=child.kind):
        registry.register(replace(GREETING, children=(child,)))


def test_register_refuses_a_child_kind_with_its_own_name() -> None:
    children = (replace(kinds.JOB, kind="Thing", api_version=version) for version in ("a/v1", "b/v1"))
    with pytest.raises(ValueError, match="has the name of another kind"):
        registry.register(replace(GREETING, children=tuple(children)))
    with pytest.raises(ValueError, match="may not be of the kind Greeting"):
        registry.register(replace(GREETING, children=(replace(GREETING.kind, api_version="other/v1"),)))


@pytest.mark.parametrize("suffix", ["", "runtime", "fetch", "0a1b2c3d", "deadbeef", "a-b", "A", "a.b", "a\n"])
def test_register_refuses_a_suffix_that_other_names_end_in(suffix: str) -> None:
    with pytest.raises(ValueError, match="suffix"):
        registry.register(replace(GREETING, suffix=suffix))


@pytest.mark.parametrize(
    "names",
    [
        {"plural": "caches"},
        {"short_names": ("ch",)},
        {"short_names": ("deploy",)},
        {"kind": "NetworkPolicy"},
        {"namespaced": False},
    ],
)
def test_register_refuses_names_of_another_kind(names: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is a name of|is cluster-scoped"):
        registry.register(replace(GREETING, kind=replace(GREETING.kind, **names)))


@pytest.mark.parametrize("resource", registry.RESOURCE_KINDS.values(), ids=lambda resource: resource.kind.kind)
def test_kind_when_registered_then_record_agrees_with_schema(resource: ResourceKind) -> None:
    schema = resource.schema()
    assert schema.kind is resource.kind
    assert READY in resource.conditions
    assert set(resource.recorded_status) <= {field.alias for field in schema.status.model_fields.values()}
    assert resource.controller().reconcile
    assert "conditions" in schema.status.model_fields
    if resource.scalable:
        assert "replicas" in schema.spec.model_fields
        assert {"replicas", "selector"} <= schema.status.model_fields.keys()
