"""Build of the native library with the system's C++ compiler.

Each instruction set has a translation unit with its own flags; all others are compiled for any processor of the
architecture, so that nothing wide runs before the check of the processor (`dispatch.cpp`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.errors import CannotStart

SOURCES = Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=off")
_LINK = ("-shared", "-static-libstdc++", "-static-libgcc", "-pthread", "-Wl,--as-needed", "-s")
_WIDE = {
    "kernels_avx2.cpp": ("-mavx2", "-mfma", "-mf16c"),
    "kernels_avx512.cpp": (*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")), "-mfma", "-mf16c"),
}
"""Translation units of x86-64 with flags of their own."""
_COMPILE_SECONDS = 600


class NoNativeLibrary(CannotStart):
    """The native library is not built and cannot be built here, or does not load."""

    reason = "NoNativeLibrary"


def library_path(folder: Path = SOURCES) -> Path:
    """Return the path of the library in a folder. Its name has the digest of the sources: a stale one never loads."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in {".cpp", ".h", ".inc"}:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return folder / f"libheadrace-{platform.machine()}-{digest.hexdigest()[:12]}.so"


def cache_folder() -> Path:
    """Return the user's folder for a library that is built when it is first needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def build(folder: Path = SOURCES) -> Path:
    """Compile the library into a folder and return its path. Raises NoNativeLibrary, with the compiler's message."""
    target = library_path(folder)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if not compiler:
        raise NoNativeLibrary("there is no C++ compiler to build the native kernels", hint="Install g++")
    x86 = platform.machine() in {"x86_64", "AMD64"}
    sources = [path for path in sorted(SOURCES.glob("*.cpp")) if x86 or path.name not in _WIDE]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        objects = [Path(scratch) / f"{path.stem}.o" for path in sources]
        commands = [
            [compiler, *_FLAGS, *_WIDE.get(path.name, ()), "-c", str(path), "-o", str(out)]
            for path, out in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(_run, commands))
        built = Path(scratch) / target.name
        _run([compiler, *map(str, objects), *_LINK, "-o", str(built)])
        built.replace(target)  # atomic: processes may build at the same time
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNativeLibrary(f"the C++ compiler {command[0]} did not run: {error}", hint="Check CXX") from error
    if done.returncode:
        raise NoNativeLibrary(
            f"the native kernels do not compile: {done.stderr.strip()[:2000]}", hint="Use g++ 9 or later"
        )
