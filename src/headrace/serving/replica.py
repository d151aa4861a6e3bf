"""Where this replica is in its life, and the work that it has taken.

    Loading ──loaded()──▶ Ready ──drain()──▶ Draining, still admitting ──refuse()──▶ Draining, refusing

A draining replica goes on admitting for a while, because requests are under way to it from gateways that have not
heard yet (see `headrace.serving.lifecycle`). Every piece of work is a block that can be stopped from outside with a
cause: the client went away, or the grace period ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.events.messages import Load, ReplicaState
from headrace.serving.engine import Engine
from headrace.serving.errors import Draining, EngineDied, NotLoaded

AnyEngine = TypeVar("AnyEngine", bound=Engine)

STARTING_STAGE = "starting"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the replica says of itself, besides its load."""

    state: ReplicaState = ReplicaState.LOADING
    stage: str = STARTING_STAGE
    percent: int | None = None


class Work(Generic[AnyEngine]):
    """One request that runs."""

    def __init__(self, engine: AnyEngine, scope: asyncio.Timeout) -> None:
        self.engine = engine
        self._scope = scope
        self.cause: Exception | None = None

    def stop(self, cause: Exception) -> None:
        """End the block of this work with the cause, wherever it waits. The first cause stays."""
        if self.cause is None:
            self.cause = cause
            self._scope.reschedule(asyncio.get_running_loop().time())


class Replica(Generic[AnyEngine]):
    """The life of one replica; everything here happens on the event loop."""

    def __init__(self) -> None:
        self.standing = Standing()
        self.started = time.time()
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
        """Requests that were admitted and have not ended."""
        return len(self._work)

    @property
    def alive(self) -> bool:
        """Whether the process is worth keeping."""
        return self.engine is None or self.engine.healthy

    @property
    def ready(self) -> bool:
        """Whether to send requests here. False from the first moment of draining, though they are still served."""
        return self.standing.state is ReplicaState.READY and self.alive

    def load(self) -> Load:
        """Return how busy the engine is; nothing while there is none."""
        return self.engine.load() if self.engine is not None else Load()

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each change of the standing."""
        self._changed = changed

    def progress(self, stage: str, percent: int | None) -> None:
        """Loading has come this far."""
        if self.standing.state is ReplicaState.LOADING:
            self._stand(Standing(ReplicaState.LOADING, stage, percent))

    def loaded(self, engine: AnyEngine) -> None:
        """The engine is there: take requests."""
        self.engine = engine
        self.ready_seconds = time.time() - self.started
        self._stand(Standing(ReplicaState.READY, ""))

    def drain(self) -> None:
        """Tell the world to send nothing more; what still comes is served."""
        self._stand(Standing(ReplicaState.DRAINING, ""))

    def refuse(self) -> None:
        """Take no new work from now on."""
        self._refusing = True

    def cut_off(self, cause: Exception) -> None:
        """Stop all work that still runs."""
        for work in list(self._work):
            work.stop(cause)

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing runs; return whether that came to be in time."""
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
            raise Draining("this replica is stopping", hint="Send the request again; another one takes it")
        if self.engine is None:
            raise NotLoaded("the model is still loading", hint="Try again in a moment")
        if not self.engine.healthy:
            raise EngineDied("the engine has died; the replica is being started anew")
        return self.engine

    def _stand(self, standing: Standing) -> None:
        if standing != self.standing:
            self.standing = standing
            self._changed()
