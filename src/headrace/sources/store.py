"""The model directory: one folder per source, the verified file in it, and a note of what was verified.

A file that was verified before is believed as long as its size, inode and modification time are those of the note, so
that a second fetch takes milliseconds. Anything else is read again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import DigestMismatch, SourceUnreachable
from headrace.sources.https import fetch_https
from headrace.sources.location import location, redacted, scheme_of
from headrace.sources.package import fetch_package
from headrace.sources.transfer import Transfer, no_space, sha256

NOTE = ".headrace.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A verified file. `path` is relative to the model directory."""

    digest: str
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Note:
    uri: str
    digest: str
    size: int
    inode: int
    mtime_ns: int


def fetch(
    uri: str,
    directory: Path,
    *,
    digest: str | None,
    progress: Callable[[int, int | None], None],
    allow_loopback: bool = False,
) -> Fetched:
    """Bring the source's file into the model directory and verify it.

    Without a digest, the one of the first fetch is noted, and a file that has changed since is fetched again.
    Raises a `headrace.errors.SourceError`; trying again goes on where the last try was cut.
    """
    relative = location(uri, digest)
    target = directory / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_space(error, directory) from error
    with _locked(target.parent):
        known = _noted(target)
        if known is not None:
            return Fetched(known.digest, relative, known.size)
        transfer = Transfer(target, progress)
        _bring(uri, transfer, allow_loopback=allow_loopback)
        found = sha256(transfer.part)
        wanted = digest or _first_digest(target)
        if wanted is not None and found != wanted:
            transfer.discard()
            raise DigestMismatch(
                f"{redacted(uri)} has {found}, but {wanted} is wanted",
                hint="Repair the source, or set spec.model.source.digest to what it should be",
            )
        transfer.finish()
        _write_note(target, uri, found)
        return Fetched(found, relative, target.stat().st_size)


def _bring(uri: str, transfer: Transfer, *, allow_loopback: bool) -> None:
    match scheme_of(uri):
        case "package":
            fetch_package(uri, transfer)
        case "https":
            fetch_https(uri, transfer, allow_loopback=allow_loopback)
        case "file":
            _copy_file(Path(uri.removeprefix("file://")), transfer)
        case other:
            raise SourceUnreachable(f"unknown scheme {other}://", hint="Use package://, https:// or file://")


def _copy_file(original: Path, transfer: Transfer) -> None:
    """Copy, so that editing the original later cannot change what was verified."""
    try:
        with original.open("rb") as file:
            transfer.begin(original.stat().st_size)
            transfer.copy(file)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SourceUnreachable(
            f"cannot read {original}: {error.strerror}", hint="Check spec.model.source.uri"
        ) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One fetcher per source at a time; a second one waits and finds the file."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_note(target: Path) -> _Note | None:
    try:
        return _Note(**json.loads((target.parent / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _noted(target: Path) -> _Note | None:
    """Return the note if the file still is what was verified; a file that only moved is read again."""
    note = _read_note(target)
    if note is None or not target.exists():
        return None
    stat = target.stat()
    if (stat.st_size, stat.st_ino, stat.st_mtime_ns) == (note.size, note.inode, note.mtime_ns):
        return note
    if sha256(target) == note.digest:
        return note
    return None


def _first_digest(target: Path) -> str | None:
    note = _read_note(target)
    return note.digest if note is not None else None


def _write_note(target: Path, uri: str, digest: str) -> None:
    stat = target.stat()
    note = _Note(redacted(uri), digest, stat.st_size, stat.st_ino, stat.st_mtime_ns)
    (target.parent / NOTE).write_text(json.dumps(asdict(note)), encoding="utf-8")
