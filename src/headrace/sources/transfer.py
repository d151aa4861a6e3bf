"""Bytes on their way into the model directory: a `.part` file, counted, hashed, and moved into place whole.

What a try has received stays in the `.part` file, beside it the server's validator (its ETag) in `.part.validator`, so
that the next try can ask for the rest. Hashing happens on the way: a model is read once, not twice.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from headrace.errors import NoSpace, SourceError, SourceUnreachable, is_full

CHUNK_BYTES = 1024 * 1024
MAX_BYTES = 1 << 40
"""One tebibyte: nothing that a machine of today serves is larger; bounds a server that never ends."""

Progress = Callable[[int, int | None], None]
"""`progress(received, total)`: bytes so far; the total is None while it is unknown. Called often."""


class Interrupted(SourceUnreachable):
    """The source broke off or is busy: going on with the same one, soon, may well work."""


class Readable(Protocol):
    """What bytes are copied from."""

    def read1(self, size: int, /) -> bytes:
        """Return up to `size` bytes as soon as there are any, none at the end."""


class Transfer:
    """One file being brought: `begin` or `go_on`, then `copy`, then `finish` or `discard`."""

    def __init__(self, target: Path, progress: Progress) -> None:
        self.target = target
        self.directory = target.parent
        self.part = target.with_name(target.name + ".part")
        self.progress = progress
        self.digest = ""
        """`sha256:<hex>` of everything received, once `copy` has returned."""
        self._total: int | None = None
        self._validator = target.with_name(target.name + ".part.validator")

    @property
    def received(self) -> int:
        """Bytes that are there already, from this try or an earlier one."""
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def validator(self) -> str | None:
        """What the server called the version of the file that the `.part` is the beginning of."""
        return self._validator.read_text(encoding="utf-8") if self._validator.exists() else None

    def begin(self, total: int | None, *, validator: str | None = None) -> None:
        """Start anew with a file of `total` bytes."""
        self.discard()
        self.go_on(total)
        if validator is not None:
            try:
                self._validator.write_text(validator, encoding="utf-8")
            except OSError as error:
                raise write_failed(error, self.directory) from error

    def go_on(self, total: int | None) -> None:
        """Continue to a file of `total` bytes, if there is room for it: a disk is not filled in vain."""
        self._total = total
        if total is None:
            return
        if total > MAX_BYTES:
            raise SourceUnreachable(f"the source has {total} bytes, more than {MAX_BYTES}")
        missing, free = total - self.received, shutil.disk_usage(self.directory).free
        if missing > free:
            raise no_space(self.directory, f"{missing} bytes are needed, {free} are free")

    def copy(self, source: Readable, *, quiet: bool = False) -> None:
        """Append everything that `source` has; `quiet` when it is here already and only unpacked."""
        received = self.received
        digest = self._digest_of_part()
        try:
            with self.part.open("ab") as file:
                while chunk := _read(source, received):
                    file.write(chunk)
                    file.flush()  # what was received is kept, however the fetch ends
                    digest.update(chunk)
                    received += len(chunk)
                    if received > MAX_BYTES:
                        raise SourceUnreachable(f"the source sends more than {MAX_BYTES} bytes")
                    if not quiet:
                        self.progress(received, self._total)
                os.fsync(file.fileno())
        except OSError as error:
            if is_full(error):
                self.discard()  # a disk that is full because of half a file serves nobody
            raise write_failed(error, self.directory, needed=self._total, received=received) from error
        if self._total is not None and received < self._total:
            raise Interrupted(
                f"the source was cut off after {received} of {self._total} bytes", hint="It is tried again"
            )
        if self._total is not None and received > self._total:
            self.discard()
            raise SourceUnreachable(f"the source sent {received} bytes, but said {self._total}")
        self.digest = f"sha256:{digest.hexdigest()}"

    def finish(self) -> None:
        """Move the file into place."""
        self.part.replace(self.target)
        self._validator.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget what was received."""
        self.part.unlink(missing_ok=True)
        self._validator.unlink(missing_ok=True)

    def _digest_of_part(self) -> hashlib._Hash:
        if not self.part.exists():
            return hashlib.sha256()
        with self.part.open("rb") as file:
            return hashlib.file_digest(file, "sha256")


def _read(source: Readable, received: int) -> bytes:
    """Read; what fails here is the source's fault, not the disk's."""
    try:
        return source.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(
            f"the source was cut off after {received} bytes: {reason_of(error)}", hint="It is tried again"
        ) from error


def write_failed(
    error: OSError, directory: Path, *, needed: int | None = None, received: int = 0
) -> SourceError | NoSpace:
    """Return what an error in writing to the model directory means; `needed` is the file's size where it is known."""
    if is_full(error):
        size = f"{needed} bytes" if needed is not None else f"more than {received} bytes"
        return no_space(directory, f"the file has {size} ({error.strerror})")
    return SourceError(
        f"cannot write to {directory}: {reason_of(error)}", hint="Check the model directory and its owner"
    )


def no_space(directory: Path, need: str) -> NoSpace:
    """Return the error of a model directory that has no room for what is needed."""
    return NoSpace(f"no space in {directory}: {need}", hint="Free some, or give the models a larger disk")


def reason_of(error: Exception) -> str:
    """Return an error's cause in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sha256(path: Path) -> str:
    """Return the file's digest as `sha256:<hex>`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
