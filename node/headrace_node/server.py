"""The agent's Unix sockets: sessions of clients, and the verbs that they may call.

Each socket is bound to a tenant by whoever created it; a client cannot name its own. Verbs are registered by the
parts of the agent (store, bus). A session handles one message at a time, so a client that does not read its replies
blocks itself alone, and what its session holds is freed by its `on_close` hooks when the connection ends, however the
client ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from headrace.agent import messages
from headrace.agent.errors import AgentVersionMismatch, InvalidMessage, TooManySessions
from headrace.agent.messages import BATCH, BATCH_CALLS, BATCH_REPLY_BYTES, HELLO, VERSION, Received
from headrace.errors import HeadraceError
from headrace.unix_socket import address_of

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""A client that has not sent `hello` by then is disconnected."""
SEND_SECONDS = 5.0
"""A client that does not read its reply for this long is disconnected."""
SESSIONS = 2048
"""Of all tenants together; each is one descriptor."""
SESSIONS_PER_TENANT = 256
_BACKLOG = 128
_PAUSE_SECONDS = 1.0
"""Without accepting, when the process has no descriptors left."""


@dataclass(slots=True, eq=False)
class Session:
    """One connection of a client."""

    number: int
    tenant: str
    label: str
    """What the socket is for, e.g. the pod's name; shown to operators."""
    pid: int
    """The client's process id in the agent's namespace; 0 if it is in another."""
    on_close: list[Callable[[], None]] = field(default_factory=list)
    """Called once in this order when the connection has ended; must not raise or block."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns: the fields of the reply, and descriptors, which the server closes after sending."""

    fields: dict[str, Any] = field(default_factory=dict)
    fds: tuple[int, ...] = ()


Handler = Callable[[Session, dict[str, Any], list[int]], Awaitable[Reply]]
"""Carries out a verb: `handler(session, message, fds)`.

Descriptors of the message that the handler leaves in `fds` are closed afterwards; those that it removes are its own.
A `HeadraceError` is reported to the client.
"""


class AgentServer:
    """Listens on sockets and runs sessions; use as an asynchronous context manager.

    At its end every session and every socket is closed.
    """

    def __init__(self) -> None:
        self.sessions: set[Session] = set()
        self._verbs: dict[str, Handler] = {BATCH: self._batch}
        self._listeners: dict[Path, socket.socket] = {}
        self._per_tenant: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._tasks: dict[asyncio.Task[None], Path] = {}

    async def __aenter__(self) -> Self:
        """Start with no socket."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all sockets and wait for the end of every session."""
        for path in list(self._listeners):
            self.unlisten(path)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def verb(self, name: str, handler: Handler) -> None:
        """Register the handler of a verb; each verb has one."""
        assert name not in self._verbs
        assert name != HELLO
        self._verbs[name] = handler

    def listen(self, path: Path, tenant: str, label: str, *, mode: int = 0o600) -> None:
        """Accept sessions of `tenant` at `path`, with permissions `mode`; replaces a socket file of a former process.

        Raises OSError.
        """
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with address_of(path) as address:
                listener.bind(address)
            path.chmod(mode)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listeners[path] = listener
        self._watch(path, tenant, label)

    def unlisten(self, path: Path) -> None:
        """Close a socket and its sessions, and remove its file; nothing if it is not open."""
        listener = self._listeners.pop(path, None)
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
        path.unlink(missing_ok=True)
        for task, owner in self._tasks.items():
            if owner == path:
                task.cancel()

    def _watch(self, path: Path, tenant: str, label: str) -> None:
        listener = self._listeners.get(path)
        if listener is not None:
            asyncio.get_running_loop().add_reader(listener, self._accept, path, listener, tenant, label)

    def _accept(self, path: Path, listener: socket.socket, tenant: str, label: str) -> None:
        try:
            connected, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptors left: the client waits in the backlog
            log.warning("cannot accept a client of %s for %s s: %s", label, _PAUSE_SECONDS, error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_PAUSE_SECONDS, self._watch, path, tenant, label)
            return
        connected.setblocking(False)
        if len(self.sessions) >= SESSIONS or self._per_tenant[tenant] >= SESSIONS_PER_TENANT:
            with contextlib.suppress(OSError):
                messages.send(connected, _report(_too_many(tenant)))
            messages.close_unread(connected)
            return
        session = Session(next(self._numbers), tenant, label, _peer_pid(connected))
        self._per_tenant[tenant] += 1
        self.sessions.add(session)
        task = asyncio.get_running_loop().create_task(self._run(connected, session))
        self._tasks[task] = path
        task.add_done_callback(self._tasks.pop)

    async def _run(self, connected: socket.socket, session: Session) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                greeted = await self._greet(connected, session)
            while greeted:
                received = await _receive(connected)
                if received is None:
                    return
                await self._handle(connected, session, received)
                await asyncio.sleep(0)  # a client that never pauses must not keep the others waiting
        except InvalidMessage as error:
            with contextlib.suppress(OSError):
                messages.send(connected, _report(error))
        except (OSError, TimeoutError) as error:
            log.info("session %d of %s ended: %s", session.number, session.label, str(error) or "timed out")
        finally:
            self._close(connected, session)

    def _close(self, connected: socket.socket, session: Session) -> None:
        messages.close_unread(connected)
        self.sessions.discard(session)
        self._per_tenant[session.tenant] -= 1
        for hook in session.on_close:
            hook()

    async def _greet(self, connected: socket.socket, session: Session) -> bool:
        received = await _receive(connected)
        if received is None:
            return False
        messages.close_all(received.fds)
        error = _refusal(received.body)
        if error is not None:
            await _send(connected, _report(error))
            return False
        await _send(connected, messages.encode({"reply": {"tenant": session.tenant, "label": session.label}}))
        return True

    async def _handle(self, connected: socket.socket, session: Session, received: Received) -> None:
        try:
            data, fds = await self._carry_out(session, received.body, received.fds)
        finally:
            messages.close_all(received.fds)
        try:
            await _send(connected, data, fds)
        finally:
            messages.close_all(fds)

    async def _carry_out(
        self, session: Session, body: dict[str, Any], fds: list[int], longest: int = messages.MESSAGE_BYTES
    ) -> tuple[bytes, tuple[int, ...]]:
        """Return the encoded reply or error, and the descriptors of the reply."""
        reply = Reply()
        try:
            reply = await self._verbs.get(str(body.get("verb")), _unknown)(session, body, fds)
            data = messages.encode({"reply": reply.fields}, longest)
        except HeadraceError as error:
            data = _report(error)
        except Exception:
            log.exception("the verb %s failed", body.get("verb"))
            data = _report(HeadraceError("the node agent failed", hint="See its log"))
        else:
            return data, reply.fds
        messages.close_all(reply.fds)
        return data, ()

    async def _batch(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        """Carry out several calls: see `messages.BATCH`."""
        calls = message.get("calls")
        if not isinstance(calls, list) or len(calls) > BATCH_CALLS or not all(map(_is_single_call, calls)):
            raise InvalidMessage(f"calls: not a list of at most {BATCH_CALLS} calls, of which none is a batch")
        results: list[dict[str, Any]] = []
        fds: list[int] = []
        try:
            for call in calls:
                data, found = await self._carry_out(session, call, [], BATCH_REPLY_BYTES)
                fds += found
                results.append({**json.loads(data), "fds": len(found)})
                await asyncio.sleep(0)  # as between messages
        except BaseException:
            messages.close_all(fds)
            raise
        return Reply({"results": results}, tuple(fds))


def _refusal(hello: dict[str, Any]) -> HeadraceError | None:
    version = hello.get("version")
    if hello.get("verb") != HELLO:
        return InvalidMessage(f"the first message of a session must be {HELLO!r}")
    if version != VERSION:
        return AgentVersionMismatch(
            f"the node agent has version {VERSION} of its protocol, and this client version {version!r:.20}",
            hint="Run the same release of headrace in the pod and in the node agent",
        )
    return None


def _is_single_call(call: object) -> bool:
    return isinstance(call, dict) and call.get("verb") != BATCH


async def _unknown(_: Session, message: dict[str, Any], fds: list[int]) -> Reply:
    del fds
    raise InvalidMessage(f"unknown verb {message.get('verb')!r:.40}")


def _too_many(tenant: str) -> TooManySessions:
    return TooManySessions(
        f"the node agent has {SESSIONS} sessions in all, or {SESSIONS_PER_TENANT} of {tenant}",
        hint="Use one connection per process",
    )


def _report(error: HeadraceError) -> bytes:
    return messages.encode({"error": {"reason": error.reason, "message": error.message, "hint": error.hint}})


async def _receive(connected: socket.socket) -> Received | None:
    while True:
        try:
            return messages.receive(connected)
        except BlockingIOError:
            await _wait(connected, writable=False)


async def _send(connected: socket.socket, data: bytes, fds: tuple[int, ...] = ()) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        while True:
            try:
                return messages.send(connected, data, fds)
            except BlockingIOError:
                await _wait(connected, writable=True)


async def _wait(connected: socket.socket, *, writable: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def resolve() -> None:
        if not ready.done():
            ready.set_result(None)

    if writable:
        loop.add_writer(connected, resolve)
    else:
        loop.add_reader(connected, resolve)
    try:
        await ready
    finally:
        (loop.remove_writer if writable else loop.remove_reader)(connected)


def _peer_pid(connected: socket.socket) -> int:
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid
