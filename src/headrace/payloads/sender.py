"""The sending side of payloads."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Self

from headrace.bus.frames import DATA_KINDS, Kind
from headrace.payloads.payload import PayloadCounts, PayloadPath

SECONDS = 30.0


class Sender(ABC):
    """Sends payloads to one receiver; `connect` returns one. Not thread-safe: one thread owns it.

    Methods raise, whichever the path: `AckTimeout`, `CreditTimeout` (the receiver does not release or read payloads),
    `PeerUnreachable`, `BusClosed` (it has closed, or the connection to it ended), `StoreFull`.
    """

    def __init__(self, path: PayloadPath, why_not: str) -> None:
        self.path = path
        self.why_not = why_not
        """Why `path` is not the store; empty if it is."""
        self.counts = PayloadCounts()
        self._prepared: memoryview | None = None

    def prepare(self, size: int, *, timeout: float = SECONDS) -> memoryview:
        """Return `size` bytes to write the next payload into until `send`; their content is undefined.

        Waits while the receiver holds as many payloads as this sender has buffers.
        """
        assert size > 0
        self._prepared = None
        self._prepared = self._allocate(size, timeout)
        return self._prepared

    def send(self, kind: Kind = Kind.REQ, *, value: int = 0, timeout: float = SECONDS) -> None:
        """Send what was written into the memory of `prepare`.

        The receiver reads it where it is: arrays and other views of the memory must not be written any more.

        Args:
            kind: one of DATA_KINDS but RELEASE.
            value: 32 bits for the receiver, e.g. `weight_bits(12.0)`.
            timeout: longest wait for the receiver, in seconds.
        """
        assert kind in DATA_KINDS
        assert kind is not Kind.RELEASE
        assert self._prepared is not None, "nothing is prepared"
        size = len(self._prepared)
        with contextlib.suppress(BufferError):  # a view of it exists
            self._prepared.release()
        self._prepared = None
        self._hand_over(size, kind, value, timeout)
        self.counts.add(self.path, size)

    @abstractmethod
    def wait(self, timeout: float) -> None:
        """Wait until the receiver has released all payloads that were sent. Raises AckTimeout."""

    def close(self) -> None:
        """End the connection. Payloads that the receiver has not released may be lost: see `wait`."""
        self._prepared = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _allocate(self, size: int, timeout: float) -> memoryview:
        """Return writable memory for a payload."""

    @abstractmethod
    def _hand_over(self, size: int, kind: Kind, value: int, timeout: float) -> None:
        """Send the first `size` bytes of the memory of the last `_allocate`."""
