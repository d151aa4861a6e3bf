"""Any sequence of operations of two tenants, with crashes and restarts, against a real store and a simple model."""

from __future__ import annotations

import contextlib
import gc
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from store.store_world import PAGE, StoreThread, descriptors, keeper_process
from typing_extensions import override

from headrace.store.client import Draft, Store
from headrace.store.errors import InvalidObject, ObjectNotFound, StoreFull, WrongDigest
from headrace.store.keys import ObjectClass, content_key
from headrace.store.views import Object
from headrace_node.store import pool
from headrace_node.store.accounts import Limits

LIMITS = Limits(
    total_bytes=12 * PAGE,
    tenant_bytes=8 * PAGE,
    classes={ObjectClass.KV: 6 * PAGE},
    objects=20,
    tenant_objects=6,
    pool_bytes=2 * PAGE,
)
CLASSES = st.sampled_from([ObjectClass.KV, ObjectClass.WEIGHTS])
PAGES = st.integers(1, 4)
CLIENT = st.integers(0, 3)
"""Clients 0 and 1 are of one tenant, 2 and 3 of another."""


@dataclass(slots=True)
class Client:
    """What one process holds."""

    store: Store
    drafts: list[tuple[Draft, bytes, str | None]] = field(default_factory=list)
    objects: list[Object] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """What the model knows of a sealed object."""

    content: bytes
    pinned: bool = False


class StoreMachine(RuleBasedStateMachine):
    """An object that exists has its content; what is leased or pinned exists; bytes and descriptors are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.before = descriptors()
        self.directory = Path(tempfile.mkdtemp())
        self.resources = contextlib.ExitStack()
        self.resources.enter_context(keeper_process(self.directory / "keeper.sock"))
        self.world = self.start()
        self.clients: dict[int, Client] = {}
        self.model: dict[tuple[str, str], Entry] = {}
        self.numbers = 0

    def start(self) -> StoreThread:
        return StoreThread(self.directory, LIMITS, self.directory / "keeper.sock").__enter__()

    def client(self, number: int) -> Client:
        if number not in self.clients:
            self.clients[number] = Client(self.world.open(other=number > 1))
        return self.clients[number]

    @rule(number=CLIENT, object_class=CLASSES, pages=PAGES, addressed=st.booleans(), right=st.booleans())
    def create(self, number: int, object_class: ObjectClass, pages: int, addressed: bool, right: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.numbers += 1
        content = self.numbers.to_bytes(4, "little") * (pages * PAGE // 4)
        digest = content_key(content if right else content + b"x") if addressed else None
        client = self.client(number)
        with contextlib.suppress(StoreFull):
            client.drafts.append((client.store.create(object_class, len(content), digest=digest), content, digest))
        self.forget_evicted()

    @rule(number=CLIENT, half=st.booleans())
    def seal(self, number: int, half: bool) -> None:  # noqa: FBT001 - as above
        client = self.client(number)
        if not client.drafts:
            return
        draft, content, digest = client.drafts.pop()
        draft.memory[:] = content
        if half:
            draft.abort()
            return
        right = digest in {None, content_key(content)}
        try:
            found = draft.seal()
        except WrongDigest:
            assert not right
        except ObjectNotFound:  # the agent was restarted
            pass
        else:
            assert right
            assert (client.store.tenant, found.key) not in self.model
            self.model[client.store.tenant, found.key] = Entry(content)
            client.objects.append(found)

    @rule(number=CLIENT)
    def share(self, number: int) -> None:
        """A buffer keeps what is written into it afterwards."""
        client = self.client(number)
        if not client.drafts:
            return
        draft, content, digest = client.drafts.pop()
        try:
            found = draft.share()
        except InvalidObject:
            assert digest is not None
            draft.abort()
        except ObjectNotFound:  # the agent was restarted
            draft.abort()
        else:
            assert digest is None
            found.memory[:] = content
            self.model[client.store.tenant, found.key] = Entry(content)
            client.objects.append(found)

    @rule(number=CLIENT, index=st.integers(0, 20))
    def get(self, number: int, index: int) -> None:
        """Of the own tenant: the content. Of the other one: not found."""
        client = self.client(number)
        known = list(self.model)[index : index + 1]
        for tenant, key in known:
            try:
                found = client.store.get(key)
            except ObjectNotFound:
                assert tenant != client.store.tenant
            else:
                assert tenant == client.store.tenant
                assert bytes(found.memory) == self.model[tenant, key].content
                client.objects.append(found)

    @rule(number=CLIENT, index=st.integers(0, 5))
    def release(self, number: int, index: int) -> None:
        client = self.client(number)
        if client.objects:
            client.objects.pop(index % len(client.objects)).close()

    @rule(number=CLIENT, index=st.integers(0, 20), pinned=st.booleans())
    def pin(self, number: int, index: int, pinned: bool) -> None:  # noqa: FBT001 - as above
        client = self.client(number)
        own = [key for tenant, key in self.model if tenant == client.store.tenant]
        for key in own[index : index + 1]:
            client.store.pin(key, pinned=pinned)
            self.model[client.store.tenant, key].pinned = pinned

    @rule(number=CLIENT, index=st.integers(0, 20))
    def delete(self, number: int, index: int) -> None:
        client = self.client(number)
        own = [key for tenant, key in self.model if tenant == client.store.tenant]
        for key in own[index : index + 1]:
            client.store.delete(key)
            del self.model[client.store.tenant, key]

    @precondition(lambda self: self.clients)
    @rule(number=CLIENT)
    def crash(self, number: int) -> None:
        """The client's connection ends without a release; the garbage collector unmaps."""
        client = self.clients.pop(number, None)
        if client is not None:
            client.store.close()
            while self.world.do(lambda: len(self.world.server.sessions)) > len(self.clients):
                pass

    @rule()
    def restart(self) -> None:
        """The agent ends and another adopts its objects; clients renew their leases."""
        self.world.__exit__(None, None, None)
        self.world = self.start()
        for client in self.clients.values():
            next(client.store.objects(), None)

    def forget_evicted(self) -> None:
        """Remove from the model what the store evicted, which must be neither mapped nor pinned."""
        present = {(each.record.tenant, each.record.key) for each in self.world.stored()}
        mapped = {(client.store.tenant, each.key) for client in self.clients.values() for each in client.objects}
        for name in self.model.keys() - present:
            assert name not in mapped
            assert not self.model[name].pinned
            del self.model[name]

    @invariant()
    def contents_are_whole(self) -> None:
        self.world.run(self.world.refilled())
        assert {(each.record.tenant, each.record.key) for each in self.world.stored()} == self.model.keys()
        for client in self.clients.values():
            for each in client.objects:
                assert bytes(each.memory[:8]) == bytes(each.memory[-8:])

    @invariant()
    def bytes_are_exact(self) -> None:
        store = self.world.store
        memory = [each.record.memory_bytes for each in store._objects.values()]
        memory += [each.memory_bytes for each in store._closed]
        memory += [draft.memory_bytes for draft in store._drafts.values()]
        accounts = store.accounts
        assert accounts.total_bytes == sum(memory)
        assert accounts.objects.total() == len(memory)
        assert accounts.total_bytes + store.pool.bytes <= LIMITS.total_bytes
        for tenant in ("team-a", "team-b"):
            assert sum(size for (name, _), size in accounts.bytes.items() if name == tenant) <= LIMITS.tenant_bytes
        assert sum(size for (_, name), size in accounts.bytes.items() if name == ObjectClass.KV) <= 6 * PAGE

    @override
    def teardown(self) -> None:
        for number in list(self.clients):
            self.crash(number)
        gc.collect()
        for tenant in (self.world.a, self.world.b):
            with Store(tenant) as store:
                for each in store.objects():
                    store.delete(each.key)
        assert self.world.usage() == {}
        self.world.__exit__(None, None, None)
        self.resources.close()
        shutil.rmtree(self.directory)
        assert descriptors() == self.before


def test_store_when_used_in_any_order_then_as_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of a page are made at once, larger ones by the pool."""
    monkeypatch.setattr(pool, "_INLINE_BYTES", PAGE)
    few = settings(
        max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(StoreMachine, settings=few)
