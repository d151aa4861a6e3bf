"""Reads and follows the log of a container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from io import BufferedReader
from pathlib import Path

CHUNK_BYTES = 64 * 1024
FOLLOW_SECONDS = 0.2
"""How often a followed file is read."""


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
