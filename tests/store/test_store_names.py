"""Objects that are found by a name: one of all who need such an object makes it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from store.store_world import MEGABYTE, ROOMY, StoreThread, agent_process, keeper_process

from headrace.store.client import Draft, Store
from headrace.store.errors import InvalidObject, ObjectNotFound
from headrace.store.keys import ObjectClass, content_key
from headrace.store.views import Object
from headrace_node.store import names

NAME, SIZE = content_key(b"model and form"), 1000
WEIGHTS = ObjectClass.WEIGHTS


def made(store: Store, content: bytes = b"x" * SIZE, object_class: ObjectClass = WEIGHTS) -> Object:
    """Make the object, which must be absent."""
    draft = store.obtain(object_class, SIZE, NAME)
    assert isinstance(draft, Draft)
    with draft:
        draft.memory[:] = content
        return draft.seal()


def found(store: Store, object_class: ObjectClass = WEIGHTS) -> Object:
    """Return the object, which must be there."""
    item = store.obtain(object_class, SIZE, NAME)
    assert isinstance(item, Object)
    return item


def test_name_when_sealed_then_others_map_the_object(world: StoreThread) -> None:
    with world.open() as store, world.open() as other:
        key = made(store).key
        assert (found(other).key, bytes(found(other).memory)) == (key, b"x" * SIZE)


def test_name_when_of_other_tenant_or_class_then_absent(world: StoreThread) -> None:
    with world.open() as store, world.open(other=True) as other:
        made(store)
        made(other, b"y" * SIZE)
        made(store, b"z" * SIZE, ObjectClass.ASSETS)
        assert bytes(found(store).memory[:1]) == b"x"


def test_name_when_made_elsewhere_then_waits_for_it(world: StoreThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second client gets no draft but the object of the first, once it is sealed."""
    monkeypatch.setattr(names, "WAIT_SECONDS", 0.01)
    waiting = threading.Event()
    results = []
    with world.open() as store, world.open() as other:
        draft = store.obtain(WEIGHTS, SIZE, NAME)
        assert isinstance(draft, Draft)
        thread = threading.Thread(
            target=lambda: results.append(other.obtain(WEIGHTS, SIZE, NAME, waiting=waiting.set)), daemon=True
        )
        thread.start()
        assert waiting.wait(10)
        with draft:
            draft.memory[:] = b"a" * SIZE
            sealed = draft.seal()
        thread.join(10)
        assert [each.key for each in results if isinstance(each, Object)] == [sealed.key]
        assert world.usage() == {("team-a", WEIGHTS): 4096}


@pytest.mark.parametrize("crashes", [True, False])
def test_name_when_its_maker_fails_then_next_one_makes_it(world: StoreThread, *, crashes: bool) -> None:
    """One of those that wait gets the draft, and the others still wait for it."""
    results = []
    with world.open() as store, world.open() as second, world.open() as third:
        draft = store.obtain(WEIGHTS, SIZE, NAME)
        assert isinstance(draft, Draft)

        def load(client: Store) -> None:
            item = client.obtain(WEIGHTS, SIZE, NAME)
            if isinstance(item, Draft):
                item.memory[:] = b"b" * SIZE
                item = item.seal()
            results.append(item.key)

        threads = [threading.Thread(target=load, args=(each,), daemon=True) for each in (second, third)]
        for thread in threads:
            thread.start()
        store.close() if crashes else draft.abort()
        for thread in threads:
            thread.join(10)
        assert len(results) == 2
        assert len(set(results)) == 1


def test_name_when_session_makes_it_already_then_refused(world: StoreThread) -> None:
    with world.open() as store:
        store.obtain(WEIGHTS, SIZE, NAME)
        with pytest.raises(InvalidObject, match="has a draft of this name"):
            store.obtain(WEIGHTS, SIZE, NAME)


@pytest.mark.parametrize("name", ["", "model", "A" * 64, "0" * 63])
def test_name_when_not_a_digest_then_refused(world: StoreThread, name: str) -> None:
    with world.open() as store, pytest.raises(InvalidObject, match=r"^name: not 64"):
        store.obtain(WEIGHTS, SIZE, name)


def test_name_when_object_deleted_or_evicted_then_absent(world: StoreThread) -> None:
    with world.open() as store:
        item = made(store)
        store.delete(item.key)
        key = made(store).key
        del item
        for _ in range(2):  # together more than the tenant's quota: the named object is the oldest
            store.put(WEIGHTS, bytes(ROOMY.tenant_bytes - MEGABYTE)).close()
        with pytest.raises(ObjectNotFound):
            store.get(key)
        made(store)


def test_name_when_agent_restarts_with_keeper_then_kept(tmp_path: Path) -> None:
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper):
        with agent_process(path, keeper), Store(path) as store:
            key = made(store).key
        with agent_process(path, keeper), Store(path) as store:
            assert found(store).key == key
