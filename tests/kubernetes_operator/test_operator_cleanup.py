"""What the clean-up deletes."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from kinds.greeting import PRIORITY_CLASS
from kubernetes_operator.operator_api import RecordingApi
from kubernetes_operator.test_operator_children import FOREIGN_MANAGERS, PATH, priority_class, served

from headrace.kinds.registry import RESOURCE_KINDS
from headrace.reconcile.world import Manifest
from headrace_operator.cleanup import delete_all, deleted_kinds
from headrace_operator.client import ApiServer, Listed, Listing
from headrace_operator.kinds import Watched


class LabelledApi(RecordingApi):
    """Lists one object, which has our label."""

    async def listing(self, watched: Watched, namespace: str | None) -> Listing:
        return Listing(9, (Listed("", "smollm2", "c1"),))


@pytest.fixture(autouse=True)
def _cluster_scoped_child(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, resource), *_ = RESOURCE_KINDS.items()
    monkeypatch.setitem(RESOURCE_KINDS, name, replace(resource, children=(*resource.children, PRIORITY_CLASS)))


def test_cleanup_when_restricted_lists_no_cluster_scoped_kind() -> None:
    every, restricted = (deleted_kinds(namespaces, models=True) for namespaces in ((), ("a",)))
    assert set(every) - set(restricted) == {Watched.of(PRIORITY_CLASS)}


@pytest.mark.parametrize(
    ("found", "deleted"),
    [
        (served(priority_class()), True),
        *((served(priority_class(), managedFields=managers), False) for managers in FOREIGN_MANAGERS),
    ],
)
async def test_cleanup_deletes_cluster_scoped_objects_if_applied(
    found: Manifest,
    deleted: bool,  # noqa: FBT001 - a table
) -> None:
    """Any client may have written the label and the annotation."""
    api = LabelledApi()
    api.objects[PATH] = found
    await delete_all(cast("ApiServer", api), Watched.of(PRIORITY_CLASS), None)
    assert api.writes == ([("delete", PATH)] if deleted else [])
