"""An HTTP proxy in front of the API server that injects faults and counts them.

It runs in a thread with its own event loop, listens on 127.0.0.1 without TLS, and forwards requests to the API server
with the kubeconfig's credentials. One fault is active at a time. A test checks `counts` to verify that it was injected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Self

import aiohttp
import kubernetes.config
import yaml
from aiohttp import web
from yarl import URL

START_SECONDS = 10.0
EXPIRE_SECONDS = 1.0
"""Longest time that a watch waits for an event before it gets 410."""
CONFLICT_EVERY = 3
CUT_EVERY = 4
"""Not three: a Lease's renewal needs up to three requests after a cut response, so all renewals would be cut. For the
same reason, the Lease's requests are counted separately."""
CUT_EVERY_WRITE = 2
LONGEST_EVENT = 2**21
REMEMBERED_WRITES = 12
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NOT_PASSED_ON = frozenset({"host", "connection", "transfer-encoding", "content-length", "keep-alive"})


class Fault(Enum):
    """A fault. Its name in lower case is the name of its count, unless stated otherwise."""

    NOTHING = auto()
    AWAY = auto()
    """Open connections are dropped (count: `reset`), and new ones are refused."""
    SILENT = auto()
    """Watches send no more events and stay open, also after the fault: existing watches and new ones. Every other
    existing watch is closed first, so that new ones are opened (`mute`). Dropped events are counted (`swallowed`)."""
    GONE = auto()
    """Watches get 410 (resourceVersion too old): existing ones and every other new one at once, the others after an
    event."""
    CONFLICT = auto()
    """Every third write is rejected with 409, and every third of the Lease's. Deletions are not: their precondition is
    only the uid, so the API server returns 409 only if the object is another one."""
    CUT = auto()
    """Every other response to a write, and every fourth of the other responses, of the Lease's and of the watches'
    events is truncated, and its connection is dropped after the API server has processed the request. (`cut write`,
    `cut answer`, `cut lease answer`, `cut event`)"""


@dataclass(eq=False)
class _Watch:
    """An open watch."""

    response: web.StreamResponse
    task: asyncio.Task[Any]
    dead: bool = False


@dataclass
class FaultProxy:
    """The proxy, a context manager: it listens while the context is entered."""

    api_kubeconfig: Path
    counts: Counter[str] = field(default_factory=Counter)
    """Injected faults by name, and under `forwarded` the requests that reached the API server."""
    on_request: Callable[[str], bool] | None = None
    """Called in the proxy's thread for each request, with `read` (also for a watch) or `write`; on False the connection
    is reset and the request is not forwarded."""
    port: int = 0
    _fault: Fault = Fault.NOTHING
    _wrote: float = 0.0
    _last_writes: list[str] = field(default_factory=list)
    _watches: set[_Watch] = field(default_factory=set)
    _started: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), name="fault proxy")
        self._thread.start()
        assert self._started.wait(START_SECONDS), "the proxy listens"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @contextlib.contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Inject a fault while the context is entered, and reset the counts."""
        self._do(self._begin(fault))
        try:
            yield
        finally:
            self._do(self._end())

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last write, except those to the Lease."""
        return time.monotonic() - self._wrote

    @property
    def last_writes(self) -> str:
        """The last writes, one per line, to diagnose why writes continue."""
        return "\n".join(self._last_writes)

    def write_kubeconfig(self, path: Path) -> None:
        """Write a kubeconfig for clients of the proxy, which need no credentials."""
        named = {"name": "proxy"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "proxy", "user": "proxy"}}],
        }
        path.write_text(yaml.safe_dump(config))

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(START_SECONDS)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        configuration = kubernetes.config.new_client_from_config(str(self.api_kubeconfig)).configuration  # type: ignore[no-untyped-call]
        self._server = configuration.host
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        app = web.Application(client_max_size=LONGEST_EVENT)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            read_bufsize=LONGEST_EVENT,
        ) as self._session:
            await self._listen()
            self._started.set()
            await self._stop.wait()
            await self._runner.cleanup()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def _begin(self, fault: Fault) -> None:
        self._fault = fault
        self.counts.clear()
        if fault is Fault.AWAY:
            await self._site.stop()
            for connection in self._connections():
                self.counts["reset"] += 1
                connection.abort()
        for watch in list(self._watches):
            if fault is Fault.GONE:
                await self._expire(watch)
                watch.task.cancel()
            if fault is Fault.SILENT:
                watch.dead = True
                if self._is_nth("ended", 2):
                    watch.task.cancel()

    async def _end(self) -> None:
        if self._fault is Fault.AWAY:
            await self._listen()
        self._fault = Fault.NOTHING

    def _connections(self) -> list[asyncio.Transport]:
        assert self._runner.server is not None
        return [each.transport for each in self._runner.server.connections if each.transport is not None]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        writes, leads = request.method in WRITES, "/leases" in request.path
        if self.on_request is not None and not self.on_request("write" if writes else "read"):
            return _reset(request)
        if request.query.get("watch"):
            return await self._watch(request)
        if writes and not leads:
            self._wrote = time.monotonic()
            self._last_writes = [*self._last_writes, f"{request.method} {request.path}"][-REMEMBERED_WRITES:]
        if (
            self._fault is Fault.CONFLICT
            and writes
            and request.method != "DELETE"
            and self._is_nth("lease write" if leads else "write", CONFLICT_EVERY)
        ):
            self.counts["conflict"] += 1
            return web.json_response(_status(409, "Conflict", "somebody else was faster"), status=409)
        async with self._ask(request, await request.read()) as answer:
            body, headers = await answer.read(), _passed_on(answer.headers)
        what, every = "answer", CUT_EVERY
        if leads:
            what = "lease answer"  # counted separately, because otherwise several responses of one renewal could be cut
        elif writes:
            what, every = "write", CUT_EVERY_WRITE
        if self._fault is Fault.CUT and self._is_nth(what, every):
            self.counts[f"cut {what}"] += 1
            response = web.StreamResponse(status=answer.status, headers={**headers, "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            return _reset(request, response)
        return web.Response(status=answer.status, headers=headers, body=body)

    @contextlib.asynccontextmanager
    async def _ask(self, request: web.Request, body: bytes | None) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._fault is Fault.AWAY:
            raise ConnectionResetError  # the request was read just before its connection was dropped
        self.counts["forwarded"] += 1
        url, headers = URL(self._server + request.raw_path, encoded=True), _passed_on(request.headers)
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            yield answer

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        async with self._ask(request, None) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            task = asyncio.current_task()
            assert task is not None
            watch = _Watch(response, task, dead=self._fault is Fault.SILENT)
            self.counts["mute"] += watch.dead
            self._watches.add(watch)
            try:
                if self._fault is Fault.GONE:
                    await self._tell_little(watch, answer)
                else:
                    await self._tell(request, watch, answer)
            finally:
                self._watches.discard(watch)
        return response

    async def _tell(self, request: web.Request, watch: _Watch, answer: aiohttp.ClientResponse) -> None:
        async for line in answer.content:
            if watch.dead:
                self.counts["swallowed"] += 1
            elif self._fault is Fault.CUT and self._is_nth("event", CUT_EVERY):
                self.counts["cut event"] += 1
                await watch.response.write(line[: len(line) // 2])
                _reset(request)
                return
            else:
                await watch.response.write(line)

    async def _tell_little(self, watch: _Watch, answer: aiohttp.ClientResponse) -> None:
        if self._is_nth("watch", 2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXPIRE_SECONDS):
                    await watch.response.write(await answer.content.readline())
        await self._expire(watch)

    async def _expire(self, watch: _Watch) -> None:
        """End a watch with the API server's event for an expired resourceVersion (410)."""
        self.counts["gone"] += 1
        said = {"type": "ERROR", "object": _status(410, "Expired", "too old resource version")}
        with contextlib.suppress(ConnectionError):  # the watch has just ended
            await watch.response.write(json.dumps(said).encode() + b"\n")
            await watch.response.write_eof()

    def _is_nth(self, what: str, every: int) -> bool:
        self.counts[what] += 1
        return self.counts[what] % every == 0


def _reset(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Drop the connection; the returned response is not sent."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def _passed_on(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON}


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    what = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**what, "code": code, "reason": reason, "message": message}
