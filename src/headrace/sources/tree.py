"""Sources that are directories: their files in one folder of the model directory, with a record of their digests.

The files are collected in a folder of their own, which replaces the target when all are there. A file that was
received completely, or in part, is not requested again by the next attempt. The digest of a directory is the SHA-256 of
the lines `sha256:<hex of the file>  <path>`, sorted by path.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.errors import SourceUnreachable
from headrace.sources.claim import mismatch
from headrace.sources.location import redacted
from headrace.sources.remote import RemoteFile, receive
from headrace.sources.transfer import MAX_BYTES, Progress, Transfer, sha256

NOTE = ".headrace.json"
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]*(/[A-Za-z0-9_][A-Za-z0-9._+=@-]*)*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified file of a directory, and how to recognise it without reading it."""

    digest: str
    size: int
    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, digest: str) -> Entry:
        """Return the entry of a file that has this digest."""
        status = path.stat()
        return cls(digest, status.st_size, status.st_ino, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Tree:
    """A verified directory."""

    uri: str
    digest: str
    files: dict[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def read_tree(target: Path) -> Tree | None:
    """Return the record of the directory if its files are the verified ones; otherwise None."""
    try:
        note = json.loads((target.parent / NOTE).read_text(encoding="utf-8"))
        tree = Tree(note["uri"], note["digest"], {path: Entry(**entry) for path, entry in note["files"].items()})
        same = all(_is_as_noted(target / path, entry) for path, entry in tree.files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return tree if same and _paths(target) == tree.files.keys() else None


def fetch_tree(uri: str, files: Sequence[RemoteFile], target: Path, wanted: str | None, progress: Progress) -> Tree:
    """Transfer the files and put them into place. Raises a SourceError, or NoSpace."""
    total = sum(file.size for file in files)
    for file in files:
        if not _PATH.fullmatch(file.path):
            raise SourceUnreachable(f"{redacted(uri)} has a file {file.path[:80]!r}", hint="Give it a plain name")
    if total > MAX_BYTES:
        raise SourceUnreachable(f"the source has {total} bytes, more than {MAX_BYTES}")
    partial = target.with_name(f"{target.name}.partial")
    done, digests = 0, {}
    for file in files:
        digests[file.path] = _file(file, partial / file.path, _from(progress, done, total))
        done += file.size
    for name in _paths(partial) - digests.keys():
        (partial / name).unlink()  # of an attempt for another version
    digest = _digest(digests)
    if wanted not in (None, digest):
        shutil.rmtree(partial)
        raise mismatch(uri, digest, wanted)
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)
    return _written(redacted(uri), digest, digests, target)


def _file(file: RemoteFile, path: Path, progress: Progress) -> str:
    """Receive a file unless an earlier attempt has, and return its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    version = path.with_name(f".{path.name}.version")
    if path.exists() and version.exists() and version.read_text(encoding="utf-8") == file.version:
        digest = sha256(path)
        if file.digest in (None, digest):
            return digest
    transfer = Transfer(path, progress)
    receive(file, transfer)
    version.write_text(file.version, encoding="utf-8")
    transfer.finish()
    return transfer.digest


def _from(progress: Progress, done: int, total: int) -> Progress:
    return lambda received, _: progress(done + received, total)


def _digest(digests: dict[str, str]) -> str:
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _written(uri: str, digest: str, digests: dict[str, str], target: Path) -> Tree:
    tree = Tree(uri, digest, {path: Entry.of(target / path, each) for path, each in digests.items()})
    fresh = target.with_name(f"{NOTE}.new")
    fresh.write_text(json.dumps(asdict(tree)), encoding="utf-8")
    fresh.replace(target.with_name(NOTE))
    return tree


def _is_as_noted(path: Path, entry: Entry) -> bool:
    return Entry.of(path, entry.digest) == entry or sha256(path) == entry.digest


def _paths(directory: Path) -> set[str]:
    """Return the files of the directory; those whose name begins with a dot are records of the transfer."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(directory)) for path in files}
