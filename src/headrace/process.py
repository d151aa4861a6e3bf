"""A child process that is ours, and that cannot outlive us.

It gets a parent-death signal, so that the kernel ends it when this process is killed, and a session of its own, so that
its whole group can be ended with it. It is watched and signalled by pidfd: no thread, no poll, and never a stranger
that got its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
"""Loaded before any fork: a child between fork and exec must not load anything."""


class Process:
    """A running child; `code` is None until it has ended (negative: the signal that ended it)."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self.code: int | None = None
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended. SIGKILL goes to its whole group."""
        if self.code is not None:
            return
        if number == signal.SIGKILL:
            self._kill_group()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Return the exit code, when it has ended."""
        await self._ended.wait()
        assert self.code is not None
        return self.code

    async def stop(self, grace_seconds: float) -> int:
        """End it: SIGTERM, and SIGKILL after the grace. Return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._kill_group()  # what it left behind, while its unreaped id can name no other group
        self.code = self._popen.wait()
        os.close(self._pidfd)
        self._ended.set()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def spawn(
    command: Sequence[str], variables: Mapping[str, str], log: Path | None, *, pass_fds: Sequence[int] = ()
) -> Process:
    """Start a child whose output is appended to `log` (None: goes where ours goes). Raises OSError when it cannot be.

    Must be called in the main thread: the parent-death signal follows the thread that forks.
    """
    with contextlib.nullcontext() if log is None else log.open("ab") as output:
        popen = subprocess.Popen(
            command,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - no threads fork here, and it only makes two system calls
        )
    return Process(popen)


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked to die with it

    return prepare
