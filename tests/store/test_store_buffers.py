"""Buffers: objects that only their creator can write, also after they are shared."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest
from store.store_world import MEGABYTE, PAGE, StoreThread, agent_process, keeper_process

from headrace.store.client import Store
from headrace.store.errors import InvalidObject, StoreFull
from headrace.store.keys import ObjectClass
from headrace.store.views import SharedBuffer

KV = ObjectClass.KV


def shared(store: Store, size: int = PAGE) -> SharedBuffer:
    with store.create(KV, size) as draft:
        draft.memory[:4] = b"once"
        return draft.share()


def test_buffer_when_written_again_then_readers_see_it(world: StoreThread, store: Store) -> None:
    buffer = shared(store)
    with world.open() as other:
        found = other.get(buffer.key)
        assert bytes(found.memory[:4]) == b"once"
        buffer.memory[:4] = b"more"
        assert bytes(found.memory[:4]) == b"more"
        assert found.memory.readonly


@pytest.mark.parametrize("verb", ["store.get", "store.create"])
def test_buffer_when_opened_again_then_kernel_refuses_writes(world: StoreThread, store: Store, verb: str) -> None:
    """Whether the descriptor is a reader's or the creator's own: only the mapping from before can write."""
    if verb == "store.get":
        buffer = shared(store)
        fd = store._call("store.get", {"key": buffer.key}).fds[0]
    else:
        answer = store._call("store.create", {"class": "kv", "size": PAGE})
        fd = answer.fds[0]
        store._call("store.share", {"draft": answer.body["draft"]})
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(writable, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(writable, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(writable, 0)
    os.close(writable)
    os.close(fd)


@pytest.mark.parametrize("fixed", ["digest", "name"])
def test_buffer_when_content_is_promised_then_refused(world: StoreThread, store: Store, fixed: str) -> None:
    digest = "0" * 64
    draft = store.create(KV, PAGE, digest=digest) if fixed == "digest" else store.obtain(KV, PAGE, digest)
    with pytest.raises(InvalidObject, match="a digest or a name"):
        draft.share()  # type: ignore[union-attr] # a draft: the name is new
    draft.abort()  # type: ignore[union-attr] # as above
    assert world.usage() == {}


def test_buffer_when_creator_sealed_the_seals_then_refused(world: StoreThread, store: Store) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    fcntl.fcntl(answer.fds[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    with pytest.raises(InvalidObject, match="seals of its creator"):
        store._call("store.share", {"draft": answer.body["draft"]})
    os.close(answer.fds[0])
    assert world.usage() == {}


def test_buffer_when_in_use_then_not_evicted_and_later_is(world: StoreThread, store: Store) -> None:
    buffer = shared(store, 40 * MEGABYTE)
    with pytest.raises(StoreFull):
        store.put(KV, bytes(20 * MEGABYTE))
    view = buffer.memory
    buffer.close()
    with pytest.raises(StoreFull):
        store.put(KV, bytes(20 * MEGABYTE))
    view.release()
    store.put(KV, bytes(20 * MEGABYTE))
    assert buffer.key not in {each.key for each in store.objects()}


def test_buffer_when_agent_restarts_then_still_written(tmp_path: Path) -> None:
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper), agent_process(path, keeper) as agent, Store(path) as store:
        buffer = shared(store)
        agent.kill()
        with agent_process(path, keeper), Store(path) as other:
            assert [each.leases for each in store.objects()] == [1]
            buffer.memory[:4] = b"more"
            assert bytes(other.get(buffer.key).memory[:4]) == b"more"
