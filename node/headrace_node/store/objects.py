"""The object store: drafts become sealed objects, objects are leased, released, pinned, deleted and evicted.

Runs in the agent's event loop; populating, sealing and hashing run in threads. An object can be evicted if no session
has a lease, it is not pinned, and the kernel knows no other holder (`memory.is_held`): a restarted agent does not evict
what running processes map. The accounts are exact: memory that a client keeps after its
object is gone stays counted against its tenant (`closed`), so no tenant can use more than its quota.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from headrace.store.errors import InvalidObject, ObjectNotFound, StillMapped, StoreFull, WrongDigest
from headrace.store.keys import ObjectClass, random_key
from headrace_node.store import memory
from headrace_node.store.accounts import Accounts, Limits, Scope
from headrace_node.store.closed import ClosedSegments
from headrace_node.store.keeping import NO_KEEPER, Keeping, Record
from headrace_node.store.memory import PageKind
from headrace_node.store.names import Names, ObjectName
from headrace_node.store.pool import SegmentPool
from headrace_node.store.sealing import Sealing

DRAFTS_PER_SESSION = 64
_HASHES = 2
"""Objects that are hashed at the same time; each takes a core."""


@dataclass(slots=True, eq=False)
class Draft:
    """A segment that its creator may write into."""

    number: int
    session: int
    tenant: str
    object_class: ObjectClass
    size: int
    memory_bytes: int
    digest: str | None
    name: ObjectName | None
    fd: int = -1
    """-1 until the segment is made."""


@dataclass(slots=True, eq=False)
class Stored:
    """A sealed object."""

    record: Record
    fd: int
    """Open for reading only, see `memory.is_held`."""
    leases: Counter[int] = field(default_factory=Counter)
    """By number of the session."""

    @property
    def unused(self) -> bool:
        """Whether no process has a lease, a descriptor or a mapping of it."""
        return not self.leases and not memory.is_held(self.fd)


@dataclass(slots=True)
class StoreCounters:
    """What happened since the agent's start; by tenant and class."""

    puts: Counter[tuple[str, ObjectClass]] = field(default_factory=Counter)
    hits: Counter[tuple[str, ObjectClass]] = field(default_factory=Counter)
    evictions: Counter[tuple[str, ObjectClass]] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    """By tenant: the class of an absent object is unknown."""
    reaped_drafts: int = 0
    """Drafts whose creator disconnected before it sealed them."""
    adopted: int = 0
    """Objects that survived a restart of the agent."""


class ObjectStore:
    """All objects of a node; use as an asynchronous context manager.

    Args:
        limits: the quotas, already checked.
        pages: the pages of segments.
        keeping: where objects are kept for the next agent; they are adopted on entering the context.
    """

    def __init__(self, limits: Limits, pages: PageKind, keeping: Keeping = NO_KEEPER) -> None:
        self.accounts = Accounts(limits)
        self.counters = StoreCounters()
        self.pool = SegmentPool(pages, limits.pool_bytes)
        self._keeping = keeping
        self._objects: OrderedDict[tuple[str, str], Stored] = OrderedDict()
        """By tenant and key, the least recently used first."""
        self._closed = ClosedSegments()
        self._drafts: dict[int, Draft] = {}
        self._names = Names()
        self._numbers = itertools.count(1)
        self._hashing = asyncio.Semaphore(_HASHES)
        self._sealing = Sealing()
        self._refills: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Adopt the objects that the former agent left."""
        for record, fd in self._keeping.kept():
            self._adopt(record, fd)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every segment. Objects that are kept survive, and mappings of clients stay valid in any case."""
        for task in self._refills:
            task.cancel()
        await asyncio.gather(*self._refills, return_exceptions=True)
        for draft in list(self._drafts.values()):
            self._discard(draft)
        for stored in self._objects.values():
            os.close(stored.fd)
        self._objects.clear()
        self._closed.close()
        self.pool.close()

    async def obtain(self, session: int, name: ObjectName, size: int) -> Stored | Draft | None:
        """Lease the object of a name, or make its draft; None: another session is still making it.

        Raises InvalidObject, StoreFull.
        """
        if not await self._names.unmade(name, session):
            return None
        key = self._names.key(name)
        if key is not None:
            return self.get(session, name.tenant, key)
        self.counters.misses[name.tenant] += 1
        return await self.create(session, name.tenant, name.object_class, size, name=name)

    async def create(
        self,
        session: int,
        tenant: str,
        object_class: ObjectClass,
        size: int,
        digest: str | None = None,
        *,
        name: ObjectName | None = None,
    ) -> Draft:
        """Make a draft of `size` bytes. Raises InvalidObject, StoreFull."""
        if size < 1:
            raise InvalidObject(f"size: {size} is not positive")
        if sum(draft.session == session for draft in self._drafts.values()) >= DRAFTS_PER_SESSION:
            raise StoreFull(f"the session has {DRAFTS_PER_SESSION} drafts", hint="Seal or abort some")
        rounded = self.pool.rounded(size)
        self._make_room(tenant, object_class, rounded)
        draft = Draft(next(self._numbers), session, tenant, object_class, size, rounded, digest, name)
        self._drafts[draft.number] = draft
        self.accounts.add(tenant, object_class, rounded)
        if name is not None:
            self._names.begin(name, session)
        try:
            fd = await self.pool.take(rounded)
        except OSError as error:
            self._discard(draft)
            raise StoreFull(
                f"the node has no memory for {rounded:,} bytes: {error.strerror}", hint="Reduce the store's size"
            ) from error
        if draft.number not in self._drafts:  # its session was closed meanwhile
            os.close(fd)
            raise ObjectNotFound("the draft was discarded")
        draft.fd = fd
        if object_class is not ObjectClass.WEIGHTS:  # a model's are stored once: the next segment would lie idle
            self._start_refill(rounded)
        return draft

    async def seal(self, session: int, number: int) -> Stored:
        """Turn a draft into an object, leased to the session. Its digest, if it has one, is verified.

        If the tenant has an object with this digest already, the draft is discarded in favour of it.
        Raises ObjectNotFound, StillMapped (the draft remains), WrongDigest (it is discarded).
        """
        draft = self._draft(session, number)
        await self._seal(draft)
        if draft.digest is not None:
            await self._verify(draft, draft.digest)
        if self._drafts.pop(number, None) is None:
            raise ObjectNotFound("the draft was discarded")
        self._names.end(draft.name)
        return self._store(draft)

    async def share(self, session: int, number: int) -> Stored:
        """Turn a draft into a buffer, leased to the session. Raises ObjectNotFound, InvalidObject (digest or name)."""
        draft = self._draft(session, number)
        if draft.digest or draft.name:
            raise InvalidObject("an object with a digest or a name cannot be a buffer", hint="Create it without")
        await self._seal(draft, buffer=True)
        del self._drafts[number]
        return self._store(draft, buffer=True)

    def get(self, session: int, tenant: str, key: str) -> Stored:
        """Lease an object to a session. Raises ObjectNotFound: absent, or of another tenant."""
        stored = self._objects.get((tenant, key))
        if stored is None:
            self.counters.misses[tenant] += 1
            raise ObjectNotFound(f"no object {key}", hint="Put it again: it was evicted, deleted or never sealed")
        self.counters.hits[tenant, stored.record.object_class] += 1
        self._objects.move_to_end((tenant, key))
        stored.leases[session] += 1
        return stored

    def release(self, session: int, tenant: str, key: str) -> None:
        """End one lease of a session; nothing if it has none."""
        if (stored := self._objects.get((tenant, key))) is not None:
            stored.leases[session] -= 1
            stored.leases += Counter()  # removes those that are not positive

    def abort(self, session: int, number: int) -> None:
        """Discard a draft. Raises ObjectNotFound."""
        self._discard(self._draft(session, number))

    def pin(self, tenant: str, key: str, *, pinned: bool) -> None:
        """Exempt an object from eviction, or not. Outlasts the session. Raises ObjectNotFound."""
        stored = self._found(tenant, key)
        stored.record = replace(stored.record, pinned=pinned)
        self._keeping.keep(stored.record, stored.fd)

    def delete(self, tenant: str, key: str) -> None:
        """Remove an object; its memory is freed when the last lease and mapping end. Raises ObjectNotFound."""
        stored = self._found(tenant, key)
        self._remove(stored.record)
        self._close(stored.record, stored.fd)

    def close_session(self, session: int) -> None:
        """Free what a session held, whether it ended or crashed."""
        for draft in [draft for draft in self._drafts.values() if draft.session == session]:
            self.counters.reaped_drafts += 1
            self._discard(draft)
        for stored in self._objects.values():
            stored.leases.pop(session, None)

    def objects(self, tenant: str | None = None) -> Iterator[Stored]:
        """Yield the objects, of one tenant or of all, the least recently used first."""
        return (each for each in self._objects.values() if tenant in {None, each.record.tenant})

    def _make_room(self, tenant: str, object_class: ObjectClass, size: int) -> None:
        """Evict what is needed for an object, or nothing if that is not enough. Raises StoreFull."""
        while victims := self._victims(tenant, object_class, size):
            for stored in victims:  # what its tenant keeps open in secret is not freed: the next pass finds others
                self._evict(stored)
        self._trim_pool(size)

    def _victims(self, tenant: str, object_class: ObjectClass, size: int) -> Iterable[Stored]:
        """Return the objects to evict for another one, the least recently used first. Raises StoreFull."""
        self.sweep()
        victims: dict[tuple[str, str], Stored] = {}
        for scope in self.accounts.scopes(tenant, object_class):
            excess = scope.excess(size) - sum(_evicting_frees(scope, each) for each in victims.values())
            for key, stored in self._objects.items():
                if excess <= 0:
                    break
                if key not in victims and (gain := _evicting_frees(scope, stored)) and stored.unused:
                    victims[key] = stored
                    excess -= gain
            if excess > 0:
                raise _full(scope, object_class, size)
        return list(victims.values())

    def _remove(self, record: Record) -> None:
        """Let an object no longer be found."""
        del self._objects[record.tenant, record.key]
        self._names.remove(record)
        self._keeping.forget(record)

    def _evict(self, stored: Stored) -> None:
        self._remove(stored.record)
        self.counters.evictions[stored.record.tenant, stored.record.object_class] += 1
        self._close(stored.record, stored.fd)

    def sweep(self) -> None:
        """Stop counting memory that clients have freed. Call it before reading the accounts."""
        for record in self._closed.freed():
            self.accounts.remove(record.tenant, record.object_class, record.memory_bytes)

    def _close(self, record: Record, fd: int) -> None:
        """Give up a segment, which counts until no client has it any more."""
        self._closed.add(fd, record)
        self.sweep()

    def _draft(self, session: int, number: int) -> Draft:
        draft = self._drafts.get(number)
        if draft is None or draft.session != session or draft.fd < 0:
            raise ObjectNotFound(f"the session has no draft {number}", hint="Create it again: the agent was restarted")
        return draft

    def _found(self, tenant: str, key: str) -> Stored:
        stored = self._objects.get((tenant, key))
        if stored is None:
            raise ObjectNotFound(f"no object {key}")
        return stored

    def _discard(self, draft: Draft) -> None:
        """Drop a draft. Its memory is not cut, which would kill a creator that still writes (SIGBUS), but counted."""
        del self._drafts[draft.number]
        self._names.end(draft.name)
        if draft.fd < 0:
            self.accounts.remove(draft.tenant, draft.object_class, draft.memory_bytes)
            return
        self._close(_record(draft, ""), draft.fd)

    async def _seal(self, draft: Draft, *, buffer: bool = False) -> None:
        """Seal a draft's segment. Raises StillMapped (the draft remains), InvalidObject (it is discarded)."""
        failure = None
        try:
            await self._sealing.seal(draft.tenant, draft.fd, buffer=buffer)
        except OSError as error:
            failure = error
        if draft.number not in self._drafts:
            raise ObjectNotFound("the draft was discarded")
        if failure and failure.errno == errno.EBUSY:
            raise StillMapped(
                f"the draft of {draft.size:,} bytes is still mapped writable", hint="Drop all views of it, then seal"
            ) from failure
        if failure or os.fstat(draft.fd).st_size != draft.memory_bytes:
            self._discard(draft)
            raise InvalidObject("the draft was cut, or has seals of its creator") from failure

    async def _verify(self, draft: Draft, expected: str) -> None:
        async with self._hashing:
            fd = os.dup(draft.fd)  # the thread cannot be cancelled, and the draft may be
            hashing = asyncio.ensure_future(asyncio.to_thread(memory.digest, fd, draft.size))
            hashing.add_done_callback(lambda _: os.close(fd))
            found = await asyncio.shield(hashing)
        if found != expected:
            if draft.number in self._drafts:
                self._discard(draft)
            raise WrongDigest(
                f"the content has SHA-256 {found}, and the object was created with {expected}",
                hint="Check the source of the content: it is truncated or corrupt",
            )

    def _store(self, draft: Draft, *, buffer: bool = False) -> Stored:
        key = (draft.tenant, draft.digest or random_key())
        stored = self._objects.get(key)
        if stored is None:
            record = _record(draft, key[1], buffer=buffer)
            stored = self._objects[key] = Stored(record, memory.opened(draft.fd, os.O_RDONLY))
            os.close(draft.fd)
            self._names.add(stored.record)
            self.counters.puts[draft.tenant, draft.object_class] += 1
            self._keeping.keep(stored.record, stored.fd)
        else:
            self._close(_record(draft, key[1]), draft.fd)
            self._objects.move_to_end(key)
        stored.leases[draft.session] += 1
        return stored

    def _adopt(self, record: Record, fd: int) -> None:
        """Take over an object of the former agent; one that is not sealed cannot be there, and is dropped."""
        if not memory.is_sealed(fd, buffer=record.buffer) or os.fstat(fd).st_size != record.memory_bytes:
            self._keeping.forget(record)
            os.close(fd)
            return
        self._objects[record.tenant, record.key] = Stored(record, fd)
        self._names.add(record)
        self.accounts.add(record.tenant, record.object_class, record.memory_bytes)
        self.counters.adopted += 1

    def _trim_pool(self, size: int = 0) -> None:
        """Give up ready segments that would exceed the store's size beside its objects and `size` bytes."""
        self.pool.shrink(self.accounts.total_bytes + size + self.pool.bytes - self.accounts.limits.total_bytes)

    def _start_refill(self, size: int) -> None:
        task = asyncio.get_running_loop().create_task(self._refill(size))
        self._refills.add(task)
        task.add_done_callback(self._refills.discard)

    async def _refill(self, size: int) -> None:
        spare = self.accounts.limits.total_bytes - self.accounts.total_bytes - self.pool.bytes
        await self.pool.refill(size, spare)
        self._trim_pool()  # objects may have been created meanwhile


def _record(draft: Draft, key: str, *, buffer: bool = False) -> Record:
    name = None if draft.name is None else draft.name.text
    return Record(draft.tenant, key, draft.object_class, draft.size, draft.memory_bytes, name=name, buffer=buffer)


def _evicting_frees(scope: Scope, stored: Stored) -> int:
    record = stored.record
    if record.pinned or not scope.covers(record.tenant, record.object_class):
        return 0
    return 1 if scope.counts_objects else record.memory_bytes


def _full(scope: Scope, object_class: ObjectClass, size: int) -> StoreFull:
    return StoreFull(
        f"no room for an object of class {object_class} and {size:,} bytes: {scope.name} is {scope.limit:,}, "
        f"of which {scope.used:,} are in use, leased, mapped or pinned",
        hint="Close objects that are not needed, or raise this limit",
    )
