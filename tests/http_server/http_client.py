"""Raw bytes in, and what comes back of them: how many answers, with what status, and whether the connection is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

DEADLINE_SECONDS = 30
LAST = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
"""Sent after the answers that were expected: a connection that is kept answers it with 200, and ends."""

Paced = Callable[[int], Awaitable[None]]
"""Waits until so many bytes of the message have been read by the server."""


async def unpaced(received: int) -> None:
    """The kernel decides about what is read at once."""
    del received
    await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answered: bool = False
    """Whether an answer was received in full."""

    async def send(self, message: bytes, cuts: list[int] | None = None, paced: Paced = unpaced) -> None:
        """Send it in pieces; a server that has closed is no fault here."""
        edges = [0, *(cuts or []), len(message)]
        try:
            for start, end in pairwise(edges):
                self.writer.write(message[start:end])
                await self.writer.drain()
                await paced(end)
        except ConnectionError:
            return

    async def reply(self, *, to_head: bool = False) -> Reply | None:
        """The next answer; None at the end of the connection."""
        raw = await self.reader.readuntil(b"\r\n\r\n") if not await self._at_end() else b""
        if not raw:
            return None
        status, *lines = raw.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        code = int(status.split()[1])
        reply = Reply(code, fields, b"" if to_head or code < 200 else await self._body(fields))
        self.answered = True
        return reply

    async def replies(self) -> list[Reply]:
        """All answers until the end of the connection."""
        replies = []
        while (reply := await self.reply()) is not None:
            replies.append(reply)
        return replies

    async def _body(self, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        if "transfer-encoding" not in fields:
            return await self.reader.read()
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def _at_end(self) -> bool:
        """Whether the connection has ended, be it by a reset after an answer.

        A server that has answered a request with `Connection: close` closes at once. What a client sends after that
        request is then answered with a reset, and asyncio forgets what it received before it.
        """
        if isinstance(self.reader.exception(), ConnectionError) and self.reader._buffer:  # type: ignore[attr-defined]  # as below
            self.reader._exception = None  # type: ignore[attr-defined]  # asyncio has no other way to what is buffered
            self.reader.feed_eof()
        try:
            first = await self.reader.read(1)
        except ConnectionError as error:
            if not self.answered:
                raise AssertionError("the connection was reset") from error
            return True
        self.reader._buffer[:0] = first  # type: ignore[attr-defined]  # StreamReader has no `peek`
        return not first


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Outcome:
    statuses: list[int]
    kept: bool


async def outcome(port: int, message: bytes, expected: int, cuts: list[int], paced: Paced = unpaced) -> Outcome:
    """Send a message in pieces; `expected` answers are waited for before the connection is tried again."""
    async with connected(port) as wire:
        await wire.send(message, cuts, paced)
        replies: list[Reply] = []
        while len(replies) < expected and (reply := await wire.reply(to_head=message.startswith(b"HEAD"))) is not None:
            replies.append(reply)
        if "close" not in replies[-1].headers.get("connection", "") if replies else False:
            await wire.send(LAST)
        more = await wire.replies()
        kept = bool(more) and more[-1].status == 200 and more[-1].headers.get("connection") == "close"
        statuses = [reply.status for reply in [*replies, *(more[:-1] if kept else more)]]
        return Outcome(statuses, kept)
