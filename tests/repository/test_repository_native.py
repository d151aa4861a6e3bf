"""What an installation does with the native library: `hatch_build.py`, with and without a C++ compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, where nothing is built."""
    copy = tmp_path / "checkout"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in packages["packages"]:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    return copy


def test_wheel_when_no_compiler_then_pure_and_says_so(checkout: Path) -> None:
    done = wheel(checkout, CXX="", PATH="/nonexistent")
    assert done.returncode == 0, done.stdout
    assert "no C++ compiler is found" in done.stdout
    (built,) = (checkout / "dist").iterdir()
    assert built.name.endswith("-py3-none-any.whl")


def test_wheel_when_compiler_fails_then_fails_by_message(checkout: Path) -> None:
    compiler = checkout / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = -dumpmachine ] && echo x86_64-linux-gnu && exit 0\necho "bad flag" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    done = wheel(checkout, CXX=str(compiler))
    assert done.returncode != 0
    assert "the native kernels do not compile: bad flag" in done.stdout
    assert not list(checkout.glob("dist/*"))


def wheel(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel into `dist`, with the output that pip shows with -v."""
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-index", "--no-build-isolation"]
    return subprocess.run(
        [*command, "-w", str(checkout / "dist"), str(checkout)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
