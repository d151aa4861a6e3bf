"""Starting, asking and stopping servers and brokers, each bounded in time."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nats.aio.msg import Msg
from serving.serving_client import ask
from serving.serving_echo import EchoSettings
from settle import settle

from headrace import environment
from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected
from headrace.events.messages import Admission, Announcement, ReplicaState
from headrace.events.secret import token
from headrace.headers import REPLICA_TOKEN

DEADLINE_SECONDS = 60.0
"""The suite has more processes than cores."""
NAMESPACE, DEPLOYMENT, POD = "default", "echo", "echo-5d9c-x2x1z"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.01)


class HasUrl(Protocol):
    """Somebody's broker."""

    @property
    def url(self) -> str: ...


class Broker:
    """A real nats-server."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert binary is not None
        command = [binary, "-a", "127.0.0.1", "-p", str(self.port), *options]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class Server:
    """A server's process, its log and its address."""

    settings: EchoSettings
    directory: Path
    broker: HasUrl | None = None
    grace_seconds: float = 20.0
    pod: str = POD
    headers: dict[str, str] = field(default_factory=dict)
    """Of every request to it: a gateway's token, once one was heard of (`Gateway.opens`)."""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        variables = {
            **os.environ,
            environment.TERMINATION_MESSAGE_PATH: str(self.termination_path),
            environment.GRACE_SECONDS: str(self.grace_seconds),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        if self.broker is not None:
            variables |= {
                environment.NATS_URL: self.broker.url,
                environment.NAMESPACE: NAMESPACE,
                environment.MODEL_DEPLOYMENT: DEPLOYMENT,
                environment.REVISION: "5d9c",
                environment.POD_NAME: self.pod,
                environment.POD_IP: "127.0.0.1",
            }
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(self.settings.arguments(), env=variables, stdout=log, stderr=log)

    @property
    def termination_path(self) -> Path:
        return self.directory / "termination"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    async def get(self, path: str) -> int:
        """Return the status; 0 while nothing listens."""
        try:
            return (await ask(self.settings.port, "GET", path, headers=self.headers)).status
        except (OSError, asyncio.IncompleteReadError):
            return 0

    async def answers(self, path: str, status: int) -> None:
        async def condition() -> bool:
            return await self.get(path) == status

        await eventually(condition, f"{path} answers {status}\n{self.log}")

    async def ready(self) -> None:
        await self.answers("/health/ready", 200)

    async def exit_code(self) -> int:
        await until(lambda: self.process.poll() is not None, f"the server exits\n{self.log}")
        return self.process.returncode

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Gateway:
    """What a gateway says and hears on NATS."""

    def __init__(self, name: str = "gateway-1") -> None:
        self.name = name
        self.reports: list[Announcement] = []

    async def join(self, broker: Broker) -> None:
        self._client = await connect(broker.url, name=self.name)
        await self._client.subscribe(subjects.ALL_REPLICAS, cb=self._heard)
        await settle(self._client)

    async def solicit(self) -> None:
        await self._client.publish(subjects.SOLICIT)

    async def admit(self, state: ReplicaState, *, started: float | None = None) -> None:
        since = self.reports[-1].started if started is None else started
        admission = Admission(gateway=self.name, pod=POD, started=since, state=state)
        assert await publish_if_connected(self._client, subjects.admission(NAMESPACE, DEPLOYMENT, POD), admission)
        await settle(self._client)

    async def hears(self, state: ReplicaState, stage: str | None = None) -> Announcement:
        def heard() -> bool:
            return any(report.state is state and stage in (None, report.stage) for report in self.reports)

        await until(heard, f"a report {state} {stage or ''}, only {self.reports}")
        return self.reports[-1]

    def opens(self, server: Server) -> None:
        """From now on the server's requests are those of this gateway."""
        server.headers[REPLICA_TOKEN] = token(self.reports[-1].secret)

    async def leave(self) -> None:
        await self._client.close()

    async def _heard(self, msg: Msg) -> None:
        assert msg.subject == subjects.replica(NAMESPACE, DEPLOYMENT, POD)
        self.reports.append(Announcement.decode(msg.data))
