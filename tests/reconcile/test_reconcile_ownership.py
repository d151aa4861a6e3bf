"""Whose child an object is, and whose pod."""

from __future__ import annotations

import pytest

from headrace.api.vocabulary import API_VERSION, MODEL_DEPLOYMENT, MODEL_LABEL
from headrace.kinds.registry import resource_labels
from headrace.reconcile.ownership import is_child, is_of_another, is_pod_of
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
