"""`headrace-nats` as a real process, and clients with the logins of each role."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client

from headrace import environment
from headrace.broker.config import RECONCILER, runtime_user
from headrace.broker.passwords import runtime_password
from headrace.broker.settings import GATEWAY_PASSWORD, RECONCILER_PASSWORD
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import AdmittedAnswer, AdmittedNamespaces

SECONDS = 20.0
KEY = "the key of every namespace"
SECRETS = {
    RECONCILER_PASSWORD: "secret-of-the-loop",
    GATEWAY_PASSWORD: "secret-of-the-gateway",
    environment.NATS_RUNTIME_KEY: KEY,
}


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_gone(pid: int) -> bool:
    """Whether it ended; whose child it became may not have reaped it yet."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()


@dataclass
class BrokerProcess:
    """One broker; it may be started again on the same volume and ports."""

    store: Path
    port: int = field(default_factory=free_port)
    monitoring_port: int = field(default_factory=free_port)
    before: str = ""
    """Python that runs in the process first."""

    def __post_init__(self) -> None:
        self.log = self.store.with_suffix(".log")
        self.termination = self.store.with_suffix(".termination")
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self, **variables: str) -> None:
        code = f"import sys\n{self.before}\nfrom headrace.broker.main import main\nsys.exit(main())"
        ports = ("--port", str(self.port), "--monitoring-port", str(self.monitoring_port))
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, *ports, "--store", str(self.store)),
                env={**os.environ, **SECRETS, environment.TERMINATION_MESSAGE_PATH: str(self.termination), **variables},
                stdout=output,
                stderr=output,
            )

    async def ready(self) -> None:
        await until(lambda: "ready; admitted" in self.log.read_text(), "the broker is ready")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    def children(self) -> list[int]:
        """Return the ids of its children, dead ones that nobody has collected among them."""
        assert self.process is not None
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def server_pid(self) -> int:
        """Return the id of its nats-server."""
        (pid,) = (pid for pid in self.children() if Path(f"/proc/{pid}/comm").read_text() == "nats-server\n")
        return pid

    def healthy(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitoring_port}/healthz") as answer:
            return bool(answer.status == 200)

    async def admit(self, *namespaces: str) -> AdmittedAnswer:
        """Name the set, as the operator does."""
        async with self.loop() as client:
            asked = AdmittedNamespaces(namespaces=namespaces)
            return AdmittedAnswer.decode((await client.request(subjects.ADMIT, asked.encode(), timeout=SECONDS)).data)

    @asynccontextmanager
    async def loop(self) -> AsyncIterator[Client]:
        """The reconcile loop's client."""
        async with asyncio.timeout(SECONDS):
            password = SECRETS[RECONCILER_PASSWORD]
            client = await connect(self.url, name="loop", user=RECONCILER, password=password)
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def runtime(self, namespace: str, *, key: str = KEY) -> AsyncIterator[Client]:
        """A client that logs in once as a runtime of the namespace. Raises nats.errors.Error when it may not."""
        client = await nats.connect(
            self.url,
            user=runtime_user(namespace),
            password=runtime_password(key, namespace),
            allow_reconnect=False,
            error_cb=_quietly,
        )
        try:
            yield client
        finally:
            await client.close()


async def _quietly(_: Exception) -> None:
    """What the tests look at is who is heard, not what a client is told."""
