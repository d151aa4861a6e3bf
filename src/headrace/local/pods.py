"""Runs a pod as a process of this machine, as a kubelet does.

A pod is one container, which is one process, with its own address in 127.0.0.0/8, so that pods can use the same port.
It is started, probed, restarted with back-off and terminated with a grace period as by a kubelet. Its status has the
shape of Kubernetes, which the reconcile rules read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace import environment
from headrace.api.vocabulary import ROUTABLE_GATE
from headrace.local.index import ObjectIndex
from headrace.local.probes import LIVENESS, PROBES, READINESS, STARTUP, Probe
from headrace.local.standby import StandbyPool
from headrace.local.template import ConfigError, Launch, launch_of
from headrace.local.volumes import Directories, make_volumes, remove_files
from headrace.process import Process
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Manifest, ObjectKey
from headrace.termination import FALLBACK_BYTES, FALLBACK_LINES, MAX_BYTES, quotes_log

DEFAULT_GRACE_SECONDS = 30.0
ON_FAILURE = "OnFailure"
"""The restart policy of a Job's pods; those of Deployments and DaemonSets have Always."""
MAX_LOG_BYTES = 32 * 1024 * 1024
"""Of one container's log; a longer one is truncated."""
TRIM_SECONDS = 10.0
_NOT_CONFIGURED = "CreateContainerConfigError"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before a container is restarted: none the first time, then doubling with each consecutive failure.

    As a kubelet's, which however ignores whether a container was ready between two failures.
    """

    first_seconds: float = 10.0
    longest_seconds: float = 300.0
    reset_seconds: float = 600.0
    """A container that ran for so long resets the back-off."""
    ready_seconds: float = 10.0
    """So does one that was ready for so long: not less, or one that crashes at each first request would never wait."""

    def after(self, previous: float | None, *, ran_seconds: float, ready_seconds: float = 0.0) -> float:
        """Return the next delay; `previous` is the last one, None before the first restart."""
        if previous is None or ran_seconds >= self.reset_seconds or ready_seconds >= self.ready_seconds:
            return 0.0
        return min(max(previous * 2, self.first_seconds), self.longest_seconds)


@dataclass(slots=True)
class _Container:
    """The status of the one container."""

    state: Manifest = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Manifest = field(default_factory=dict)
    restarts: int = 0
    started: bool = False
    """Whether the startup probe, if there is one, has succeeded."""
    ready: bool = False
    ready_since: float | None = None
    """When its readiness probe first succeeded since the last start, on the monotonic clock."""

    @property
    def ready_seconds(self) -> float:
        """How long it has been ready; 0 without a readiness probe."""
        return 0.0 if self.ready_since is None else time.monotonic() - self.ready_since


class LocalPod:
    """One pod. Its workload's controller creates it and receives its changes through the index."""

    def __init__(
        self,
        manifest: Manifest,
        index: ObjectIndex,
        directories: Directories,
        address: str,
        backoff: Backoff,
        standby: StandbyPool,
    ) -> None:
        self.key = ObjectKey.of(manifest)
        owner = manifest["metadata"]["ownerReferences"][0]
        self.owner = ObjectKey(owner["kind"], self.key.namespace, owner["name"])
        self._index = index
        self._manifest = {**manifest, "metadata": {**manifest["metadata"], "creationTimestamp": timestamp(time.time())}}
        self._address = address
        self._backoff = backoff
        self._standby = standby
        stem = f"{self.key.namespace}.{self.key.name}"
        self._home, directory = directories.home, directories.pods
        self._agent_volume = None if directories.agent is None else directories.agent / self.key.namespace
        self.log = directory / f"{stem}.log"
        self.previous_log = directory / f"{stem}.previous.log"
        self._termination_message = directory / f"{stem}.termination"
        self._volumes = directory / f"{stem}.volumes"
        self._container = _Container()
        self._phase = "Pending"
        self._started = timestamp(time.time())
        self._gate: bool | None = None
        """The readiness gate; None until it is set for the first time."""
        self._conditions: dict[str, Manifest] = {}
        self._terminating = asyncio.Event()
        self._interrupted = asyncio.Event()
        """Set when the running container, or the wait for its next start, may have to end."""
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the container before returning, so that a wake is fast."""
        started = self._launch()
        self._write()
        self._task = asyncio.create_task(self._run(started=started))

    @property
    def terminating(self) -> bool:
        """Whether `terminate` was called."""
        return self._terminating.is_set()

    @property
    def spec(self) -> Manifest:
        """The pod's spec."""
        spec: Manifest = self._manifest["spec"]
        return spec

    @property
    def phase(self) -> str:
        """Pending, Running, or Succeeded."""
        return self._phase

    @property
    def restarts(self) -> int:
        """How often its container was restarted."""
        return self._container.restarts

    @property
    def ready(self) -> bool:
        """Whether its container is ready and every readiness gate is True."""
        return self._container.ready and all(self._gates().values())

    def set_gate(self, routable: bool) -> None:  # noqa: FBT001 - it is the value of the gate
        """Set the readiness gate."""
        if routable != bool(self._gate):
            self._gate = routable
            self._write()

    def terminate(self) -> None:
        """Terminate it with its grace period; it is removed from the index when its process has ended."""
        if not self._terminating.is_set():
            grace = self._grace()
            deletion = {"deletionTimestamp": timestamp(time.time()), "deletionGracePeriodSeconds": int(grace)}
            self._manifest["metadata"] = {**self._manifest["metadata"], **deletion}
            self._terminating.set()
            self._interrupted.set()
            self._write()

    def on_config_change(self) -> None:
        """Start the container now if it waits for a ConfigMap or Secret: one has changed."""
        if self._container.state.get("waiting", {}).get("reason") == _NOT_CONFIGURED:
            self._interrupted.set()

    async def gone(self) -> None:
        """Return when its process has ended and its files are removed."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def kill(self) -> None:
        """Kill its process."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _run(self, *, started: bool) -> None:
        """Run the container, and restart it by its restart policy, until the pod is terminated."""
        delay: float | None = None
        while True:
            began = time.monotonic()
            if started:
                code = await self._watch()
                if self.terminating:
                    break
                if self._finished(code):
                    await self._terminating.wait()
                    break
            delay = self._backoff.after(
                delay if started else delay or 0.0,
                ran_seconds=time.monotonic() - began,
                ready_seconds=self._container.ready_seconds if started else 0.0,
            )
            await self._pause(delay, crashed=started)
            if self.terminating:
                break
            self._container.restarts += started
            started = self._launch()
            self._write()
        await self._clean_up()

    def _launch(self) -> bool:
        """Start the process; return whether it runs."""
        self._interrupted.clear()
        container = self.spec["containers"][0]
        try:
            mounts = make_volumes(self.spec, self._volumes, self._home, self._agent_volume)
        except OSError as error:
            self._waiting("CreateContainerError", f"cannot make the emptyDir volumes: {error.strerror}")
            return False
        try:
            launch = launch_of(self._described(), self._lookup, mounts)
            self._process = self._spawn(launch)
        except ConfigError as error:
            self._waiting(_NOT_CONFIGURED, str(error))
            return False
        except (OSError, ValueError) as error:  # ValueError: a zero byte in a word or a variable
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._waiting("CreateContainerError", f"cannot execute {container['command'][0]}: {why}")
            return False
        self._phase = "Running"
        self._container.state = {"running": {"startedAt": timestamp(time.time())}}
        self._container.ready_since = None
        self._container.started = STARTUP not in container
        self._container.ready = self._container.started and READINESS not in container
        return True

    def _spawn(self, launch: Launch) -> Process:
        if self.log.exists():
            self.log.replace(self.previous_log)
        self._termination_message.write_bytes(b"")
        variables = {**launch.variables, environment.TERMINATION_MESSAGE_PATH: str(self._termination_message)}
        return self._standby.start(self.spec, Launch(launch.command, variables), self.log)

    async def _watch(self) -> int:
        """Probe the process until it exits; end it with its grace period on termination or a failed liveness probe."""
        assert self._process is not None
        process, began = self._process, self._container.state["running"]["startedAt"]
        probing = asyncio.create_task(self._probe())
        ended, stirred = asyncio.create_task(process.wait()), asyncio.create_task(self._interrupted.wait())
        await asyncio.wait((ended, stirred), return_when=asyncio.FIRST_COMPLETED)
        for task in (probing, stirred):
            task.cancel()
        code = await process.stop(self._grace())
        await asyncio.wait((probing, ended, stirred))
        self._process = None
        self._container.started = self._container.ready = False
        self._container.state = {"terminated": self._terminated(code, began)}
        self._write()
        return code

    async def _probe(self) -> None:
        """Run the probes, the others once the startup probe has succeeded, and bound the log."""
        container = self.spec["containers"][0]
        probes = {name: Probe.of(container[name], container.get("ports", [])) for name in PROBES if name in container}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._trim_log())
            if STARTUP in probes:
                started = asyncio.Event()
                starting = tasks.create_task(probes[STARTUP].watch(self._address, self._or_restart(started.set)))
                await started.wait()
                starting.cancel()
                self._container.started = True
                self._on_readiness(READINESS not in probes)
            if READINESS in probes:
                tasks.create_task(probes[READINESS].watch(self._address, self._on_readiness))
            if LIVENESS in probes:
                tasks.create_task(probes[LIVENESS].watch(self._address, self._or_restart(lambda: None)))

    def _on_readiness(self, answer: bool) -> None:  # noqa: FBT001 - a probe's answer
        self._container.ready = answer
        if answer and self._container.ready_since is None and READINESS in self.spec["containers"][0]:
            self._container.ready_since = time.monotonic()
        self._write()

    def _or_restart(self, good: Callable[[], None]) -> Callable[[bool], None]:
        """Return a handler of a probe's results: it calls `good`, or ends the container, which is then restarted."""
        return lambda answer: good() if answer else self._interrupted.set()

    async def _trim_log(self) -> None:
        """Truncate a log that is too long. The process appends, so it continues at the beginning of the file."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            with contextlib.suppress(OSError):  # it was removed
                if self.log.stat().st_size > MAX_LOG_BYTES:
                    os.truncate(self.log, 0)

    def _finished(self, code: int) -> bool:
        """Whether the container has succeeded and is not restarted by its policy."""
        if code != 0 or self.spec.get("restartPolicy") != ON_FAILURE:
            return False
        self._phase = "Succeeded"
        self._write()
        return True

    async def _pause(self, delay: float, *, crashed: bool) -> None:
        """Wait before the next start, at most until the pod is terminated or its configuration changes."""
        if crashed:
            self._container.last_state = self._container.state
            self._interrupted.clear()  # the reason for which the container ended
        if delay > 0:
            if crashed:
                self._waiting("CrashLoopBackOff", f"back-off {delay:.0f}s restarting the container")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._interrupted.wait()

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
        with contextlib.suppress(OSError), self._termination_message.open("rb") as file:
            message = file.read(MAX_BYTES).decode(errors="replace").strip()
            if message or (code != 0 and quotes_log(self.spec) and (message := _end_of_log(self.log))):
                terminated["message"] = message
        return terminated

    def _grace(self) -> float:
        return float(self.spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))

    def _gates(self) -> dict[str, bool]:
        """Return the readiness gates; one that headrace does not set stays False."""
        gates = (gate["conditionType"] for gate in self.spec.get("readinessGates", []))
        return {gate: bool(self._gate) and gate == ROUTABLE_GATE for gate in gates}

    def _lookup(self, kind: str, name: str) -> Manifest | None:
        return self._index.get(ObjectKey(kind, self.key.namespace, name))

    def _described(self) -> Manifest:
        return {**self._manifest, "status": {"podIP": self._address}}

    def _write(self) -> None:
        container = self._container
        conditions = {
            "PodScheduled": True,
            "Initialized": True,
            **({ROUTABLE_GATE: self._gate} if self._gate is not None else {}),
            "ContainersReady": container.ready,
            "Ready": self.ready,
        }
        status: dict[str, Any] = {
            "phase": self._phase,
            "podIP": self._address,
            "startTime": self._started,
            "conditions": [self._condition(type_, holds=holds) for type_, holds in conditions.items()],
            "containerStatuses": [
                {
                    "name": self.spec["containers"][0]["name"],
                    "state": container.state,
                    "lastState": container.last_state,
                    "started": container.started,
                    "ready": container.ready,
                    "restartCount": container.restarts,
                }
            ],
        }
        self._index.put({**self._manifest, "status": status})

    def _condition(self, type_: str, *, holds: bool) -> Manifest:
        before, status = self._conditions.get(type_), str(holds)
        if before is None or before["status"] != status:
            self._conditions[type_] = {
                "type": type_,
                "status": status,
                "lastTransitionTime": timestamp(time.time()),
            }
        return self._conditions[type_]

    async def _clean_up(self) -> None:
        if self._volumes.exists():
            await asyncio.to_thread(remove_files, self._volumes)
        for path in (self.log, self.previous_log, self._termination_message):
            remove_files(path)
        self._index.remove(self.key)


def _end_of_log(log: Path) -> str:
    """Return the last lines of a log, as many as a kubelet quotes."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - FALLBACK_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-FALLBACK_LINES:]).strip()
