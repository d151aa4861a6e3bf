"""A small HTTP/1.1 client that shows what is on the wire: status, headers, and the body as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Incoming:
    """An answer whose body is still to be read."""

    status: int
    headers: Mapping[str, str]
    reader: asyncio.StreamReader

    async def pieces(self) -> AsyncIterator[bytes]:
        if "content-length" in self.headers:
            yield await self.reader.readexactly(int(self.headers["content-length"]))
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]

    async def events(self) -> AsyncIterator[str]:
        buffer = b""
        async for piece in self.pieces():
            buffer += piece
            *complete, buffer = buffer.split(b"\n\n")
            for event in complete:
                if event.startswith(b":"):
                    continue  # a comment
                assert event.startswith(b"data: ")
                yield event.removeprefix(b"data: ").decode()
        assert not buffer


@asynccontextmanager
async def exchange(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Incoming]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        fields = {"host": "localhost", "content-length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        status, *received = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(": ") for line in received if line)
        yield Incoming(int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, reader)
    finally:
        writer.close()


async def ask(
    port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return the answer; a body that is no bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    async with asyncio.timeout(30), exchange(port, method, path, raw, headers) as incoming:
        pieces = [piece async for piece in incoming.pieces()]
        return Answer(incoming.status, incoming.headers, b"".join(pieces))
