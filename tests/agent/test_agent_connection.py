"""Sessions of real clients with a real server: descriptors, errors, bounds, and the end of a session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.agent_world import ServerThread

from headrace.agent import messages
from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentError, AgentUnavailable, AgentVersionMismatch, InvalidMessage, TooManySessions
from headrace.errors import NoSpace
from headrace_node import server as node_server
from headrace_node.server import AgentServer, Reply, Session

CLOSED: list[int] = []


def register(server: AgentServer) -> None:
    async def echo(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        sent = tuple(map(os.dup, fds))
        return Reply({"tenant": session.tenant, "said": message.get("said")}, sent)

    async def hold(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        session.on_close.append(lambda: CLOSED.append(session.number))
        return Reply()

    async def full(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        raise NoSpace("the disk is full", hint="Free some")

    async def broken(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        raise ZeroDivisionError

    async def slow(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        await asyncio.Event().wait()
        return Reply()

    for handler in (echo, hold, full, broken, slow):
        server.verb(handler.__name__, handler)


@pytest.fixture
def world() -> Iterator[ServerThread]:
    CLOSED.clear()
    with ServerThread(register) as thread:
        yield thread


@pytest.fixture
def path(world: ServerThread, tmp_path: Path) -> Path:
    return world.listen(tmp_path / "agent.sock", "team-a", "pod-1")


def raw(path: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connected.settimeout(10)
    connected.connect(str(path))
    return connected


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def reply(connected: socket.socket) -> dict[str, Any]:
    received = messages.receive(connected)
    assert received is not None
    return received.body


def test_call_when_it_carries_descriptor_then_both_ends_have_it(path: Path) -> None:
    connection = AgentConnection(path)
    reading, writing = os.pipe()
    answer = connection.call("echo", {"said": "hi", "tenant": "team-b"}, [writing])
    assert answer.body == {"tenant": "team-a", "said": "hi"}
    os.close(writing)
    os.write(answer.fds[0], b"x")
    assert os.read(reading, 1) == b"x"
    messages.close_all([*answer.fds, reading])
    assert (connection.tenant, connection.label) == ("team-a", "pod-1")


def test_errors_when_reported_then_raised_as_their_class(path: Path) -> None:
    connection = AgentConnection(path)
    with pytest.raises(InvalidMessage, match="unknown verb"):
        connection.call("no-such-verb")
    with pytest.raises(AgentError, match=r"the disk is full\. Free some") as full:
        connection.call("full")
    assert full.value.reason == "NoSpace"
    with pytest.raises(AgentError, match="the node agent failed"):
        connection.call("broken")
    assert connection.call("echo").body["tenant"] == "team-a"


def test_batch_when_some_calls_fail_then_each_has_its_result(path: Path, world: ServerThread) -> None:
    """Descriptors belong to their calls; what a long reply had is closed."""

    async def opened(session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        reading, writing = os.pipe()
        os.write(writing, str(message["number"]).encode())
        os.close(writing)
        return Reply({"text": "x" * message.get("long", 0)}, (reading,))

    world.do(lambda: world.server.verb("opened", opened))
    before = descriptors()
    calls: list[dict[str, Any]] = [
        {"verb": "opened", "number": 1},
        {"verb": "full"},
        {"verb": "opened", "number": 2},
        {"verb": "none"},
    ]
    calls += [{"verb": "opened", "number": 3, "long": 5000}, {"verb": "opened", "number": 4}]
    connection = AgentConnection(path)
    results = connection.call_many(calls)
    found = [os.read(each.fds[0], 10) if isinstance(each, messages.Received) else each.reason for each in results]
    assert found == [b"1", "NoSpace", b"2", "InvalidMessage", "InvalidMessage", b"4"]
    for each in results:
        messages.close_all(each.fds if isinstance(each, messages.Received) else [])
    connection.close()
    while world.do(lambda: len(world.server.sessions)):
        pass
    assert descriptors() == before


@pytest.mark.parametrize("calls", [None, [{"verb": "echo"}] * 17, [{"verb": "batch", "calls": []}], ["echo"]])
def test_batch_when_invalid_then_refused(path: Path, calls: object) -> None:
    connection = AgentConnection(path)
    with pytest.raises(InvalidMessage, match="calls: not a list of at most 16 calls"):
        connection.call("batch", {"calls": calls})
    assert connection.call("echo").body["tenant"] == "team-a"


def test_connect_when_no_agent_then_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable, match=r"none\.sock is unavailable: No such file.*headrace-node"):
        AgentConnection(tmp_path / "none.sock")


def test_connect_when_other_version_then_error_names_both(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "VERSION", 7)
    with pytest.raises(AgentVersionMismatch, match="version 1 of its protocol, and this client version 7"):
        AgentConnection(path)


def test_calls_when_from_many_threads_then_each_has_its_reply(path: Path) -> None:
    connection, wrong = AgentConnection(path), list[int]()

    def work(number: int) -> None:
        wrong.extend(i for i in range(50) if connection.call("echo", {"said": [number, i]}).body["said"] != [number, i])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_session_when_client_hangs_up_then_hook_is_called(world: ServerThread, path: Path) -> None:
    connection = AgentConnection(path)
    connection.call("hold")
    connection.close()
    with AgentConnection(path) as other:
        while not CLOSED:
            other.call("echo")
    assert CLOSED == [1]


def test_connection_when_forked_then_only_parent_has_it(path: Path) -> None:
    connection = AgentConnection(path)
    child = os.fork()
    if child == 0:
        os._exit(0 if connection.closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert connection.call("echo").body["tenant"] == "team-a"


def test_connection_when_agent_ends_then_calls_say_so(tmp_path: Path) -> None:
    with ServerThread(register) as world:
        connection = AgentConnection(world.listen(tmp_path / "a.sock"))
    for _ in range(2):
        with pytest.raises(AgentUnavailable, match="closed"):
            connection.call("echo")
    assert connection.closed
    assert not (tmp_path / "a.sock").exists()


def test_call_when_no_reply_in_time_then_connection_is_closed(path: Path) -> None:
    connection = AgentConnection(path, reply_seconds=0.05)
    with pytest.raises(AgentUnavailable, match="timed out"):
        connection.call("slow")
    assert connection.closed


def test_socket_when_unlistened_then_its_sessions_end(world: ServerThread, path: Path) -> None:
    connection = AgentConnection(path)
    connection.call("hold")
    world.do(lambda: world.server.unlisten(path))
    with pytest.raises(AgentUnavailable):
        connection.call("echo")
    assert CLOSED == [1]


@pytest.mark.parametrize(
    "packet",
    [b"{", b"[]", b"[" * 60_000, b"\xff\xfe", b'{"verb": 1}' + b" " * messages.MESSAGE_BYTES, b'{"verb": "echo"}'],
    ids=["truncated", "no object", "nested", "no text", "too long", "no hello"],
)
def test_server_when_message_invalid_then_reports_and_closes(path: Path, packet: bytes) -> None:
    connected = raw(path)
    connected.send(packet)
    assert reply(connected)["error"]["reason"] == "InvalidMessage"
    assert messages.receive(connected) is None
    AgentConnection(path).close()


def test_server_when_too_many_descriptors_then_none_leaks(path: Path) -> None:
    with AgentConnection(path) as connection:
        before = len(list(Path("/proc/self/fd").iterdir()))
        connection.call("echo")
        connected = raw(path)
        connected.send(json.dumps({"verb": "hello", "version": messages.VERSION}).encode())
        assert "reply" in reply(connected)
        pipe = os.pipe()
        messages.send(connected, b'{"verb": "echo"}', [pipe[0]] * (messages.MESSAGE_FDS + 20))
        assert "file descriptors" in reply(connected)["error"]["message"]
        messages.close_all(pipe)
        assert messages.receive(connected) is None
        connected.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def lingering() -> socket.socket:
    """Return a socket whose last close would wait for an hour: its peer does not read what it has sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        PEERS.append(listener.accept()[0])
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(1 << 20))
    return sender


PEERS: list[socket.socket] = []


@pytest.mark.parametrize(
    ("packets", "before"),
    [([b'{"verb": "hold"}'], 0), ([b'{"verb": "hold"}'], 20), ([b"?", b""], 0), ([b"?", b"", b"", b"x"], 0)],
    ids=["received", "too many", "unread", "unread later"],
)
def test_server_when_descriptor_lingers_then_serves_others(
    world: ServerThread, path: Path, packets: list[bytes], before: int
) -> None:
    """Closing a client's descriptor must not block the agent, wherever it is closed."""
    with AgentConnection(path, reply_seconds=10) as other:
        connected, sent = raw(path), lingering()
        connected.send(json.dumps({"verb": "hello", "version": messages.VERSION}).encode())
        assert "reply" in reply(connected)
        all_sent = threading.Event()
        world.loop.call_soon_threadsafe(all_sent.wait)
        for packet in packets[:-1]:
            connected.send(packet)
        messages.send(connected, packets[-1], [0] * before + [sent.fileno()])
        sent.close()
        connected.close()
        all_sent.set()
        assert other.call("echo").body["tenant"] == "team-a"
        assert other.call("echo").body["tenant"] == "team-a"
    PEERS.pop().close()


def test_sessions_when_too_many_then_refused_and_others_go_on(
    world: ServerThread, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_server, "SESSIONS_PER_TENANT", 2)
    held = [AgentConnection(path) for _ in range(2)]
    with pytest.raises(TooManySessions, match="2 of team-a"):
        AgentConnection(path)
    other = AgentConnection(world.listen(tmp_path / "b.sock", "team-b"))
    assert [connection.call("echo").body["tenant"] for connection in [*held, other]] == ["team-a", "team-a", "team-b"]


def test_client_when_no_hello_in_time_then_disconnected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_server, "HELLO_SECONDS", 0.05)
    connected = raw(path)
    assert messages.receive(connected) is None
