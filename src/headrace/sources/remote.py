"""Files in a remote store that a library reads: transferred one by one, each of them resumable.

The library lists and authenticates. The bytes pass through `Transfer`, as those of every source do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from headrace.errors import DigestMismatch
from headrace.sources.transfer import Readable, Transfer, with_retries


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a source."""

    path: str
    """Relative to the source's directory; the name, if the source is a file."""
    size: int
    version: str
    """Changes with the content, for example an ETag."""
    open: Callable[[int], AbstractContextManager[Readable]]
    """Open the file of this version at an offset. It and its reads raise a SourceError; Interrupted is retried."""
    digest: str | None = None
    """`sha256:<hex>` of the content, if the store names it."""


def receive(file: RemoteFile, transfer: Transfer) -> None:
    """Transfer the file; an earlier attempt for the same version is resumed. Raises a SourceError.

    Content without the digest that the store names is discarded (DigestMismatch).
    """
    with_retries(transfer, lambda: _attempt(file, transfer))
    if file.digest not in (None, transfer.digest):
        transfer.discard()
        raise DigestMismatch(
            f"{file.path} has {transfer.digest}, but the store lists it as {file.digest}", hint="Repair the source"
        )


def _attempt(file: RemoteFile, transfer: Transfer) -> None:
    if transfer.validator == file.version and transfer.received <= file.size:
        transfer.go_on(file.size)
    else:
        transfer.begin(file.size, validator=file.version)
    rest = file.open(transfer.received) if transfer.received < file.size else contextlib.nullcontext(_Nothing())
    with rest as stream:
        transfer.copy(stream)


class _Nothing:
    """The rest of a complete file."""

    def read1(self, _size: int, /) -> bytes:
        return b""


class Pieces:
    """A file that is read in pieces: `piece(start, end)` returns those bytes, fewer only at the end of the file."""

    def __init__(self, piece: Callable[[int, int], bytes], start: int, size: int, piece_bytes: int) -> None:
        self._piece = piece
        self._at = start
        self._size = size
        self._piece_bytes = piece_bytes

    def read1(self, _size: int, /) -> bytes:
        """Return the next piece; empty at the end."""
        if self._at >= self._size:
            return b""
        found = self._piece(self._at, min(self._at + self._piece_bytes, self._size))
        self._at += len(found)
        return found


@contextlib.contextmanager
def pieces(piece: Callable[[int, int], bytes], start: int, size: int, piece_bytes: int) -> Iterator[Readable]:
    """Yield a `Pieces`; nothing is open between two pieces."""
    yield Pieces(piece, start, size, piece_bytes)
