"""The agent and its CSI service as processes, the latter as root of a mount namespace of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
from typing_extensions import override

from headrace.agent.admin import AdminClient
from headrace_node.csi.messages import TYPES

START_SECONDS = 20.0
"""It takes some hundred milliseconds; the machine may be busy."""
PYTHON = (sys.executable, "-m", "headrace_node.main")


def in_mount_namespace() -> list[str]:
    """Return the command that runs another one as root in a mount namespace of its own."""
    return ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a condition holds, as long as a process runs."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, f"exited with {process.returncode}"
        assert time.monotonic() < deadline, f"not within {START_SECONDS} s"
        time.sleep(0.01)


class Program:
    """A program of the node, stopped at the end of the block."""

    def __init__(self, *command: str) -> None:
        self._command = command
        self.process = subprocess.Popen(command)

    def ready(self) -> bool:
        """Whether it can be used."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        until(self.ready, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


class Agent(Program):
    """The agent, with its sockets in a directory."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.admin_socket = directory / "admin.sock"
        self.admin = AdminClient(self.admin_socket)
        self.admin_socket.unlink(missing_ok=True)
        super().__init__(*PYTHON, "agent", "--socket-directory", str(directory), *options)

    @override
    def ready(self) -> bool:
        """Whether the last of its parts has been started."""
        return self.admin.is_reachable()


class Keeper(Program):
    """The keeper of an agent's objects."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "keeper.sock"
        super().__init__(*PYTHON, "keeper", "--socket-directory", str(directory))

    @override
    def ready(self) -> bool:
        """Whether it listens."""
        return self.socket.exists()


class Csi(Program):
    """The CSI service of an agent, with a gRPC client."""

    def __init__(self, agent_directory: Path, directory: Path) -> None:
        self.socket, self.registration = directory / "csi.sock", directory / "registration"
        self.pods = directory / "pods"
        self.pods.mkdir(exist_ok=True)
        self.registration_socket = self.registration / "node.headrace.dev-reg.sock"
        self.registration_socket.unlink(missing_ok=True)
        super().__init__(
            *in_mount_namespace(),
            *(*PYTHON, "csi", "--agent-directory", str(agent_directory), "--csi-socket", str(self.socket)),
            *("--registration-directory", str(self.registration), "--pods-directory", str(self.pods)),
            *("--kubelet-endpoint", str(self.socket), "--node", "node-1"),
        )

    @override
    def ready(self) -> bool:
        """Whether its sockets exist."""
        return self.registration_socket.exists()

    def call(self, method: str, request: object = None, response: str = "Empty") -> Any:
        """Call a method by its full name, as a kubelet does. Raises grpc.RpcError."""
        socket = self.registration_socket if method.startswith("pluginregistration") else self.socket
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            call: Any = channel.unary_unary(
                f"/{method}",
                request_serializer=lambda message: b"" if message is None else message.SerializeToString(),
                response_deserializer=TYPES[response].FromString,
            )
            return call(request, timeout=START_SECONDS, wait_for_ready=True)

    def seen(self, path: Path) -> Path:
        """Return the path under which this process sees its mount namespace's path."""
        return Path(f"/proc/{self.process.pid}/root{path}")
