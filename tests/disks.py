"""Disks of a test: a small one, filled as far as the test says. Mounting one needs root, which CI is."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(directory: Path, kilobytes: int) -> Iterator[None]:
    """Have the directory on a disk of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"]
    if subprocess.run(["mount", *options, str(directory)], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def grow(directory: Path, kilobytes: int) -> None:
    """Give the disk at the directory more room."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Fill the disk of the directory to its last byte; return the file to remove."""
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(os.sysconf("SC_PAGE_SIZE"))):
            pass
    return filler
