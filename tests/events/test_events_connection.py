"""Against a real nats-server that comes, goes, and changes its mind about who may log in."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.events.connection import LoginRefused, connect, publish_if_connected, raise_if_cancelled
from headrace.events.messages import FetchProgress

MESSAGE = FetchProgress(uri="https://example.org/model", received_bytes=1)
SUBJECT = "headrace.progress.default.model"
DEADLINE_SECONDS = 10.0


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.01)


class Server:
    """A nats-server with one user."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        self._configuration = directory / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.password("secret")

    def password(self, password: str) -> None:
        users = f'[{{user: "runtime", password: "{password}", permissions: {{publish: "headrace.>"}}}}]'
        self._configuration.write_text(f"listen: 127.0.0.1:{self.port}\nauthorization: {{users: {users}}}\n")
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert binary is not None
        self._process = subprocess.Popen([binary, "-c", str(self._configuration)], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


async def connected(server: Server, on_reconnect: Callable[[], None] | None = None) -> Client:
    return await connect(server.url, name="test", user="runtime", password="secret", on_reconnect=on_reconnect)


async def test_connect_when_the_server_is_away_then_waits_for_it(server: Server) -> None:
    connecting = asyncio.create_task(connected(server))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(connecting), 0.3)

    server.start()
    client = await asyncio.wait_for(connecting, DEADLINE_SECONDS)

    assert client.is_connected
    await client.close()


async def test_connect_when_login_is_refused_for_long_then_it_says_so(server: Server) -> None:
    server.password("changed")
    server.start()
    with pytest.raises(LoginRefused, match=r"refuses the login runtime\. .*headrace-nats"):
        await connect(server.url, name="test", user="runtime", password="secret", refused_seconds=0.3)


async def test_connect_when_refusals_end_by_reset_then_time_is_counted() -> None:
    """nats-server closes a refused connection while the client's PING may be unread: that resets it."""
    refusals = itertools.count()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"auth_required": true, "max_payload": 1048576}\r\n')
        await reader.readline()
        if next(refusals) % 2:
            reset = struct.pack("ii", 1, 0)  # linger on, for 0 s: close sends RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
        else:
            writer.write(b"-ERR 'Authorization Violation'\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as broker:
        port = broker.sockets[0].getsockname()[1]
        connecting = connect(f"nats://127.0.0.1:{port}", name="test", user="runtime", refused_seconds=0.5)
        with pytest.raises(LoginRefused):
            await asyncio.wait_for(connecting, DEADLINE_SECONDS)
    assert next(refusals) > 2


async def test_connect_when_the_login_is_known_later_then_it_connects(server: Server) -> None:
    server.password("not yet")
    server.start()
    connecting = asyncio.create_task(
        connect(server.url, name="test", user="runtime", password="secret", refused_seconds=60)
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(connecting), 0.3)
    server.password("secret")
    client = await asyncio.wait_for(connecting, DEADLINE_SECONDS)
    assert client.is_connected
    await client.close()


async def test_connect_when_it_is_cancelled_then_it_gives_up(server: Server) -> None:
    connecting = asyncio.create_task(connected(server))
    await asyncio.sleep(0)
    connecting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_client_when_server_returns_then_reconnects_and_logs_it(server: Server) -> None:
    server.start()
    returns: list[float] = []
    client = await connected(server, lambda: returns.append(time.monotonic()))

    server.kill()
    await until(lambda: not client.is_connected, "the loss is seen")
    server.start()
    await until(lambda: bool(returns), "the return is told")

    assert client.is_connected
    await client.close()


async def test_publish_when_the_server_is_unavailable_then_dropped(server: Server) -> None:
    """It is not delivered late."""
    server.start()
    client = await connected(server)
    heard: list[bytes] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)

    await client.subscribe(SUBJECT, cb=hear)
    server.kill()
    await until(lambda: not client.is_connected, "the loss is seen")
    assert not await publish_if_connected(client, SUBJECT, MESSAGE)
    server.start()
    await until(lambda: client.is_connected, "the return")

    assert await publish_if_connected(client, SUBJECT, FetchProgress(uri="later", received_bytes=2))
    await until(lambda: bool(heard), "a message")
    assert [FetchProgress.decode(data).uri for data in heard] == ["later"]
    await client.close()


async def test_client_when_its_login_revoked_for_while_then_reconnects(server: Server) -> None:
    server.start()
    client = await connected(server)

    server.password("changed")
    await until(lambda: not client.is_connected, "the revocation is seen")
    server.password("secret")

    await until(lambda: client.is_connected, "the return")
    assert not client.is_closed
    await client.close()


async def test_publish_when_not_permitted_then_logged_and_client_stays(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    client = await connected(server)

    await publish_if_connected(client, "elsewhere", MESSAGE)

    await until(lambda: "permissions violation" in caplog.text, "the refusal is logged")
    assert client.is_connected
    await client.close()


async def test_log_when_state_changes_then_one_line_and_none_on_close(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace.events.connection")
    connecting = asyncio.create_task(connected(server))
    await until(lambda: "waiting" in caplog.text, "the waiting")
    server.start()
    client = await connecting
    server.kill()
    await until(lambda: not client.is_connected, "the loss is seen")
    server.start()
    await until(lambda: "is connected again" in caplog.text, "the reconnection")
    await client.close()

    words = [record.getMessage().removeprefix(f"NATS at {server.url} ") for record in caplog.records]
    expected = ["is unavailable", "is connected", "is disconnected; reconnecting", "is connected again"]
    assert [word.split(" (")[0] for word in words] == expected


async def test_cancellation_when_it_meets_the_answer_then_task_ends() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask_forever() -> None:
        while True:
            raise_if_cancelled()
            await asyncio.wait_for(answer, 5)  # loses a cancellation that meets the answer, before Python 3.12
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask_forever())
    await asyncio.sleep(0)
    answer.set_result(None)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=5)
    assert done
    assert asking.cancelled()


async def test_close_when_reconnecting_then_caller_is_not_cancelled(server: Server) -> None:
    """`close` of nats-py cancels its reconnecting task, and with it the future that both wait for."""
    server.start()
    client = await connected(server)
    transport = client._transport
    assert transport is not None
    closed = transport.wait_closed()  # type: ignore[no-untyped-call]  # nats-py does not annotate it
    client._reconnection_task = asyncio.create_task(closed)
    await asyncio.sleep(0)

    await client.close()

    assert client.is_closed
