"""The writing half of a connection, with a time limit for clients that do not read."""

from __future__ import annotations

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

WRITE_SECONDS = 60.0
"""A client that reads nothing for so long is disconnected or malicious: unread bytes stay in memory until then."""


class WritingProtocol(HttpToolsProtocol):
    """uvicorn's protocol with back-pressure that a request can wait for (`blocked`)."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        write_seconds: float | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._write_seconds = write_seconds or WRITE_SECONDS
        self._write_timer: asyncio.TimerHandle | None = None
        self._taken: asyncio.Future[None] | None = None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport.is_closing():
            self._start_write_timer()  # the connection stays open until the rest is read
        elif self._write_timer is not None:
            self._write_timer.cancel()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    @override
    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def blocked(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the client has read what was written; None: more can be written now."""
        if not self.flow.write_paused:
            return None
        self._taken = self.loop.create_future()
        return self._taken

    def close(self) -> None:
        """Close the connection once the client has read what was written."""
        if not self.transport.is_closing():
            self.transport.close()
        self._start_write_timer()

    def abort(self) -> None:
        """Close the connection; written bytes that are not sent yet are lost."""
        self.transport.abort()

    def _start_write_timer(self) -> None:
        """Start or restart the timer in which the client must read some bytes."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        left = self.transport.get_write_buffer_size()
        self._write_timer = (
            self.loop.call_later(self._write_seconds, self._check_write_progress, left) if left else None
        )

    def _check_write_progress(self, before: int) -> None:
        if 0 < self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._start_write_timer()
