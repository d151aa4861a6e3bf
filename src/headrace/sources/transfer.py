"""Bytes on their way into the model directory: a `.part` file, counted, hashed, and moved into place whole."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from headrace.errors import NoSpace, SourceUnreachable

CHUNK_BYTES = 1024 * 1024
MAX_BYTES = 1 << 40
"""One tebibyte: nothing that a machine of today serves is larger; bounds a server that never ends."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Readable(Protocol):
    """What bytes are copied from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class Transfer:
    """One file being brought. `progress(received, total)` is called often; the total may be unknown."""

    def __init__(self, target: Path, progress: Callable[[int, int | None], None]) -> None:
        self.target = target
        self.directory = target.parent
        self.part = target.with_name(target.name + ".part")
        self.progress = progress
        self.total: int | None = None

    @property
    def received(self) -> int:
        """Bytes that are there already, from this try or an earlier one."""
        return self.part.stat().st_size if self.part.exists() else 0

    def begin(self, total: int | None) -> None:
        """Start anew with a file of `total` bytes."""
        self.total = total
        self.part.unlink(missing_ok=True)

    def copy(self, source: Readable) -> None:
        """Append everything that `source` has."""
        received = self.received
        try:
            with self.part.open("ab") as file:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    received += len(chunk)
                    if received > MAX_BYTES:
                        raise SourceUnreachable(f"the source sends more than {MAX_BYTES} bytes")
                    self.progress(received, self.total)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise no_space(error, self.directory) from error
        if self.total is not None and received != self.total:
            raise SourceUnreachable(
                f"the source was cut off after {received} of {self.total} bytes", hint="It is tried again"
            )

    def finish(self) -> None:
        """Move the file into place."""
        self.part.replace(self.target)

    def discard(self) -> None:
        """Forget what was received."""
        self.part.unlink(missing_ok=True)


def no_space(error: OSError, directory: Path) -> Exception:
    """Return NoSpace for an error that means a full disk, else the error itself."""
    if error.errno in _FULL:
        return NoSpace(f"no space left in {directory}", hint="Free some, or give the models a larger disk")
    return error


def sha256(path: Path) -> str:
    """Return the file's digest as `sha256:<hex>`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
