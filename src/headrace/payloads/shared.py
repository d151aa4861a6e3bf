"""Payloads in shared memory: the sender has a few buffers, which both sides map once and keep.

A frame of the bus names a buffer by its key. The sender writes a buffer again when the receiver has acknowledged its
frame, so neither side faults a page, maps, or calls the agent for a payload: for 100 MB only the reading remains.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import override

from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentError
from headrace.bus.client import join
from headrace.bus.errors import BusError
from headrace.bus.frames import Frame, Kind
from headrace.payloads.payload import Payload, PayloadCounts, PayloadPath
from headrace.payloads.sender import Sender
from headrace.store.client import Store
from headrace.store.keys import ObjectClass
from headrace.store.views import Object, SharedBuffer

log = logging.getLogger(__name__)

MAPPED = 256
"""Buffers that a receiver keeps mapped; for more, the least recently used one is mapped again when it is used."""
MAPPED_SECONDS = 60.0
"""A buffer that was not used for so long is unmapped: its sender may have crashed, and its memory would stay."""
_RELEASE_SECONDS = 1.0


@dataclass(slots=True)
class _Mapped:
    """A buffer at the receiver, and when it was used."""

    object: Object
    used: float


@dataclass(slots=True, eq=False)
class _Slot:
    """A buffer, and the last frame that named it."""

    buffer: SharedBuffer
    seq: int = 0


class SharedSender(Sender):
    """Sends to an endpoint of the bus; see `Sender`.

    Args:
        agent: the agent's socket.
        peer: the receiver's endpoint id.
        transport: of the bus.
        object_class: whose quota the buffers use.
        buffers: how many payloads the receiver may hold.

    Raises:
        AgentError: see `Store` and `join`.
    """

    def __init__(
        self,
        agent: Path,
        peer: int,
        transport: Literal["unix", "sockmap", "tcp"],
        object_class: ObjectClass,
        buffers: int,
    ) -> None:
        super().__init__(PayloadPath.STORE, "")
        self._peer, self._class, self._limit = peer, object_class, buffers
        self._store = Store(agent)
        try:
            self._endpoint = join(AgentConnection(agent), transport)
        except BaseException:
            self._store.close()
            raise
        self._slots: list[_Slot] = []
        """The least recently sent first."""
        self._next: _Slot | None = None

    @override
    def _allocate(self, size: int, timeout: float) -> memoryview:
        slot = self._free(size)
        if slot is None and len(self._slots) >= self._limit:
            self._endpoint.wait_acked(self._peer, self._slots[0].seq, timeout)
            slot = self._free(size)
            if slot is None:
                self._drop(self._slots.pop(0))
        if slot is None:
            with self._store.create(self._class, size) as draft:
                slot = _Slot(draft.share())
            self._slots.append(slot)
        self._next = slot
        return slot.buffer.memory[:size]

    @override
    def _hand_over(self, size: int, kind: Kind, value: int, timeout: float) -> None:
        slot = self._next
        assert slot is not None
        slot.seq = self._endpoint.send(
            self._peer, kind, key=bytes.fromhex(slot.buffer.key), length=size, value=value, timeout=timeout
        )
        self._slots.remove(slot)
        self._slots.append(slot)

    @override
    def wait(self, timeout: float) -> None:
        """See `Sender`."""
        last = max((slot.seq for slot in self._slots), default=0)
        self._endpoint.wait_acked(self._peer, last, timeout)

    @override
    def close(self) -> None:
        """See `Sender`."""
        super().close()
        with contextlib.suppress(AgentError):
            for slot in self._slots:
                self._drop(slot)
        self._slots.clear()
        self._endpoint.close()
        self._store.close()

    def _free(self, size: int) -> _Slot | None:
        """Return the smallest buffer that fits and that the receiver does not use."""
        while self._endpoint.receive(0) is not None:
            """Handle acknowledgements; a sender receives nothing else."""
        acked = self._endpoint.acked(self._peer)
        fitting = [slot for slot in self._slots if slot.seq <= acked and slot.buffer.size >= size]
        return min(fitting, key=lambda slot: slot.buffer.size, default=None)

    def _drop(self, slot: _Slot) -> None:
        """Give up a buffer, and let the receiver unmap it."""
        key = bytes.fromhex(slot.buffer.key)
        slot.buffer.close()
        self._endpoint.send(self._peer, Kind.RELEASE, key=key, timeout=_RELEASE_SECONDS)


class SharedInbox:
    """The receiver's side, an endpoint of the bus. Arguments and errors as for `SharedSender`."""

    def __init__(
        self, agent: Path, transport: Literal["unix", "sockmap", "tcp"], counts: PayloadCounts, max_bytes: int
    ) -> None:
        self._counts, self._max = counts, max_bytes
        self._store = Store(agent)
        try:
            self.endpoint = join(AgentConnection(agent), transport)
        except BaseException:
            self._store.close()
            raise
        self._mapped: OrderedDict[bytes, _Mapped] = OrderedDict()
        """By key, the least recently used first."""
        self._unacked: dict[int, OrderedDict[int, Frame | None]] = {}
        """By source and sequence number: None while the payload is held, else the frame."""

    def take(self) -> Payload | None:
        """Return the next payload that has arrived. Raises BusError."""
        self._unmap_unused()
        while (frame := self.endpoint.receive(0)) is not None:
            self._unacked.setdefault(frame.src, OrderedDict())[frame.seq] = None
            memory = None if frame.kind is Kind.RELEASE else self._memory(frame)
            if memory is not None:
                self._counts.add(PayloadPath.STORE, frame.length)
                return Payload(frame, memory, PayloadPath.STORE, self._released(frame))
            if frame.kind is Kind.RELEASE:
                self._unmap(frame.key)
            else:
                self._counts.refused += 1
            self._finish(frame)
        return None

    def close(self) -> None:
        """Leave the bus, and unmap what no view uses."""
        self._mapped.clear()
        self.endpoint.close()
        self._store.close()

    def _memory(self, frame: Frame) -> memoryview | None:
        """Return the bytes that a frame names, None if they do not exist."""
        mapped = self._mapped.get(frame.key)
        if mapped is None:
            try:
                mapped = self._mapped[frame.key] = _Mapped(self._store.get(frame.key.hex()), 0)
            except AgentError as error:
                log.warning("a payload of endpoint %#010x is refused: %s", frame.src, error)
                return None
        mapped.used = time.monotonic()
        self._mapped.move_to_end(frame.key)
        found = mapped.object
        end = frame.offset + frame.length
        if end > found.size or frame.length > self._max:
            log.warning("a payload of endpoint %#010x is refused: %d bytes are too many", frame.src, frame.length)
            return None
        return found.memory[frame.offset : end]

    def _unmap_unused(self) -> None:
        before = time.monotonic() - MAPPED_SECONDS
        while self._mapped:
            key, oldest = next(iter(self._mapped.items()))
            if len(self._mapped) <= MAPPED and oldest.used >= before:
                return
            self._unmap(key)

    def _unmap(self, key: bytes) -> None:
        """Unmap a buffer when no payload uses it any more."""
        mapped = self._mapped.pop(key, None)
        if mapped is not None:
            mapped.object.close()

    def _released(self, frame: Frame) -> Callable[[], None]:
        return lambda: self._finish(frame)

    def _finish(self, frame: Frame) -> None:
        """Acknowledge the frames of a source up to the first that is held: acknowledgements are cumulative."""
        waiting = self._unacked[frame.src]
        waiting[frame.seq] = frame
        last = None
        while waiting and (first := next(iter(waiting.values()))) is not None:
            last = first
            del waiting[first.seq]
        if not waiting:
            del self._unacked[frame.src]
        if last is not None:
            with contextlib.suppress(BusError):  # the next `take` reports that the bus has ended
                self.endpoint.ack(last)
