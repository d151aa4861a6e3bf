"""Objects in memory, and who watches them."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace.local.index import MAX_BEHIND, Change, ObjectIndex
from headrace.reconcile.world import ObjectKey

KEY = ObjectKey("ConfigMap", "default", "a")


def config(name: str = "a", namespace: str = "default", **data: Any) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


async def test_index_when_object_changes_gives_it_a_new_version() -> None:
    index = ObjectIndex()
    first, second = index.put(config(x="1")), index.put(config(x="2"))
    assert first["metadata"]["resourceVersion"] != second["metadata"]["resourceVersion"]
    assert index.get(KEY) is second


async def test_index_when_an_equal_object_is_put_tells_nobody() -> None:
    index, changes = ObjectIndex(), list[Change]()
    first = index.put(config(x="1"))
    index.listen(changes.append)
    assert index.put(config(x="1")) is first
    assert changes == []


async def test_index_lists_a_kind_and_namespace_by_name() -> None:
    index = ObjectIndex()
    for name, namespace in (("b", "default"), ("a", "default"), ("c", "other")):
        index.put(config(name, namespace))
    index.put({"kind": "Secret", "metadata": {"name": "s", "namespace": "default"}})
    assert [found["metadata"]["name"] for found in index.list("ConfigMap", "default")] == ["a", "b"]
    assert [found["metadata"]["name"] for found in index.list("ConfigMap")] == ["a", "b", "c"]


async def test_index_when_listened_to_tells_what_was_and_what_is() -> None:
    index, changes = ObjectIndex(), list[Change]()
    index.listen(changes.append)
    first = index.put(config(x="1"))
    second = index.put(config(x="2"))
    index.remove(KEY)
    index.remove(KEY)
    assert changes == [
        Change("ADDED", first, None),
        Change("MODIFIED", second, first),
        Change("DELETED", second, second),
    ]


async def test_watch_yields_present_objects_then_changes() -> None:
    index = ObjectIndex()
    index.put(config("a"))
    watch = index.watch("ConfigMap", "default")
    seen = [await anext(watch)]
    index.put(config("elsewhere", "other"))
    index.put({"kind": "Secret", "metadata": {"name": "s", "namespace": "default"}})
    index.put(config("a", x="2"))
    index.remove(KEY)
    seen += [await anext(watch), await anext(watch)]
    assert [change.type for change in seen] == ["ADDED", "MODIFIED", "DELETED"]


async def test_watch_when_too_far_behind_is_cut_off() -> None:
    index = ObjectIndex()
    index.put(config())
    watch = index.watch("ConfigMap")
    await anext(watch)
    for number in range(2 * MAX_BEHIND):
        index.put(config(x=number))
    async with asyncio.timeout(5):
        assert len([change async for change in watch]) == MAX_BEHIND
