"""Objects of real clients in a real store: content, keys, views, leases, deletion and tenants."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from store.store_world import MEGABYTE, PAGE, ROOMY, StoreThread, descriptors

from headrace.agent.errors import AgentError, AgentUnavailable, InvalidMessage
from headrace.store.client import Store
from headrace.store.errors import InvalidObject, ObjectNotFound, StillMapped, StoreFull, WrongDigest
from headrace.store.keys import ObjectClass, content_key, random_key
from headrace_node.store import memory

CONTENT = bytes(range(256)) * 64


def test_kernel_when_checked_then_reports_holders() -> None:
    memory.check_kernel()


def test_object_when_put_then_another_client_maps_it(world: StoreThread, store: Store) -> None:
    put = store.put(ObjectClass.KV, CONTENT)
    with world.open() as other:
        found = other.get(put.key)
        assert bytes(found.memory) == bytes(put.memory) == CONTENT
        assert (found.object_class, found.size, len(found.key)) == (ObjectClass.KV, len(CONTENT), 32)


def test_object_when_put_with_digest_then_key_is_digest(store: Store) -> None:
    key = content_key(CONTENT)
    assert store.put(ObjectClass.WEIGHTS, CONTENT, digest=key).key == key
    again = store.put(ObjectClass.WEIGHTS, CONTENT, digest=key)
    assert bytes(again.memory) == CONTENT
    assert [each.key for each in store.objects()] == [key]


def test_draft_when_digest_is_wrong_then_discarded(world: StoreThread, store: Store) -> None:
    wrong = content_key(b"other")
    with pytest.raises(WrongDigest, match=f"has SHA-256 {content_key(CONTENT)}.*created with {wrong}"):
        store.put(ObjectClass.WEIGHTS, CONTENT, digest=wrong)
    with pytest.raises(ObjectNotFound):
        store.get(wrong)
    store.flush()
    assert world.do(lambda: world.store.accounts.total_bytes) == 0


def test_drafts_when_two_have_one_digest_then_one_object(world: StoreThread, store: Store) -> None:
    key = content_key(CONTENT)
    with world.open() as other, store.create(ObjectClass.WEIGHTS, len(CONTENT), digest=key) as first:
        second = other.create(ObjectClass.WEIGHTS, len(CONTENT), digest=key)
        first.memory[:] = second.memory[:] = CONTENT
        assert second.seal().key == first.seal().key == key
        list(store.objects())
        assert world.do(lambda: world.store.accounts.total_bytes) == len(CONTENT)


def test_object_when_sealed_then_nobody_can_write(store: Store) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    writing = answer.fds[0]
    sealed = store._call("store.seal", {"draft": answer.body["draft"]}).fds[0]
    with pytest.raises(PermissionError):
        os.pwrite(writing, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(writing, PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(writing, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(sealed, b"x", 0)
    os.close(writing)
    os.close(sealed)


def test_draft_when_still_mapped_then_not_sealed(store: Store) -> None:
    with store.create(ObjectClass.KV, PAGE) as draft:
        view = np.frombuffer(draft.memory, np.uint8)
        with pytest.raises(StillMapped, match="views"):
            draft.seal()
        del view
        assert draft.seal().size == PAGE


def test_draft_when_another_process_maps_it_then_agent_refuses(store: Store) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    mapping = mmap.mmap(answer.fds[0], PAGE)
    with pytest.raises(StillMapped, match="mapped writable"):
        store._call("store.seal", {"draft": answer.body["draft"]})
    mapping.close()
    store._call("store.seal", {"draft": answer.body["draft"]})


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SEAL, 0b1110])
def test_draft_when_client_keeps_it_open_then_still_counted(world: StoreThread, store: Store, seals: int) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    fcntl.fcntl(answer.fds[0], fcntl.F_ADD_SEALS, seals)
    store._call("store.abort", {"draft": answer.body["draft"]})
    assert world.do(lambda: world.store.accounts.total_bytes) == PAGE
    os.close(answer.fds[0])
    list(store.objects())
    store.put(ObjectClass.KV, b"x").close()
    assert world.do(lambda: world.store.accounts.total_bytes) == PAGE


def test_draft_when_agent_closes_then_creator_can_still_write(world: StoreThread, store: Store) -> None:
    draft = store.create(ObjectClass.KV, PAGE)
    world.do(lambda: world.server.unlisten(world.a))
    with pytest.raises(AgentUnavailable):
        draft.seal()
    draft = world.open(other=True).create(ObjectClass.KV, PAGE)
    world.do(lambda: world.server.unlisten(world.b))
    draft.memory[0] = 1


def test_draft_when_cut_by_client_then_refused(world: StoreThread, store: Store) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    os.ftruncate(answer.fds[0], 1)
    with pytest.raises(PermissionError):
        os.ftruncate(answer.fds[0], 2 * PAGE)
    with pytest.raises(InvalidObject, match="cut"):
        store._call("store.seal", {"draft": answer.body["draft"]})


def test_views_when_made_then_share_the_object_read_only(store: Store) -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(1024, dtype=np.float32)
    found = store.put(ObjectClass.UPDATES, values.data)
    array = found.numpy(np.float32, (32, 32))
    assert np.array_equal(array, values.reshape(32, 32))
    assert not array.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = found.torch(torch.float32, (2, 16), offset=128)
    assert tensor.flatten().tolist() == values[32:64].tolist()
    assert tensor.data_ptr() == array.ctypes.data + 128
    tensor.zero_()
    assert np.array_equal(store.get(found.key).numpy(np.float32, (1024,)), values)


def test_views_when_larger_than_object_then_error_says_so(store: Store) -> None:
    found = store.put(ObjectClass.UPDATES, bytes(16))
    with pytest.raises(InvalidObject, match="ends at byte 20 of an object of 16"):
        found.numpy(np.float32, (5,))
    assert found.numpy(np.float32, (0, 3)).shape == (0, 3)


def test_lease_when_last_view_is_collected_then_ends(world: StoreThread, store: Store) -> None:
    before = descriptors()
    found = store.put(ObjectClass.KV, CONTENT)
    view = found.numpy(np.uint8, (10,))
    found.close()
    store.flush()
    assert [each.leases.total() for each in world.stored()] == [1]
    assert view[3] == 3
    del view
    gc.collect()
    store.flush()
    assert [each.leases.total() for each in world.stored()] == [0]
    assert descriptors() == before + 1  # the store's own


def test_object_when_deleted_then_readers_keep_it(world: StoreThread, store: Store) -> None:
    found = store.put(ObjectClass.KV, CONTENT)
    store.delete(found.key)
    with pytest.raises(ObjectNotFound):
        store.get(found.key)
    assert bytes(found.memory) == CONTENT
    assert world.do(lambda: world.store.accounts.total_bytes) == len(CONTENT)
    found.close()
    assert world.usage() == {}


def test_tenant_when_it_knows_a_key_then_still_not_found(world: StoreThread, store: Store) -> None:
    found = store.put(ObjectClass.WEIGHTS, CONTENT, digest=content_key(CONTENT))
    with world.open(other=True) as other:
        for attempt in (other.get, other.pin, other.delete):
            with pytest.raises(ObjectNotFound):
                attempt(found.key)
        assert list(other.objects()) == []
        own = other.put(ObjectClass.WEIGHTS, CONTENT, digest=found.key)
        assert own.key == found.key
    assert len(world.stored()) == 2


def test_draft_when_of_another_session_then_not_found(world: StoreThread, store: Store) -> None:
    answer = store._call("store.create", {"class": "kv", "size": PAGE})
    with world.open() as other:
        for verb in ("store.seal", "store.abort"):
            with pytest.raises(ObjectNotFound):
                other._call(verb, {"draft": answer.body["draft"]})


@pytest.mark.parametrize(
    ("verb", "fields", "kind", "words"),
    [
        ("store.create", {"class": "music", "size": 1}, InvalidObject, "class: 'music' is none of weights"),
        ("store.create", {"class": "kv", "size": 0}, InvalidObject, "size: 0 is not positive"),
        ("store.create", {"class": "kv", "size": True}, InvalidMessage, "size: not an integer"),
        ("store.create", {"class": "kv", "size": 1, "digest": "x"}, InvalidObject, "digest: not 64"),
        ("store.get", {"key": "../x"}, InvalidObject, "key: not 32"),
        ("store.get", {"key": random_key()}, ObjectNotFound, "Put it again"),
        ("store.release", {"keys": ["0" * 32] * 257}, InvalidMessage, "at most 256"),
        ("store.seal", {"draft": 99}, ObjectNotFound, "no draft 99"),
    ],
)
def test_fields_when_invalid_then_error_names_them(
    store: Store, verb: str, fields: dict[str, object], kind: type[AgentError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        store._call(verb, fields)
    assert store.put(ObjectClass.KV, b"x").size == 1


def test_store_when_used_by_threads_then_counts_are_exact(world: StoreThread, store: Store) -> None:
    key = store.put(ObjectClass.ASSETS, CONTENT).key

    def work() -> None:
        for _ in range(50):
            assert store.get(key).memory[1] == 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    store.flush()
    assert [each.leases.total() for each in world.stored()] == [0]
    assert world.do(lambda: world.store.counters.hits["team-a", ObjectClass.ASSETS]) == 200


def test_store_when_closed_then_no_descriptor_is_left(tmp_path: Path) -> None:
    before = descriptors()
    with StoreThread(tmp_path, ROOMY) as world, world.open() as client:
        kept = client.put(ObjectClass.KV, bytes(MEGABYTE))
        client.create(ObjectClass.KV, MEGABYTE).memory.release()
    assert kept.memory[0] == 0
    kept.close()
    assert descriptors() == before


def test_objects_when_put_and_got_together_then_all_or_none(world: StoreThread, store: Store) -> None:
    """More than one message can carry."""
    contents = [number.to_bytes(2, "little") * PAGE for number in range(20)]
    objects = store.put_many(ObjectClass.KV, contents)
    with world.open() as other:
        found = other.get_many([each.key for each in objects])
        assert [bytes(each.memory) for each in found] == contents
        assert {each.leases for each in store.objects()} == {2}
        del found
        store.delete_many([objects[3].key, "0" * 32])
        with pytest.raises(ObjectNotFound):
            other.get_many([each.key for each in objects])
        assert {each.leases for each in other.objects()} == {1}


def test_objects_when_one_does_not_fit_then_none_is_put(world: StoreThread, store: Store) -> None:
    with pytest.raises(StoreFull):
        store.put_many(ObjectClass.KV, [b"x", bytes(100 * MEGABYTE), b"y"])
    assert world.usage() == {}


def test_seal_when_it_takes_long_then_other_tenants_go_on(
    world: StoreThread, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel waits while a page is pinned, which a client can cause in all its drafts."""
    gate, begun, sealed = threading.Event(), threading.Semaphore(0), memory.seal

    def seal(fd: int, *, buffer: bool = False) -> None:
        if os.fstat(fd).st_size > PAGE:
            begun.release()
            gate.wait(10)
        sealed(fd, buffer=buffer)

    monkeypatch.setattr(memory, "seal", seal)
    sessions = [world.open() for _ in range(8)]
    slow = [
        threading.Thread(target=session.put, args=(ObjectClass.KV, bytes(2 * PAGE)), daemon=True)
        for session in sessions
    ]
    for each in slow:
        each.start()
    begun.acquire()
    with world.open(other=True) as other:
        other.put(ObjectClass.KV, b"x").close()
    assert not begun.acquire(blocking=False)  # the others of the tenant wait
    gate.set()
    for each in slow:
        each.join(10)
    assert [each.record.size for each in world.stored()].count(2 * PAGE) == 8
