"""Reports for containers that do not register themselves (`runtime.type: Container`).

headrace's own runtimes register themselves on NATS. For other containers the loop publishes the same reports, made of
the pod's status and its readiness path, so gateways and rules know no difference. They have a subject of their own, on
which no tenant may publish: a gateway believes the address in them, for it comes from the API server. The path is
asked here too, and not only by the kubelet, whose probe comes once a second and is told to the API server up to a
second later.
Only the kubelet can take a ready pod back: it sees what is between the pod and its node.

Of those that announce themselves the path is asked too, less often, until it answers once: what keeps it from answering
is told in a condition, for the containers' owners alone know why. Only what a pod's status and its Deployment name is
ever asked, never what a report claims.

While no loop is there nobody speaks; gateways then ask the container themselves before they forget it.
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
from headrace.events.connection import heed_cancellation, publish_quietly
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.kinds.controller import STARTING, ProbedPod
from headrace.reconcile.world import ResourceKey

log = logging.getLogger(__name__)

SAY_SECONDS = 1.0
"""As often as a runtime of ours reports."""
PROBE_SECONDS = 0.1
ANNOUNCING_PROBE_SECONDS = 1.0
"""Of a container that announces itself: no wake waits for this answer."""
PROBE_TIMEOUT_SECONDS = 5.0
FAULT_SECONDS = 3.0
"""For so long after its start a container that does not answer is no fault: many listen only once they have loaded."""
MAX_HEAD_BYTES = 4096
"""Of an answer to a probe: the first line is all that counts."""


@dataclass(slots=True)
class _Voice:
    """One pod that is spoken for."""

    key: ResourceKey
    pod: ProbedPod
    answered: bool = False
    """It answered our probe, or the kubelet's, in this life."""
    was_ready: bool = False
    """By the kubelet, in this life: only then can it take that back."""
    said: ReplicaReport | None = None
    fault: str = ""
    """What kept it from answering our last probe."""
    probe: asyncio.Task[None] | None = None

    @property
    def state(self) -> ReplicaState:
        """What the container would say of itself."""
        if self.pod.leaving or (self.was_ready and not self.pod.ready):
            return ReplicaState.DRAINING
        return ReplicaState.READY if self.answered else ReplicaState.LOADING


class Spokesman:
    """See the module. `tell` says at once what is new, `run` says everything every second.

    `changed` is called when `faults` of a resource have changed.
    """

    def __init__(
        self, client: Client, changed: Callable[[ResourceKey], None], *, wall: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._changed = changed
        self._wall = wall
        self._voices: dict[tuple[ResourceKey, str], _Voice] = {}
        self._sequence = 0
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Speak until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            solicited = await self._client.subscribe(subjects.SOLICIT, cb=self._on_solicit)
            try:
                while True:
                    heed_cancellation()
                    await self._say_all()
                    await asyncio.sleep(SAY_SECONDS)
            finally:
                self._tasks = None
                for voice in self._voices.values():
                    _hush(voice)
                with contextlib.suppress(Exception):  # the connection may be closed by now
                    await solicited.unsubscribe()

    async def tell(self, key: ResourceKey, pods: Iterable[ProbedPod]) -> None:
        """Take in what there is of a resource now; pods that are gone are forgotten, with a last word."""
        present = {(key, pod.name): pod for pod in pods}
        for known in [name for name in self._voices if name[0] == key and name not in present]:
            await self._part_with(self._voices.pop(known))
        for name, pod in present.items():
            voice = self._voices.get(name)
            if voice is None or voice.pod.started != pod.started:
                if voice is not None:
                    _hush(voice)
                voice = self._voices[name] = _Voice(key, pod)
            voice.pod = pod
            voice.was_ready = voice.was_ready or pod.ready
            voice.answered = voice.answered or pod.ready
            if voice.probe is None and not voice.answered and self._tasks is not None:
                voice.probe = self._tasks.create_task(self._probe(voice))
            if voice.said is None or voice.said.state is not voice.state:
                await self._say(voice)

    def faults(self, key: ResourceKey) -> dict[str, str]:
        """Return what keeps the readiness paths of a resource's pods from answering, by pod."""
        mine = {pod: voice for (of, pod), voice in self._voices.items() if of == key}
        return {pod: voice.fault for pod, voice in mine.items() if voice.fault and not voice.answered}

    async def _probe(self, voice: _Voice) -> None:
        """Ask until it answers."""
        while not voice.answered and not voice.pod.leaving:
            began = time.monotonic()
            fault = await _fault(voice.pod)
            if not fault:
                voice.answered = True
                await self._say(voice)
            elif fault != voice.fault and self._wall() - voice.pod.started >= FAULT_SECONDS:
                voice.fault = fault
                self._changed(voice.key)
            pause = ANNOUNCING_PROBE_SECONDS if voice.pod.announces else PROBE_SECONDS
            await asyncio.sleep(max(0.0, began + pause - time.monotonic()))

    async def _say_all(self) -> None:
        for name in list(self._voices):
            if (voice := self._voices.get(name)) is not None:  # not a former life of it, while others are spoken for
                await self._say(voice)

    async def _say(self, voice: _Voice) -> None:
        pod, state = voice.pod, voice.state
        if pod.announces:
            return
        # Counted by the clock: a loop that takes over goes on where the one before it was.
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
        if await publish_quietly(self._client, subjects.brought(voice.key.namespace, voice.key.name, pod.name), report):
            voice.said = report

    async def _part_with(self, voice: _Voice) -> None:
        """It may have gone without having been seen to leave."""
        _hush(voice)
        if voice.said is not None and voice.said.state is ReplicaState.READY:
            voice.pod = replace(voice.pod, leaving=True)
            await self._say(voice)

    async def _on_solicit(self, msg: Msg) -> None:
        del msg
        await self._say_all()


def _hush(voice: _Voice) -> None:
    if voice.probe is not None:
        voice.probe.cancel()
        voice.probe = None


async def _fault(pod: ProbedPod) -> str:
    """Return what keeps the readiness path from answering with 200; empty when it does."""
    host = f"[{pod.host}]" if ":" in pod.host else pod.host
    request = f"GET {pod.path} HTTP/1.1\r\nhost: {host}:{pod.port}\r\nuser-agent: headrace\r\nconnection: close\r\n\r\n"
    asked = f"its readiness path {pod.path} on port {pod.port}"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(pod.host, pod.port, limit=MAX_HEAD_BYTES)
            try:
                writer.write(request.encode())
                version, _, rest = (await reader.readline()).partition(b" ")
            finally:
                writer.close()
    except ConnectionRefusedError:
        return f"{asked} is not answered: the connection is refused"
    except TimeoutError:
        return f"{asked} is not answered within {PROBE_TIMEOUT_SECONDS:.0f} s"
    except (OSError, ValueError):
        return f"{asked} is not answered: the connection breaks"
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        return f"{asked} is not answered in HTTP/1.1"
    return "" if rest[:3] == b"200" else f"{asked} is answered with {rest[:3].decode()}"
