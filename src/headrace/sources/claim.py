"""pvc://CLAIM/PATH: a file that is in the cluster already. It is read once, where it is, and nothing is copied.

The claim is mounted read-only, so nothing is noted beside the file either: each fetch reads all of it. What somebody
writes into the claim later is not seen until the next one; who wants to be sure keeps files of a claim unchanged.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import DigestMismatch, SourceUnreachable
from headrace.sources.location import redacted
from headrace.sources.transfer import CHUNK_BYTES, Progress, reason_of


@dataclass(frozen=True, slots=True)
class Fetched:
    """A verified file. `path` is relative to the model directory."""

    digest: str
    path: str
    bytes: int


def verify_in_place(uri: str, directory: Path, relative: str, wanted: str | None, progress: Progress) -> Fetched:
    """Return the file, read and hashed; raises SourceUnreachable, or DigestMismatch when it is not the wanted one."""
    path = directory / relative
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnreachable(f"{uri} is not a regular file", hint="Check spec.model.source.uri")
        digest, size = _read(path, status.st_size, progress)
    except OSError as error:
        raise SourceUnreachable(
            f"cannot read {uri}: {reason_of(error)}", hint="Check the path, and who may read the claim's files"
        ) from error
    if wanted not in (None, digest):
        raise mismatch(uri, digest, wanted)
    return Fetched(digest, relative, size)


def mismatch(uri: str, found: str, wanted: str | None) -> DigestMismatch:
    """Return the error for a file that is not the one that was promised."""
    return DigestMismatch(
        f"{redacted(uri)} has {found}, but {wanted} is wanted",
        hint="Repair the source, or set spec.model.source.digest to what it should be",
    )


def _read(path: Path, total: int, progress: Progress) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            progress(size, total)
    return f"sha256:{digest.hexdigest()}", size
