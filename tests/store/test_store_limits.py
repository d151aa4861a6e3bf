"""Quotas, eviction and pins: what is evicted, what never is, and what the error of a full store says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store.store_world import PAGE, StoreThread

from headrace.errors import CannotStart
from headrace.store.client import Store
from headrace.store.errors import ObjectNotFound, StoreFull
from headrace.store.keys import ObjectClass
from headrace_node.store.accounts import Limits

SMALL = Limits(
    total_bytes=8 * PAGE, tenant_bytes=6 * PAGE, classes={ObjectClass.KV: 3 * PAGE}, objects=7, tenant_objects=6
)
Open = Callable[..., StoreThread]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[StoreThread]:
    with StoreThread(tmp_path, SMALL) as thread:
        yield thread


def put(store: Store, pages: int = 1, object_class: ObjectClass = ObjectClass.WEIGHTS) -> str:
    """Put an object without keeping it open."""
    found = store.put(object_class, bytes(pages * PAGE))
    found.close()
    return found.key


def keys(store: Store) -> set[str]:
    return {each.key for each in store.objects()}


def test_store_when_tenant_is_full_then_least_recently_used_goes(world: StoreThread, store: Store) -> None:
    first, second = put(store, 2), put(store, 3)
    store.get(first).close()
    third = put(store, 2)
    assert keys(store) == {first, third}
    with pytest.raises(ObjectNotFound):
        store.get(second)
    evictions = world.do(lambda: dict(world.store.counters.evictions))
    assert evictions == {("team-a", ObjectClass.WEIGHTS): 1}


def test_store_when_all_is_leased_then_error_names_quota(store: Store) -> None:
    held = [store.put(ObjectClass.WEIGHTS, bytes(3 * PAGE)) for _ in range(2)]
    with pytest.raises(
        StoreFull, match=r"class weights and 4,096 bytes: the quota of tenant team-a is 24,576, of which 24,576"
    ):
        put(store)
    held.pop().close()
    put(store)


def test_store_when_full_by_class_then_other_classes_fit(store: Store) -> None:
    held = store.put(ObjectClass.KV, bytes(3 * PAGE))
    with pytest.raises(StoreFull, match="the quota of class kv is 12,288"):
        put(store, 1, ObjectClass.KV)
    put(store, 3)
    held.close()
    put(store, 1, ObjectClass.KV)


def test_store_when_object_never_fits_then_nothing_is_evicted(store: Store) -> None:
    kept = {put(store), put(store)}
    with pytest.raises(StoreFull):
        put(store, 7)
    assert keys(store) == kept


def test_pinned_when_store_is_full_then_stays_until_unpinned(store: Store) -> None:
    pinned = put(store, 4)
    store.pin(pinned)
    put(store, 2)
    put(store, 2)
    assert pinned in keys(store)
    with pytest.raises(StoreFull):
        put(store, 3)
    store.pin(pinned, pinned=False)
    put(store, 6)
    assert pinned not in keys(store)


def test_tenants_when_one_fills_its_quota_then_other_has_room(world: StoreThread, store: Store) -> None:
    held = store.put(ObjectClass.WEIGHTS, bytes(6 * PAGE))
    with world.open(other=True) as other:
        put(other, 2)
        with pytest.raises(StoreFull, match="the store's bytes is 32,768"):
            other.put(ObjectClass.WEIGHTS, bytes(3 * PAGE))
    held.close()


def test_store_when_too_many_objects_then_oldest_goes(world: StoreThread, store: Store) -> None:
    small = replace(SMALL, tenant_objects=2)
    world.do(lambda: setattr(world.store.accounts, "limits", small))
    first, second, third = put(store), put(store), put(store)
    assert keys(store) == {second, third}
    assert first not in keys(store)


def test_client_when_it_keeps_released_memory_then_still_counted(world: StoreThread, store: Store) -> None:
    """A client that keeps descriptors beyond its leases cannot use more than its quota."""
    descriptors = []
    for _ in range(6):
        key = put(store)
        descriptors += store._connection.call("store.get", {"key": key}).fds
        store._connection.call("store.release", {"keys": [key]})
    assert [each.leases.total() for each in world.stored()] == [0] * 6
    with pytest.raises(StoreFull):
        put(store)
    os.close(descriptors.pop())
    put(store)
    for fd in descriptors:
        os.close(fd)


@pytest.mark.parametrize("sealed", [True, False])
def test_client_when_it_hides_descriptors_then_still_counted(world: StoreThread, store: Store, *, sealed: bool) -> None:
    """File leases do not show a descriptor that was opened with O_PATH, and it keeps the memory as any other."""
    hidden = []
    for _ in range(6):
        answer = store._call("store.create", {"class": "weights", "size": PAGE})
        hidden.append(os.open(f"/proc/self/fd/{answer.fds[0]}", os.O_PATH))
        os.close(answer.fds[0])
        if sealed:
            sealing = store._call("store.seal", {"draft": answer.body["draft"]})
            os.close(sealing.fds[0])
            store._call("store.release", {"keys": [sealing.body["key"]]})
        else:
            store._call("store.abort", {"draft": answer.body["draft"]})
    with pytest.raises(StoreFull):
        put(store)
    with world.open(other=True) as other:
        put(other)
    os.close(hidden.pop())
    put(store)
    for fd in hidden:
        os.close(fd)
    assert sum(size for (tenant, _), size in world.usage().items() if tenant == "team-a") == PAGE


def test_drafts_when_too_many_then_refused(tmp_path: Path) -> None:
    with StoreThread(tmp_path) as world, world.open() as store:
        drafts = [store.create(ObjectClass.KV, 1) for _ in range(64)]
        with pytest.raises(StoreFull, match="has 64 drafts"):
            store.create(ObjectClass.KV, 1)
        for draft in drafts:
            draft.abort()
        assert world.do(lambda: world.store.accounts.total_bytes) == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(200, 100), "the store .200 bytes. is larger than the memory of the node"),
        (Limits(50, 60), "the quota of each tenant .60 bytes. is larger than the store"),
        (Limits(50, 5, tenants={"x": 51}), "the quota of tenant x"),
        (Limits(50, 5, classes={ObjectClass.KV: -1}), "the quota of class kv .-1 bytes. is larger than .*or negative"),
        (Limits(50, 5, pool_bytes=51), "the pool"),
    ],
)
def test_limits_when_larger_than_the_whole_then_error(limits: Limits, words: str) -> None:
    with pytest.raises(CannotStart, match=words):
        limits.check(100)
