"""Addresses of Unix sockets with paths of any length."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MAX_ADDRESS_BYTES = 107
"""Linux: sun_path has 108 bytes, the last of which ends the string."""


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield the address to bind or connect to: the path or, if that is too long, the same file through its directory.

    The kernel resolves /proc/self/fd/N like any directory, so only the length of the file's name matters.
    Raises OSError.
    """
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
