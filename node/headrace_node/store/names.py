"""Names of objects, for content whose digest is not known before it was made; of all who need it, one makes it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from headrace.store.errors import InvalidObject
from headrace.store.keys import ObjectClass
from headrace_node.store.keeping import Record

WAIT_SECONDS = 5.0
"""How long a request waits for the draft of another session. The server answers it then, and the client asks again:
a client that has crashed meanwhile is noticed, and no call exceeds the client's time limit."""


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name, unique in its tenant and class."""

    tenant: str
    object_class: ObjectClass
    text: str


class Names:
    """The keys of named objects, and the drafts that will be such objects. At most one for each object and draft."""

    def __init__(self) -> None:
        self._keys: dict[ObjectName, str] = {}
        self._drafts: dict[ObjectName, tuple[int, asyncio.Event]] = {}
        """The session that makes it, and what is set when it was made or discarded."""

    def key(self, name: ObjectName) -> str | None:
        """Return the key of the object of a name."""
        return self._keys.get(name)

    async def unmade(self, name: ObjectName, session: int) -> bool:
        """Wait until no session makes the object; False after `WAIT_SECONDS`. Raises InvalidObject if this one does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while (making := self._drafts.get(name)) is not None:
                    if making[0] == session:
                        raise InvalidObject("the session has a draft of this name", hint="Seal or abort it")
                    await making[1].wait()
                return True
        return False

    def begin(self, name: ObjectName, session: int) -> None:
        """A session makes the object."""
        self._drafts[name] = session, asyncio.Event()

    def end(self, name: ObjectName | None) -> None:
        """The draft was sealed or discarded."""
        if name is not None:
            self._drafts.pop(name)[1].set()

    def add(self, record: Record) -> None:
        """Let an object be found by its name, if it has one."""
        if record.name is not None:
            self._keys[ObjectName(record.tenant, record.object_class, record.name)] = record.key

    def remove(self, record: Record) -> None:
        """Let it no longer be found."""
        if record.name is not None:
            del self._keys[ObjectName(record.tenant, record.object_class, record.name)]
