"""Restarts the platform's own processes (NATS, the gateway) whenever they exit.

The restart is immediate, except for a process that exits repeatedly: from the third exit within ten seconds on, the
delay grows by one second each time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable

from headrace.errors import CannotStart
from headrace.process import Process

log = logging.getLogger(__name__)

CRASHES = 3
CRASH_WINDOW_SECONDS = 10.0
BACKOFF_STEP_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 5.0


class Supervised:
    """A program that should always run. `start` starts it and returns when it is ready."""

    def __init__(self, name: str, start: Callable[[], Awaitable[Process]]) -> None:
        self.name = name
        self._start = start
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self.ended = asyncio.Event()
        """Set at the first exit, which is an error while an instance starts."""
        self._exits: collections.deque[float] = collections.deque(maxlen=CRASHES + int(LONGEST_BACKOFF_SECONDS))

    @property
    def pid(self) -> int | None:
        """The id of the running process; None during a restart."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it for the first time. Raises what `start` raises: a failure now is not retried."""
        self._process = await self._start()

    async def run(self) -> None:
        """Restart it whenever it exits, until `stop`."""
        while self._process is not None:
            code = await self._process.wait()
            self._process = None
            self.ended.set()
            if self._stopping.is_set():
                return
            self._exits.append(time.monotonic())
            log.warning("%s exited with code %s; restarting it", self.name, code)
            while self._process is None and not await self._stopped_during(self.backoff_seconds(time.monotonic())):
                await self._start_again()
            if self._stopping.is_set():
                self.signal(signal.SIGKILL)  # `stop` was called during the start

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self._process is not None:
            self._process.signal(number)

    async def stop(self, grace_seconds: float) -> None:
        """Stop it: SIGTERM, and SIGKILL after the grace period. Then `run` returns."""
        self._stopping.set()
        if self._process is not None:
            await self._process.stop(grace_seconds)

    def backoff_seconds(self, now: float) -> float:
        """Return the delay before the next start: 0 unless it exits repeatedly."""
        recent = sum(at > now - CRASH_WINDOW_SECONDS for at in self._exits)
        return min(max(0, recent - CRASHES + 1) * BACKOFF_STEP_SECONDS, LONGEST_BACKOFF_SECONDS)

    async def _start_again(self) -> None:
        try:
            self._process = await self._start()
        except (CannotStart, OSError) as error:
            self._exits.append(time.monotonic())
            log.error("%s cannot be started: %s", self.name, error)  # noqa: TRY400 - the message is the explanation

    async def _stopped_during(self, seconds: float) -> bool:
        """Wait, and return whether `stop` was called meanwhile."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
        return self._stopping.is_set()
