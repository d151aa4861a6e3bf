"""The processes of the bench: the agent with its keeper, and workers that take a measurement per line of JSON.

With `exclusive`, every process runs at real-time priority (SCHED_FIFO), so that other jobs of the machine wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from headrace.agent.admin import AdminClient
from headrace.environment import AGENT_SOCKET_NAME

BENCH = Path(__file__).parents[1]
DEADLINE_SECONDS = 60.0
PRIORITY = 10
QUIET_SECONDS = 0.03
STORE_OPTIONS = ("--store-bytes", "6Gi", "--tenant-bytes", "5Gi", "--pool-bytes", "2Gi")


def start(command: Sequence[object], *, exclusive: bool, **options: Any) -> subprocess.Popen[str]:
    """Start a process that can import the bench; its threads inherit the priority."""
    variables = {**os.environ, "PYTHONPATH": str(BENCH), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), env=variables, text=True, **options)
    if exclusive:
        os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(PRIORITY))
    return process


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process with all its threads, ended ones too: the clock of clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def status_bytes(pid: int, field: str) -> int:
    """Return a field of /proc/PID/status that is in kB, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class Agent:
    """A node agent in a directory; `restart` kills it and starts the next one."""

    def __init__(self, directory: Path, *options: str, exclusive: bool = False) -> None:
        self.directory = directory
        self.admin = AdminClient(directory / "admin.sock")
        self._options, self._exclusive = options, exclusive
        self.process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """Of the present process."""
        return self.process.pid

    def start(self) -> float:
        """Start the process; return the seconds until it accepts connections, which is the last step of its start."""
        self.admin_socket.unlink(missing_ok=True)
        began = time.perf_counter()
        command = [sys.executable, "-m", "headrace_node.main", "agent", "--socket-directory", self.directory]
        self.process = start([*command, *self._options], exclusive=self._exclusive, stderr=subprocess.DEVNULL)
        while not self.admin.is_reachable():
            assert self.process.poll() is None, f"the agent exited with {self.process.returncode}"
            assert time.perf_counter() - began < DEADLINE_SECONDS
            time.sleep(0.001)
        return time.perf_counter() - began

    @property
    def admin_socket(self) -> Path:
        """The socket of operators."""
        return self.directory / "admin.sock"

    def socket(self, tenant: str = "bench") -> Path:
        """Return the socket of a tenant's pod."""
        return self.admin.open_volume(tenant, namespace=tenant, pod="bench", uid="bench") / AGENT_SOCKET_NAME

    def await_quiet(self) -> None:
        """Wait until it has used no CPU time for a moment: what it does after a reply counts too."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        before = -1.0
        while (now := cpu_seconds(self.pid)) != before:
            assert time.monotonic() < deadline
            before = now
            time.sleep(QUIET_SECONDS)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it with a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(DEADLINE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


@dataclass(slots=True)
class Worker:
    """A process that reads requests and writes results, both as lines of JSON."""

    process: subprocess.Popen[str]

    @classmethod
    def of(cls, module: str, *arguments: object, exclusive: bool) -> Self:
        """Start a module of the bench, with a session of its own: its children are killed with it."""
        command = [sys.executable, "-m", f"nodes.{module}", *arguments]
        return cls(
            start(command, exclusive=exclusive, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        )

    def ask(self, **request: object) -> Any:
        """Send a request and return its result."""
        self.put(**request)
        return self.answer()

    def put(self, **request: object) -> None:
        """Send a request."""
        _pipe(self.process.stdin).write(json.dumps(request) + "\n")
        _pipe(self.process.stdin).flush()

    def answer(self) -> Any:
        """Return the next result."""
        line = _pipe(self.process.stdout).readline()
        assert line, f"a worker exited with {self.process.wait()}"
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _pipe(pipe).close()


def say(result: object) -> None:
    """Write a result, as a worker."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
