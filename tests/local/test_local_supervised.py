"""Keeping a process running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headrace.errors import CannotStart
from headrace.local.supervised import CRASH_WINDOW_SECONDS, Supervised
from headrace.process import Process, spawn

SECONDS = 10.0
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


class Starts:
    """Starts a command, and says how often it did; `before` may fail a start."""

    def __init__(self, command: list[str], log: Path, before: Callable[[int], None] | None = None) -> None:
        self._command = command
        self._log = log
        self._before = before
        self.count = 0
        self.again = asyncio.Event()

    async def __call__(self) -> Process:
        self.count += 1
        if self._before is not None:
            self._before(self.count)
        if self.count > 1:
            self.again.set()
        return spawn(self._command, os.environ, self._log)


@asynccontextmanager
async def running(start: Starts) -> AsyncIterator[Supervised]:
    supervised = Supervised("test", start)
    await supervised.start()
    keeping = asyncio.create_task(supervised.run())
    try:
        yield supervised
    finally:
        async with asyncio.timeout(SECONDS):
            await supervised.stop(SECONDS)
            await keeping


async def test_supervised_when_killed_is_started_again_at_once(tmp_path: Path) -> None:
    start = Starts(SLEEPER, tmp_path / "log")
    async with running(start) as supervised:
        first = supervised.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            await start.again.wait()
        assert supervised.pid != first
        assert supervised.ended.is_set()


async def test_supervised_when_a_restart_fails_tries_again(tmp_path: Path) -> None:
    def fail_second(number: int) -> None:
        if number == 2:
            raise CannotStart("not now")

    start = Starts(SLEEPER, tmp_path / "log", fail_second)
    async with running(start) as supervised:
        assert supervised.pid is not None
        os.kill(supervised.pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            await start.again.wait()
        assert start.count == 3


async def test_supervised_when_its_first_start_fails_raises(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        raise CannotStart("never")

    with pytest.raises(CannotStart, match="never"):
        await Supervised("test", Starts(SLEEPER, tmp_path / "log", fail)).start()


async def test_supervised_when_stopped_is_not_started_again(tmp_path: Path) -> None:
    start = Starts(SLEEPER, tmp_path / "log")
    async with running(start):
        pass
    assert start.count == 1


async def test_supervised_when_it_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    start = Starts(STUBBORN, tmp_path / "log")
    async with running(start) as supervised, asyncio.timeout(SECONDS):
        while "deaf" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.01)
        await supervised.stop(0.1)


async def test_supervised_when_stopped_between_two_starts_ends(tmp_path: Path) -> None:
    def fail_again(number: int) -> None:
        if number > 1:
            start.again.set()
            raise CannotStart("not now")

    start = Starts(SLEEPER, tmp_path / "log", fail_again)
    async with running(start) as supervised:
        assert supervised.pid is not None
        os.kill(supervised.pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            await start.again.wait()


@pytest.mark.parametrize(("exits", "seconds"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (50, 5)], ids=str)
def test_backoff_when_it_keeps_ending_grows_by_a_second(exits: int, seconds: float, tmp_path: Path) -> None:
    supervised = Supervised("test", Starts(SLEEPER, tmp_path / "log"))
    supervised._exits.extend([100.0] * exits)
    assert supervised.backoff_seconds(100.0) == seconds
    assert supervised.backoff_seconds(100.1 + CRASH_WINDOW_SECONDS) == 0
