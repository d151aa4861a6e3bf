"""A pod as a process: what a kubelet does with it, on this machine.

One pod is one container is one process, with an address of its own in 127.0.0.0/8, so that ports of the same number
never collide. Its status is written in the shapes of Kubernetes, since the rules above read nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace import environment
from headrace.api.vocabulary import ROUTABLE_GATE
from headrace.local.index import ObjectIndex, ObjectKey
from headrace.local.probes import Probe
from headrace.local.process import Process, spawn
from headrace.local.template import ConfigError, Launch, launch_of
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Manifest
from headrace.termination import MAX_BYTES

DEFAULT_GRACE_SECONDS = 30.0
MAX_LOG_BYTES = 32 * 1024 * 1024
"""Of one container's log; a longer one begins anew."""
TRIM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The kubelet's delay before a container is started again: none the first time, then doubling."""

    first_seconds: float = 10.0
    longest_seconds: float = 300.0
    reset_seconds: float = 600.0
    """A container that ran for so long is forgiven its past."""

    def after(self, previous: float | None, ran_seconds: float) -> float:
        """Return the next delay; `previous` is the last one, None before the first restart."""
        if previous is None or ran_seconds >= self.reset_seconds:
            return 0.0
        return min(max(previous * 2, self.first_seconds), self.longest_seconds)


@dataclass(slots=True)
class _Container:
    """The status of the one container."""

    state: Manifest = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Manifest = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False


class LocalPod:
    """One pod. Made by its workload's controller, which hears of its changes through the index."""

    def __init__(self, manifest: Manifest, index: ObjectIndex, logs: Path, address: str, backoff: Backoff) -> None:
        self.key = ObjectKey.of(manifest)
        self._index = index
        self._manifest = {**manifest, "metadata": {**manifest["metadata"], "creationTimestamp": timestamp(time.time())}}
        self._address = address
        self._backoff = backoff
        stem = f"{self.key.namespace}.{self.key.name}"
        self.log = logs / f"{stem}.log"
        self.previous_log = logs / f"{stem}.previous.log"
        self._last_words = logs / f"{stem}.termination"
        self._container = _Container()
        self._phase = "Pending"
        self._started = timestamp(time.time())
        self._gate = False
        self._terminating = asyncio.Event()
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the container now: a wake waits for nothing else."""
        started = self._launch()
        self._write()
        self._task = asyncio.create_task(self._live(started=started))

    @property
    def terminating(self) -> bool:
        """Whether it was told to go."""
        return self._terminating.is_set()

    @property
    def ready(self) -> bool:
        """Whether its container is, whatever the gates say."""
        return self._container.ready

    def set_gate(self, routable: bool) -> None:  # noqa: FBT001 - it is the value of the gate
        """Set the readiness gate."""
        if routable != self._gate:
            self._gate = routable
            self._write()

    def terminate(self) -> None:
        """Tell it to go; it is out of the index when it is gone."""
        if not self._terminating.is_set():
            grace = self._grace()
            deletion = {"deletionTimestamp": timestamp(time.time()), "deletionGracePeriodSeconds": int(grace)}
            self._manifest["metadata"] = {**self._manifest["metadata"], **deletion}
            self._terminating.set()
            self._write()

    async def gone(self) -> None:
        """Return when nothing of it is left."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def kill(self) -> None:
        """End its process at once."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _live(self, *, started: bool) -> None:
        """Run the container, again and again as the restart policy says, until told to go."""
        delay: float | None = None
        while True:
            began = time.monotonic()
            code = await self._watch() if started else None
            if self._terminating.is_set():
                break
            if started and self._finished(code):
                await self._terminating.wait()
                break
            delay = self._backoff.after(delay if started else delay or 0.0, time.monotonic() - began)
            if await self._told_to_go_within(delay, crashed=started):
                break
            self._container.restarts += started
            started = self._launch()
            self._write()
        self._clean_up()

    def _launch(self) -> bool:
        """Start the process; return whether there is one now."""
        try:
            launch = launch_of(self._described(), self._lookup)
            self._process = self._spawn(launch)
        except ConfigError as error:
            self._waiting("CreateContainerConfigError", str(error))
            return False
        except OSError as error:
            command = self._manifest["spec"]["containers"][0]["command"][0]
            self._waiting("CreateContainerError", f"cannot execute {command}: {error.strerror}")
            return False
        self._phase = "Running"
        self._container.state = {"running": {"startedAt": timestamp(time.time())}}
        self._container.ready = "readinessProbe" not in self._manifest["spec"]["containers"][0]
        return True

    def _spawn(self, launch: Launch) -> Process:
        if self.log.exists():
            self.log.replace(self.previous_log)
        self._last_words.write_bytes(b"")
        variables = {**launch.variables, environment.TERMINATION_MESSAGE_PATH: str(self._last_words)}
        return spawn(launch.command, variables, self.log)

    async def _watch(self) -> int:
        """Probe the process until it has ended; end it when it is told to go or its liveness fails."""
        assert self._process is not None
        process, began = self._process, timestamp(time.time())
        probes = self._start_probes()
        told = asyncio.create_task(self._terminating.wait())
        ending = asyncio.create_task(process.wait())
        await asyncio.wait((told, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (*probes, told):
            task.cancel()
        if not ending.done():
            await process.stop(self._grace())
        code = await ending
        self._process = None
        self._container.ready = False
        self._container.state = {"terminated": self._terminated(code, began)}
        self._write()
        return code

    def _start_probes(self) -> list[asyncio.Task[None]]:
        container = self._manifest["spec"]["containers"][0]
        ports = container.get("ports", [])
        tasks = [asyncio.create_task(self._trim_log())]
        if "readinessProbe" in container:
            readiness = Probe.of(container["readinessProbe"], ports)
            tasks.append(asyncio.create_task(readiness.watch(self._address, self._on_readiness)))
        if "livenessProbe" in container:
            liveness = Probe.of(container["livenessProbe"], ports)
            tasks.append(asyncio.create_task(liveness.watch(self._address, self._on_liveness)))
        return tasks

    def _on_readiness(self, answer: bool) -> None:  # noqa: FBT001 - a probe's answer
        self._container.ready = answer
        self._write()

    def _on_liveness(self, answer: bool) -> None:  # noqa: FBT001 - a probe's answer
        if not answer and self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _trim_log(self) -> None:
        """Bound the log. The process appends, so it goes on at the beginning of the emptied file."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            if self.log.stat().st_size > MAX_LOG_BYTES:
                os.truncate(self.log, 0)

    def _finished(self, code: int | None) -> bool:
        """Whether the restart policy leaves it at this end."""
        policy = self._manifest["spec"].get("restartPolicy", "Always")
        if policy == "Always" or (policy == "OnFailure" and code != 0):
            return False
        self._phase = "Succeeded" if code == 0 else "Failed"
        self._write()
        return True

    async def _told_to_go_within(self, delay: float, *, crashed: bool) -> bool:
        if crashed:
            self._container.last_state = self._container.state
        if delay > 0:
            if crashed:
                self._waiting("CrashLoopBackOff", f"back-off {delay:.0f}s restarting the container")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._terminating.wait()
        return self._terminating.is_set()

    def _waiting(self, reason: str, message: str) -> None:
        self._container.ready = False
        self._container.state = {"waiting": {"reason": reason, "message": message}}
        self._write()

    def _terminated(self, code: int, began: str) -> Manifest:
        terminated: Manifest = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": began,
            "finishedAt": timestamp(time.time()),
        }
        if code < 0:
            terminated["signal"] = -code
        with contextlib.suppress(OSError), self._last_words.open("rb") as file:
            message = file.read(MAX_BYTES).decode(errors="replace").strip()
            if message:
                terminated["message"] = message
        return terminated

    def _grace(self) -> float:
        return float(self._manifest["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))

    def _lookup(self, kind: str, name: str) -> Manifest | None:
        return self._index.get(ObjectKey(kind, self.key.namespace, name))

    def _described(self) -> Manifest:
        return {**self._manifest, "status": {"podIP": self._address}}

    def _write(self) -> None:
        container = self._container
        gates = [gate["conditionType"] for gate in self._manifest["spec"].get("readinessGates", [])]
        passed = container.ready and (self._gate or ROUTABLE_GATE not in gates)
        conditions = [
            _condition("PodScheduled", holds=True),
            _condition("Initialized", holds=True),
            *(_condition(gate, holds=self._gate) for gate in gates),
            _condition("ContainersReady", holds=container.ready),
            _condition("Ready", holds=passed),
        ]
        status: dict[str, Any] = {
            "phase": self._phase,
            "podIP": self._address,
            "startTime": self._started,
            "conditions": conditions,
            "containerStatuses": [
                {
                    "name": self._manifest["spec"]["containers"][0]["name"],
                    "state": container.state,
                    "lastState": container.last_state,
                    "ready": container.ready,
                    "restartCount": container.restarts,
                }
            ],
        }
        self._index.put({**self._manifest, "status": status})

    def _clean_up(self) -> None:
        for path in (self.log, self.previous_log, self._last_words):
            path.unlink(missing_ok=True)
        self._index.remove(self.key)


def _condition(type_: str, *, holds: bool) -> Manifest:
    return {"type": type_, "status": "True" if holds else "False"}


class Addresses:
    """Loopback addresses for pods: one each, from a range that starts at a random place of the instance."""

    def __init__(self, start: int) -> None:
        self._next = start

    def take(self, ports: list[int]) -> str:
        """Return an address on which nobody listens on these ports."""
        while True:
            self._next += 1
            address = f"127.{64 + (self._next >> 16) % 128}.{(self._next >> 8) % 256}.{self._next % 254 + 1}"
            if all(_free(address, port) for port in ports):
                return address


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
