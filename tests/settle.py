"""A barrier for what a NATS client has said."""

from __future__ import annotations

from nats.aio.client import Client


async def settle(client: Client) -> None:
    """Return when the broker has all that the client said.

    A client's flush writes its PING before what is still in its buffer, so one is no barrier; by the second it is out.
    """
    await client.flush()
    await client.flush()
