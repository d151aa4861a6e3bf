"""The world around a gateway: a real NATS server, somebody who writes routes as the loop does, and replicas.

The gateway itself is a real process on an inherited socket, as the supervisor starts it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.gateway_client import get
from gateway.gateway_replica import DEADLINE_SECONDS, NAMESPACE, Replica
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from headrace import environment
from headrace.broker.config import Credentials, Server, Users, render
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import Admission, Demand, ReplicaState
from headrace.routes import KeyGrant, RevisionWeight, Route, Unavailable
from headrace.routes.api_keys import FORM, entry_of


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.005)


def entry(key: str) -> str:
    """Return the name of a key's entry in the bucket. Raises ValueError for what has not the form of a key."""
    name = entry_of(key.encode())
    if name is None:
        raise ValueError(f"{key!r} has not the form {FORM}")
    return name


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Broker:
    """A real nats-server with JetStream, on one port for its whole life."""

    def __init__(self, directory: Path, users: Users | None = None) -> None:
        self.port = free_port()
        self.users = users
        """None: anybody may say anything."""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def start(self) -> None:
        binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert binary is not None
        command = [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._directory)]
        if self.users is not None:
            config = self._directory.with_suffix(".conf")
            log = self._directory.with_suffix(".log")
            config.write_text(render(Server("test", self.port, self._directory, log=log), self.users))
            command = [binary, "--config", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self, *, lose_everything: bool = False) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if lose_everything:
            shutil.rmtree(self._directory, ignore_errors=True)


class Loop:
    """Writes routes and keys as the reconcile loop does, and hears what gateways say."""

    def __init__(self, broker: Broker) -> None:
        self.demands: list[Demand] = []
        self.wanted: set[str] = set()
        """Names of models that somebody was said to wait for."""
        self.admissions: list[Admission] = []
        self.present: list[str] = []
        self._broker = broker
        self._buckets: dict[str, KeyValue] = {}

    async def start(self) -> None:
        users = self._broker.users
        me = users.reconciler if users is not None else Credentials("", "")
        self.client = await connect(self._broker.url, name="loop", user=me.user or None, password=me.password or None)
        await self.client.subscribe(subjects.ALL_DEMAND, cb=self._on_demand)
        await self.client.subscribe(subjects.ALL_ADMISSIONS, cb=self._on_admission)
        await self.client.subscribe(subjects.ALL_PRESENCE, cb=self._on_presence)
        await self.make_buckets()

    async def make_buckets(self) -> None:
        jetstream = self.client.jetstream()
        for bucket in (subjects.ROUTES_BUCKET, subjects.KEYS_BUCKET, subjects.GATEWAYS_BUCKET):
            self._buckets[bucket] = await jetstream.create_key_value(KeyValueConfig(bucket=bucket, history=1))

    async def stop(self) -> None:
        await self.client.close()

    async def route(
        self,
        name: str = "echo",
        namespace: str = NAMESPACE,
        *,
        weights: dict[str, int] | None = None,
        operations: tuple[str, ...] = (),
        unavailable: Unavailable | None = None,
        max_queued_requests: int = 1000,
        queue_timeout_seconds: int = 30,
        stage: str = "",
    ) -> None:
        revisions = tuple(
            RevisionWeight(revision=key, weight_percent=value, operations=operations)
            for key, value in (weights or {}).items()
        )
        route = Route(
            namespace=namespace,
            name=name,
            public_name=name,
            created=1,
            revisions=revisions,
            unavailable=unavailable,
            stage=stage,
            max_queued_requests=max_queued_requests,
            queue_timeout_seconds=queue_timeout_seconds,
        )
        await self.publish(route)

    async def publish(self, route: Route) -> None:
        await self._buckets[subjects.ROUTES_BUCKET].put(route.key, route.encode())

    async def remove_route(self, name: str = "echo", namespace: str = NAMESPACE) -> None:
        await self._buckets[subjects.ROUTES_BUCKET].delete(f"{namespace}.{name}")

    async def key(self, key: str, namespace: str = NAMESPACE, models: tuple[str, ...] = ()) -> None:
        grant = KeyGrant(namespace=namespace, name=f"key-of-{namespace}", models=models)
        await self._buckets[subjects.KEYS_BUCKET].put(entry(key), grant.encode())

    async def remove_key(self, key: str) -> None:
        await self._buckets[subjects.KEYS_BUCKET].delete(entry(key))

    async def hears_demand(self, queued: int, since: int = 0) -> Demand:
        await until(lambda: any(demand.queued == queued for demand in self.demands[since:]), f"demand {queued}")
        return next(demand for demand in self.demands[since:] if demand.queued == queued)

    async def hears_admission(self, pod: str, state: ReplicaState, since: int = 0) -> None:
        def heard() -> bool:
            return any(each.pod == pod and each.state is state for each in self.admissions[since:])

        await until(heard, f"{pod} acknowledged {state}, only {self.admissions[since:]}")

    async def _on_demand(self, msg: Msg) -> None:
        demand = Demand.decode(msg.data)
        self.demands.append(demand)
        if demand.queued:
            self.wanted.add(msg.subject.rpartition(".")[2])

    async def _on_admission(self, msg: Msg) -> None:
        self.admissions.append(Admission.decode(msg.data))

    async def _on_presence(self, msg: Msg) -> None:
        gateway = msg.subject.rpartition(".")[2]
        if msg.headers:
            self.present = [each for each in self.present if each != gateway]
        elif gateway not in self.present:
            self.present.append(gateway)


class Gateway:
    """The real process, on a socket that stays open between its lives."""

    def __init__(
        self,
        broker: Broker,
        directory: Path,
        *arguments: str,
        host: str = "127.0.0.1",
        log: int | None = None,
        program: tuple[str, ...] = ("-m", "headrace_gateway.main"),
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.listener = socket.create_server((host, 0), backlog=1024)
        self.port = int(self.listener.getsockname()[1])
        self.state = directory / "state"
        self._log = directory / "gateway.log"
        self._stderr = log
        """None: the file; the caller closes what it gives."""
        self._variables = dict(os.environ)
        if broker.users is not None:
            self._variables[environment.NATS_USER] = broker.users.gateway.user
            self._variables[environment.NATS_PASSWORD] = broker.users.gateway.password
        self._command = [
            *(sys.executable, *program, "--fd", str(self.listener.fileno())),
            *("--nats-url", broker.url, "--state-directory", str(self.state)),
            *("--anonymous-namespace", NAMESPACE, "--pod-networks", "127.0.0.0/8", *arguments),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=self._stderr or log,
                pass_fds=(self.listener.fileno(),),
                env=self._variables,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def ready(self) -> None:
        """Wait until it knows routes and keys."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (await get(self.port, "/readyz")).status != 200:
            assert time.monotonic() < deadline, self.log
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.exit_code()

    async def exit_code(self) -> int:
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, f"the gateway exits\n{self.log}")
        return int(process.returncode)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.listener.close()


@dataclass
class World:
    broker: Broker
    loop: Loop
    gateway: Gateway
    replicas: list[Replica] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.gateway.port

    async def replica(self, pod: str = "echo-1", *, announce: bool = True, **fields: object) -> Replica:
        """Start a replica; it is routed to when this returns."""
        replica = await Replica(pod, **fields).start(self.loop.client)  # type: ignore[arg-type]  # named where called
        self.replicas.append(replica)
        if announce:
            since = len(self.loop.admissions)
            await replica.be_ready()
            await self.loop.hears_admission(pod, ReplicaState.READY, since)
        return replica

    async def gateway_knows_route(self, name: str = "echo") -> None:
        """Wait until the gateway has it; without a key, as nobody needs one here."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while name not in (await get(self.port, "/v1/models")).body.decode():
                await asyncio.sleep(0.005)
