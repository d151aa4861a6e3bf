"""The lifecycle of a runtime process: it listens and reports before its engine is loaded, and drains before it stops.

    listening, Loading ──▶ engine loaded, Ready ──SIGTERM──▶ Draining ──▶ refusing ──▶ the last answer sent, exit 0

A draining replica still admits requests until every gateway that routes to it has acknowledged Draining, or five
seconds have passed: requests on their way must not be refused. Then it rejects new requests (503, reason Draining),
finishes the running ones within the pod's grace period, and ends the rest with an error instead of a closed connection.
Scale-down, rollout, eviction and Ctrl-C all take this path.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import uvloop

from headrace import environment
from headrace.errors import CannotStart, HeadraceError
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.http.local import LocalOnly, is_loopback, listed
from headrace.http.protocol import Guard
from headrace.http.server import http_server, listen
from headrace.serving.engine import Progress
from headrace.serving.errors import Draining, EngineDied
from headrace.serving.exchange import Endpoints, Handlers
from headrace.serving.guard import from_gateways_only
from headrace.serving.identity import Identity
from headrace.serving.log import configure_logging
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.probes import QUIET_PATHS, Probes
from headrace.serving.replica import AnyEngine, Replica
from headrace.serving.reporter import Reporter
from headrace.termination import write_termination_message

log = logging.getLogger(__name__)

T = TypeVar("T")
Number = TypeVar("Number", int, float)

DEFAULT_GRACE_SECONDS = 30.0
"""Kubernetes' default."""
ACKNOWLEDGE_SECONDS = 5.0
"""How long a draining replica waits for gateways to acknowledge it (the runtime contract)."""
CUT_OFF_SECONDS = 1.0
"""Time for errors to reach the clients of work that is cut off."""
ANNOUNCE_SECONDS = 0.05
"""How long loading waits for the first report. Loading imports for a second and mostly holds the interpreter, so a
report that is not published before it is late. An unavailable broker delays loading by no more than this."""
ENGINE_CHECK_SECONDS = 0.5
WRITE_SECONDS = 600.0
"""A client that reads nothing for so long is disconnected. Most clients are gateways, which disconnect their own slow
clients much earlier."""
MAX_TERMINATION_CHARACTERS = 500
INTERRUPTED = 130
"""Exit code after a second Ctrl-C, as in shells."""


@dataclass(frozen=True, slots=True)
class Runtime(Generic[AnyEngine]):
    """A runtime: its model, its engine and its endpoints."""

    model: str
    """The public name."""
    load: Callable[[Progress], AnyEngine]
    """Loads the engine; called in a thread of its own. A HeadraceError from it becomes the termination message."""
    handlers: Callable[[Replica[AnyEngine], RuntimeMetrics], Handlers]
    on_ready: Callable[[], None]
    kept_weights: Callable[[], str] = lambda: ""
    """Returns the name of the object in the node's store that has the weights, once the engine is loaded."""
    loads_early: bool = False
    """Whether a thread loads parts of the engine before `load` is called, which only waits for it."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Address, identity and limits of the server."""

    host: str
    port: int
    identity: Identity | None = None
    """None: a standalone server."""
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    """From SIGTERM until the process is killed."""
    max_body_bytes: int = MAX_BODY_BYTES
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    """Of a server on the loopback interface (`headrace.http.local`)."""

    @classmethod
    def of(cls, host: str, port: int, variables: Mapping[str, str]) -> Serving:
        """Return the settings from the pod's environment."""
        return cls(
            host,
            port,
            Identity.of(variables),
            _number(variables, environment.GRACE_SECONDS, float, DEFAULT_GRACE_SECONDS),
            _number(variables, environment.MAX_BODY_BYTES, int, MAX_BODY_BYTES),
            allowed_hosts=listed(variables.get(environment.ALLOWED_HOSTS)),
            allowed_origins=listed(variables.get(environment.ALLOWED_ORIGINS)),
        )

    @property
    def drain_seconds(self) -> float:
        """Part of the grace period in which running work may finish; the rest is for ending it with errors."""
        return max(0.0, self.grace_seconds - min(2 * CUT_OFF_SECONDS, self.grace_seconds / 5))


def _number(variables: Mapping[str, str], name: str, kind: Callable[[str], Number], default: Number) -> Number:
    given = variables.get(name)
    if not given:
        return default
    try:
        return kind(given)
    except ValueError:
        unit = name.rpartition("_")[2].lower()
        raise CannotStart(f"{name} is {given!r}", hint=f"Set it to {unit}") from None


def run(runtime: Runtime[AnyEngine], host: str, port: int) -> int:
    """Serve until a signal; return the exit code. A failure writes one line to the termination message."""
    configure_logging()
    process: RuntimeProcess[AnyEngine] | None = None
    try:
        process = RuntimeProcess(runtime, Serving.of(host, port, os.environ))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(process.live())
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        cause, code = str(error), error.exit_code
    except Exception as error:
        log.exception("the server failed")
        cause, code = f"{type(error).__name__}: {error}", HeadraceError.exit_code
    else:
        cause, code = "", 0
    if cause:
        write_termination_message(" ".join(cause.split())[:MAX_TERMINATION_CHARACTERS])
    if runtime.loads_early if process is None else process.loading:
        # The loading thread is inside a library's native code; a normal exit of the interpreter would crash it.
        logging.shutdown()
        os._exit(code)
    return code


class RuntimeProcess(Generic[AnyEngine]):
    """One process around one engine."""

    def __init__(self, runtime: Runtime[AnyEngine], serving: Serving) -> None:
        self.loading = runtime.loads_early
        """Whether a loading thread runs; it cannot be interrupted."""
        self._runtime = runtime
        self._serving = serving
        self._replica: Replica[AnyEngine] = Replica()
        self._reporter: Reporter | None = None
        self._stop_requested = asyncio.Event()

    async def live(self) -> None:
        """Return after the last answer. Raises the engine's error, or CannotStart if the address is in use."""
        listener = listen(self._serving.host, self._serving.port)
        self._handle_signals()
        metrics = RuntimeMetrics(self._replica, self._runtime.model)
        identity = self._serving.identity
        served = self._runtime.handlers(self._replica, metrics)
        if identity is not None:
            served = from_gateways_only(served, identity.token)
        handlers = {**Probes(self._replica, metrics, identity).handlers(), **served}
        endpoints = Endpoints(handlers, quiet=QUIET_PATHS, max_body_bytes=self._serving.max_body_bytes)
        server = http_server(endpoints, guard=self._guard(listener), write_seconds=WRITE_SECONDS)
        tasks = [asyncio.create_task(server.serve([listener]))]
        if identity is not None:
            self._reporter = Reporter(identity, listener.getsockname()[1], self._replica)
            tasks.append(asyncio.create_task(self._reporter.run()))
        tasks.append(asyncio.create_task(self._load_and_serve()))
        try:
            # The last task ends first; if another one does, its error ends the process.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            server.should_exit = True
            await asyncio.wait(tasks[:1], timeout=CUT_OFF_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _guard(self, listener: socket.socket) -> Guard | None:
        serving = self._serving
        if not is_loopback(listener.getsockname()[0]):
            return None
        return LocalOnly(serving.allowed_hosts, serving.allowed_origins).objection

    async def _load_and_serve(self) -> None:
        if self._reporter is not None:
            await self._reporter.announced(ANNOUNCE_SECONDS)
        engine = await self._unless_stopped(self._load())
        if engine is None:
            log.info("stopped while loading")
            return
        try:
            gc.freeze()  # what is loaded stays: the collector need not traverse it
            gc.enable()  # a runtime may start with it disabled, because imports are faster
            self._replica.kept_weights = self._runtime.kept_weights()
            self._replica.loaded(engine)
            log.info("%s is ready after %.2f s", self._runtime.model, self._replica.ready_seconds or 0.0)
            self._runtime.on_ready()
            await self._unless_stopped(self._engine_death())
            await self._drain()
        finally:
            await engine.close()

    async def _load(self) -> AnyEngine:
        """Load the engine in a daemon thread: a process that stops does not wait for it."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[AnyEngine] = loop.create_future()

        def on_loop(call: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process is exiting
                loop.call_soon_threadsafe(call, *arguments)

        def settle(engine: AnyEngine | None, error: Exception | None) -> None:
            self.loading = False
            if loaded.done():
                return
            if error is not None:
                loaded.set_exception(error)
            elif engine is not None:
                loaded.set_result(engine)

        def load() -> None:
            try:
                engine = self._runtime.load(lambda stage, percent: on_loop(self._replica.progress, stage, percent))
            except Exception as error:  # noqa: BLE001 - carried to the event loop, whatever it is
                on_loop(settle, None, error)
            else:
                on_loop(settle, engine, None)

        self.loading = True
        threading.Thread(target=load, name="load", daemon=True).start()
        return await loaded

    async def _engine_death(self) -> None:
        """Raise EngineDied when the engine has failed."""
        while self._replica.alive:  # noqa: ASYNC110 - an engine fails in a thread of its own, without an event loop to notify
            await asyncio.sleep(ENGINE_CHECK_SECONDS)
        await self._replica.idle(CUT_OFF_SECONDS)  # the engine ends each of its requests with an error
        raise EngineDied("the engine died while serving", hint="The log of this replica has the cause")

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        seconds = self._serving.drain_seconds
        deadline = loop.time() + seconds
        log.info("draining: %d requests are running; they have %.0f s to finish", self._replica.running, seconds)
        self._replica.drain()
        if self._reporter is not None and not await self._reporter.released(min(ACKNOWLEDGE_SECONDS, seconds)):
            log.warning("not every gateway has acknowledged; draining continues")
        self._replica.refuse()
        if not await self._replica.idle(deadline - loop.time()):
            log.warning("the grace period has ended: %d requests are cut off", self._replica.running)
            self._replica.cut_off(Draining("the replica had to stop before the answer was complete"))
            await self._replica.idle(CUT_OFF_SECONDS)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of the work, or None if a stop is requested first."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop_requested.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            if self._stop_requested.is_set():
                log.warning("interrupted again: exiting immediately")
                os._exit(INTERRUPTED)
            self._stop_requested.set()

        loop.add_signal_handler(signal.SIGTERM, self._stop_requested.set)
        loop.add_signal_handler(signal.SIGINT, interrupted)
