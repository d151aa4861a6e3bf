"""Bench of the gateway: added latency, throughput, and CPU time per chunk of a stream.

The gateway is pinned to one core; the load generator (raw uvloop protocols with prepared bytes, so that it is faster
than the gateway) and the replica share the others. Baseline: the same load without the gateway, in the same
run. Everything is on 127.0.0.1, with a real NATS server, routes from its bucket, and the access log enabled.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import uvloop
from bars import bar, environment, percentile, spread
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from typing_extensions import override

from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import Announcement, ReplicaState
from headrace.events.secret import new_secret, proof
from headrace.headers import CHALLENGE, PROOF
from headrace.routes import Route

BIN = Path(sys.executable).parent
GATEWAY_CORE = 0
CORES = sorted(os.sched_getaffinity(0))
LATENCY_REQUESTS = 2000
JSON_CONNECTIONS = 16
JSON_SECONDS = 3.0
STREAMS = 128
CHUNKS = 150
CHUNK_SECONDS = 0.02
"""50 chunks per second and stream, sent separately: joined chunks would lower the CPU time per chunk."""

ANSWER_BODY = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"content":"' + b"a" * 900 + b'"}}]}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(ANSWER_BODY),
    ANSWER_BODY,
)
READY = "HTTP/1.1 200 OK\r\n%s: %s\r\ncontent-length: 0\r\n\r\n"
POD = "bench-1"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


def request(body: bytes) -> bytes:
    """Return a request of one kilobyte with the headers of the openai SDK."""
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
        b"content-type: application/json\r\nuser-agent: AsyncOpenAI/Python\r\nauthorization: Bearer none\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


JSON_REQUEST = request(b'{"model":"bench","messages":[{"role":"user","content":"' + b"a" * 900 + b'"}]}')
STREAM_REQUEST = request(
    b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"' + b"a" * 900 + b'"}]}'
)


class Upstream(asyncio.Protocol):
    """A replica that responds at once, or streams at a fixed rate."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._received = b""

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"GET"):
            self._received = b""
            challenge = head.decode().partition(f"{CHALLENGE}: ")[2].partition("\r\n")[0]
            self._transport.write((READY % (PROOF, proof(self._secret, challenge, "default", POD) or "")).encode())
        elif body.endswith(b"}"):
            self._received = b""
            if b'"stream":true' in body[:64]:
                self._transport.write(STREAM_HEAD)
                self._chunk(CHUNKS, self._loop.time())
            else:
                self._transport.write(ANSWER)

    def _chunk(self, left: int, at: float) -> None:
        if self._transport.is_closing():
            return
        if not left:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(CHUNK)
        self._loop.call_at(at + CHUNK_SECONDS, self._chunk, left - 1, at + CHUNK_SECONDS)


class JsonClient(asyncio.Protocol):
    """Sends the next request when a response is complete, until `until` returns true."""

    def __init__(self, until: Callable[[int], bool]) -> None:
        self.latencies: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self._until = until
        self._missing = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._missing = -1
        self._at = time.perf_counter()
        self._transport.write(JSON_REQUEST)

    @override
    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            head, _, data = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            self._missing = len(ANSWER_BODY)
        self._missing -= len(data)
        if self._missing:
            return
        self.latencies.append(time.perf_counter() - self._at)
        if self._until(len(self.latencies)):
            self.done.set_result(None)
            self._transport.close()
        else:
            self._send()


class StreamClient(asyncio.Protocol):
    """Reads one stream to its end."""

    def __init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.events = 0
        self._tail = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(STREAM_REQUEST)

    @override
    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: ")
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n" and not self.done.done():
            self.done.set_result(None)
            self._transport.close()


async def request_json(port: int, connections: int, until: Callable[[int], bool]) -> list[float]:
    """Return the latencies of all requests."""
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: JsonClient(until), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*(client.done for client in clients))
    return [latency for client in clients for latency in client.latencies]


async def routed(port: int) -> None:
    """Wait until the gateway lists the model."""
    async with asyncio.timeout(10):
        listed = b""
        while b'"bench"' not in listed:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            listed = await reader.read()
            writer.close()


async def request_streams(port: int) -> int:
    """Read all streams at once; return the number of received events."""
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(StreamClient, "127.0.0.1", port))[1] for _ in range(STREAMS)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(client.done for client in clients))
    return sum(client.events for client in clients)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def publish_reports(client: Client, upstream_port: int, secret: str) -> None:
    """Write the route, and publish the replica's reports until cancelled."""
    jetstream = client.jetstream()
    for bucket in (subjects.ROUTES_BUCKET, subjects.KEYS_BUCKET):
        await jetstream.create_key_value(KeyValueConfig(bucket=bucket))
    route = Route(namespace="default", name="bench", public_name="bench")
    await (await jetstream.key_value(subjects.ROUTES_BUCKET)).put(route.key, route.encode())
    started, sequence = time.time(), 0
    while True:
        sequence += 1
        report = Announcement(
            secret=secret,
            pod=POD,
            revision="r1",
            host="127.0.0.1",
            port=upstream_port,
            started=started,
            sequence=sequence,
            state=ReplicaState.READY,
            capacity=4 * STREAMS,
        )
        await client.publish(subjects.replica("default", "bench", report.pod), report.encode())
        await asyncio.sleep(1)


async def measure(gateway_port: int, gateway_pid: int, upstream_port: int) -> None:
    """Run the three measurements and print the bars."""
    await routed(gateway_port)
    await request_json(gateway_port, 1, lambda count: count >= 100)  # queued until the gateway routes to the replica

    direct = await request_json(upstream_port, 1, lambda count: count >= LATENCY_REQUESTS)
    through = await request_json(gateway_port, 1, lambda count: count >= LATENCY_REQUESTS)
    spread("direct, 1 connection", [1000 * each for each in direct], "ms")
    spread("gateway, 1 connection", [1000 * each for each in through], "ms")

    began, used = time.perf_counter(), cpu_seconds(gateway_pid)
    stop_at = began + JSON_SECONDS
    latencies = await request_json(gateway_port, JSON_CONNECTIONS, lambda _: time.perf_counter() >= stop_at)
    rate = len(latencies) / (time.perf_counter() - began)
    used = cpu_seconds(gateway_pid) - used
    print(
        f"gateway, {JSON_CONNECTIONS} connections: {rate:.0f} requests/s, p99 {1000 * percentile(latencies, 99):.2f} ms"
    )
    print(
        f"gateway: {1e6 * used / len(latencies):.1f} us of CPU per request, {len(latencies) / used:.0f} per CPU second"
    )

    used = cpu_seconds(gateway_pid)
    events = await request_streams(gateway_port)
    used = cpu_seconds(gateway_pid) - used
    assert events == STREAMS * CHUNKS, f"received {events} of {STREAMS * CHUNKS} events"

    bar("gateway_added_p50", 1000 * (statistics.median(through) - statistics.median(direct)), 0.3, "ms")
    bar("gateway_json_rate", rate, 10_000, "/s", at_least=True)
    bar("gateway_chunk_cpu", 1e6 * used / events, 40, "us")


async def run() -> None:
    """Start the processes, measure, and stop them."""
    environment()
    os.sched_setaffinity(0, set(CORES[1:]) or set(CORES))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nats_port = free_port()
        start(stack, [BIN / "nats-server", "-a", "127.0.0.1", "-p", nats_port, "-js", "-sd", directory / "nats"])
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        nats_url = f"nats://127.0.0.1:{nats_port}"
        gateway = start(
            stack,
            [
                *(BIN / "headrace-gateway", "--fd", listener.fileno(), "--nats-url", nats_url),
                *("--anonymous-namespace", "default", "--pod-networks", "127.0.0.0/8"),
                *("--state-directory", directory / "state"),
            ],
            listener.fileno(),
        )
        os.sched_setaffinity(gateway.pid, {CORES[GATEWAY_CORE]})
        upstream_port, secret = free_port(), new_secret()
        start(stack, [sys.executable, __file__, "upstream", upstream_port, secret])
        client = await connect(nats_url, name="bench")
        reporting = asyncio.create_task(publish_reports(client, upstream_port, secret))
        try:
            await measure(listener.getsockname()[1], gateway.pid, upstream_port)
        finally:
            reporting.cancel()
            await client.close()


def start(stack: ExitStack, command: list[object], *pass_fds: int) -> subprocess.Popen[bytes]:
    """Start a process that is killed when the stack is closed."""
    process = subprocess.Popen(list(map(str, command)), pass_fds=pass_fds, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def free_port() -> int:
    """Return an unused port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def serve_upstream(port: int, secret: str) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(secret), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Measure, or (with `upstream PORT SECRET`) run the replica."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_upstream(int(sys.argv[2]), sys.argv[3]) if sys.argv[1:2] == ["upstream"] else run())


if __name__ == "__main__":
    main()
