"""One probe of a container, against servers good and bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace.local.probes import Probe

HOST = "127.0.0.1"


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """Give the port of a server that answers every request so; None: never."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        over.set()


def http(port: int, **fields: Any) -> Probe:
    return Probe.of({"httpGet": {"path": "/live", "port": port}, **fields}, [])


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False),
        (b"HTTP/1.1\r\n\r\n", False),
        (b"HTTP/1.1 fine\r\n\r\n", False),
        (b"", False),
        (b"x" * 100_000, False),
    ],
)
async def test_http_probe_when_answered_goes_by_the_status(answer: bytes, *, good: bool) -> None:
    async with answering(answer) as port:
        assert await http(port).once(HOST) is good


async def test_http_probe_when_never_answered_fails_after_its_timeout() -> None:
    async with answering(None) as port:
        assert not await http(port, timeoutSeconds=0.05).once(HOST)


async def test_connection_probe_when_somebody_listens_is_content() -> None:
    async with answering(None) as port:
        assert await Probe.of({"tcpSocket": {"port": port}}, []).once(HOST)


async def test_probe_when_nobody_listens_fails() -> None:
    async with answering(b"") as port:
        pass
    assert not await http(port).once(HOST)
    assert not await Probe.of({"tcpSocket": {"port": port}}, []).once(HOST)


def test_probe_when_nothing_is_said_has_kubernetes_defaults() -> None:
    probe = Probe.of({"httpGet": {"port": "web"}}, [{"name": "web", "containerPort": 8080}])
    assert probe == Probe("/", 8080, 0, 10, 1, 1, 3)


async def test_probe_reports_a_change_at_its_threshold() -> None:
    told: list[str] = []
    done = asyncio.Event()
    statuses = iter([503, 200, 503, 503, 200, 200, 200])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = next(statuses, None)
        if status is None:
            done.set()
        else:
            told.append(f"{status}")
            writer.write(f"HTTP/1.1 {status} X\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        probe = http(server.sockets[0].getsockname()[1], periodSeconds=0, successThreshold=2, failureThreshold=2)
        watching = asyncio.create_task(probe.watch(HOST, lambda answer: told.append("good" if answer else "bad")))
        async with asyncio.timeout(10):
            await done.wait()
        watching.cancel()
    assert told == ["503", "200", "503", "503", "bad", "200", "200", "good", "200"]
