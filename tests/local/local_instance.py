"""`headrace up` in a process of its own, and what can be asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from headrace.cli.client import ApiClient
from headrace.errors import NotRunning
from headrace.local.home import InstanceHome, Record
from headrace.local.leftovers import LIFE_VARIABLE

SECONDS = 20.0
Found = TypeVar("Found")
SUSPENDED: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "resting", "namespace": "default"},
    "spec": {"model": {"source": {"uri": "file:///nowhere/none.gguf"}}, "suspend": True},
}


def until(look: Callable[[], Found | None], what: str, seconds: float = SECONDS) -> Found:
    """Return what `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Up:
    """`headrace up` in a process of its own."""

    home: InstanceHome
    arguments: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "headrace.cli.main")
    """What Python runs: `headrace`, or a program that calls it."""
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> Up:
        command = [sys.executable, *self.program, "up", "--instance", self.home.name, *self.arguments]
        variables = {**os.environ, "HEADRACE_HOME": str(self.home.root)}
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def wait_until_up(self) -> Up:
        until(lambda: self._is_up() or self.process.poll() is not None, "the instance is up or has ended")
        assert self.process.poll() is None, self.process.stdout and self.process.stdout.read()
        return self

    def _is_up(self) -> bool:
        with contextlib.suppress(NotRunning):
            return Record.read(self.home).pid == self.process.pid
        return False

    def ended(self) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        said, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def processes(self) -> dict[str, int]:
        """Return the running processes of this life, the supervisor not among them, by the name of their program."""
        life = json.loads(self.home.life.read_text())["id"]
        return processes_of(life)

    @property
    def endpoint(self) -> str:
        return Record.read(self.home).endpoint

    @property
    def client(self) -> ApiClient:
        return ApiClient(self.home.socket)


def processes_of(life: str) -> dict[str, int]:
    mark = f"{LIFE_VARIABLE}={life}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                name = next((Path(os.fsdecode(w)).name for w in words if b"python" not in w), "")
                found[name] = int(entry.name)
    return found


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return answer.read()


def models(endpoint: str) -> list[str]:
    return [model["id"] for model in json.loads(get(f"{endpoint}/v1/models"))["data"]]
