"""The local cluster: resources of two kinds with one name, and what a former resource left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kinds.greeting import GREETING, registered
from local.local_cluster import (
    MODEL,
    OWNER,
    SLEEPER,
    container,
    deployment,
    get,
    model,
    owned_by,
    running,
    until,
)

from headrace.control.world import ChildRefused
from headrace.errors import InvalidResource
from headrace.local.objects import Objects
from headrace.local.store import Store
from headrace.reconcile.world import Child, ChildKey, Event, Manifest, ObjectKey, ResourceKey

OTHER = ResourceKey(GREETING.kind.kind, MODEL.namespace, MODEL.name)
OTHER_RESOURCE: Manifest = {
    "kind": OTHER.kind,
    "metadata": {"name": OTHER.name, "namespace": OTHER.namespace, "uid": "o"},
}
OTHER_LABEL = GREETING.label


@pytest.fixture(autouse=True)
def _second_kind() -> Iterator[None]:
    with registered():
        yield


def others_child(name: str = "smol-1-other") -> Child:
    child = owned_by(OTHER_RESOURCE, deployment(container(SLEEPER), name=name))
    labels = {OTHER_LABEL: OTHER.name}
    child.manifest["metadata"]["labels"] = labels
    child.manifest["spec"]["template"]["metadata"]["labels"] = labels
    return child


async def test_kinds_that_share_a_name_observe_own_children_only(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        mine, others = owned_by(now, deployment(container(SLEEPER))), others_child()
        await cluster.apply(MODEL, mine)
        await cluster.apply(OTHER, others)
        for key, child in ((MODEL, mine), (OTHER, others)):
            observed = cluster.observe(key)
            assert list(observed.children) == [child.key]
            assert [pod["metadata"]["ownerReferences"][0]["name"] for pod in observed.pods] == [child.key.name]


async def test_kinds_that_share_a_name_keep_each_others_children(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        mine = owned_by(now, deployment(container(SLEEPER)))
        await cluster.apply(MODEL, mine)
        with pytest.raises(ChildRefused, match="smol-1 exists in namespace default and has another owner"):
            await cluster.apply(OTHER, others_child(mine.key.name))
        await cluster.delete(OTHER, mine.key)
        await cluster.set_routable(OTHER, frozenset({cluster.observe(MODEL).pods[0]["metadata"]["name"]}))
        assert list(cluster.observe(MODEL).children) == [mine.key]
        conditions = cluster.observe(MODEL).pods[0]["status"]["conditions"]
        assert "headrace.dev/routable" not in {condition["type"] for condition in conditions}


async def test_event_is_counted_for_each_kind_that_shares_a_name(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.apply_object(model())
        cluster.index.put(OTHER_RESOURCE)
        assert cluster.keys() == [OTHER, MODEL]
        for key in (MODEL, OTHER):
            await cluster.record(key, Event("Normal", "Scaled", "0 to 1"))
        found = [(event["involvedObject"]["kind"], event["count"]) for event in cluster.index.list("Event")]
        assert sorted(found) == [("Greeting", 1), ("ModelDeployment", 1)]


async def test_delete_keeps_children_of_a_kind_that_shares_the_name(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        await cluster.apply(MODEL, owned_by(now, deployment(container(SLEEPER))))
        await cluster.apply(OTHER, others_child())
        cluster.delete_object(ObjectKey("ModelDeployment", MODEL.namespace, MODEL.name))
        await until(cluster, "Pod", lambda pods: len(pods) == 1)
        assert list(cluster.observe(OTHER).children) == [others_child().key]
        assert len(cluster.observe(OTHER).pods) == 1


async def test_apply_for_a_resource_applied_again_creates_nothing(tmp_path: Path) -> None:
    """A pass may have begun before."""
    async with running(tmp_path) as cluster:
        former, _ = cluster.apply_object(model())
        cluster.delete_object(ObjectKey("ModelDeployment", MODEL.namespace, MODEL.name))
        cluster.apply_object(model())
        await cluster.apply(MODEL, owned_by(former, deployment(container(SLEEPER))))
        assert cluster.index.list("Deployment") == []


async def test_child_of_a_former_resource_is_adopted_with_its_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        former = deployment(container(SLEEPER))
        await cluster.apply(MODEL, former)
        before = get(cluster, "Deployment", "smol-1")["metadata"]["uid"]
        now, _ = cluster.apply_object(model())
        observed = cluster.observe(MODEL)
        assert observed.children == {}
        assert len(observed.pods) == 1
        await cluster.apply(MODEL, owned_by(now, former))
        adopted = cluster.observe(MODEL)
        assert [child["metadata"]["uid"] for child in adopted.children.values()] == [before]
        assert [pod["metadata"]["uid"] for pod in adopted.pods] == [observed.pods[0]["metadata"]["uid"]]


def config_map(*references: Any) -> Manifest:
    metadata = {"name": "mine", "namespace": MODEL.namespace, "ownerReferences": list(references)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}}


@pytest.mark.parametrize(
    ("field", "references"),
    [
        ("metadata.ownerReferences", "x"),
        ("metadata.ownerReferences", ["x"]),
        ("metadata.ownerReferences[0].uid", [{**OWNER, "uid": None}]),
        ("metadata.ownerReferences[1].apiVersion", [OWNER, {"kind": "Secret", "name": "x", "uid": "u"}]),
        ("metadata.ownerReferences[0].controller", [{**OWNER, "controller": "yes"}]),
        ("metadata.ownerReferences", [OWNER, OWNER]),
    ],
)
async def test_owner_reference_is_refused_by_its_field(tmp_path: Path, field: str, references: Any) -> None:
    manifest = config_map()
    manifest["metadata"]["ownerReferences"] = references
    async with running(tmp_path) as cluster:
        with pytest.raises(InvalidResource) as raised:
            Objects(cluster, lambda _: None).apply(manifest)
        assert [fault.field for fault in raised.value.causes] == [field]
        assert cluster.index.list("ConfigMap") == []


@pytest.mark.parametrize(
    "reference",
    [
        "x",
        {**OWNER, "uid": "of nobody"},
        {**OWNER, "kind": "Secret", "name": "mine"},
        {**OWNER, "kind": OTHER.kind, "name": "missing"},
    ],
)
async def test_object_of_a_user_is_never_a_child(tmp_path: Path, reference: Any) -> None:
    """Whatever its owner references are: they may have been stored by a release that did not check them."""
    store = Store(tmp_path / "state.sqlite")
    stored = config_map(reference)
    stored["metadata"] |= {"uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
    store.put(stored)
    store.close()
    told: list[ResourceKey | None] = []
    async with running(tmp_path) as cluster:
        cluster.subscribe(told.append)
        cluster.apply_object({**config_map(reference), "data": {"a": "c"}})
        assert told == []
        missing = ResourceKey(OTHER.kind, MODEL.namespace, "missing")
        assert cluster.observe(missing).children == {}
        await cluster.delete(missing, ChildKey("v1", "ConfigMap", MODEL.namespace, "mine"))
        assert get(cluster, "ConfigMap", "mine")["data"] == {"a": "c"}
    async with running(tmp_path) as cluster:
        assert get(cluster, "ConfigMap", "mine")["data"] == {"a": "c"}
        cluster.delete_object(ObjectKey("ConfigMap", MODEL.namespace, "mine"))


async def test_object_of_a_user_outlives_the_owner_it_names(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        now, _ = cluster.apply_object(model())
        mine = config_map({**OWNER, "uid": now["metadata"]["uid"]})
        cluster.apply_object(mine)
        with pytest.raises(ChildRefused, match="mine exists in namespace default and has another owner"):
            await cluster.apply(MODEL, Child(ChildKey.of(mine), mine))
        cluster.delete_object(ObjectKey("ModelDeployment", MODEL.namespace, MODEL.name))
        assert get(cluster, "ConfigMap", "mine")["data"] == {"a": "b"}
