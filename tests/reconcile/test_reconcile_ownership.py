"""Whose child an object is, and whose pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT, MODEL_LABEL, OWNER_ANNOTATION
from headrace.kinds.registry import resource_labels
from headrace.reconcile.ownership import (
    controls,
    is_child,
    is_of_another,
    is_pod_of,
    owner_annotation,
    resource_controlling,
)
from headrace.reconcile.world import Manifest, ResourceKey

KEY = ResourceKey(MODEL_DEPLOYMENT, "default", "smol")
RESOURCE = {"kind": KEY.kind, "metadata": {"name": KEY.name, "namespace": KEY.namespace, "uid": "new"}}
REFERENCE = {"apiVersion": API_VERSION, "kind": KEY.kind, "name": KEY.name, "uid": "new", "controller": True}
OURS = [REFERENCE]
FORMER = [{**REFERENCE, "uid": "old"}]
OTHER_KIND = [{**REFERENCE, "kind": "Other", "uid": "other"}]
OTHER_GROUP = [{**REFERENCE, "apiVersion": "example.com/v1"}]
OTHER_NAME = [{**REFERENCE, "name": "smol-2", "uid": "other"}]
NOT_CONTROLLING = [{**REFERENCE, "controller": False}]


def an_object(references: list[Manifest], labels: dict[str, str] | None = None) -> Manifest:
    metadata = {"name": "x", "namespace": "default", "labels": labels or {}, "ownerReferences": references}
    return {"kind": "Service", "metadata": metadata}


@pytest.mark.parametrize(
    ("references", "child", "child_of_gone", "of_another"),
    [
        (OURS, True, True, False),
        (FORMER, False, True, False),
        (OTHER_KIND, False, False, True),
        (OTHER_GROUP, False, False, True),
        (OTHER_NAME, False, False, True),
        (NOT_CONTROLLING, False, False, False),
        ([], False, False, False),
    ],
)
def test_child_when_its_controller_is(
    references: list[Manifest],
    child: bool,  # noqa: FBT001 - a table
    child_of_gone: bool,  # noqa: FBT001
    of_another: bool,  # noqa: FBT001
) -> None:
    """The uid and the kind decide while the resource is there; labels never do."""
    found = an_object(references, {MODEL_LABEL: KEY.name})
    assert is_child(found, KEY, RESOURCE) is child
    assert is_child(found, KEY, None) is child_of_gone
    assert is_of_another(found, KEY) is of_another


def cluster_scoped(annotation: str | None, references: list[Manifest] | None = None) -> Manifest:
    annotations = {} if annotation is None else {OWNER_ANNOTATION: annotation}
    metadata = {"name": "x", "annotations": annotations, "ownerReferences": references or []}
    return {"kind": "PriorityClass", "metadata": metadata}


def annotation(**changes: Any) -> str:
    return json.dumps({**json.loads(owner_annotation(RESOURCE)[OWNER_ANNOTATION]), **changes})


@pytest.mark.parametrize(
    ("found", "owner", "controlled", "of_another"),
    [
        (cluster_scoped(annotation()), KEY, True, False),
        (cluster_scoped(annotation(uid="old")), KEY, False, False),
        (cluster_scoped(annotation(name="smol-2")), ResourceKey(KEY.kind, "default", "smol-2"), False, True),
        (cluster_scoped(annotation(namespace="b")), ResourceKey(KEY.kind, "b", "smol"), False, True),
        (cluster_scoped(annotation(kind="Other")), ResourceKey("Other", "default", "smol"), False, True),
        (cluster_scoped(annotation(uid=None)), None, False, False),
        (cluster_scoped("[]"), None, False, False),
        (cluster_scoped("{"), None, False, False),
        (cluster_scoped("[" * 900), None, False, False),
        (cluster_scoped("[" * 100_000), None, False, False),
        (cluster_scoped(annotation() + " " * 1000), None, False, False),
        (cluster_scoped(None), None, False, False),
        (cluster_scoped(None, OURS), None, False, True),
        (cluster_scoped(None, OTHER_GROUP), None, False, True),
    ],
)
def test_owner_of_a_cluster_scoped_object(
    found: Manifest,
    owner: ResourceKey | None,
    controlled: bool,  # noqa: FBT001 - a table
    of_another: bool,  # noqa: FBT001
) -> None:
    """The annotation decides; the object is a child of its owner and of a later resource of that name."""
    assert resource_controlling(found) == owner
    assert controls(RESOURCE, found) is controlled
    assert is_child(found, KEY, RESOURCE) is (owner == KEY)
    assert is_child(found, KEY, None) is (owner == KEY)
    assert is_of_another(found, KEY) is of_another


def test_owner_annotation_of_a_namespaced_object_is_ignored() -> None:
    found = an_object([])
    found["metadata"]["annotations"] = owner_annotation(RESOURCE)
    assert resource_controlling(found) is None
    assert not controls(RESOURCE, found)


@pytest.mark.parametrize(
    ("label", "workload", "expected"),
    [
        (MODEL_LABEL, OURS, True),
        (MODEL_LABEL, FORMER, True),
        (MODEL_LABEL, None, True),
        (MODEL_LABEL, OTHER_KIND, False),
        (MODEL_LABEL, OTHER_NAME, False),
        ("headrace.dev/other", OURS, False),
    ],
)
def test_pod_when_its_label_and_its_workloads_owner_are(
    label: str,
    workload: list[Manifest] | None,
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """A pod whose workload was orphaned or is gone is still the resource's, so that adoption keeps it running."""
    found = None if workload is None else an_object(workload)
    assert is_pod_of(an_object([], {label: KEY.name}), KEY, found, resource_labels()) is expected
