"""Finds and ends the processes that a killed supervisor has left.

The kernel ends every child of the supervisor with it (parent-death signal). Children of children have no such signal
and may remain. All of them inherit the variable HEADRACE_LIFE, a random id of one run of the supervisor (a *life* of
the instance), which `life.json` records for the next start. A process is ended only if it belongs to this user, has
the id in its environment and was started after the life began. It is held by a pidfd during the check, so a reused
process id cannot be mistaken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.files import write_private
from headrace.local.home import InstanceHome

LIFE_VARIABLE = "HEADRACE_LIFE"
EXIT_SECONDS = 5.0
"""A killed process exits in milliseconds, unless it waits in the kernel for a device; then it is left."""
_PROC = Path("/proc")
_START_TIME_FIELD = 19
"""Of /proc/PID/stat, counted after the command's closing parenthesis: ticks since boot."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of an instance: one run of its supervisor."""

    id: str
    pid: int
    start_ticks: int
    boot: str
    """The kernel's boot id: ticks count from the boot, and no process outlives it."""

    @classmethod
    def mine(cls) -> Life:
        """Return a new life of this process."""
        return cls(secrets.token_hex(16), os.getpid(), _start_ticks(os.getpid()), _boot_id())

    def begin(self, home: InstanceHome) -> None:
        """Record the life, before the first child is started."""
        write_private(home.life, json.dumps(asdict(self)) + "\n")

    @staticmethod
    def end(home: InstanceHome) -> None:
        """Remove the record: no process is left."""
        home.life.unlink(missing_ok=True)


def end_processes(home: InstanceHome) -> int:
    """End every process, except this one, of the life that is recorded in the home; return their number.

    At a start that is the previous life, if it did not end in order; later it is the present one.
    """
    try:
        life = Life(**json.loads(home.life.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return 0
    if life.boot != _boot_id():
        return 0
    with contextlib.ExitStack() as held:
        ended = [fd for pid in _processes() if (fd := _ended(pid, life, held)) is not None]
        _wait_for_exits(ended)
    return len(ended)


def _ended(pid: int, life: Life, held: contextlib.ExitStack) -> int | None:
    """End the process if it belongs to the life; then return its pidfd, which `held` closes."""
    if pid == os.getpid() or not _belongs(pid, life):
        return None
    with contextlib.suppress(OSError):  # it has exited
        fd = os.pidfd_open(pid)
        held.callback(os.close, fd)
        if _belongs(pid, life):  # checked again: the pidfd cannot be a later process of that id
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return fd
    return None


def _processes() -> list[int]:
    """Return the processes of this user."""
    uid, found = os.geteuid(), []
    for entry in os.scandir(_PROC):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
    return found


def _belongs(pid: int, life: Life) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        started = _start_ticks(pid)
    except (OSError, ValueError):
        return False
    return f"{LIFE_VARIABLE}={life.id}".encode() in environment and started >= life.start_ticks


def _start_ticks(pid: int) -> int:
    stat = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _wait_for_exits(fds: list[int]) -> None:
    deadline = time.monotonic() + EXIT_SECONDS
    for fd in fds:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
