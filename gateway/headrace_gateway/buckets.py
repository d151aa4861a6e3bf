"""Mirrors a key-value bucket of the reconcile loop into the table.

Changes are received live: a put into a bucket is a message on its subject, which needs no consumer that a restart of
NATS would lose. The whole bucket is read at the start, after each reconnection, and periodically to repair missed
changes. A change received during a reading is newer than the value that was read.

A bucket can be lost (NATS without its disk); the reconcile loop creates and fills it again. So an entry that is missing
without a deletion marker is kept for a while, and a missing bucket changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from nats.js.kv import KV_OP

from headrace.events.connection import raise_if_cancelled

log = logging.getLogger(__name__)

READ_AGAIN_SECONDS = 30.0
RETRY_SECONDS = 0.2
"""Short, because requests wait for the first reading."""
REQUEST_SECONDS = 2.0
MISSING_SECONDS = 20.0
"""How long an entry that is missing without a deletion marker is kept: a lost bucket is rewritten much faster."""


class BucketMirror:
    """Mirrors one bucket; `read` is set after the first full reading.

    Args:
        bucket: its name.
        apply: called with a key and its value; None: it was deleted.
        known: returns the keys in the table.
        lose: called with a key that stays missing without a deletion marker; None: it counts as deleted.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        bucket: str,
        apply: Callable[[str, bytes | None], None],
        known: Callable[[], Iterable[str]],
        *,
        lose: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.read = asyncio.Event()
        self._bucket = bucket
        self._prefix = f"$KV.{bucket}."
        self._apply = apply
        self._known = known
        self._lose = lose if lose is not None else lambda key: apply(key, None)
        self._clock = clock
        self._again = asyncio.Event()
        self._changed_while_reading: set[str] | None = None
        self._missing_since: dict[str, float] = {}

    def read_again(self) -> None:
        """Read the whole bucket soon: call it after a reconnection."""
        self._again.set()

    async def run(self, client: Client) -> None:
        """Mirror until cancelled."""
        await client.subscribe(f"{self._prefix}>", cb=self._on_change)
        while True:
            self._again.clear()
            wait = READ_AGAIN_SECONDS
            try:
                await self._read_all(client)
                self.read.set()
            except NotFoundError:
                log.debug("the bucket %s does not exist (yet)", self._bucket)
                wait = RETRY_SECONDS
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.debug("bucket %s: %s; trying again", self._bucket, error or type(error).__name__)
                wait = RETRY_SECONDS
            raise_if_cancelled()
            try:
                async with asyncio.timeout(wait):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def _on_change(self, msg: Msg) -> None:
        key = msg.subject.removeprefix(self._prefix)
        if self._changed_while_reading is not None:
            self._changed_while_reading.add(key)
        self._apply(key, None if msg.headers and KV_OP in msg.headers else msg.data)

    async def _read_all(self, client: Client) -> None:
        heard = self._changed_while_reading = set()
        try:
            found = await self._entries(client)
        finally:
            self._changed_while_reading = None
        for key, value in found.items():
            if key not in heard:
                self._apply(key, value)
        self._drop_missing(set(self._known()) - found.keys() - heard)

    async def _entries(self, client: Client) -> dict[str, bytes | None]:
        """Return every key with its value, or None for a deletion marker."""
        bucket = await client.jetstream(timeout=REQUEST_SECONDS).key_value(self._bucket)
        watcher = await bucket.watchall()
        entries: dict[str, bytes | None] = {}
        try:
            while (entry := await watcher.updates(REQUEST_SECONDS)) is not None:  # type: ignore[no-untyped-call]  # nats-py
                entries[entry.key] = None if entry.operation is not None else entry.value
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py
        return entries

    def _drop_missing(self, missing: set[str]) -> None:
        now = self._clock()
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        for key, since in list(self._missing_since.items()):
            if now - since >= MISSING_SECONDS:
                del self._missing_since[key]
                self._lose(key)
