"""Every message has one reading: in the gateway as in a runtime, and however the network cuts it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from http_server.http_client import Paced, outcome
from http_server.http_corpus import CORPUS, Case
from http_server.http_servers import GATEWAY, RUNTIME, Ports, processes, within

from headrace.http.protocol import HttpProtocol

LONG = 3000
"""Longer messages are cut at every hundredth byte only."""


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with processes(tmp_path_factory.mktemp("wire")) as ports:
        yield ports


def every_byte(message: bytes) -> list[int]:
    return list(range(1, len(message), 1 if len(message) < LONG else 100))


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Paced]:
    """Lets each piece be read by a server in this process before the next is sent."""
    received, more = 0, asyncio.Event()
    read, lose = HttpProtocol.data_received, HttpProtocol.connection_lost

    def data_received(protocol: HttpProtocol, data: bytes) -> None:
        nonlocal received
        received += len(data)
        more.set()
        read(protocol, data)

    def connection_lost(protocol: HttpProtocol, exc: Exception | None) -> None:
        nonlocal received
        received = 1 << 30  # nothing more will be read
        more.set()
        lose(protocol, exc)

    async def paced(size: int) -> None:
        while received < size:
            more.clear()
            await more.wait()

    monkeypatch.setattr(HttpProtocol, "data_received", data_received)
    monkeypatch.setattr(HttpProtocol, "connection_lost", connection_lost)
    return paced  # type: ignore[return-value]  # set up before the test, and undone by monkeypatch


@pytest.mark.parametrize("case", CORPUS.values(), ids=CORPUS.keys())
@pytest.mark.parametrize("cut", ["whole", "bytes"])
@pytest.mark.parametrize("server", [GATEWAY, RUNTIME])
async def test_message_then_it_has_one_reading(ports: Ports, server: str, cut: str, case: Case) -> None:
    cuts = every_byte(case.message) if cut == "bytes" else []
    seen = await outcome(ports.of(server), case.message, len(case.statuses), cuts)
    assert (seen.statuses, seen.kept) == (list(case.statuses), case.kept)


@pytest.mark.parametrize("case", CORPUS.values(), ids=CORPUS.keys())
@pytest.mark.parametrize("server", [GATEWAY, RUNTIME])
async def test_message_when_read_byte_by_byte_then_it_has_that_reading(server: str, case: Case, paced: Paced) -> None:
    async with within(server) as port:
        seen = await outcome(port, case.message, len(case.statuses), every_byte(case.message), paced)
    assert (seen.statuses, seen.kept) == (list(case.statuses), case.kept)
