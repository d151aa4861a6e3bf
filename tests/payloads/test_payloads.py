"""Payloads from senders to a receiver: the same calls whether they travel through shared memory or over TCP."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bus.bus_world import TRANSPORTS, Name
from payloads.payloads_world import node

from headrace.bus.errors import AckTimeout, BusClosed, PeerUnreachable
from headrace.bus.frames import ROUTER, Frame, Kind, weight_bits
from headrace.payloads import shared, stream
from headrace.payloads.address import Address
from headrace.payloads.connecting import connect
from headrace.payloads.errors import InvalidAddress
from headrace.payloads.payload import Payload, PayloadPath
from headrace.payloads.receiver import Receiver
from headrace.payloads.sender import Sender

SOON = 10.0
BYTES = 300_000
PATHS = list(PayloadPath)


@contextlib.contextmanager
def pair(
    folder: Path, path: PayloadPath, *, transport: Name = "unix", buffers: int = 2
) -> Iterator[tuple[Sender, Receiver]]:
    """A sender and a receiver that are connected by a path."""
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(node(folder, transport))[1] if path is PayloadPath.STORE else None
        receiver = stack.enter_context(Receiver(agent, transport=transport))
        sender = stack.enter_context(connect(receiver.address, agent, transport=transport, buffers=buffers))
        assert sender.path is path
        yield sender, receiver


def send(sender: Sender, content: bytes, value: int = 0) -> None:
    sender.prepare(len(content), timeout=SOON)[:] = content
    sender.send(Kind.UPDATE, value=value, timeout=SOON)


def send_and_wait(sender: Sender) -> None:
    """Over TCP, the first send after the receiver's end may succeed."""
    for _ in range(3):
        send(sender, b"x")
        sender.wait(SOON)


def take(receiver: Receiver) -> Payload:
    payload = receiver.receive(SOON)
    assert payload is not None
    return payload


@pytest.mark.parametrize("path", PATHS)
def test_payload_when_sent_then_content_and_value_arrive(tmp_path: Path, path: PayloadPath) -> None:
    with pair(tmp_path, path) as (sender, receiver):
        for number in range(1, 6):
            memory = sender.prepare(4 * BYTES)
            np.copyto(np.frombuffer(memory, np.float32), number)
            sender.send(Kind.PARTIAL, value=weight_bits(number / 2))
            with take(receiver) as payload:
                assert (payload.numpy(np.float32, (BYTES,)) == number).all()
                assert (payload.kind, payload.weight, payload.path) == (Kind.PARTIAL, number / 2, path)
                assert payload.memory.readonly
            sender.wait(SOON)
        for side in (sender, receiver):
            assert (side.counts.payloads[path], side.counts.bytes[path]) == (5, 20 * BYTES)
        assert receiver.receive(0) is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_payloads_when_sizes_vary_then_each_is_whole(tmp_path: Path, transport: Name) -> None:
    with pair(tmp_path, PayloadPath.STORE, transport=transport) as (sender, receiver):
        for number in range(40):
            content = bytes([number]) * (1 + number * 7919 % 50_000)
            send(sender, content, number)
            with take(receiver) as payload:
                assert (bytes(payload.memory), payload.value) == (content, number)


def test_buffers_when_reused_then_agent_is_not_called(tmp_path: Path) -> None:
    """The pages of a buffer are faulted once, and the agent has nothing to do for later payloads."""
    with node(tmp_path) as (world, agent), Receiver(agent) as receiver, connect(receiver.address, agent) as sender:
        for _ in range(10):
            send(sender, bytes(BYTES))
            take(receiver).release()
            sender.wait(SOON)
        counters = world.store.counters
        assert (counters.puts.total(), counters.hits.total()) == (1, 1)
        send(sender, bytes(2 * BYTES))
        take(receiver).release()
        assert (counters.puts.total(), counters.hits.total()) == (2, 2)


def test_payload_when_held_then_its_content_stays(tmp_path: Path) -> None:
    """Released out of order: the sender may only reuse memory without readers."""
    with pair(tmp_path, PayloadPath.STORE, buffers=3) as (sender, receiver):
        for number in range(3):
            send(sender, bytes([number]) * BYTES)
        first, second, third = (take(receiver) for _ in range(3))
        third.release()
        second.release()
        with pytest.raises(AckTimeout):
            sender.prepare(BYTES, timeout=0.05)
        assert bytes(first.memory) == bytes(BYTES)
        first.release()
        send(sender, b"9" * BYTES)
        assert bytes(take(receiver).memory) == b"9" * BYTES


@pytest.mark.parametrize("path", PATHS)
def test_wait_when_receiver_holds_payload_then_times_out(tmp_path: Path, path: PayloadPath) -> None:
    with pair(tmp_path, path) as (sender, receiver):
        send(sender, b"x")
        payload = take(receiver)
        with pytest.raises(AckTimeout):
            sender.wait(0.05)
        payload.release()
        payload.release()
        sender.wait(SOON)


@pytest.mark.parametrize("path", PATHS)
def test_memory_when_sent_then_not_writable_any_more(tmp_path: Path, path: PayloadPath) -> None:
    with pair(tmp_path, path) as (sender, receiver):
        memory = sender.prepare(8)
        memory[:] = bytes(8)
        sender.send()
        with pytest.raises(ValueError, match="released"):
            memory[:] = b"x" * 8
        assert bytes(take(receiver).memory) == bytes(8)


@pytest.mark.parametrize("path", PATHS)
def test_receiver_when_closed_then_sender_gets_an_error(tmp_path: Path, path: PayloadPath) -> None:
    with pair(tmp_path, path) as (sender, receiver):
        send(sender, b"x")
        take(receiver).release()
        sender.wait(SOON)
        receiver.close()
        with pytest.raises((PeerUnreachable, BusClosed)):
            send_and_wait(sender)


def test_paths_when_mixed_then_one_receiver_takes_both(tmp_path: Path) -> None:
    with node(tmp_path) as (_, agent), Receiver(agent) as receiver:
        with connect(receiver.address, agent) as near, connect(receiver.address, None) as far:
            assert (near.why_not, far.why_not) == (
                "",
                "this process has no node agent (HEADRACE_AGENT_SOCKET is not set)",
            )
            for _ in range(3):
                send(near, b"near")
                send(far, b"far")
            found = []
            for _ in range(6):
                with take(receiver) as payload:
                    found.append(bytes(payload.memory))
        assert sorted(found) == [b"far"] * 3 + [b"near"] * 3
        assert receiver.counts.payloads == {PayloadPath.STORE: 3, PayloadPath.TCP: 3}


def test_connect_when_memory_cannot_be_shared_then_states_why(tmp_path: Path) -> None:
    with node(tmp_path) as (_, agent), Receiver(agent) as receiver, Receiver(tmp_path / "none.sock") as other:
        assert "none.sock is unavailable" in other.why_not
        address = Address.parse(receiver.address)
        remote = Address(address.host, address.port, address.token, "0" * 36, address.endpoint)
        for to, ours, why in [
            (other.address, agent, "the receiver has no node agent"),
            (str(remote), agent, "the receiver is on another node"),
            (receiver.address, tmp_path / "none.sock", "none.sock is unavailable"),
        ]:
            with connect(to, ours) as sender:
                assert sender.path is PayloadPath.TCP
                assert why in sender.why_not


@pytest.mark.parametrize("text", ["", "host:1", f"{'0' * 32}@host:0", f"{'0' * 32}@host:99999", f"{'0' * 32}@h:1/x/1"])
def test_address_when_invalid_then_error_without_the_secret(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        connect(text, None)
    assert "0" * 32 not in str(caught.value)


def test_sender_when_killed_then_its_memory_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node(tmp_path) as (world, agent), Receiver(agent) as receiver:
        command = [sys.executable, "-c", SENDING, receiver.address, str(agent)]
        with subprocess.Popen(command) as process:
            payload = take(receiver)
            os.kill(process.pid, signal.SIGKILL)
        assert bytes(payload.memory) == b"x" * BYTES
        payload.release()
        del payload
        monkeypatch.setattr(shared, "MAPPED_SECONDS", 0)
        assert receiver.receive(0) is None
        with connect(receiver.address, agent) as sender:  # the memory that was held is room for this one
            sender.prepare(48 << 20)
        assert world.store.counters.evictions.total() == 1


SENDING = """
import sys, time
from pathlib import Path
from headrace.payloads.connecting import connect
sender = connect(sys.argv[1], Path(sys.argv[2]))
sender.prepare(300_000)[:] = b"x" * 300_000
sender.send()
time.sleep(60)
"""


def test_sender_when_closed_then_receiver_unmaps(tmp_path: Path) -> None:
    with node(tmp_path) as (_, agent), Receiver(agent) as receiver:
        with connect(receiver.address, agent) as sender:
            send(sender, bytes(BYTES))
            take(receiver).release()
        assert receiver.receive(0.1) is None
        assert "memfd:headrace" not in Path("/proc/self/maps").read_text()


def test_payload_when_object_is_absent_then_refused(tmp_path: Path) -> None:
    with pair(tmp_path, PayloadPath.STORE) as (sender, receiver):
        assert isinstance(sender, shared.SharedSender)
        endpoint, peer = sender._endpoint, sender._peer
        endpoint.send(peer, Kind.UPDATE, key=b"k" * 16, length=5)
        send(sender, b"whole")
        key = bytes.fromhex(sender._slots[0].buffer.key)
        endpoint.send(peer, Kind.UPDATE, key=key, offset=4, length=2)
        with take(receiver) as payload:
            assert bytes(payload.memory) == b"whole"
        assert receiver.receive(0) is None
        assert receiver.counts.refused == 2
        sender.wait(SOON)


def test_payload_when_too_large_then_sender_is_disconnected(tmp_path: Path) -> None:
    with Receiver(None, max_bytes=10) as receiver, connect(receiver.address, None) as sender:
        send(sender, b"x" * 11)
        assert receiver.receive(0.1) is None
        assert receiver.counts.refused == 1
        with pytest.raises(BusClosed):
            sender.wait(SOON)


def test_connection_when_token_is_wrong_then_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(None) as receiver:
        address = Address.parse(receiver.address)
        for hello in (Frame(Kind.HELLO, ROUTER, key=b"k" * 16), Frame(Kind.UPDATE, ROUTER, length=1)):
            with socket.create_connection((address.host, address.port)) as connected, caplog.at_level(logging.WARNING):
                connected.sendall(hello.encode())
                assert receiver.receive(0.1) is None
                assert connected.recv(1) == b""
        assert receiver.counts.refused == 2
        assert "has not the receiver's token" in caplog.text


def test_connection_when_it_stalls_then_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token, or in the middle of a payload; one that waits between payloads stays."""
    monkeypatch.setattr(stream, "STALL_SECONDS", 0.05)
    with Receiver(None) as receiver, connect(receiver.address, None) as idle:
        address = Address.parse(receiver.address)
        with socket.create_connection((address.host, address.port)) as silent, connect(receiver.address, None) as half:
            assert isinstance(half, stream.StreamSender)
            half._socket.sendall(Frame(Kind.UPDATE, ROUTER, seq=1, length=BYTES).encode() + b"x")
            assert receiver.receive(0.3) is None
            assert (silent.recv(1), half._socket.recv(1)) == (b"", b"")
        send(idle, b"x")
        take(receiver).release()
        idle.wait(SOON)
