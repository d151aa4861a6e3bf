"""Workers for the body of a request between a gateway and a runtime: in HTTP, or in shared memory beside it.

`python -m nodes.payload serve AGENT_SOCKET` is a runtime: `headrace.http.server`, which reads the body, all of it, and
replies. `python -m nodes.payload send AGENT_SOCKET PORT RECEIVER` is a gateway: uvloop, one connection, a body that it
has received (bytes), which it copies into shared memory.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import uvloop
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from headrace.http.server import http_server, listen
from headrace.payloads.connecting import connect
from headrace.payloads.receiver import Receiver

from .handover import checksum
from .processes import say

SHARED = b"x-shared-body"
SECONDS = 10.0
WORD = 8
HEAD = "POST / HTTP/1.1\r\nhost: runtime\r\ncontent-type: application/octet-stream\r\n%scontent-length: %d\r\n\r\n"


async def serve(agent: Path) -> None:
    """Serve until killed."""
    receiver = Receiver(agent)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        if not any(name == SHARED for name, _ in scope["headers"]):
            found = checksum(b"".join(pieces))
        else:
            payload = receiver.receive(SECONDS)
            assert payload is not None
            with payload:
                found = checksum(payload.memory)
        body = found.to_bytes(WORD, "little")
        headers = [(b"content-length", str(WORD).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = listen("127.0.0.1", 0)
    say([listener.getsockname()[1], receiver.address])
    await http_server(cast("Any", app)).serve(sockets=[listener])


class Connection(asyncio.Protocol):
    """Sends one request at a time; responses have a body of one word."""

    def __init__(self) -> None:
        self._received = b""
        self._done: asyncio.Future[int]

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def request(self, head: str, body: bytes) -> int:
        """Return the checksum of the response."""
        self._done, self._received = asyncio.get_running_loop().create_future(), b""
        self._transport.write(head.encode() + body)
        return await self._done

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) == WORD:
            assert head.startswith(b"HTTP/1.1 200"), head
            self._done.set_result(int.from_bytes(body, "little"))


async def send(agent: Path, port: int, receiver: str) -> None:
    """Take the measurements: for each request of the driver, the seconds of each exchange."""
    sender = connect(receiver, agent)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    say("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        body = bytes(range(256)) * (asked["size"] // 256)
        seconds = []
        for _ in range(asked["repeats"]):
            began = time.perf_counter()
            if asked["by"] == "http":
                found = await connection.request(HEAD % ("", len(body)), body)
            else:
                sender.prepare(len(body))[:] = body
                sender.send()
                found = await connection.request(HEAD % (f"{SHARED.decode()}: 1\r\n", 0), b"")
            seconds.append(time.perf_counter() - began)
            assert found == checksum(body)
        say(seconds)


def main() -> None:
    """Run one side."""
    role, agent, *to = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(agent)) if role == "serve" else send(Path(agent), int(to[0]), to[1]))


if __name__ == "__main__":
    main()
