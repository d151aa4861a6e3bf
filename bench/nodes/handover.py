"""Workers that hand a payload from one process to another, which reads all of it and replies with its checksum.

`python -m nodes.handover send|receive TRANSPORT ADDRESS`. The payload of a socket or of gRPC is a finished array in
the sender's memory; writing it is not timed. `payload` is `headrace.payloads`: memory of one of the sender's buffers is
requested (timed), written (not timed), sent, read and released (timed); both sides keep it mapped, as receivers of
sockets keep their buffer. `store` makes a sealed object of each payload: memory is requested (timed), written (not
timed), sealed, announced on the bus, mapped and read (timed). `payload-copy` and `store-copy` are for an array that
exists already: one copy into shared memory is timed too.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.bus.frames import Kind
from headrace.payloads.connecting import connect
from headrace.payloads.receiver import Receiver
from headrace.store.client import Store
from headrace.store.keys import ObjectClass

from .processes import say

WORD = 8
CHUNK = 2 << 20
"""Bytes of one message of a gRPC stream."""
SECONDS = 60.0
METHODS = "headrace.bench.HandOver"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Bytes = Any


def checksum(content: Bytes) -> int:
    """Read all of the content."""
    return int(np.frombuffer(content, np.uint64).sum())


def payload(size: int, number: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return `size` bytes that differ from those of another number."""
    return np.full(size // WORD, number, np.uint64)


@dataclass(frozen=True, slots=True)
class Taken:
    """One hand-over as the sender measured it, seconds."""

    wall: float
    excluded_cpu: float
    """CPU time of writing the payload."""


class Sender(Protocol):
    """Hands payloads over."""

    def hand_over(self, size: int, number: int) -> Taken:
        """Hand over one payload and check the receiver's checksum."""


class CopyingSender:
    """Sends an existing array with `send`, which returns the receiver's checksum."""

    def __init__(self, send: Callable[[Bytes], int], *, as_bytes: bool = False) -> None:
        self._send, self._as_bytes = send, as_bytes

    def hand_over(self, size: int, number: int) -> Taken:
        """See `Sender`."""
        before = time.process_time()
        content: Bytes = payload(size, number)
        if self._as_bytes:
            content = content.tobytes()
        excluded = time.process_time() - before
        began = time.perf_counter()
        found = self._send(content)
        wall = time.perf_counter() - began
        assert found == _expected(size, number), (found, size, number)
        return Taken(wall, excluded)


@dataclass(slots=True)
class Writing:
    """Writes a payload into shared memory, or copies it from an array that exists already."""

    copies: bool
    pause: float = 0.0
    """Seconds that are not timed."""
    excluded_cpu: float = 0.0
    _source: np.ndarray[Any, np.dtype[np.uint64]] | None = None

    def begin(self, size: int, number: int) -> float:
        """Make the array; return the time from which on it is timed."""
        before = time.process_time()
        self._source = payload(size, number) if self.copies else None
        self.excluded_cpu, self.pause = time.process_time() - before, 0.0
        return time.perf_counter()

    def write(self, memory: memoryview, number: int) -> None:
        """Fill the memory."""
        if self._source is not None:
            memory[:] = self._source.view(np.uint8).data
            return
        began, before = time.perf_counter(), time.process_time()
        np.frombuffer(memory, np.uint64).fill(number)
        self.excluded_cpu += time.process_time() - before
        self.pause = time.perf_counter() - began


class PayloadSender:
    """Writes the payload into a shared buffer; the reply is a payload, too."""

    def __init__(self, path: Path, *, copies: bool) -> None:
        self._writing = Writing(copies)
        self._replies = Receiver(path)
        say(self._replies.address)
        self._sender = connect(bytes(self._reply()).decode(), path)

    def hand_over(self, size: int, number: int) -> Taken:
        """See `Sender`."""
        began = self._writing.begin(size, number)
        self._writing.write(self._sender.prepare(size), number)
        self._sender.send(Kind.UPDATE)
        reply = self._reply()
        wall = time.perf_counter() - began - self._writing.pause
        assert int.from_bytes(reply, "little") == _expected(size, number)
        return Taken(wall, self._writing.excluded_cpu)

    def _reply(self) -> bytes:
        payload = self._replies.receive(SECONDS)
        assert payload is not None
        with payload:
            return bytes(payload.memory)


def receive_payloads(path: Path, address: str) -> None:
    """Read every payload where it is."""
    with Receiver(path) as receiver, connect(address, path) as replies:
        own = receiver.address.encode()
        replies.prepare(len(own))[:] = own
        replies.send()
        while (payload := receiver.receive()) is not None:
            with payload:
                found = checksum(payload.memory)
            replies.prepare(WORD)[:] = found.to_bytes(WORD, "little")
            replies.send()


class StoreSender:
    """Writes the payload into the store."""

    def __init__(self, path: Path, *, copies: bool) -> None:
        self._store, self._writing = Store(path), Writing(copies)
        self._endpoint = join(AgentConnection(path), "unix")
        say(self._endpoint.id)
        hello = self._endpoint.receive(SECONDS)
        assert hello is not None
        self._peer = hello.src

    def hand_over(self, size: int, number: int) -> Taken:
        """See `Sender`."""
        began = self._writing.begin(size, number)
        with self._store.create(ObjectClass.UPDATES, size) as draft:
            self._writing.write(draft.memory, number)
            stored = draft.seal()
        self._endpoint.send(self._peer, Kind.UPDATE, key=bytes.fromhex(stored.key), length=size)
        reply = self._endpoint.receive(SECONDS)
        wall = time.perf_counter() - began - self._writing.pause
        assert reply is not None
        assert reply.length == _expected(size, number)
        self._endpoint.ack(reply)
        stored.close()
        self._store.delete(stored.key)
        return Taken(wall, self._writing.excluded_cpu)


def _expected(size: int, number: int) -> int:
    return size // WORD * number % 2**64


def receive_objects(path: Path, peer: int) -> None:
    """Map and read every object that is announced."""
    store = Store(path)
    with join(AgentConnection(path), "unix") as endpoint:
        endpoint.send(peer, Kind.REQ)
        while (frame := endpoint.receive()) is not None:
            with store.get(frame.key.hex()) as stored:
                found = checksum(stored.memory[: frame.length])
            endpoint.send(frame.src, Kind.REQ, length=found)
            endpoint.ack(frame)


def _socket_send(connected: socket.socket) -> Callable[[Bytes], int]:
    def send(content: Bytes) -> int:
        connected.sendall(content.nbytes.to_bytes(WORD, "little"))
        connected.sendall(memoryview(content).cast("B"))
        return int.from_bytes(connected.recv(WORD, socket.MSG_WAITALL), "little")

    return send


def receive_from_socket(connected: socket.socket) -> None:
    """Receive into one buffer, read it, reply."""
    buffer: memoryview = memoryview(b"")
    while head := connected.recv(WORD, socket.MSG_WAITALL):
        size = int.from_bytes(head, "little")
        if len(buffer) != size:
            buffer = np.zeros(size, np.uint8).data
        received = 0
        while received < size:
            received += connected.recv_into(buffer[received:])
        connected.sendall(checksum(buffer).to_bytes(WORD, "little"))


def _listen(kind: str, address: str) -> socket.socket:
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(1)
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    return listener


def _connect(kind: str, address: str) -> socket.socket:
    if kind == "unix":
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(address)
        return connected
    connected = socket.create_connection(("127.0.0.1", int(address)))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _grpc_send(name: str, address: str) -> Callable[[Bytes], int]:
    import grpc  # noqa: PLC0415 - the other transports' memory is measured without it

    channel = grpc.insecure_channel(f"127.0.0.1:{address}", options=UNLIMITED)
    if name == "grpc-unary":
        unary: Any = channel.unary_unary(f"/{METHODS}/unary")
        return lambda content: int.from_bytes(unary(content, wait_for_ready=True), "little")
    stream: Any = channel.stream_unary(f"/{METHODS}/stream")

    def chunks(content: bytes) -> Iterator[bytes]:
        return (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))

    return lambda content: int.from_bytes(stream(chunks(content), wait_for_ready=True), "little")


def receive_grpc() -> None:
    """Serve both methods until killed."""
    import grpc  # noqa: PLC0415 - as above

    def unary(content: bytes, _: object) -> bytes:
        return checksum(content).to_bytes(WORD, "little")

    def stream(chunks: Iterator[bytes], _: object) -> bytes:
        return (sum(map(checksum, chunks)) % 2**64).to_bytes(WORD, "little")

    handlers: dict[str, Any] = {
        "unary": grpc.unary_unary_rpc_method_handler(unary),
        "stream": grpc.stream_unary_rpc_method_handler(stream),
    }
    server = grpc.server(futures.ThreadPoolExecutor(2), options=UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHODS, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(port)
    server.wait_for_termination()


def receive(name: str, arguments: list[str]) -> None:
    """Run a receiver until it is killed."""
    if name.startswith("payload"):
        receive_payloads(Path(arguments[0]), arguments[1])
    elif name.startswith("store"):
        receive_objects(Path(arguments[0]), int(arguments[1]))
    elif name.startswith("grpc"):
        receive_grpc()
    else:
        with _listen(name, arguments[0]) as listener:
            say(0 if name == "unix" else listener.getsockname()[1])
            receive_from_socket(listener.accept()[0])


def sender(name: str, address: str) -> Sender:
    """Return the sender of a transport."""
    if name.startswith("payload"):
        return PayloadSender(Path(address), copies=name == "payload-copy")
    if name.startswith("store"):
        return StoreSender(Path(address), copies=name == "store-copy")
    if name.startswith("grpc"):
        return CopyingSender(_grpc_send(name, address), as_bytes=True)
    return CopyingSender(_socket_send(_connect(name, address)))


def main() -> None:
    """Run one side."""
    role, name, *arguments = sys.argv[1:]
    if role == "receive":
        with contextlib.suppress(KeyboardInterrupt):
            receive(name, arguments)
        return
    sending = sender(name, arguments[0])
    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        taken = sending.hand_over(request["size"], request["number"])
        say({"wall": taken.wall, "excluded_cpu": taken.excluded_cpu})


if __name__ == "__main__":
    main()
