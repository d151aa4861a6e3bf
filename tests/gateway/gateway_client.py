"""A small HTTP/1.1 client that shows what is on the wire, comments and all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
DEADLINE_SECONDS = 20
KEY_A, KEY_NARROW, KEY_B = "hr_default_a", "hr_default_narrow", "hr_team-b_b"
"""API keys of the namespaces `default` and `team-b`."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


@dataclass(slots=True)
class Incoming:
    """An answer whose body is still to be read."""

    status: int
    headers: Mapping[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def pieces(self) -> AsyncIterator[bytes]:
        if "content-length" in self.headers:
            yield await self.reader.readexactly(int(self.headers["content-length"]))
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def events(self) -> AsyncIterator[str]:
        """Events of a stream, each without its final blank line, and its comments, which have none."""
        buffer = b""
        async for piece in self.pieces():
            buffer += piece
            while (end := _end_of(buffer)) is not None:
                event, _, buffer = buffer.partition(end)
                yield event.decode()
        assert not buffer


def _end_of(events: bytes) -> bytes | None:
    """What ends the first event or comment; None: it has not ended."""
    end = b"\n" if events.startswith(b":") else b"\n\n"
    return end if end in events else None


@asynccontextmanager
async def sent(port: int, raw: bytes) -> AsyncIterator[Incoming]:
    """Send bytes as they are; the answer's head has come when the block begins."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        yield await _head(reader, writer)
    finally:
        writer.close()


async def send(port: int, raw: bytes) -> Answer:
    async with asyncio.timeout(DEADLINE_SECONDS), sent(port, raw) as incoming:
        return Answer(incoming.status, incoming.headers, b"".join([piece async for piece in incoming.pieces()]))


def request(
    method: str = "POST", path: str = CHAT, body: object = None, headers: Mapping[str, str] | None = None
) -> bytes:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "content-length": str(len(raw)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + raw


def chat(model: str = "echo", *, stream: bool = False, key: str | None = None, **fields: object) -> bytes:
    headers = {"authorization": f"Bearer {key}"} if key is not None else None
    return request(body={"model": model, "messages": [], "stream": stream, **fields}, headers=headers)


async def get(port: int, path: str, key: str | None = None) -> Answer:
    headers = {"authorization": f"Bearer {key}"} if key is not None else None
    return await send(port, request("GET", path, headers=headers))


async def _head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Incoming:
    status, *received = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(": ") for line in received if line)
    return Incoming(int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, reader, writer)
