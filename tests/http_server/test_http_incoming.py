"""The body that a handler reads is that of its own request, and whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from http_server.http_client import connected
from http_server.http_corpus import post, sized
from starlette.types import Receive, Scope, Send

from headrace.http.errors import ClientGone
from headrace.http.incoming import IncomingBody
from headrace.http.server import http_server


class LateReader:
    """An application that reads the body of a request on a signal."""

    def __init__(self) -> None:
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        """What it has read; None when the client had gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.set()
        await self.go_on.wait()
        try:
            body = await IncomingBody(scope, receive).read(1000, encoding=b"", declared_bytes=None)
        except ClientGone:
            self.outcome.set_result(None)
            return
        self.outcome.set_result(body)
        await send({"type": "http.response.start", "status": 204, "headers": [], "body": b""})


@asynccontextmanager
async def serving(app: LateReader) -> AsyncIterator[int]:
    http = http_server(app)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        http.should_exit = http.force_exit = True
        await task


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (post("Transfer-Encoding: chunked", body=b"2\r\n{}\r\n"), b"zz\r\n"),
        (post("Content-Length: 10", body=b"12345"), None),
    ],
    ids=["a malformed chunk", "half a body"],
)
async def test_body_when_refused_before_it_is_read_then_client_gone(head: bytes, rest: bytes | None) -> None:
    """The refusal is a request too, without a body: that must not be taken for the body of the broken one."""
    app = LateReader()
    async with serving(app) as port, connected(port) as wire:
        await wire.send(head)
        await app.started.wait()
        if rest is None:
            wire.writer.write_eof()
        else:
            await wire.send(rest)
        assert [reply.status for reply in await wire.replies()] == [400]
        app.go_on.set()
        assert await app.outcome is None


async def test_body_when_it_is_read_late_then_it_is_whole() -> None:
    app = LateReader()
    async with serving(app) as port, connected(port) as wire:
        await wire.send(sized(body=b"whole"))
        await app.started.wait()
        app.go_on.set()
        assert await app.outcome == b"whole"
