"""Atomic writes of private files, and paths for OSErrors that have none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PRIVATE = 0o600


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically by one that only this user may read.

    Raises OSError, with the path, and removes the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with naming(path):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, _PRIVATE)
                file.write(text)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Set the path of an OSError: the error of a write or a socket has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
