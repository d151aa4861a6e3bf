"""A child process that never outlives its parent.

The child has a parent-death signal, so the kernel kills it when this process is killed, and its own session, so its
whole process group can be killed. It is watched and signalled by pidfd: without a thread, without polling, and without
the risk of signalling another process that reuses the process id.
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
"""Loaded before any fork, because a child must not load libraries between fork and exec."""


class Process:
    """A child process; `code` is None until it has exited (negative: the signal that killed it)."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self.code: int | None = None
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has exited. SIGKILL is sent to its whole group."""
        if self.code is not None:
            return
        if number == signal.SIGKILL:
            self._kill_group()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Wait for the process to exit, and return the exit code."""
        await self._ended.wait()
        assert self.code is not None
        return self.code

    async def stop(self, grace_seconds: float) -> int:
        """Stop the process: SIGTERM, and SIGKILL after the grace period. Return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._kill_group()  # its own children; before the wait, no other group can have its id
        self.code = self._popen.wait()
        os.close(self._pidfd)
        self._ended.set()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def spawn(
    command: Sequence[str], variables: Mapping[str, str], log: Path | None, *, pass_fds: Sequence[int] = ()
) -> Process:
    """Start a child process whose output is appended to `log` (None: inherited). Raises OSError on failure.

    Must be called in the main thread: the parent-death signal is sent when the forking thread ends.
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
            preexec_fn=_set_parent_death_signal(os.getpid()),  # noqa: PLW1509 - no threads fork here, and it only makes two system calls
        )
    return Process(popen)


def _set_parent_death_signal(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent exited before the signal was set

    return prepare
