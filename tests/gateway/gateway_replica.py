"""A replica as a test wants it: a raw server in the test's event loop, which answers, stalls, breaks off or lies."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg
from settle import settle

from headrace.events import subjects
from headrace.events.messages import Announcement, Load, ReplicaState
from headrace.events.secret import new_secret, proof
from headrace.headers import CHALLENGE, PROOF

DEADLINE_SECONDS = 20.0
NAMESPACE = "default"


@dataclass
class Received:
    """A request as a replica got it."""

    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def path(self) -> str:
        return self.head.split(" ", 2)[1]

    @property
    def headers(self) -> dict[str, str]:
        pairs = (line.partition(": ") for line in self.head.split("\r\n")[1:] if line)
        return {name.lower(): value for name, _, value in pairs}

    def say(self, raw: bytes) -> None:
        self.writer.write(raw)

    def answer(self, body: bytes, status: str = "200 OK", **headers: str) -> None:
        fields = {"content-type": "application/json", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.say(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)

    def start_stream(self) -> None:
        self.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    def event(self, data: str) -> None:
        self.chunk(f"data: {data}\n\n".encode())

    def chunk(self, piece: bytes) -> None:
        self.say(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end(self) -> None:
        self.say(b"0\r\n\r\n")

    def vanish(self) -> None:
        """As if the process was killed."""
        self.writer.transport.abort()

    async def client_gone(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert not await self.reader.read(1)
        except ConnectionError:
            return


Behaviour = Callable[[Received], Awaitable[None]]


async def echo(request: Received) -> None:
    """Answer with the request's body, or stream it word by word."""
    asked = json.loads(request.body)
    if asked.get("stream"):
        request.start_stream()
        for index in range(3):
            request.event(json.dumps({"index": index}))
        request.event("[DONE]")
        request.end()
    else:
        request.answer(request.body)


@dataclass
class Replica:
    """A server that announces itself; `behaviour` answers each inference request."""

    pod: str
    revision: str = "r1"
    name: str = "echo"
    namespace: str = NAMESPACE
    capacity: int = 8
    behaviour: Behaviour = echo
    ready: bool = True
    secret: str = field(default_factory=new_secret)
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    started: float = field(default_factory=time.time)
    port: int = 0

    async def start(self, client: Client | None) -> Replica:
        self._sequence = 0
        self._client = client
        self._state: ReplicaState | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        if client is not None:
            await client.subscribe(subjects.SOLICIT, cb=self._solicited)
        return self

    async def report(
        self, state: ReplicaState, stage: str = "", percent: int | None = None, load: Load | None = None
    ) -> None:
        self._state = state
        assert self._client is not None
        await self._client.publish(
            subjects.replica(self.namespace, self.name, self.pod), self.said(state, stage, percent, load).encode()
        )
        await settle(self._client)

    def said(
        self, state: ReplicaState, stage: str = "", percent: int | None = None, load: Load | None = None
    ) -> Announcement:
        """Return the next report."""
        self._sequence += 1
        return Announcement(
            secret=self.secret,
            pod=self.pod,
            revision=self.revision,
            host="127.0.0.1",
            port=self.port,
            started=self.started,
            sequence=self._sequence,
            state=state,
            stage=stage,
            percent=percent,
            capacity=self.capacity,
            load=load or Load(),
        )

    def proof(self, request: Received) -> dict[str, str]:
        """Return the header that proves to a gateway who this is."""
        proven = proof(self.secret, request.headers.get(CHALLENGE, ""), self.namespace, self.pod)
        return {} if proven is None else {PROOF: proven}

    async def be_ready(self) -> None:
        await self.report(ReplicaState.READY)

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        """As kill -9 does: nothing listens any more, and every connection is reset."""
        self._state = None
        self._server.close()
        self.drop_connections()

    async def _solicited(self, msg: Msg) -> None:
        del msg
        if self._state is not None:
            await self.report(self._state)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request = Received(head, b"", reader, writer)
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                if request.path == "/health/ready":
                    status = "200 OK" if self.ready else "503 Service Unavailable"
                    request.answer(b"Ready\n", status, **self.proof(request))
                else:
                    self.requests.append(request)
                    await self.behaviour(request)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()
