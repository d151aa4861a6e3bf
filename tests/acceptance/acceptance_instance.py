"""A whole instance, started as a user starts it, in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from behaviours import behaviours_world
from behaviours.behaviours_world import PUBLIC_NAME, until

from headrace.api.kinds import MODEL_DEPLOYMENT
from headrace.cli.client import DEFAULT_NAMESPACE, ApiClient
from headrace.local.home import InstanceHome

DEADLINE_SECONDS = 60.0
BIN = Path(sys.executable).parent


@dataclass
class Instance:
    """`headrace up` in a process, and the commands against it."""

    home: Path
    files: list[Path] = field(default_factory=list)
    name: str = "default"
    port: int | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> Instance:
        command = [str(BIN / "headrace"), "up", "--instance", self.name]
        for file in self.files:
            command += ["-f", str(file)]
        if self.port is not None:
            command += ["--port", str(self.port)]
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / f"up-{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)
        until(self._is_up, f"the instance is up; it said: {self.said()}")
        return self

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def kill(self) -> None:
        """As a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return (self.home / f"up-{self.name}.log").read_text()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HEADRACE_HOME": str(self.home), "OMP_NUM_THREADS": "2"}

    @property
    def directory(self) -> Path:
        return self.home / "instances" / self.name

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "instance.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"{self.record['endpoint']}/v1"

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "headrace"), words[0], "--instance", self.name, *words[1:]]
        return subprocess.run(
            command, env=self.environment(), input=text, capture_output=True, text=True, timeout=90, check=False
        )

    def headrace(self, *words: str, text: str | None = None) -> str:
        """Run a command that should succeed."""
        done = self.run(*words, text=text)
        assert done.returncode == 0, f"headrace {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, manifest: dict[str, Any]) -> str:
        return self.headrace("apply", "-f", "-", text=yaml.safe_dump(manifest))

    def get(self, name: str) -> dict[str, Any]:
        """Return a ModelDeployment from the API itself: tests poll this, and each command is a new process."""
        return self._api().get(MODEL_DEPLOYMENT, DEFAULT_NAMESPACE, name)

    def names(self) -> list[str]:
        """Return the names of all ModelDeployments, as the command prints them."""
        found = json.loads(self.headrace("get", "mdep", "-o", "json"))
        return [item["metadata"]["name"] for item in found["items"]]

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        conditions = self.get(name).get("status", {}).get("conditions", [])
        return next((dict(c) for c in conditions if c["type"] == type_), {})

    def wait(self, name: str, reason: str, type_: str = "Ready", seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        return until(
            lambda: c if (c := self.condition(name, type_)).get("reason") == reason else None,
            f"{name} has {type_} for the reason {reason}; it has {self.condition(name, type_)}",
            seconds,
        )

    def runtime_pids(self) -> list[int]:
        """Return the processes of this instance's runtime replicas."""
        return self.pids("headrace-llm")

    def pids(self, word: str) -> list[int]:
        """Return this instance's processes whose command line has the word."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def processes(self) -> list[int]:
        """Return every process that carries the life of this instance, the supervisor's children."""
        life = self._life().encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if life in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def _api(self) -> ApiClient:
        return ApiClient(InstanceHome(self.home, self.name).socket)

    def _life(self) -> str:
        return str(json.loads((self.directory / "life.json").read_text())["id"])

    def _is_up(self) -> bool:
        assert self.process.poll() is None, f"the instance ended: {self.said()}"
        record = self.directory / "instance.json"
        return record.exists() and json.loads(record.read_text())["pid"] == self.process.pid


def model(source: Path | str, name: str = PUBLIC_NAME, **spec: Any) -> dict[str, Any]:
    """Return a resource that serves a file, with parts of its spec replaced."""
    return behaviours_world.model(source if isinstance(source, str) else f"file://{source}", name, **spec)
