"""`headrace up`: starts and stops one local instance.

The start order, with parallel steps where possible; the stop order is the reverse:

    lock  →  NATS, and the gateway on its socket  →  local cluster, reconcile loop  →  API socket  →  files applied
          →  presence of the gateway  →  node agent, without waiting for it  →  instance.json

If a step fails, everything that was started is ended. Stopping is bounded: the gateway finishes its requests in flight,
then the pods end, NATS last. A second Ctrl-C kills all of them. If this process itself is killed, the kernel ends its
children, and the next start ends the rest (`headrace.local.leftovers`).
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
from headrace.local.node_agent import NodeAgent
from headrace.local.objects import Objects
from headrace.local.pods import MAX_LOG_BYTES, TRIM_SECONDS
from headrace.reconcile.world import Manifest, Settings

log = logging.getLogger(__name__)

GATEWAY_LOG = "gateway.log"
GATEWAY_START_SECONDS = 20.0
"""It takes half a second, and longer on a laptop that is busy with a model."""
ROUTES_SECONDS = 2.0
"""It takes milliseconds."""
PODS_GRACE_SECONDS = 20.0
"""No request is in flight on the pods by then: this bounds their clean-up."""
NATS_GRACE_SECONDS = 5.0
_STOPPING = f"running requests may finish, for {GRACE_SECONDS:.0f} s at most; Ctrl-C again to cut them off"

OnEvent = Callable[[str, str], None]
"""Called at each stage, with a detail for people."""


@dataclass(frozen=True, slots=True)
class InstanceOptions:
    """The options of `headrace up`."""

    home: InstanceHome
    manifests: tuple[Manifest, ...] = ()
    """Applied in this order."""
    host: str = "127.0.0.1"
    port: int | None = None
    """None: 8080, or the next free one."""
    allow_loopback_sources: bool = False
    """Whether models may be fetched from this machine's own loopback addresses."""


def run(options: InstanceOptions, on_event: OnEvent) -> int:
    """Run an instance until it is stopped; return the exit code.

    Raises CannotStart or SystemFault if it cannot start, and InvalidResource for an invalid manifest.
    """
    if sys.platform != "linux":
        raise CannotStart(
            f"local mode needs Linux, not {sys.platform}", hint="Use a Linux machine, a container, or WSL 2 on Windows"
        )
    home = options.home
    home.make()
    with home.locked(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(_Instance(options, on_event).run())
        except BaseExceptionGroup as group:
            error = _first(group)
            raise error from (group if error is not group else None)


class _Instance:
    """One life of an instance. The constructor makes its components; `run` starts them."""

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
        self._agent = NodeAgent(self._home)
        self._cluster = LocalCluster(
            self._home.state, self._home.logs / "pods", home=self._home.root, volumes=self._agent.volumes
        )
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

    async def run(self) -> int:
        """Start, wait for a request to stop, and stop; return the exit code."""
        self._handle_signals()
        async with asyncio.TaskGroup() as tasks:
            try:
                starting = tasks.create_task(self._start(tasks))
                await self._stop.wait()
                starting.cancel()
                await asyncio.wait((starting,))
                self._on_event("stopping", _STOPPING)
            finally:
                await self._shut_down()
        self._on_event("stopped", f"resources and models stay for the next `headrace up{self._home.option}`")
        return 0

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        self._home.record.unlink(missing_ok=True)  # of a killed instance
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
        gateway_present = await _presence(self._client)
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
        await self._wait_for_gateway(gateway_present)
        tasks.create_task(self._agent.run(self._report_agent))
        await self._wait_for_routes(self._loop)
        self._record.write(self._home)
        self._on_event("ready", self._endpoint)

    async def _shut_down(self) -> None:
        """Stop everything that was started."""
        with contextlib.suppress(OSError):
            self._home.record.unlink(missing_ok=True)
        self._listener.close()
        for task in self._own_tasks:
            task.cancel()  # from here on, nothing is started
        await self._gateway.stop(STOP_SECONDS)
        await self._cluster.stop(PODS_GRACE_SECONDS)
        await self._agent.stop()
        self._streams_end.set()
        self._api.stop()
        if self._client is not None:
            await self._client.close()
        await self._nats.supervised.stop(NATS_GRACE_SECONDS)
        with contextlib.suppress(OSError):  # the disk may be read-only now; the next start cleans up
            self._nats.close()
            Life.end(self._home)

    async def _wait_for_gateway(self, present: asyncio.Event) -> None:
        """Return when a gateway has published its presence. Raises CannotStart if it exits first."""
        waits = [asyncio.create_task(event.wait()) for event in (present, self._gateway.ended)]
        try:
            await asyncio.wait(waits, timeout=GATEWAY_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not present.is_set():
            what = (
                "exited at once" if self._gateway.ended.is_set() else f"did not start in {GATEWAY_START_SECONDS:.0f} s"
            )
            raise CannotStart(f"the gateway {what}", hint=f"See its log: {self._home.logs / GATEWAY_LOG}")

    async def _wait_for_routes(self, loop: ControlLoop) -> None:
        """Return when the routes of the applied resources are published, or after 2 s: a slow broker is no error."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUTES_SECONDS):
                await loop.settled()

    async def _trim_logs(self) -> None:
        """Truncate the platform's logs that are too long. Their processes append, so they continue at the beginning."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            for path in self._home.logs.glob("*.log"):
                with contextlib.suppress(OSError):  # it was removed
                    if path.stat().st_size > MAX_LOG_BYTES:
                        os.truncate(path, 0)

    def _admit(self, namespace: str) -> None:
        """Admit the runtimes of a namespace to NATS, by a login in a Secret as in a cluster, and to the node agent."""
        login = self._nats.admit(namespace)
        self._cluster.provide_secret(namespace, NATS_SECRET, {"user": login.user, "password": login.password})
        self._agent.admit(namespace)

    def _report_agent(self, cause: str) -> None:
        self._on_event("node agent", f"{cause}. Models run without it: they load their weights from files")

    def _settings(self) -> Settings:
        return Settings(
            gateway_url=self._endpoint,
            nats_url=self._nats.url,
            models_directory=str(self._home.models).replace("$", "$$"),  # in a template, `$$` is a dollar sign
            allow_loopback_sources=self._options.allow_loopback_sources,
            runs_images=False,
            node_agent=True,
            warm_processes=True,
        )

    def _reconnected(self) -> None:
        if self._loop is not None:
            self._loop.reconnected()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        """Request the stop; a second signal kills every process of this life."""
        if self._stop.is_set():
            self._on_event("stopping", "cutting off what still runs")
            end_processes(self._home)
        self._stop.set()


async def _presence(client: Client) -> asyncio.Event:
    """Return an event that is set when a gateway publishes its presence."""
    present = asyncio.Event()

    async def on_presence(msg: Msg) -> None:
        del msg
        present.set()

    await client.subscribe(subjects.ALL_PRESENCE, cb=on_presence)
    return present


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one of the explained errors: the others follow from it. The group of a bug stays whole."""
    explainable = errors.subgroup((HeadraceError, OSError))
    error: BaseException = explainable or errors
    while explainable is not None and isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return home_fault(error) if isinstance(error, OSError) else error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop  # noqa: PLC0415 - only where an instance runs

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
