"""Connecting to NATS the way every component of ours does: forever, quickly, and never in anybody's way.

A broker that is away is normal: it is restarted, moved, upgraded. So a client of ours waits for it for as long as it
lives, and whoever publishes meanwhile drops what it says: messages carry state, so what counts is said again at the
return (`on_reconnect`), and a buffer would only deliver yesterday's state first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.protocol.parser import PERMISSIONS_ERR
from typing_extensions import override

from headrace import environment
from headrace.errors import HeadraceError
from headrace.events import subjects
from headrace.events.messages import Message

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.1
"""The broker is near, and held requests wait for its return; a refused connection costs nothing."""
CONNECT_SECONDS = 2
PING_SECONDS = 1
"""How often the broker is asked whether it is there. Two unanswered pings: the connection is given up and made anew,
so a broker whose machine vanished, or that hangs, is missed after 3 s (nats-py's default: 6 minutes). That is before
anybody is taken for gone who could not be heard because of it: `subjects.GATEWAY_TTL_SECONDS` is the shortest time."""
PENDING_BYTES = 1024 * 1024
"""Bound of what waits for the socket while the broker is slow."""
FLUSH_SECONDS = 1.0
"""How long a publisher waits when that bound is reached."""


_REFUSAL = "authorization violation"
_ENDS_OF_REFUSALS = (ConnectionResetError, BrokenPipeError)
"""How a refusal's connection may end instead of by its `-ERR` line: the broker closes it with a PING of ours unread."""


class LoginRefused(HeadraceError):
    """The broker knows no such login."""

    reason = "LoginRefused"


class _Refusals:
    """How long a broker that is there has refused a login; `seconds` are borne (None: any number)."""

    def __init__(self, what: str, seconds: float | None) -> None:
        self._what = what
        self._seconds = seconds
        self._since: float | None = None

    def forgive(self) -> None:
        """The login was good once: from now on a refusal heals, as anything else does."""
        self._seconds = None

    def check(self, error: Exception) -> None:
        """Take in why a connection failed. Raises LoginRefused when the login was refused for too long."""
        now = time.monotonic()
        if _REFUSAL in str(error).lower():
            self._since = now if self._since is None else self._since
        elif isinstance(error, OSError) and not isinstance(error, _ENDS_OF_REFUSALS):  # it is not there
            self._since = None
        if self._seconds is not None and self._since is not None and now - self._since >= self._seconds:
            hint = f"It may have changed since this process read it: see the Secret {environment.NATS_SECRET}"
            raise LoginRefused(self._what, hint=hint)


class _PersistentClient(Client):
    """A client that no error of the broker closes for good.

    nats-py closes a client for ever on most `-ERR` lines (credentials revoked, too many connections). All of these
    heal: the broker gets its new configuration a moment later. So they are a lost connection like any other.
    """

    @override
    async def _process_err(self, err_msg: str) -> None:
        if PERMISSIONS_ERR in f"nats: {err_msg}":
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))


async def connect(
    url: str,
    *,
    name: str,
    user: str | None = None,
    password: str | None = None,
    on_reconnect: Callable[[], None] | None = None,
    refused_seconds: float | None = None,
) -> Client:
    """Return a connected client, however long the broker takes to appear; cancel to give up.

    With `refused_seconds`, LoginRefused is raised when the broker is there and has refused the login for so long.

    The client then reconnects for as long as it lives. `on_reconnect` is called after each return of the broker: what
    it knows of us may be old, so say it again. A change of the connection's state is logged once. Whoever connected
    closes it (`await client.close()`), which logs nothing.
    """
    client = _PersistentClient()
    arrived = waiting = False
    refusals = _Refusals(f"NATS at {url} refuses the login {user}", refused_seconds)

    async def disconnected() -> None:
        if not client.is_closed:
            log.warning("NATS at %s is away; reconnecting", url)

    async def reconnected() -> None:
        log.info("NATS at %s is back", url)
        if on_reconnect is not None:
            on_reconnect()

    async def failed(error: Exception) -> None:
        nonlocal waiting
        refusals.check(error)
        if PERMISSIONS_ERR in str(error):
            log.error("NATS: %s", error)
        elif not (arrived or waiting):
            waiting = True
            problem = "refuses the login" if _REFUSAL in str(error).lower() else "is not there"
            log.warning("NATS at %s %s (%s); waiting", url, problem, error or type(error).__name__)
        else:
            log.debug("NATS: %s", error or type(error).__name__)

    connecting = client.connect(
        url,
        name=name,
        user=user,
        password=password,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # annotated int, used as seconds in asyncio.sleep
        connect_timeout=CONNECT_SECONDS,
        ping_interval=PING_SECONDS,
        pending_size=PENDING_BYTES,
        inbox_prefix=subjects.inbox(user),
        flush_timeout=FLUSH_SECONDS,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
    )
    try:
        await connecting
        heed_cancellation()
    except (asyncio.CancelledError, LoginRefused):
        await client.close()
        raise
    arrived = True
    refusals.forgive()
    if waiting:
        log.info("NATS at %s is there", url)
    return client


def heed_cancellation() -> None:
    """End the current task if it was cancelled: every loop over calls of nats-py asks, once per round.

    nats-py waits by `asyncio.wait_for`, which loses a cancellation that meets the answer (Python before 3.12), and
    makes of some others a `TimeoutError`. The loop would then run on, and whoever cancelled it wait for ever.

    Raises:
        asyncio.CancelledError: the task was cancelled, whatever became of the exception that said so.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def publish_quietly(client: Client, subject: str, message: Message) -> bool:
    """Publish when the broker is there; return whether it was. Never raises for a broker that is away."""
    if not client.is_connected:
        return False
    try:
        await client.publish(subject, message.encode())
    except (nats.errors.Error, OSError) as error:
        log.debug("not published on %s: %s", subject, error or type(error).__name__)
        return False
    return True
