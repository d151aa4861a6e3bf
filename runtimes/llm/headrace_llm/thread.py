"""The engine's thread: it steps the model, and has queues between it and the event loop.

Requests come in through an inbox, and the results of a step go out in one wake-up of the event loop, for any number of
requests. Methods are called on the event loop, except those that say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import HeadraceError
from headrace.serving.errors import EngineDied
from headrace_llm.stepper import AnyRequest, Result, Stepper, failure
from headrace_models.adapters import Adapter
from headrace_models.decoder import Decoder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _AdapterChange:
    """An adapter that the decoder gets (None: loses) between two steps."""

    index: int
    adapter: Adapter | None
    done: asyncio.Future[None]

    def end(self, error: HeadraceError | None) -> None:
        """Report the result, on the event loop."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class EngineThread:
    """Steps the admitted requests until `close`, or until the engine fails; it starts with the first request."""

    def __init__(self, stepper: Stepper, decoder: Decoder) -> None:
        self.healthy = True
        """False once it has failed, or stopped."""
        self._stepper = stepper
        self._decoder = decoder
        self._inbox: list[AnyRequest] = []
        self._left: list[AnyRequest] = []
        """Requests whose client has left, or whose answer has ended by a stop string."""
        self._changes: list[_AdapterChange] = []
        self._wake = threading.Condition()
        """Guards the three lists and `_stopping`; nothing is added to them once `healthy` is False."""
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def uncomputed_tokens(self) -> int:
        """Pending tokens of requests that the stepper does not have yet."""
        return sum(each.sequence.pending for each in self._inbox)

    def admit(self, request: AnyRequest) -> None:
        """Give the thread a request. Raises EngineDied."""
        self._start()
        with self._wake:
            if not self.healthy:  # checked under the lock: the thread no longer reads the inbox
                raise dead()
            self._inbox.append(request)
            self._wake.notify()

    def leave(self, request: AnyRequest, *, cancelled: bool) -> None:
        """Note that a request has ended, or that its client has left."""
        request.cancelled = cancelled
        with self._wake:
            self._left.append(request)
            self._wake.notify()

    def set_adapter(self, index: int, adapter: Adapter | None) -> asyncio.Future[None]:
        """Set an adapter of the decoder between two steps."""
        self._start()
        change = _AdapterChange(index, adapter, asyncio.get_running_loop().create_future())
        change.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # a release is not awaited
        with self._wake:
            if self.healthy:
                self._changes.append(change)
                self._wake.notify()
            else:
                change.end(dead())
        return change.done

    async def close(self) -> None:
        """Stop after the present step; requests that still run end with EngineDied."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def _run(self) -> None:
        """Step until the end. In the thread, like all that follow."""
        try:
            while self._take_in():
                self._deliver(self._stepper.step())
        except Exception as error:
            # No other thread can answer the waiting requests; the process reports itself as not alive.
            log.exception("the engine died")
            self._die(EngineDied(f"the engine died: {type(error).__name__}: {error}"))
        else:
            self._die(EngineDied("the engine is stopping"))

    def _take_in(self) -> bool:
        """Take new requests and those that have ended; wait if there is no work. False: stop."""
        with self._wake:
            while not (self._inbox or self._left or self._changes or self._stepper.requests or self._stopping):
                self._wake.wait()
            arrived, self._inbox = self._inbox, []
            left, self._left = self._left, []
            changes, self._changes = self._changes, []
        for request in arrived:
            self._stepper.add(request)
        for request in left:
            self._stepper.remove(request, cancelled=request.cancelled)
        for change in changes:  # after the requests that used what it replaces have left
            self._apply(change)
        return not self._stopping

    def _apply(self, change: _AdapterChange) -> None:
        error: HeadraceError | None = None
        try:
            self._decoder.set_adapter(change.index, change.adapter)
        except Exception as cause:  # noqa: BLE001 - any error is that of the adapter
            error = failure(cause)
        self._on_loop(lambda: change.end(error))

    def _deliver(self, results: list[Result]) -> None:
        """Deliver a step's results to the event loop in one wake-up."""

        def put() -> None:
            for result in results:
                result.request.outbox.put_nowait(result.content)

        if results:
            self._on_loop(put)

    def _die(self, error: EngineDied) -> None:
        with self._wake:
            self.healthy = False
            orphans = [*self._stepper.requests.values(), *self._inbox]
            changes = self._changes

        def put() -> None:
            for request in orphans:
                request.outbox.put_nowait(error)
            for change in changes:
                change.end(error)

        self._on_loop(put)

    def _on_loop(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("the event loop is closed; the results of this step are dropped")


def dead() -> EngineDied:
    """Return the error of a request to an engine that has failed."""
    return EngineDied("the engine has died", hint="The replica is being restarted")
