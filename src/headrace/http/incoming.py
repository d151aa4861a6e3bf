"""The body of one request: bounded in size and time, read completely before it is used."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from headrace.http.bodies import BODY_SECONDS, MAX_DISCARDED_BYTES, check_encoding, too_large, without_bom
from headrace.http.errors import BodyTooSlow, ClientGone
from headrace.http.protocol import CLIENT, HttpProtocol


class IncomingBody:
    """The body of one request. `received_bytes` counts also those of a rejected one."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.received_bytes = 0
        self._client: HttpProtocol | None = scope.get(CLIENT)
        self._receive = receive

    async def read(self, limit: int, *, encoding: bytes, declared_bytes: int | None) -> bytes:
        """Return the whole body. Raises UnsupportedContentEncoding, BodyTooLarge, BodyTooSlow, ClientGone.

        A body that is too large is read on for a while and discarded: a client that is still sending when its
        connection is closed gets a reset instead of the error.
        """
        check_encoding(encoding)
        if declared_bytes is not None and declared_bytes > max(limit, MAX_DISCARDED_BYTES):
            raise too_large(limit)
        body = self._client.arrived_body() if self._client is not None else None
        if body is None:
            body = await self._receive_all(limit)
        else:
            self.received_bytes = len(body)
        if self.received_bytes > limit:
            raise too_large(limit)
        return without_bom(body)

    async def _receive_all(self, limit: int) -> bytes:
        """Receive the body. Of one that is too large only the size is counted."""
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and self.received_bytes <= max(limit, MAX_DISCARDED_BYTES):
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    self.received_bytes += len(message["body"])
                    if self.received_bytes <= limit:
                        body += message["body"]
                    more = message["more_body"]
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
        return bytes(body)
