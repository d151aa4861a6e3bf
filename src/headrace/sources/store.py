"""The model directory: one folder per source with the verified file and a record of its verification.

A verified file is not read again while its size, inode and modification time equal those of the record, so a second
fetch takes milliseconds. Otherwise it is verified again.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import SourceNotAllowed, SourceUnreachable
from headrace.sources.claim import Fetched, mismatch, verify_in_place
from headrace.sources.https import fetch_https
from headrace.sources.huggingface import hf_files
from headrace.sources.local_files import copy_file, directory_files
from headrace.sources.location import SCHEMES, claim_of, is_directory, location, redacted, scheme_of
from headrace.sources.oci import oci_files
from headrace.sources.package import fetch_package
from headrace.sources.remote import RemoteFile, receive
from headrace.sources.s3 import s3_files
from headrace.sources.transfer import Progress, Transfer, sha256, write_failed
from headrace.sources.tree import fetch_tree, read_tree

NOTE = ".headrace.json"
WAIT_SECONDS = 0.1
"""Polling interval of a fetch that waits for another one."""


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
    progress: Progress,
    expected: str | None = None,
    allow_loopback: bool = False,
) -> Fetched:
    """Download the source's file into the model directory and verify it.

    Without a digest, that of the first fetch is recorded, and a file that has changed since is fetched again. A file
    without the `expected` digest (recorded elsewhere; unlike `digest` not part of the path) is fetched again too.
    Raises a `headrace.errors.SourceError`, or NoSpace; a retry resumes an interrupted download.
    """
    relative = location(uri, digest)
    if claim_of(uri) is not None:
        return verify_in_place(uri, directory, relative, digest or expected, progress)
    transfer = Transfer(directory / relative, progress)
    try:
        transfer.directory.mkdir(parents=True, exist_ok=True)
        with _locked(transfer):
            return _fetch(uri, transfer, relative, digest or expected, allow_loopback=allow_loopback)
    except OSError as error:
        raise write_failed(error, transfer.directory) from error


def _fetch(uri: str, transfer: Transfer, relative: str, digest: str | None, *, allow_loopback: bool) -> Fetched:
    note, tree = _read_note(transfer.target), read_tree(transfer.target)
    if tree is not None and digest in (None, tree.digest):
        return Fetched(tree.digest, relative, tree.size)
    if note is not None and digest in (None, note.digest) and _is_as_noted(transfer.target, note):
        return Fetched(note.digest, relative, note.size)
    recorded = note or tree
    wanted = digest or (recorded.digest if recorded is not None else None)
    files = _remote_files(uri, allow_loopback=allow_loopback)
    if is_directory(uri) or len(files) > 1:
        tree = fetch_tree(uri, files, transfer.target, wanted, transfer.progress)
        return Fetched(tree.digest, relative, tree.size)
    if files:
        receive(files[0], transfer)
    else:
        _download(uri, transfer, allow_loopback=allow_loopback)
    if wanted is not None and transfer.digest != wanted:
        transfer.discard()
        raise mismatch(uri, transfer.digest, wanted)
    transfer.finish()
    note = _write_note(transfer.target, redacted(uri), transfer.digest)
    return Fetched(note.digest, relative, note.size)


def _remote_files(uri: str, *, allow_loopback: bool) -> list[RemoteFile]:
    """Return the files of a source that can be listed; none for other sources."""
    try:
        match scheme_of(uri):
            case "s3":
                return s3_files(uri)
            case "hf":
                return hf_files(uri)
            case "oci":
                return oci_files(uri, allow_loopback=allow_loopback)
            case "file" if is_directory(uri):
                return directory_files(uri)
            case _:
                return []
    except ImportError as error:
        raise SourceUnreachable(
            f"no library for {scheme_of(uri)}:// is installed", hint="pip install 'headrace[sources]'"
        ) from error


def _download(uri: str, transfer: Transfer, *, allow_loopback: bool) -> None:
    match scheme_of(uri):
        case "package":
            fetch_package(uri, transfer)
        case "https":
            fetch_https(uri, transfer, allow_loopback=allow_loopback)
        case "file":
            copy_file(uri, transfer)
        case "pvc":
            raise SourceUnreachable(f"{redacted(uri)} is not a file in a claim", hint="Write pvc://CLAIM/PATH")
        case other:
            schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise SourceNotAllowed(f"unknown scheme {other}://", hint=f"Use one of {schemes}")


@contextmanager
def _locked(transfer: Transfer) -> Iterator[None]:
    """Allow one fetch per source at a time; a second one reports the progress of the first, then uses its file."""
    with (transfer.directory / ".lock").open("w") as lock:
        while not _try_lock(lock.fileno()):
            transfer.progress(transfer.received, None)
            time.sleep(WAIT_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_note(target: Path) -> _Note | None:
    try:
        return _Note(**json.loads((target.parent / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_as_noted(target: Path, note: _Note) -> bool:
    """Whether the file is the verified one; a file that was moved or touched is verified again."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return False
    if (status.st_size, status.st_ino, status.st_mtime_ns) == (note.size, note.inode, note.mtime_ns):
        return True
    if sha256(target) != note.digest:
        return False
    _write_note(target, note.uri, note.digest)
    return True


def _write_note(target: Path, uri: str, digest: str) -> _Note:
    status = target.stat()
    note = _Note(uri, digest, status.st_size, status.st_ino, status.st_mtime_ns)
    fresh = target.with_name(f"{NOTE}.new")
    fresh.write_text(json.dumps(asdict(note)), encoding="utf-8")
    fresh.replace(target.with_name(NOTE))
    return note
