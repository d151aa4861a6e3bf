"""The verbs of the object store. Fields come from clients: their types and bounds are checked here."""

from __future__ import annotations

import os
from itertools import dropwhile, islice
from typing import Any

from headrace.agent.errors import InvalidMessage
from headrace.store.keys import checked_class, checked_digest, checked_key, checked_name
from headrace_node.server import AgentServer, Reply, Session
from headrace_node.store import memory
from headrace_node.store.names import ObjectName
from headrace_node.store.objects import Draft, ObjectStore, Stored

_PAGE = 100
"""Objects of one reply of `store.list`."""
_KEYS = 256
"""Keys of one `store.release`."""


class StoreVerbs:
    """What clients may call; `register` adds it to a server."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._sessions: set[int] = set()

    def register(self, server: AgentServer) -> None:
        """Add the verbs `store.*`."""
        for handler in (
            self.create,
            self.obtain,
            self.seal,
            self.share,
            self.abort,
            self.get,
            self.release,
            self.pin,
            self.delete,
            self.list,
        ):
            server.verb(f"store.{handler.__name__}", handler)

    async def create(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Make a draft of `size` bytes and `class`, to be verified against `digest`; its descriptor is writable."""
        self._watch(session)
        digest = None if message.get("digest") is None else checked_digest(message["digest"])
        draft = await self._store.create(
            session.number, session.tenant, checked_class(message.get("class")), _integer(message, "size"), digest
        )
        return _drafted(draft)

    async def obtain(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Lease the object `name` (SHA-256 of what it is made of) of `class`, or make a draft of it of `size` bytes.

        An empty reply: another session is making it; call again.
        """
        self._watch(session)
        name = ObjectName(session.tenant, checked_class(message.get("class")), checked_name(message.get("name")))
        found = await self._store.obtain(session.number, name, _integer(message, "size"))
        if found is None:
            return Reply()
        return _drafted(found) if isinstance(found, Draft) else _leased(found)

    async def seal(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Turn `draft` into an object, and lease it."""
        return _leased(await self._store.seal(session.number, _integer(message, "draft")))

    async def share(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Turn `draft` into a buffer that the client goes on writing, and lease it; the reply has no descriptor."""
        stored = await self._store.share(session.number, _integer(message, "draft"))
        return Reply({"key": stored.record.key})

    async def abort(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Discard `draft`."""
        self._store.abort(session.number, _integer(message, "draft"))
        return Reply()

    async def get(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Lease the object `key`; its descriptor is for reading."""
        self._watch(session)
        return _leased(self._store.get(session.number, session.tenant, checked_key(message.get("key"))))

    async def release(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """End one lease of each of `keys`."""
        keys = message.get("keys")
        if not isinstance(keys, list) or len(keys) > _KEYS:
            raise InvalidMessage(f"keys: not a list of at most {_KEYS} keys")
        for key in keys:
            self._store.release(session.number, session.tenant, checked_key(key))
        return Reply()

    async def pin(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Exempt the object `key` from eviction if `pinned`."""
        pinned = message.get("pinned") is True
        self._store.pin(session.tenant, checked_key(message.get("key")), pinned=pinned)
        return Reply()

    async def delete(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Remove the object `key`."""
        self._store.delete(session.tenant, checked_key(message.get("key")))
        return Reply()

    async def list(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Describe the tenant's objects after the one with key `after` (empty: the first)."""
        after = message.get("after") or ""
        found = sorted(self._store.objects(session.tenant), key=_key)
        page = islice(dropwhile(lambda each: _key(each) <= str(after), found), _PAGE)
        return Reply({"objects": [described(each) for each in page]})

    def _watch(self, session: Session) -> None:
        """Free what the session holds when it ends."""
        if session.number not in self._sessions:
            self._sessions.add(session.number)
            session.on_close.append(lambda: self._close(session.number))

    def _close(self, number: int) -> None:
        self._sessions.discard(number)
        self._store.close_session(number)


def described(stored: Stored) -> dict[str, Any]:
    """Return an object's description for clients and operators."""
    record = stored.record
    return {
        "key": record.key,
        "class": record.object_class,
        "size": record.size,
        "memory": record.memory_bytes,
        "leases": stored.leases.total(),
        "pinned": record.pinned,
    }


def _drafted(draft: Draft) -> Reply:
    return Reply({"draft": draft.number}, (memory.opened(draft.fd, os.O_RDWR),))


def _leased(stored: Stored) -> Reply:
    record = stored.record
    fields = {"key": record.key, "class": record.object_class, "size": record.size}
    return Reply(fields, (memory.opened(stored.fd, os.O_RDONLY),))


def _key(stored: Stored) -> str:
    return stored.record.key


def _integer(message: dict[str, Any], field: str) -> int:
    value = message.get(field)
    if type(value) is not int:
        raise InvalidMessage(f"{field}: not an integer")
    return value
