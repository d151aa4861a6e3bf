"""uvicorn's exchange of one request and its answer, for two kinds of client that it does not know."""

from __future__ import annotations

from typing import Any

from typing_extensions import override
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class ExpectingCycle(RequestResponseCycle):
    """The client waits for `100 Continue` before it sends the body.

    One that gets another answer instead may send the body or not: what follows on the connection can be read in two
    ways, so it is closed.
    """

    def __init__(self, *, keep_alive: bool, **rest: Any) -> None:
        super().__init__(keep_alive=False, **rest)
        self.may_stay = keep_alive
        """Whether the connection is kept once the body was called for."""

    @override
    async def receive(self) -> ASGIReceiveEvent:
        if self.waiting_for_100_continue:
            self.keep_alive = self.may_stay
        return await super().receive()


class UnchunkedCycle(RequestResponseCycle):
    """The client speaks HTTP/1.0, which knows no chunks: an answer without a length ends with the connection."""

    @override
    async def send(self, message: ASGISendEvent) -> None:
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
