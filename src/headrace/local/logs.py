"""Reads and follows the log of a container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from io import BufferedReader
from pathlib import Path

from headrace.errors import HeadraceError
from headrace.reconcile.world import Manifest

CHUNK_BYTES = 64 * 1024
FOLLOW_SECONDS = 0.2
"""How often a followed file is read."""


class NoLog(HeadraceError):
    """The container has no log, or had no previous run."""

    http_status = 400
    reason = "BadRequest"


def check_log(path: Path, pod: Manifest, *, previous: bool) -> None:
    """Raise NoLog if nothing was written because the container did not run."""
    name = pod["metadata"]["name"]
    if previous and not path.exists():
        raise NoLog(f"pod {name} has no previous run: its container was not restarted")
    waiting = pod["status"]["containerStatuses"][0]["state"].get("waiting", {})
    started = waiting.get("reason") == "CrashLoopBackOff"
    if waiting.get("message") and not started and (not path.exists() or path.stat().st_size == 0):
        raise NoLog(f"the container of pod {name} does not run and has no log: {waiting['message']}")


async def read_log(path: Path, *, tail_lines: int | None, follow: bool) -> AsyncIterator[bytes]:
    """Yield the log and, with `follow`, what is appended until the file is removed or replaced."""
    file = _opened(path, tail_lines)
    if file is None:
        return
    with file:
        while True:
            ended = not follow or _replaced(path, file)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
            if ended:  # checked before the last read, so that the last lines are not missed
                return
            await asyncio.sleep(FOLLOW_SECONDS)


def _opened(path: Path, tail_lines: int | None) -> BufferedReader | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if tail_lines is not None:
        _seek_to_tail(file, tail_lines)
    return file


def _replaced(path: Path, file: BufferedReader) -> bool:
    """Whether the file was removed or replaced. A truncated file is read from its beginning again."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return True
    if stat.st_size < file.tell():
        file.seek(0)
    return stat.st_ino != os.fstat(file.fileno()).st_ino


def _seek_to_tail(file: BufferedReader, lines: int) -> None:
    """Seek to the beginning of the last lines, reading backwards."""
    size = at = file.seek(0, os.SEEK_END)
    tail = b""
    # One newline more than lines: the one before the first of them. The one that ends the file begins no line.
    while at > 0 and tail[:-1].count(b"\n") < lines:
        step = min(CHUNK_BYTES, at)
        at = file.seek(at - step)
        tail = file.read(step) + tail
    kept = b"".join(tail.splitlines(keepends=True)[-lines:]) if lines else b""
    file.seek(size - len(kept))
