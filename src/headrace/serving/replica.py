"""The lifecycle of this replica, and its admitted requests.

    Loading ──loaded()──▶ Ready ──drain()──▶ Draining, still admitting ──refuse()──▶ Draining, refusing

A draining replica still admits requests for a while, because gateways that have not received its report yet are sending
some (see `headrace.serving.lifecycle`). Each request is a block that can be stopped from outside with a cause: the
client disconnected, or the grace period ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.events.messages import MAX_STAGES, Load, ReplicaState
from headrace.serving.engine import Engine
from headrace.serving.errors import Draining, EngineDied, NotLoaded

AnyEngine = TypeVar("AnyEngine", bound=Engine)

STARTING_STAGE = "starting"
FIRST_TOKEN_STAGE = "first-token"  # noqa: S105 - a token of text
"""From Ready to the first token of any answer: the last stage of a cold start, whose request waits meanwhile."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The state that the replica reports, besides its load."""

    state: ReplicaState = ReplicaState.LOADING
    stage: str = STARTING_STAGE
    percent: int | None = None


class Work(Generic[AnyEngine]):
    """One admitted request."""

    def __init__(self, engine: AnyEngine, scope: asyncio.Timeout) -> None:
        self.engine = engine
        self._scope = scope
        self.cause: Exception | None = None

    def stop(self, cause: Exception) -> None:
        """End the block of this work with the cause, wherever it waits. The first cause is kept."""
        if self.cause is None:
            self.cause = cause
            self._scope.reschedule(asyncio.get_running_loop().time())


class Replica(Generic[AnyEngine]):
    """The state of one replica; used on the event loop only."""

    def __init__(self) -> None:
        self.status = ReplicaStatus()
        self.started = time.time()
        self.stages: dict[str, int] = {}
        """How long each stage of the start took that has ended, milliseconds."""
        self._stage_began = time.monotonic()
        self.kept_weights = ""
        """Name of the object in the node's store that has the weights; empty: there is none."""
        self.ready_seconds: float | None = None
        """From the start to Ready; None until then."""
        self.engine: AnyEngine | None = None
        self._refusing = False
        self._changed: Callable[[], None] = lambda: None
        self._work: set[Work[AnyEngine]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> int:
        """Number of admitted requests that have not ended."""
        return len(self._work)

    @property
    def alive(self) -> bool:
        """Whether the process can serve; if not, it must be restarted."""
        return self.engine is None or self.engine.healthy

    @property
    def ready(self) -> bool:
        """Whether to route requests here. False as soon as draining begins, though requests are still served."""
        return self.status.state is ReplicaState.READY and self.alive

    def load(self) -> Load:
        """Return the engine's load; an empty one until it is loaded."""
        return self.engine.load() if self.engine is not None else Load()

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each change of the status."""
        self._changed = changed

    def progress(self, stage: str, percent: int | None) -> None:
        """Set the progress of loading."""
        if self.status.state is ReplicaState.LOADING:
            self._set_status(ReplicaStatus(ReplicaState.LOADING, stage, percent))

    def loaded(self, engine: AnyEngine) -> None:
        """Set the engine and accept requests."""
        self.engine = engine
        self.ready_seconds = time.time() - self.started
        self._set_status(ReplicaStatus(ReplicaState.READY, ""))

    def first_token(self) -> None:
        """Record the first token of an answer; the later ones change nothing."""
        if FIRST_TOKEN_STAGE not in self.stages and self.status.state is not ReplicaState.LOADING:
            self._end_stage(FIRST_TOKEN_STAGE)
            self._changed()

    def drain(self) -> None:
        """Report Draining; requests that still arrive are served."""
        self._set_status(ReplicaStatus(ReplicaState.DRAINING, ""))

    def refuse(self) -> None:
        """Reject new requests from now on."""
        self._refusing = True

    def cut_off(self, cause: Exception) -> None:
        """Stop all running work."""
        for work in list(self._work):
            work.stop(cause)

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing runs; return False on a timeout."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work[AnyEngine]]:
        """Admit one request for the length of the block.

        Raises NotLoaded, Draining, EngineDied, or the cause with which the work was stopped.
        """
        engine = self._admit()
        work: Work[AnyEngine] | None = None
        try:
            async with asyncio.timeout(None) as scope:
                work = Work(engine, scope)
                self._work.add(work)
                self._idle.clear()
                try:
                    yield work
                finally:
                    self._work.discard(work)
                    if not self._work:
                        self._idle.set()
        except TimeoutError:
            if work is None or work.cause is None:
                raise
            raise work.cause from None

    def _admit(self) -> AnyEngine:
        if self._refusing:
            raise Draining("this replica is stopping", hint="Send the request again; another replica serves it")
        if self.engine is None:
            raise NotLoaded("the model is still loading", hint="Try again in a moment")
        if not self.engine.healthy:
            raise EngineDied("the engine has failed; the replica is being restarted")
        return self.engine

    def _set_status(self, standing: ReplicaStatus) -> None:
        if standing != self.status:
            if standing.stage != self.status.stage and self.status.state is ReplicaState.LOADING:
                self._end_stage(self.status.stage)
            self.status = standing
            self._changed()

    def _end_stage(self, stage: str) -> None:
        now = time.monotonic()
        if stage in self.stages or len(self.stages) < MAX_STAGES:
            self.stages[stage] = self.stages.get(stage, 0) + round((now - self._stage_began) * 1000)
        self._stage_began = now
