"""The guard of writes, between a real session and a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from aiohttp import web

from headrace_operator import connection as connection_module
from headrace_operator.client import TIMED_OUT, UNREACHABLE, ApiError, ApiServer, Change
from headrace_operator.connection import Connection
from headrace_operator.kinds import SECRET


class Server:
    """Takes anything, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""
        self.hangs = asyncio.Event()
        """Set when a request for /hang has come, which is not answered."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if request.path == "/hang":
            self.hangs.set()
            await asyncio.Event().wait()
        return web.json_response({"kind": "Thing"})


class Guard:
    """Counts how often it is asked, and refuses from some time on."""

    def __init__(self, allowed: int) -> None:
        self.asked = 0
        self._allowed = allowed

    def __call__(self) -> None:
        self.asked += 1
        if self.asked > self._allowed:
            raise ApiError(0, "the Lease is lost")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def connection(server: Server) -> Connection:
    return Connection(kopf.ConnectionInfo(server=server.url), "operator-0")


@pytest.fixture
async def api(server: Server) -> AsyncIterator[ApiServer]:
    async with ApiServer(connection(server)) as session:
        yield session


async def test_write_when_lease_is_lost_before_it_then_nothing_is_sent(api: ApiServer, server: Server) -> None:
    api.guard = Guard(allowed=1)  # when the write is asked for, and not when its connection is there
    with pytest.raises(ApiError):
        await api.create("/things", {})
    assert server.asked == []


async def test_writes_when_connection_is_kept_then_guard_runs_at_each(api: ApiServer, server: Server) -> None:
    api.guard = guard = Guard(allowed=6)
    await api.create("/things", {})
    await api.apply("/things/a", {}, force=True)
    await api.delete("/things/a")
    assert server.asked == ["POST /things", "PATCH /things/a", "DELETE /things/a"]
    assert guard.asked == 6


async def test_read_then_the_guard_is_not_asked(api: ApiServer, server: Server) -> None:
    api.guard = Guard(allowed=0)
    await api.get("/things/a")
    assert server.asked == ["GET /things/a"]


@pytest.mark.parametrize(("others", "status"), [(True, TIMED_OUT), (False, UNREACHABLE)])
async def test_request_when_unanswered_then_others_show_if_server_down(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, others: bool, status: int
) -> None:
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.5)
    async with ApiServer(connection(server)) as api:
        hanging = asyncio.create_task(api.get("/hang"))
        await server.hangs.wait()
        if others:
            await api.get("/things/a")
        with pytest.raises(ApiError, match="no response in time") as caught:
            await hanging
    assert caught.value.status == status
    assert caught.value.passes


EVENTS = [
    {"type": "ADDED", "object": {"metadata": {"namespace": "a"}}},
    {"type": "BOOKMARK", "object": {"metadata": {}}},
    {"type": "DELETED", "object": {"metadata": {"namespace": "b"}}},
]


async def watched(events: list[dict[str, Any]], status: int = 200) -> tuple[list[Change], ApiError | None]:
    """Return what a watch of a name tells, until the server ends it, and what it ends with."""
    asked: list[web.Request] = []

    async def stream(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    app = web.Application()
    app.router.add_get("/api/v1/secrets", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    heard: list[Change] = []
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with ApiServer(Connection(kopf.ConnectionInfo(server=url), "operator-0")) as api:
            heard.extend([change async for change in api.changes(SECRET, None, "headrace-nats")])
    except ApiError as error:
        return heard, error
    finally:
        await runner.cleanup()
    assert asked[0].query["fieldSelector"] == "metadata.name=headrace-nats"
    assert "PartialObjectMetadata;" in asked[0].headers["Accept"]
    return heard, None


async def test_watch_when_things_happen_then_reported_not_bookmarks() -> None:
    assert await watched(EVENTS) == ([Change("ADDED", "a"), Change("DELETED", "b")], None)


async def test_watch_when_refused_or_ended_by_an_error_then_raised() -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    for events, status, wanted in (([gone], 200, 410), ([{"message": "no"}], 403, 403)):
        heard, error = await watched(events, status)
        assert (heard, error and error.status) == ([], wanted)
