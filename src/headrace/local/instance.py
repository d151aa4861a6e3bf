"""`headrace up`: one local instance, from its first process to its last.

Started in this order, as much at once as can be, and stopped in the reverse:

    lock  →  NATS, and the gateway on its socket  →  local cluster, reconcile loop  →  API socket  →  files applied
          →  gateway heard  →  instance.json

Whatever fails on the way up ends what is up already. Stopping is bounded: the gateway finishes its running requests,
then the pods go, NATS last. A second Ctrl-C stops waiting and kills. If this process itself is killed, the kernel ends
its children, and the next start the rest (`headrace.local.leftovers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.control.loop import ControlLoop
from headrace.environment import NATS_SECRET
from headrace.errors import CannotStart, HeadraceError
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.local.api import Api
from headrace.local.api_server import ApiServer
from headrace.local.cluster import LocalCluster
from headrace.local.gateway_process import DEFAULT_PORT, GRACE_SECONDS, STOP_SECONDS, endpoint_of, gateway, listen
from headrace.local.home import InstanceHome, Record, home_fault
from headrace.local.leftovers import LIFE_VARIABLE, Life, end_processes
from headrace.local.nats_server import NatsServer
from headrace.local.objects import Objects
from headrace.local.pods import MAX_LOG_BYTES, TRIM_SECONDS
from headrace.reconcile.world import Manifest, Settings

log = logging.getLogger(__name__)

GATEWAY_LOG = "gateway.log"
GATEWAY_START_SECONDS = 20.0
"""It takes half a second; a laptop that is busy with a model takes more."""
ROUTES_SECONDS = 2.0
"""It takes milliseconds."""
PODS_GRACE_SECONDS = 20.0
"""Nothing is running on the pods by then: this bounds what they have to put away."""
NATS_GRACE_SECONDS = 5.0
_STOPPING = f"running requests may finish, for {GRACE_SECONDS:.0f} s at most; Ctrl-C again to cut them off"

OnEvent = Callable[[str, str], None]
"""Told of each stage as it is reached, with a detail for people."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """What `headrace up` is asked for."""

    home: InstanceHome
    manifests: tuple[Manifest, ...] = ()
    """Applied in this order."""
    host: str = "127.0.0.1"
    port: int | None = None
    """None: 8080, or the next free one."""
    allow_loopback_sources: bool = False
    """Whether models may be fetched from this machine's own loopback addresses."""


def run(options: InstanceOptions, on_event: OnEvent) -> int:
    """Run an instance until it is told to stop; return the exit code.

    Raises CannotStart or SystemFault when it can't come up, InvalidResource for a manifest that the cluster refuses.
    """
    if sys.platform != "linux":
        raise CannotStart(
            f"local mode needs Linux, not {sys.platform}", hint="Use a Linux machine, a container, or WSL 2 on Windows"
        )
    home = options.home
    home.make()
    with home.locked(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_Instance(options, on_event).live())
        except BaseExceptionGroup as group:
            error = _first(group)
            raise error from (group if error is not group else None)


class _Instance:
    """One life of an instance. Parts are made first, and none of them does anything before it is started."""

    def __init__(self, options: InstanceOptions, on_event: OnEvent) -> None:
        self._options = options
        self._home = options.home
        self._on_event = on_event
        self._stop = asyncio.Event()
        self._listener = listen(options.host, options.port)
        self._endpoint = endpoint_of(self._listener)
        self._nats = NatsServer(self._home)
        self._gateway = gateway(
            self._listener, self._home.gateway, self._home.logs / GATEWAY_LOG, self._nats.url, self._nats.gateway
        )
        self._cluster = LocalCluster(self._home.state, self._home.logs / "pods")
        self._objects = Objects(self._cluster, self._admit)
        self._record = Record(
            instance=self._home.name,
            pid=os.getpid(),
            version=version("headrace"),
            endpoint=self._endpoint,
            started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            home=str(self._home.directory),
        )
        self._streams_end = asyncio.Event()
        self._api = ApiServer(
            Api(self._objects, self._record, self._streams_end, self._stop.set).app(), self._home.socket
        )
        self._client: Client | None = None
        self._loop: ControlLoop | None = None
        self._own_tasks: list[asyncio.Task[None]] = []

    async def live(self) -> int:
        """Come up, wait to be told to stop, and go down; return the exit code."""
        self._handle_signals()
        async with asyncio.TaskGroup() as tasks:
            try:
                starting = tasks.create_task(self._come_up(tasks))
                await self._stop.wait()
                starting.cancel()
                await asyncio.wait((starting,))
                self._on_event("stopping", _STOPPING)
            finally:
                await self._go_down()
        self._on_event("stopped", f"resources and models stay for the next `headrace up{self._home.option}`")
        return 0

    async def _come_up(self, tasks: asyncio.TaskGroup) -> None:
        self._home.record.unlink(missing_ok=True)  # of a life that was killed
        ended = end_processes(self._home)
        if ended:
            noun = "process" if ended == 1 else "processes"
            self._on_event("clean-up", f"ended {ended} {noun} that a killed instance had left")
        port = self._listener.getsockname()[1]
        if self._options.port is None and port != DEFAULT_PORT:
            self._on_event(f"port {DEFAULT_PORT} is taken", f"using {port}")
        life = Life.mine()
        life.begin(self._home)
        os.environ[LIFE_VARIABLE] = life.id
        await self._nats.supervised.start()
        tasks.create_task(self._nats.supervised.run())
        await self._gateway.start()
        tasks.create_task(self._gateway.run())
        login = self._nats.reconciler
        self._client = await connect(
            self._nats.url, name="reconciler", user=login.user, password=login.password, on_reconnect=self._reconnected
        )
        gateway_heard = await _presence(self._client)
        await self._cluster.start()
        for namespace in self._objects.namespaces():
            self._admit(namespace)
        self._loop = ControlLoop(self._cluster, self._client, self._settings())
        self._own_tasks += [tasks.create_task(self._loop.run()), tasks.create_task(self._trim_logs())]
        listening = asyncio.Event()
        tasks.create_task(self._api.run(listening))
        await listening.wait()
        self._on_event("started", f"NATS, gateway and reconcile loop of the instance {self._home.name!r}")
        for manifest in self._options.manifests:
            self._objects.apply(manifest)
        await self._wait_for_gateway(gateway_heard)
        await self._wait_for_routes(self._loop)
        self._record.write(self._home)
        self._on_event("ready", self._endpoint)

    async def _go_down(self) -> None:
        """End everything that was started, as far as it was."""
        with contextlib.suppress(OSError):
            self._home.record.unlink(missing_ok=True)
        self._listener.close()
        for task in self._own_tasks:
            task.cancel()  # from here on nothing is started any more
        await self._gateway.stop(STOP_SECONDS)
        await self._cluster.stop(PODS_GRACE_SECONDS)
        self._streams_end.set()
        self._api.stop()
        if self._client is not None:
            await self._client.close()
        await self._nats.supervised.stop(NATS_GRACE_SECONDS)
        with contextlib.suppress(OSError):  # a disk that is read-only now; the next start tidies up
            self._nats.close()
            Life.end(self._home)

    async def _wait_for_gateway(self, heard: asyncio.Event) -> None:
        """Return when a gateway has written its presence. A gateway that ends while an instance starts is a fault."""
        waits = [asyncio.create_task(event.wait()) for event in (heard, self._gateway.ended)]
        try:
            await asyncio.wait(waits, timeout=GATEWAY_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not heard.is_set():
            what = "ended at once" if self._gateway.ended.is_set() else f"was not up in {GATEWAY_START_SECONDS:.0f} s"
            raise CannotStart(f"the gateway {what}", hint=f"Its log tells why: {self._home.logs / GATEWAY_LOG}")

    async def _wait_for_routes(self, loop: ControlLoop) -> None:
        """Return when the gateway can know what was applied; a broker that is slow does not keep the instance down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUTES_SECONDS):
                await loop.settled()

    async def _trim_logs(self) -> None:
        """Bound what the platform's own processes print. They append, so each goes on at the beginning of its file."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            for path in self._home.logs.glob("*.log"):
                with contextlib.suppress(OSError):  # somebody removed it
                    if path.stat().st_size > MAX_LOG_BYTES:
                        os.truncate(path, 0)

    def _admit(self, namespace: str) -> None:
        """Let the runtimes of a namespace log in to NATS: they find their login in a Secret, as in a cluster."""
        login = self._nats.admit(namespace)
        self._cluster.provide_secret(namespace, NATS_SECRET, {"user": login.user, "password": login.password})

    def _settings(self) -> Settings:
        return Settings(
            gateway_url=self._endpoint,
            nats_url=self._nats.url,
            models_directory=str(self._home.models).replace("$", "$$"),  # in a template, `$$` is a dollar sign
            allow_loopback_sources=self._options.allow_loopback_sources,
            runs_images=False,
        )

    def _reconnected(self) -> None:
        if self._loop is not None:
            self._loop.reconnected()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        """The first asks to stop; a second one while stopping ends every process of this life at once."""
        if self._stop.is_set():
            self._on_event("stopping", "cutting off what still runs")
            end_processes(self._home)
        self._stop.set()


async def _presence(client: Client) -> asyncio.Event:
    """Return an event that is set when a gateway renews its presence."""
    heard = asyncio.Event()

    async def on_presence(msg: Msg) -> None:
        del msg
        heard.set()

    await client.subscribe(subjects.ALL_PRESENCE, cb=on_presence)
    return heard


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one of the errors that can be explained: the others followed from it. A fault of ours stays whole."""
    explainable = errors.subgroup((HeadraceError, OSError))
    error: BaseException = explainable or errors
    while explainable is not None and isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return home_fault(error) if isinstance(error, OSError) else error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop  # noqa: PLC0415 - only where an instance runs

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
