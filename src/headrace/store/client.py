"""The object store's client.

with Store(Path(os.environ[...])) as store:
tensors = store.put(ObjectClass.UPDATES, array)      # a copy into shared memory
with store.create(ObjectClass.WEIGHTS, size) as draft:
file.readinto(draft.memory)                      # written where it stays
weights = draft.seal()
same = store.get(weights.key)                        # mapped, nothing is copied
layer = same.numpy(np.float16, (4096, 4096))
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from typing_extensions import Buffer

from headrace.agent import messages
from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentError, AgentUnavailable
from headrace.agent.messages import BATCH_CALLS, Received
from headrace.store.errors import ObjectNotFound, StillMapped
from headrace.store.keys import ObjectClass
from headrace.store.views import Lease, LeasedMapping, Object, SharedBuffer

T = TypeVar("T")
_RELEASES = 256
"""Most keys of one message."""


@dataclass(frozen=True, slots=True)
class Description:
    """An object of this tenant in the store."""

    key: str
    object_class: ObjectClass
    size: int
    memory_bytes: int
    """The size, rounded up to pages."""
    leases: int
    pinned: bool


class Store:
    """One session with the object store of this node. Any thread may use it.

    If the agent was restarted, the next call connects again and renews the leases; objects that are already mapped stay
    valid in any case. A lease ends when the object and all its views are closed or garbage-collected; the end is
    reported by `Object.close` or with the next call. The leases of a process that crashes end at once.

    Args:
        path: the agent's Unix socket.

    Raises:
        AgentUnavailable: no agent. The other errors of `AgentConnection`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = AgentConnection(path)
        self._lock = threading.Lock()
        """Guards the connection's replacement and the counts of leases."""
        self._leases: Counter[str] = Counter()
        self._ended: deque[str] = deque()
        """Keys of leases that ended; filled by the garbage collector, which must not take locks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tenant(self) -> str:
        """The tenant, as the agent knows it."""
        return self._connection.tenant

    def create(self, object_class: ObjectClass, size: int, *, digest: str | None = None) -> Draft:
        """Return memory of `size` bytes for a new object; use it as a context manager.

        With `digest` (SHA-256 in hexadecimal) the object's key is this digest, and sealing verifies the content;
        without, the key is random. Raises StoreFull, InvalidObject.
        """
        answer = self._call("store.create", {"class": object_class, "size": size, "digest": digest})
        return Draft(self, answer.body["draft"], answer.fds[0], object_class, size)

    def obtain(
        self, object_class: ObjectClass, size: int, name: str, *, waiting: Callable[[], None] = lambda: None
    ) -> Object | Draft:
        """Return the object of a name, or memory of `size` bytes to make it, which becomes that object when sealed.

        For an object whose digest is known only after it was made, as weights in the form of a decoder: `name` is the
        SHA-256 of all that determines the content, 64 hexadecimal digits. Of all processes of the tenant that call this
        at the same time, one makes the object, and the others wait for it; if it fails, one of those makes it.
        `waiting` is called every few seconds meanwhile. Raises StoreFull, InvalidObject.
        """
        while True:
            answer = self._call("store.obtain", {"class": object_class, "size": size, "name": name})
            if "key" in answer.body:
                return self._leased(answer)
            if "draft" in answer.body:
                return Draft(self, answer.body["draft"], answer.fds[0], object_class, size)
            waiting()

    def put(self, object_class: ObjectClass, content: Buffer, *, digest: str | None = None) -> Object:
        """Store a copy of `content`. Raises StoreFull, WrongDigest, InvalidObject.

        An object with this digest that is already there is returned instead, without a copy.
        """
        if digest is not None:
            try:
                return self.get(digest)
            except ObjectNotFound:
                pass
        source = memoryview(content).cast("B")
        with self.create(object_class, source.nbytes, digest=digest) as draft:
            draft.memory[:] = source
            return draft.seal()

    def put_many(self, object_class: ObjectClass, contents: Sequence[Buffer]) -> list[Object]:
        """Store copies of all `contents`, or none: as `put`, in two messages for 16 of them instead of 32.

        Raises StoreFull.
        """
        sources = [memoryview(content).cast("B") for content in contents]
        created = self._call_many(
            [{"verb": "store.create", "class": object_class, "size": source.nbytes} for source in sources]
        )
        drafts = [
            Draft(self, answer.body["draft"], answer.fds[0], object_class, source.nbytes)
            for answer, source in zip(created, sources, strict=True)
            if isinstance(answer, Received)
        ]
        objects: list[Object] = []
        try:
            _raise_first_error(created)
            for draft, source in zip(drafts, sources, strict=True):
                draft.memory[:] = source
            sealed = self._call_many([draft.sealing() for draft in drafts])
            for draft, answer in zip(drafts, sealed, strict=True):
                if isinstance(answer, Received):
                    objects.append(draft.sealed(answer))
            _raise_first_error(sealed)
        except BaseException:
            for draft in drafts:
                draft.abort()
            self.delete_many([each.key for each in objects])
            raise
        return objects

    def get(self, key: str) -> Object:
        """Map an object. Raises ObjectNotFound."""
        return self._leased(self._call("store.get", {"key": key}))

    def get_many(self, keys: Sequence[str]) -> list[Object]:
        """Map objects, 16 by one message. Raises ObjectNotFound if one is absent."""
        answers = self._call_many([{"verb": "store.get", "key": key} for key in keys])
        found = [self._leased(each) for each in answers if isinstance(each, Received)]
        if len(found) < len(answers):
            found.clear()  # ends their leases
            _raise_first_error(answers)
        return found

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove those of the objects that are there, 16 by one message."""
        self._call_many([{"verb": "store.delete", "key": key} for key in keys])

    def pin(self, key: str, *, pinned: bool = True) -> None:
        """Exempt an object from eviction, beyond the life of this process, or not any more. Raises ObjectNotFound."""
        self._call("store.pin", {"key": key, "pinned": pinned})

    def delete(self, key: str) -> None:
        """Remove an object; processes that have mapped it keep it until they close it. Raises ObjectNotFound."""
        self._call("store.delete", {"key": key})

    def objects(self) -> Iterator[Description]:
        """Yield the tenant's objects, in the order of their keys."""
        after = ""
        while page := self._call("store.list", {"after": after}).body["objects"]:
            for each in page:
                yield Description(
                    each["key"],
                    ObjectClass(each["class"]),
                    each["size"],
                    each["memory"],
                    each["leases"],
                    each["pinned"],
                )
            after = page[-1]["key"]

    def flush(self) -> None:
        """Report the leases that ended since the last call."""
        while keys := self._take_ended():
            with contextlib.suppress(AgentUnavailable):  # all leases of the session ended with it
                self._connection.call("store.release", {"keys": keys})

    def close(self) -> None:
        """End the session: drafts are discarded and leases end. Mapped objects stay valid, and may then be evicted."""
        self._connection.close()

    def _call(self, verb: str, fields: Mapping[str, Any]) -> Received:
        return self._connected(lambda connection: connection.call(verb, dict(fields)))

    def _call_many(self, calls: Sequence[dict[str, Any]]) -> list[Received | AgentError]:
        """Make calls, as many by one message as it can carry."""
        results: list[Received | AgentError] = []
        for start in range(0, len(calls), BATCH_CALLS):
            part = calls[start : start + BATCH_CALLS]
            results += self._connected(partial(AgentConnection.call_many, calls=part))
        return results

    def _connected(self, call: Callable[[AgentConnection], T]) -> T:
        """Make a call on the connection, or on a new one if it has ended."""
        self.flush()
        connection = self._connection
        try:
            return call(connection)
        except AgentUnavailable:
            if connection.closed:
                return call(self._reconnected(connection))
            raise

    def _take_ended(self) -> list[str]:
        with self._lock:
            keys = [self._ended.popleft() for _ in range(min(_RELEASES, len(self._ended)))]
            self._leases.subtract(keys)
            self._leases = +self._leases
            return keys

    def _reconnected(self, lost: AgentConnection) -> AgentConnection:
        with self._lock:
            if self._connection is lost:
                connection = AgentConnection(self._path)
                for key in self._leases.elements():
                    _renew(connection, key)
                self._connection = connection
            return self._connection

    def _lease(self, key: str) -> Lease:
        """Count a lease that the agent has granted."""
        with self._lock:
            self._leases[key] += 1
        return Lease(key, self._ended)

    def _leased(self, answer: Received) -> Object:
        key, object_class = answer.body["key"], ObjectClass(answer.body["class"])
        lease = self._lease(key)
        return Object.mapped(key, object_class, answer.body["size"], answer.fds[0], lease, self.flush)


class Draft:
    """Memory for a new object; leaving the context discards it unless it was sealed."""

    def __init__(self, store: Store, number: int, fd: int, object_class: ObjectClass, size: int) -> None:
        self._store, self._number = store, number
        self._class, self._size = object_class, size
        try:
            self._mapping = LeasedMapping(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        finally:
            os.close(fd)
        self._open = True
        self.memory = memoryview(self._mapping)
        """The object's bytes, writable until it is sealed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def seal(self) -> Object:
        """Make the content immutable and visible to the tenant, and return the object.

        Raises StillMapped (a view of `memory` still exists in this or another process), WrongDigest.
        """
        message = self.sealing()
        return self.sealed(self._store._call(message.pop("verb"), message))  # noqa: SLF001 - parts of one client

    def sealing(self) -> dict[str, Any]:
        """Unmap the memory, and return the message that seals the draft. Raises StillMapped."""
        self._unmap()
        return {"verb": "store.seal", "draft": self._number}

    def sealed(self, answer: Received) -> Object:
        """Return the object that the reply describes."""
        self._open = False
        return self._store._leased(answer)  # noqa: SLF001 - as above

    def share(self) -> SharedBuffer:
        """Make the content visible to the tenant while this process goes on writing it, and return it.

        Raises InvalidObject: the draft has a digest or a name, which stand for content that does not change.
        """
        answer = self._store._call("store.share", {"draft": self._number})  # noqa: SLF001 - parts of one client
        self._open = False
        key = str(answer.body["key"])
        self._mapping.lease = self._store._lease(key)  # noqa: SLF001 - as above
        return SharedBuffer(key, self._class, self._size, self._mapping, self._store.flush)

    def abort(self) -> None:
        """Discard the draft; nothing if it was sealed or the session ended."""
        if self._open:
            self._open = False
            with contextlib.suppress(StillMapped):  # then its memory is counted until the views are gone
                self._unmap()
            with contextlib.suppress(AgentUnavailable, ObjectNotFound):
                self._store._call("store.abort", {"draft": self._number})  # noqa: SLF001 - as above

    def _unmap(self) -> None:
        try:
            self.memory.release()
            self._mapping.close()
        except BufferError as error:
            self.memory = memoryview(self._mapping)
            raise StillMapped("views of the draft's memory still exist", hint="Delete them, then seal") from error


def _raise_first_error(answers: Iterable[Received | AgentError]) -> None:
    for answer in answers:
        if isinstance(answer, AgentError):
            raise answer


def _renew(connection: AgentConnection, key: str) -> None:
    """Lease an object again; one that is gone stays mapped here, and only here."""
    with contextlib.suppress(ObjectNotFound):
        messages.close_all(connection.call("store.get", {"key": key}).fds)
