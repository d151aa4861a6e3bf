"""The access log: one line per request, who and what and how long; never a prompt, never a key.

Lines are collected and written a few times a second: at ten thousand requests a second, a write for each would cost
more than the request. What an exit in full flight can lose is the last tenth of a second.
"""

from __future__ import annotations

import asyncio
from typing import TextIO

FLUSH_SECONDS = 0.1
MAX_LINES = 10_000
"""Of one flush; a disk or pipe that is slower than that loses lines, and says how many."""


class AccessLog:
    """Writes to one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, line: str) -> None:
        """Add a line."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what was collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dropped:
            self._lines.append(f"access log: {self._dropped} lines were dropped")
        if not self._lines:
            return
        text, self._lines, self._dropped = "\n".join([*self._lines, ""]), [], 0
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._dropped += text.count("\n")
