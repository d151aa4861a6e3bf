"""pvc://CLAIM/PATH: a file in a PersistentVolumeClaim, verified in place and never copied.

The claim is mounted read-only, so no record of the verification is written: each fetch reads the whole file. Later
changes of the file are detected by the next fetch only, so files of a claim should not be changed.
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
    """Return the verified file. Raises SourceUnreachable, or DigestMismatch if it does not have the digest `wanted`."""
    path = directory / relative
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnreachable(f"{uri} is not a regular file", hint="Check spec.model.source.uri")
        digest, size = _read(path, status.st_size, progress)
    except OSError as error:
        raise SourceUnreachable(
            f"cannot read {uri}: {reason_of(error)}", hint="Check the path, and the permissions of the claim's files"
        ) from error
    if wanted not in (None, digest):
        raise mismatch(uri, digest, wanted)
    return Fetched(digest, relative, size)


def mismatch(uri: str, found: str, wanted: str | None) -> DigestMismatch:
    """Return the error for a file with another digest than the required one."""
    return DigestMismatch(
        f"{redacted(uri)} has {found}, but {wanted} is required",
        hint="Repair the source, or set spec.model.source.digest to the right digest",
    )


def _read(path: Path, total: int, progress: Progress) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            progress(size, total)
    return f"sha256:{digest.hexdigest()}", size
