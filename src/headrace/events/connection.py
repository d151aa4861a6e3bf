"""Connecting to NATS the way every component of ours does: forever, quickly, and never in anybody's way."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import nats
import nats.errors
from nats.aio.client import Client

from headrace.events.messages import Message

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.1
"""The broker is near, and held requests wait for its return; a refused connection costs nothing."""
CONNECT_SECONDS = 2
PENDING_BYTES = 1024 * 1024
"""Bound of what is buffered while the broker is away; messages carry state, so dropping old ones loses nothing."""


async def connect(
    url: str,
    *,
    name: str,
    user: str | None = None,
    password: str | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Return a client that is connected, or is trying to and will be for as long as it lives.

    `on_reconnect` runs after each return of the broker: what it holds of us may be old, so say it again.
    """

    async def disconnected() -> None:
        log.warning("NATS is away; reconnecting")

    async def reconnected() -> None:
        log.info("NATS is back")
        if on_reconnect is not None:
            await on_reconnect()

    async def failed(error: Exception) -> None:
        log.debug("NATS: %s", error or type(error).__name__)

    return await nats.connect(
        url,
        name=name,
        user=user,
        password=password,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_SECONDS,
        connect_timeout=CONNECT_SECONDS,
        pending_size=PENDING_BYTES,
        inbox_prefix=f"_INBOX_{name.replace('.', '-')}",
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
    )


async def publish(client: Client, subject: str, message: Message) -> bool:
    """Publish when the broker is there; return whether it was. Never raises for a broker that is away."""
    if not client.is_connected:
        return False
    try:
        await client.publish(subject, message.encode())
    except nats.errors.Error as error:
        log.debug("not published on %s: %s", subject, error or type(error).__name__)
        return False
    return True
