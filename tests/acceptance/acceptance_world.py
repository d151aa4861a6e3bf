"""This machine as a world: an instance, its namespace `default`, and processes for pods."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from acceptance.acceptance_instance import DEADLINE_SECONDS, Instance
from behaviours.behaviours_world import Manifest, Part, held_requests

from headrace import environment

PROGRAMS: dict[Part, str] = {"gateway": "headrace-gateway", "nats": "nats-server"}


@dataclass(frozen=True)
class LocalWorld:
    """See `behaviours.behaviours_world.World`."""

    instance: Instance
    model_path: Path
    api_key: str = "none"
    engine_image: str = "headrace-runtime-llm"
    patience: float = DEADLINE_SECONDS

    @property
    def base_url(self) -> str:
        return self.instance.url

    @property
    def model_uri(self) -> str:
        return f"file://{self.model_path}"

    def uri(self, file: str) -> str:
        return f"file://{self._path(file)}"

    def put(self, file: str, content: bytes) -> None:
        self._path(file).write_bytes(content)

    def apply(self, manifest: Manifest) -> None:
        self.instance.apply(manifest)

    def delete(self, name: str) -> None:
        self.instance.headrace("delete", f"mdep/{name}")

    def get(self, name: str) -> Manifest:
        return self.instance.get(name)

    def find(self, kind: str, name: str) -> Manifest | None:
        found = json.loads(self.instance.headrace("get", kind, "-o", "json"))["items"]
        return next((each for each in found if each["metadata"]["name"] == name), None)

    def remove(self, kind: str, name: str) -> None:
        self.instance.headrace("delete", f"{kind}/{name}")

    def describe(self, name: str) -> str:
        return self.instance.headrace("describe", f"mdep/{name}")

    def scale(self, name: str, replicas: int) -> None:
        self.instance.headrace("scale", f"mdep/{name}", "--replicas", str(replicas))

    def lives(self, name: str) -> list[str]:
        return [str(pid) for pid in self._replicas(name)]

    def kill(self, name: str) -> None:
        os.kill(only(self._replicas(name)), signal.SIGKILL)

    def kill_part(self, part: Part) -> None:
        os.kill(only(self.instance.pids(PROGRAMS[part])), signal.SIGKILL)

    @contextlib.contextmanager
    def without_nats(self) -> Iterator[None]:
        os.kill(self.instance.process.pid, signal.SIGSTOP)  # or NATS would be back at once
        try:
            self.kill_part("nats")
            yield
        finally:
            os.kill(self.instance.process.pid, signal.SIGCONT)

    def held(self, public_name: str) -> float:
        return self._held(public_name) or 0.0

    def is_routed(self, public_name: str) -> bool:
        return self._held(public_name) is not None

    def _held(self, public_name: str) -> float | None:
        with urlopen(self.base_url.removesuffix("/v1") + "/metrics", timeout=DEADLINE_SECONDS) as answer:
            return held_requests(answer.read().decode(), public_name)

    def part_is_whole(self, part: Part) -> bool:
        return len(self.instance.pids(PROGRAMS[part])) == 1

    def _replicas(self, name: str) -> list[int]:
        """Return the runtime processes of a model; a custom container may have the public name only."""
        ours = _told(self.instance.runtime_pids(), environment.MODEL_DEPLOYMENT, name)
        return ours or _told(self.instance.processes(), environment.MODEL_NAME, name)

    def _path(self, file: str) -> Path:
        return self.instance.home / file


def _told(pids: list[int], variable: str, value: str) -> list[int]:
    """Return the processes that were started with a variable of this value."""
    mark, found = f"{variable}={value}\0".encode(), []
    for pid in pids:
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def only(pids: list[int]) -> int:
    assert len(pids) == 1, pids
    return pids[0]
