"""Reports for containers that do not register themselves (`runtime.type: Container`).

headrace's own runtimes register themselves on NATS. For other containers the reconcile loop publishes the same reports,
from the pod's status and a probe of its readiness path, so gateways and rules handle both alike. These reports have
their own subject, on which no tenant may publish: gateways trust the address in them, which comes from the API server.
The loop probes in addition to the kubelet, whose probe runs once a second and whose result arrives up to a second
later. Only the kubelet makes a ready pod unready again: it also detects network faults between the pod and its node.

Self-registering containers are probed too, less often, until the first success: a condition reports why a probe fails,
because only the container's owner can fix that. The loop only requests addresses from a pod's status and Deployment,
never an address from a report.

While no reconcile loop is running, these reports are missing; gateways then probe a container before they drop it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.events import subjects
from headrace.events.connection import publish_if_connected, raise_if_cancelled
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.kinds.controller import STARTING, ProbedPod
from headrace.reconcile.world import ResourceKey

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Interval of the reports, equal to that of headrace's own runtimes."""
PROBE_SECONDS = 0.1
ANNOUNCING_PROBE_SECONDS = 1.0
"""Interval for a self-registering container: no cold start waits for this probe."""
PROBE_TIMEOUT_SECONDS = 5.0
FAULT_SECONDS = 3.0
"""Failed probes within this time after the container's start are not reported: many containers listen only after they
have loaded the model."""
MAX_HEAD_BYTES = 4096
"""Limit of the response to a probe, of which only the first line is read."""


@dataclass(slots=True)
class _ReportedPod:
    """A pod for which the loop reports."""

    key: ResourceKey
    pod: ProbedPod
    answered: bool = False
    """Whether a probe of the loop or the kubelet has succeeded since the container started."""
    was_ready: bool = False
    """Whether the kubelet's probe has succeeded since the container started; only then can it make the pod unready."""
    last_report: ReplicaReport | None = None
    fault: str = ""
    """Why the loop's last probe failed."""
    probe: asyncio.Task[None] | None = None

    @property
    def state(self) -> ReplicaState:
        """The state to report."""
        if self.pod.terminating or (self.was_ready and not self.pod.ready):
            return ReplicaState.DRAINING
        return ReplicaState.READY if self.answered else ReplicaState.LOADING


class ContainerReporter:
    """Publishes reports for pods that do not register themselves.

    `update` reports a change at once, `run` repeats every report each second. `changed` is called when `faults` of a
    resource have changed.
    """

    def __init__(
        self, client: Client, changed: Callable[[ResourceKey], None], *, wall: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._changed = changed
        self._wall = wall
        self._pods: dict[tuple[ResourceKey, str], _ReportedPod] = {}
        self._sequence = 0
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            solicited = await self._client.subscribe(subjects.SOLICIT, cb=self._on_solicit)
            try:
                while True:
                    raise_if_cancelled()
                    await self._publish_all()
                    await asyncio.sleep(REPORT_SECONDS)
            finally:
                self._tasks = None
                for reported in self._pods.values():
                    _cancel_probe(reported)
                with contextlib.suppress(Exception):  # the connection may be closed by now
                    await solicited.unsubscribe()

    async def update(self, key: ResourceKey, pods: Iterable[ProbedPod]) -> None:
        """Update the pods of a resource; a deleted pod is reported as draining once more, then dropped."""
        present = {(key, pod.name): pod for pod in pods}
        for known in [name for name in self._pods if name[0] == key and name not in present]:
            await self._drop(self._pods.pop(known))
        for name, pod in present.items():
            reported = self._pods.get(name)
            if reported is None or reported.pod.started != pod.started:
                if reported is not None:
                    _cancel_probe(reported)
                reported = self._pods[name] = _ReportedPod(key, pod)
            reported.pod = pod
            reported.was_ready = reported.was_ready or pod.ready
            reported.answered = reported.answered or pod.ready
            if reported.probe is None and not reported.answered and self._tasks is not None:
                reported.probe = self._tasks.create_task(self._probe(reported))
            if reported.last_report is None or reported.last_report.state is not reported.state:
                await self._publish(reported)

    def faults(self, key: ResourceKey) -> dict[str, str]:
        """Return why the probes of a resource's pods fail, by pod."""
        own = {pod: reported for (of, pod), reported in self._pods.items() if of == key}
        return {pod: reported.fault for pod, reported in own.items() if reported.fault and not reported.answered}

    async def _probe(self, reported: _ReportedPod) -> None:
        """Probe the readiness path until it succeeds."""
        while not reported.answered and not reported.pod.terminating:
            began = time.monotonic()
            fault = await _fault(reported.pod)
            if not fault:
                reported.answered = True
                await self._publish(reported)
            elif fault != reported.fault and self._wall() - reported.pod.started >= FAULT_SECONDS:
                reported.fault = fault
                self._changed(reported.key)
            pause = ANNOUNCING_PROBE_SECONDS if reported.pod.announces else PROBE_SECONDS
            await asyncio.sleep(max(0.0, began + pause - time.monotonic()))

    async def _publish_all(self) -> None:
        for name in list(self._pods):
            if (reported := self._pods.get(name)) is not None:  # it may have been replaced during an earlier publish
                await self._publish(reported)

    async def _publish(self, reported: _ReportedPod) -> None:
        pod, state = reported.pod, reported.state
        if pod.announces:
            return
        # Derived from the clock, so that the sequence of a new leader continues that of the previous one.
        self._sequence = max(self._sequence + 1, int(self._wall() * 1000))
        report = ReplicaReport(
            pod=pod.name,
            revision=pod.revision,
            host=pod.host,
            port=pod.port,
            started=pod.started,
            sequence=self._sequence,
            state=state,
            stage=STARTING if state is ReplicaState.LOADING else "",
            capacity=pod.capacity,
        )
        if await publish_if_connected(
            self._client, subjects.container_report(reported.key.namespace, reported.key.name, pod.name), report
        ):
            reported.last_report = report

    async def _drop(self, reported: _ReportedPod) -> None:
        """Report a deleted pod as draining, in case its termination was not observed."""
        _cancel_probe(reported)
        if reported.last_report is not None and reported.last_report.state is ReplicaState.READY:
            reported.pod = replace(reported.pod, terminating=True)
            await self._publish(reported)

    async def _on_solicit(self, msg: Msg) -> None:
        del msg
        await self._publish_all()


def _cancel_probe(reported: _ReportedPod) -> None:
    if reported.probe is not None:
        reported.probe.cancel()
        reported.probe = None


async def _fault(pod: ProbedPod) -> str:
    """Probe the readiness path once; return why it fails, or an empty string if the response is 200."""
    host = f"[{pod.host}]" if ":" in pod.host else pod.host
    request = f"GET {pod.path} HTTP/1.1\r\nhost: {host}:{pod.port}\r\nuser-agent: headrace\r\nconnection: close\r\n\r\n"
    path = f"its readiness path {pod.path} on port {pod.port}"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(pod.host, pod.port, limit=MAX_HEAD_BYTES)
            try:
                writer.write(request.encode())
                version, _, rest = (await reader.readline()).partition(b" ")
            finally:
                writer.close()
    except ConnectionRefusedError:
        return f"{path} does not respond: the connection is refused"
    except TimeoutError:
        return f"{path} does not respond within {PROBE_TIMEOUT_SECONDS:.0f} s"
    except (OSError, ValueError):
        return f"{path} does not respond: the connection is closed"
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        return f"{path} does not respond in HTTP/1.1"
    return "" if rest[:3] == b"200" else f"{path} responds with status {rest[:3].decode()}"
