"""file:///PATH and file:///PATH/: a file, or the files of a directory, on this machine (local mode only).

They are copied, so that later changes of the originals do not change the verified ones.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote

from headrace.errors import SourceUnreachable
from headrace.sources.location import redacted
from headrace.sources.remote import RemoteFile
from headrace.sources.transfer import Readable, Transfer, reason_of

MAX_FILES = 1000
_HINT = "Check the source's uri"


def copy_file(uri: str, transfer: Transfer) -> None:
    """Copy the file. Raises SourceUnreachable."""
    original = _path(uri)
    try:
        status = original.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnreachable(
                f"{original} is not a regular file", hint=f"{_HINT}; that of a directory ends with /"
            )
        file = original.open("rb")
    except OSError as error:
        raise _unreadable(original, error) from error
    with file:
        transfer.begin(status.st_size)
        transfer.copy(file)


def directory_files(uri: str) -> list[RemoteFile]:
    """Return the files of a directory and its subdirectories, without hidden ones. Raises SourceUnreachable."""
    directory = _path(uri)
    try:
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and not _hidden(path, directory))
        if not 0 < len(paths) <= MAX_FILES:
            raise SourceUnreachable(
                f"{directory} has {len(paths)} files", hint=f"A model's directory has between 1 and {MAX_FILES}"
            )
        return [_file(path, directory) for path in paths]
    except OSError as error:
        raise _unreadable(directory, error) from error


def _file(path: Path, directory: Path) -> RemoteFile:
    status = path.stat()
    version = f"{status.st_size}-{status.st_ino}-{status.st_mtime_ns}"
    return RemoteFile(str(path.relative_to(directory)), status.st_size, version, _opener(path))


def _opener(path: Path) -> Callable[[int], AbstractContextManager[Readable]]:
    def opened(start: int) -> AbstractContextManager[Readable]:
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error) from error
        file.seek(start)
        return file

    return opened


def _hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _path(uri: str) -> Path:
    host, slash, path = redacted(uri).partition("://")[2].partition("/")
    if host or not path:
        raise SourceUnreachable(f"{redacted(uri)} is not a file on this machine", hint="Write file:///PATH")
    return Path(slash + unquote(path))


def _unreadable(path: Path, error: OSError) -> SourceUnreachable:
    return SourceUnreachable(f"cannot read {path}: {reason_of(error)}", hint=_HINT)
