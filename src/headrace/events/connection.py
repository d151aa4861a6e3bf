"""NATS connections of all components: they reconnect forever, quickly, and never block their component.

An unavailable broker is normal: it is restarted, moved, upgraded. So a client reconnects until it is closed, and
messages published in the meantime are dropped: messages carry state, which is published again after the reconnection
(`on_reconnect`), and a buffer would first deliver outdated state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from typing_extensions import override

from headrace import environment
from headrace.errors import HeadraceError
from headrace.events import subjects
from headrace.events.messages import Message
from headrace.events.nats_library import PERMISSIONS_ERR, Client, errors

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.1
"""Short, because queued requests wait for the reconnection, and a refused connection costs little."""
CONNECT_SECONDS = 2
PING_SECONDS = 1
"""Interval of pings to the broker. After two pings without a response the client reconnects, so a broker that hangs or
whose machine failed is detected after 3 s (nats-py's default: 6 minutes). That is less than the shortest time to live
of a message, `subjects.GATEWAY_TTL_SECONDS`, so no sender expires because of the broker."""
PENDING_BYTES = 1024 * 1024
"""Limit of the data that waits for the socket while the broker is slow."""
FLUSH_SECONDS = 1.0
"""How long a publisher waits when that limit is reached."""


_REFUSAL = "authorization violation"
_ENDS_OF_REFUSALS = (ConnectionResetError, BrokenPipeError)
"""Errors of a refused login without an `-ERR` line: the broker closes the connection before it has read the PING."""


class LoginRefused(HeadraceError):
    """The broker rejects the user or password."""

    reason = "LoginRefused"


class _Refusals:
    """How long an available broker has refused a login; up to `seconds` are tolerated (None: no limit)."""

    def __init__(self, what: str, seconds: float | None) -> None:
        self._what = what
        self._seconds = seconds
        self._since: float | None = None

    def tolerate_all(self) -> None:
        """Remove the limit after the first accepted login, because later refusals are transient."""
        self._seconds = None

    def check(self, error: Exception) -> None:
        """Record why a connection failed. Raises LoginRefused if the login has been refused for too long."""
        now = time.monotonic()
        if _REFUSAL in str(error).lower():
            self._since = now if self._since is None else self._since
        elif isinstance(error, OSError) and not isinstance(error, _ENDS_OF_REFUSALS):  # unavailable
            self._since = None
        if self._seconds is not None and self._since is not None and now - self._since >= self._seconds:
            hint = f"It may have changed since this process read it: see the Secret {environment.NATS_SECRET}"
            raise LoginRefused(self._what, hint=hint)


class _PersistentClient(Client):
    """A client that reconnects after every error of the broker.

    nats-py closes a client permanently on most `-ERR` lines (credentials revoked, too many connections). All of these
    are transient: the broker receives its new configuration a moment later. So they are handled as a lost connection.
    """

    @override
    async def _process_err(self, err_msg: str) -> None:
        if PERMISSIONS_ERR in f"nats: {err_msg}":
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(errors.Error(f"nats: {err_msg}"))

    @override
    async def close(self) -> None:
        """Close the connection, even while it breaks.

        nats-py's reconnecting task and its `close` wait for the same future, and `close` cancels that task and so the
        future: while the broker is being killed, it raises CancelledError although its caller was not cancelled.
        """
        closing = asyncio.ensure_future(super().close())
        try:
            await asyncio.wait((closing,))
        finally:
            closing.cancel()
        if not closing.cancelled():
            closing.result()


async def connect(
    url: str,
    *,
    name: str,
    user: str | None = None,
    password: str | None = None,
    on_reconnect: Callable[[], None] | None = None,
    refused_seconds: float | None = None,
) -> Client:
    """Return a connected client; waits without a limit until the broker is available.

    With `refused_seconds`, LoginRefused is raised if an available broker has refused the login for that long.

    The client then reconnects until it is closed. `on_reconnect` is called after each reconnection, to publish state
    that the broker may have lost. Each change of the connection's state is logged once. The caller closes the client
    (`await client.close()`), which logs nothing.
    """
    client = _PersistentClient()
    arrived = waiting = False
    refusals = _Refusals(f"NATS at {url} refuses the login {user}", refused_seconds)

    async def disconnected() -> None:
        if not client.is_closed:
            log.warning("NATS at %s is disconnected; reconnecting", url)

    async def reconnected() -> None:
        log.info("NATS at %s is connected again", url)
        if on_reconnect is not None:
            on_reconnect()

    async def failed(error: Exception) -> None:
        nonlocal waiting
        refusals.check(error)
        if PERMISSIONS_ERR in str(error):
            log.error("NATS: %s", error)
        elif not (arrived or waiting):
            waiting = True
            problem = "refuses the login" if _REFUSAL in str(error).lower() else "is unavailable"
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
        raise_if_cancelled()
    except (asyncio.CancelledError, LoginRefused):
        await client.close()
        raise
    arrived = True
    refusals.tolerate_all()
    if waiting:
        log.info("NATS at %s is connected", url)
    return client


def raise_if_cancelled() -> None:
    """End the current task if it was cancelled. Every loop over calls of nats-py must call this in each iteration.

    nats-py uses `asyncio.wait_for`, which loses a cancellation that coincides with the result (Python before 3.12), and
    turns some others into a `TimeoutError`. Without this check the loop would continue, and its parent wait forever.

    Raises:
        asyncio.CancelledError: the task was cancelled, even if the original exception was lost.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def publish_if_connected(client: Client, subject: str, message: Message) -> bool:
    """Publish if the broker is available, and return whether it was. Never raises for an unavailable broker."""
    if not client.is_connected:
        return False
    try:
        await client.publish(subject, message.encode())
    except (errors.Error, OSError) as error:
        log.debug("not published on %s: %s", subject, error or type(error).__name__)
        return False
    return True
