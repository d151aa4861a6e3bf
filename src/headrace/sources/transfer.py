"""Transfer of a file into the model directory: a `.part` file that is counted, hashed, and renamed when complete.

An interrupted attempt leaves its `.part` file, and the server's validator (its ETag) in `.part.validator`, so that the
next attempt can request the rest. The file is hashed during the transfer, so it is read only once.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from headrace.errors import NoSpace, SourceError, SourceUnreachable, is_full

CHUNK_BYTES = 1024 * 1024
MAX_BYTES = 1 << 40
"""Limit for servers that send without an end: one tebibyte, more than any model of today."""

RETRY_SECONDS = (0.5, 1.0, 2.0)
"""Delays between attempts. Then the fetch fails with the cause, and its Job retries with longer delays."""
RENEWING_BYTES = 16 * 1024 * 1024
"""An attempt that received this much resets the delays, so that a large file survives many interruptions."""

Progress = Callable[[int, int | None], None]
"""`progress(received, total)` in bytes; the total is None while it is unknown. Called often."""


class Interrupted(SourceUnreachable):
    """The source closed the connection or is overloaded: a retry may succeed soon."""


class Readable(Protocol):
    """A source of bytes."""

    def read1(self, size: int, /) -> bytes:
        """Return up to `size` bytes as soon as any are available; empty at the end."""


class Transfer:
    """Transfer of one file: call `begin` or `go_on`, then `copy`, then `finish` or `discard`."""

    def __init__(self, target: Path, progress: Progress) -> None:
        self.target = target
        self.directory = target.parent
        self.part = target.with_name(target.name + ".part")
        self.progress = progress
        self.digest = ""
        """`sha256:<hex>` of the received bytes, set by `copy`."""
        self._total: int | None = None
        self._validator = target.with_name(target.name + ".part.validator")

    @property
    def received(self) -> int:
        """Bytes received in this attempt and earlier ones."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def validator(self) -> str | None:
        """The server's validator of the file of which `.part` is the beginning."""
        return self._validator.read_text(encoding="utf-8") if self._validator.exists() else None

    def begin(self, total: int | None, *, validator: str | None = None) -> None:
        """Start the transfer of a file of `total` bytes from its beginning."""
        self.discard()
        self.go_on(total)
        if validator is not None:
            try:
                self._validator.write_text(validator, encoding="utf-8")
            except OSError as error:
                raise write_failed(error, self.directory) from error

    def go_on(self, total: int | None) -> None:
        """Resume the transfer of a file of `total` bytes. Raises NoSpace before it fills the disk in vain."""
        self._total = total
        if total is None:
            return
        if total > MAX_BYTES:
            raise SourceUnreachable(f"the source has {total} bytes, more than {MAX_BYTES}")
        missing, free = total - self.received, shutil.disk_usage(self.directory).free
        if missing > free:
            raise no_space(self.directory, f"{missing} bytes are needed, {free} are free")

    def copy(self, source: Readable, *, quiet: bool = False) -> None:
        """Append all bytes of `source`; with `quiet`, for local data, without progress."""
        received = self.received
        digest = self._digest_of_part()
        try:
            with self.part.open("ab") as file:
                while chunk := _read(source, received):
                    file.write(chunk)
                    file.flush()  # received bytes are kept if the fetch is killed
                    digest.update(chunk)
                    received += len(chunk)
                    if received > MAX_BYTES:
                        raise SourceUnreachable(f"the source sends more than {MAX_BYTES} bytes")
                    if not quiet:
                        self.progress(received, self._total)
                os.fsync(file.fileno())
        except OSError as error:
            if is_full(error):
                self.discard()  # an incomplete file must not keep the disk full
            raise write_failed(error, self.directory, needed=self._total, received=received) from error
        if self._total is not None and received < self._total:
            raise Interrupted(
                f"the connection was closed after {received} of {self._total} bytes", hint="It is retried"
            )
        if self._total is not None and received > self._total:
            self.discard()
            raise SourceUnreachable(f"the source sent {received} bytes instead of {self._total}")
        self.digest = f"sha256:{digest.hexdigest()}"

    def finish(self) -> None:
        """Move the file into place."""
        self.part.replace(self.target)
        self._validator.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the received bytes."""
        self.part.unlink(missing_ok=True)
        self._validator.unlink(missing_ok=True)

    def _digest_of_part(self) -> hashlib._Hash:
        if not self.part.exists():
            return hashlib.sha256()
        with self.part.open("rb") as file:
            return hashlib.file_digest(file, "sha256")


def with_retries(transfer: Transfer, attempt: Callable[[], None]) -> None:
    """Attempt the transfer until it succeeds, fails, or was interrupted too often. Raises what the attempt raises."""
    waits = iter(RETRY_SECONDS)
    while True:
        before = transfer.received
        try:
            attempt()
        except Interrupted as error:
            if transfer.received >= before + RENEWING_BYTES:
                waits = iter(RETRY_SECONDS)
            wait = next(waits, None)
            if wait is None:
                raise
            print(f"{error.message}; retrying in {wait} s", file=sys.stderr, flush=True)  # noqa: T201 - the fetch's log
            time.sleep(wait)
        else:
            return


def _read(source: Readable, received: int) -> bytes:
    """Read from the source; an OSError here is the source's, not the disk's."""
    try:
        return source.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(
            f"the connection failed after {received} bytes: {reason_of(error)}", hint="It is retried"
        ) from error


def write_failed(
    error: OSError, directory: Path, *, needed: int | None = None, received: int = 0
) -> SourceError | NoSpace:
    """Return the error for a failed write to the model directory; `needed` is the file's size if known."""
    if is_full(error):
        size = f"{needed} bytes" if needed is not None else f"more than {received} bytes"
        return no_space(directory, f"the file has {size} ({error.strerror})")
    return SourceError(
        f"cannot write to {directory}: {reason_of(error)}", hint="Check the model directory and its owner"
    )


def no_space(directory: Path, need: str) -> NoSpace:
    """Return the error for a model directory without enough free space."""
    return NoSpace(f"no space in {directory}: {need}", hint="Free some space, or use a larger disk for models")


def reason_of(error: Exception) -> str:
    """Return a short cause of an error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sha256(path: Path) -> str:
    """Return the file's digest as `sha256:<hex>`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
