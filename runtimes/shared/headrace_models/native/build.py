"""Build of the native library with the system's C++ compiler.

Each instruction set has a translation unit with its own flags; all others are compiled for any processor of the
architecture, so that nothing wide runs before the check of the processor (`dispatch.cpp`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.errors import CannotStart

SOURCES = Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=off")
_LINK = ("-shared", "-static-libstdc++", "-static-libgcc", "-pthread", "-Wl,--as-needed", "-s")
WIDE = {
    "kernels_avx2.cpp": ("-mavx2", "-mfma", "-mf16c"),
    "kernels_avx512.cpp": (*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")), "-mfma", "-mf16c"),
}
"""Translation units of x86-64 with flags of their own."""
_COMPILE_SECONDS = 600


class NoNativeLibrary(CannotStart):
    """The native library is not built and cannot be built here, or does not load."""

    reason = "NoNativeLibrary"


def library_path(folder: Path = SOURCES, *, machine: str | None = None) -> Path:
    """Return the path of the library in a folder. Its name has the digest of what it is built from: a stale one never
    loads. `machine`: the processor (`platform.machine()`); by default this one. The dot keeps `pkgutil` from taking
    the library for an extension module.
    """
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".cpp", ".h", ".inc"} or path.name == "build.py":
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return folder / f"libheadrace.{machine or platform.machine()}-{digest.hexdigest()[:12]}.so"


def cache_folder() -> Path:
    """Return the user's folder for a library that is built when it is first needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def compiler() -> str | None:
    """Return the command of the C++ compiler: CXX, else the first one in PATH; None if there is none."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


def target_machine(compiler: str) -> str:
    """Return the processor that a compiler compiles for, as `platform.machine()` names it. Raises NoNativeLibrary."""
    return _run([*shlex.split(compiler), "-dumpmachine"]).strip().partition("-")[0]


def build(folder: Path = SOURCES) -> Path:
    """Compile the library into a folder and return its path. Raises NoNativeLibrary, with the compiler's message.

    A CXX that compiles for another processor makes that processor's library.
    """
    command = compiler()
    if not command:
        raise NoNativeLibrary("there is no C++ compiler to build the native kernels", hint="Install g++")
    machine = target_machine(command)
    target = library_path(folder, machine=machine)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        objects = compile_units(command, machine, Path(scratch))
        built = Path(scratch) / target.name
        _run([*shlex.split(command), *map(str, objects), *_LINK, "-o", str(built)])
        built.replace(target)  # atomic: processes may build at the same time
    return target


def compile_units(compiler: str, machine: str, folder: Path) -> list[Path]:
    """Compile each translation unit for a processor into a folder; return the objects. Raises NoNativeLibrary."""
    sources = [path for path in sorted(SOURCES.glob("*.cpp")) if machine == "x86_64" or path.name not in WIDE]
    objects = [folder / f"{path.stem}.o" for path in sources]
    commands = [
        [*shlex.split(compiler), *_FLAGS, *WIDE.get(path.name, ()), "-c", str(path), "-o", str(out)]
        for path, out in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_run, commands))
    return objects


def _run(command: list[str]) -> str:
    """Return the output of the compiler. Raises NoNativeLibrary."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNativeLibrary(f"the C++ compiler {command[0]} did not run: {error}", hint="Check CXX") from error
    if done.returncode:
        raise NoNativeLibrary(
            f"the native kernels do not compile: {done.stderr.strip()[:2000]}", hint="Use g++ 9 or later"
        )
    return done.stdout
