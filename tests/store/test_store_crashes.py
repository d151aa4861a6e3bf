"""Readers, writers, the agent and the keeper are killed (SIGKILL): nothing leaks, and no object is corrupt."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from store import store_client
from store.store_client import CONTENT, SIZE
from store.store_world import MEGABYTE, ROOMY, Program, StoreThread, agent_process, descriptors, keeper_process

from headrace.agent.errors import AgentUnavailable
from headrace.store.client import Store
from headrace.store.errors import ObjectNotFound
from headrace.store.keys import ObjectClass, content_key

KEY = content_key(CONTENT)


def client_at(path: Path, point: str, key: str = "") -> Program:
    """Start a client and wait until it is at this point."""
    program = Program(store_client.__file__, path, point, key)
    assert program.line().startswith("at")
    return program


def settle(world: StoreThread) -> None:
    """Wait until the agent has seen the end of every session."""
    while world.do(lambda: len(world.server.sessions)):
        pass


@pytest.mark.parametrize("point", ["connected", "created", "half written", "written"])
def test_writer_when_killed_before_seal_then_leaves_nothing(world: StoreThread, point: str) -> None:
    before = descriptors()
    client_at(world.a, point).kill()
    settle(world)
    assert world.usage() == {}
    assert world.do(lambda: world.store.counters.reaped_drafts) == (0 if point == "connected" else 1)
    assert (world.stored(), descriptors()) == ([], before)


def test_writer_when_killed_after_seal_then_object_stays(world: StoreThread) -> None:
    client_at(world.a, "sealed").kill()
    settle(world)
    assert [each.leases.total() for each in world.stored()] == [0]
    with world.open() as store:
        assert bytes(store.get(KEY).memory) == CONTENT


@pytest.mark.parametrize("point", ["leased", "read"])
def test_reader_when_killed_then_its_lease_ends(world: StoreThread, point: str) -> None:
    with world.open() as store:
        store.put(ObjectClass.UPDATES, CONTENT, digest=KEY).close()
        reader = client_at(world.a, point, KEY)
        assert [each.leases.total() for each in world.stored()] == [1]
        reader.kill()
    settle(world)
    assert [each.leases.total() for each in world.stored()] == [0]
    assert world.do(lambda: [each.unused for each in world.store.objects()]) == [True]


def test_agent_when_killed_without_keeper_then_objects_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with agent_process(path) as agent, Store(path) as store:
        mapped = store.put(ObjectClass.UPDATES, CONTENT, digest=KEY)
        agent.kill()
        assert bytes(mapped.memory) == CONTENT
        with pytest.raises(AgentUnavailable, match="headrace-node"):
            store.get(KEY)
        with agent_process(path):
            with pytest.raises(ObjectNotFound, match="Put it again"):
                store.get(KEY)
            assert bytes(store.put(ObjectClass.UPDATES, CONTENT, digest=KEY).memory) == CONTENT


def test_agent_when_killed_with_keeper_then_no_object_is_lost(tmp_path: Path) -> None:
    """100 leased objects survive; the client renews its leases with its next call, and pins last."""
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper), agent_process(path, keeper) as agent, Store(path) as store:
        held = [store.put(ObjectClass.UPDATES, bytes([number]) * 5000) for number in range(100)]
        store.pin(held[3].key)
        removed = held.pop()
        store.delete(removed.key)
        agent.kill()
        with agent_process(path, keeper):
            found = {each.key: each for each in store.objects()}
            assert found.keys() == {each.key for each in held}
            assert {each.leases for each in found.values()} == {1}
            assert [each.key for each in found.values() if each.pinned] == [held[3].key]
            assert all(bytes(store.get(each.key).memory) == bytes([n]) * 5000 for n, each in enumerate(held))


def test_keeper_when_restarted_then_it_gets_all_objects_again(tmp_path: Path) -> None:
    """With the next change of the store; what was deleted meanwhile is not among them."""
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper) as first, agent_process(path, keeper) as agent, Store(path) as store:
        kept, removed = (store.put(ObjectClass.UPDATES, bytes([number]) * 5000) for number in range(2))
        first.kill()
        store.delete(removed.key)
        with keeper_process(keeper):
            later = store.put(ObjectClass.UPDATES, b"later")
            agent.kill()
            with agent_process(path, keeper):
                assert {each.key for each in store.objects()} == {kept.key, later.key}


@pytest.mark.parametrize("point", ["created", "half written", "written", "sealed"])
def test_agent_when_killed_at_any_point_then_whole_or_absent(tmp_path: Path, point: str) -> None:
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper), agent_process(path, keeper) as agent, client_at(path, point):
        agent.kill()
        with agent_process(path, keeper), Store(path) as store:
            if point == "sealed":
                assert bytes(store.get(KEY).memory) == CONTENT
            else:
                assert list(store.objects()) == []


def test_agent_when_killed_while_it_seals_then_whole_or_absent(tmp_path: Path) -> None:
    """The kill comes at a random time of a loop of puts."""
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper):
        for round_ in range(5):
            with agent_process(path, keeper) as agent, Store(path) as store:
                sealed: set[str] = {each.key for each in store.objects()}
                for number in range(10 * round_):
                    content = bytes([number]) * SIZE
                    sealed.add(store.put(ObjectClass.KV, content, digest=content_key(content)).key)
                request = {"class": "kv", "size": SIZE, "digest": KEY}
                draft = store._call("store.create", request)
                os.pwrite(draft.fds[0], CONTENT, 0)
                os.close(draft.fds[0])
                store._connection._socket.send(b'{"verb":"store.seal","draft":%d}' % draft.body["draft"])
                agent.kill()
            with agent_process(path, keeper), Store(path) as store:
                assert {each.key for each in store.objects()} - {KEY} == sealed - {KEY}
                for each in store.objects():
                    assert content_key(store.get(each.key).memory) == each.key


def test_restarted_agent_when_full_then_evicts_no_mapped_object(tmp_path: Path) -> None:
    """The client has not renewed its leases yet: the kernel knows that it maps the objects."""
    keeper = tmp_path / "keeper.sock"
    with keeper_process(keeper):
        with StoreThread(tmp_path, keeper=keeper) as world, world.open() as store:
            mapped = store.put(ObjectClass.UPDATES, CONTENT, digest=KEY)
            idle = store.put(ObjectClass.UPDATES, CONTENT)
            idle.close()
        with StoreThread(tmp_path, keeper=keeper) as world, world.open() as store:
            assert [each.leases.total() for each in world.stored()] == [0, 0]
            held = [store.put(ObjectClass.KV, bytes(MEGABYTE)) for _ in range(47)]
            assert {each.key for each in store.objects()} == {KEY, *(each.key for each in held)}
            assert world.do(lambda: world.store.counters.adopted) == 2
        assert bytes(mapped.memory) == CONTENT


def test_keeper_when_killed_then_store_works_on(tmp_path: Path) -> None:
    path, keeper = tmp_path / "a.sock", tmp_path / "keeper.sock"
    with keeper_process(keeper) as keeping, agent_process(path, keeper), Store(path) as store:
        first = store.put(ObjectClass.KV, CONTENT)
        keeping.kill()
        second = store.put(ObjectClass.KV, CONTENT)
        assert bytes(store.get(first.key).memory) == bytes(store.get(second.key).memory) == CONTENT
        store.delete(first.key)
        assert [each.key for each in store.objects()] == [second.key]


def test_cycles_of_put_map_crash_when_many_then_nothing_leaks(tmp_path: Path) -> None:
    """10,000 sessions put, map or abandon a draft, and hang up without releasing anything."""
    with StoreThread(tmp_path, replace(ROOMY, tenant_objects=64)) as world, world.open() as store:
        before = descriptors()
        kept = store.put(ObjectClass.WEIGHTS, CONTENT)
        store.pin(kept.key)
        for number in range(10_000):
            with world.open() as client:
                if number % 3 == 0:
                    client.create(ObjectClass.KV, 4096)
                elif number % 3 == 1:
                    client.put(ObjectClass.KV, CONTENT[:4096])
                else:
                    assert client.get(kept.key).memory[1] == 1
        assert world.do(lambda: world.store.counters.reaped_drafts) > 3000
        for each in store.objects():
            store.delete(each.key)
        kept.close()
        while world.do(lambda: len(world.server.sessions)) > 1:
            pass
        assert world.usage() == {}
        assert descriptors() == before
