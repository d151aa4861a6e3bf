"""The memory available to this process: the machine's, or less if a cgroup (a container's limit) bounds it.

A KV cache is mapped without being written, and with `vm.overcommit_memory=1` the kernel maps any size. Without this
check, a cache that can never fit would cause an out-of-memory kill during requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_V1_MOUNT = "sys/fs/cgroup/memory"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory for this process, bytes; None if the system does not report it."""

    total: int | None
    """The machine's memory or the lowest cgroup limit."""
    available: int | None
    """Part of it that is available now without swapping."""


def read_memory(root: Path = Path("/")) -> Memory:
    """Read it from /proc and the cgroups (v1, v2) below `root`."""
    info = _text(root / "proc/meminfo")
    total, available = (
        int(found[1]) * 1024 if (found := re.search(rf"^{field}:\s+(\d+) kB", info, re.MULTILINE)) else None
        for field in ("MemTotal", "MemAvailable")
    )
    limits = _limits(root)
    return Memory(_lowest(total, *limits), _lowest(available, *limits))


def _limits(root: Path) -> list[int]:
    """Return the limits of this process's memory cgroup and its parents.

    In a container the path may be the host's and not visible: the limit is then that of the mount's root.
    """
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            files = [(root / mount, "memory.max") for mount in _V2_MOUNTS]
        elif "memory" in controllers.split(","):
            files = [(root / _V1_MOUNT, "memory.limit_in_bytes")]
        else:
            continue
        for mount, name in files:
            own = mount / path.lstrip("/")
            for directory in (own, *own.parents):
                limit = _text(directory / name).strip()
                limits += [int(limit)] if limit.isdecimal() else []  # "max": no limit
                if directory == mount:
                    break
    return limits


def _lowest(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
