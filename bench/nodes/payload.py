"""Workers for the body of a request between a gateway and a runtime: in HTTP, or in the store with its key in a header.

`python -m nodes.payload serve AGENT_SOCKET` is a runtime: `headrace.http.server`, which reads the body, all of it, and
replies. `python -m nodes.payload send AGENT_SOCKET PORT` is a gateway: uvloop, one connection, a body that it has
received (bytes). Its calls of the store block its event loop, which a gateway would have to avoid at a further cost.
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
from headrace.store.client import Store
from headrace.store.keys import ObjectClass

from .handover import checksum
from .processes import say

KEY = b"x-object-key"
WORD = 8
HEAD = "POST / HTTP/1.1\r\nhost: runtime\r\ncontent-type: application/octet-stream\r\n%scontent-length: %d\r\n\r\n"


async def serve(agent: Path) -> None:
    """Serve until killed."""
    store = Store(agent)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        key = next((value for name, value in scope["headers"] if name == KEY), None)
        if key is None:
            found = checksum(b"".join(pieces))
        else:
            with store.get(key.decode()) as stored:
                found = checksum(stored.memory)
        body = found.to_bytes(WORD, "little")
        headers = [(b"content-length", str(WORD).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = listen("127.0.0.1", 0)
    say(listener.getsockname()[1])
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


async def send(agent: Path, port: int) -> None:
    """Take the measurements: for each request of the driver, the seconds of each exchange."""
    store = Store(agent)
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
                stored = store.put(ObjectClass.ASSETS, body)
                found = await connection.request(HEAD % (f"{KEY.decode()}: {stored.key}\r\n", 0), b"")
                stored.close()
                store.delete(stored.key)
            seconds.append(time.perf_counter() - began)
            assert found == checksum(body)
        say(seconds)


def main() -> None:
    """Run one side."""
    role, agent, *port = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(agent)) if role == "serve" else send(Path(agent), int(port[0])))


if __name__ == "__main__":
    main()
