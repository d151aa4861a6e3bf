"""A payload at its receiver, and what the receivers of both paths have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from headrace.bus.frames import Frame, Kind

if TYPE_CHECKING:
    import numpy.typing as npt

SHARED_FROM_BYTES = 256 * 1024
"""From this size on, shared memory takes less wall and CPU time than the bytes in a body of HTTP; `make bench-node`
measures it (part `payload`). Below, send the bytes in the message that would announce them."""


class PayloadPath(StrEnum):
    """How payloads travel."""

    STORE = "store"
    TCP = "tcp"


@dataclass(slots=True)
class PayloadCounts:
    """What one side has sent or received since it was opened, by path."""

    payloads: Counter[PayloadPath] = field(default_factory=Counter)
    bytes: Counter[PayloadPath] = field(default_factory=Counter)
    refused: int = 0
    """Frames and connections that were dropped: an unknown token, a payload that is too large or does not exist."""

    def add(self, path: PayloadPath, size: int) -> None:
        """Count a payload."""
        self.payloads[path] += 1
        self.bytes[path] += size


class Payload:
    """A payload that has arrived; use it as a context manager, which releases it.

    `memory` and all its views are valid until then: the sender may overwrite them afterwards, so copy what is kept.
    """

    def __init__(self, frame: Frame, memory: memoryview, path: PayloadPath, released: Callable[[], None]) -> None:
        self.kind: Kind = frame.kind
        self.value = frame.value
        self.weight = frame.weight
        self.path = path
        self.memory = memory
        """The bytes, read-only."""
        self._released: Callable[[], None] | None = released

    def numpy(self, dtype: npt.DTypeLike, shape: Sequence[int], offset: int = 0) -> npt.NDArray[Any]:
        """Return the bytes from `offset` as a read-only array. Raises TypeError if the payload is shorter."""
        import numpy as np  # noqa: PLC0415 - processes without arrays do not load it

        return np.ndarray(tuple(shape), np.dtype(dtype), self.memory, offset)

    def release(self) -> None:
        """Let the sender use the memory again, and let its `wait` return. Nothing when called again."""
        released, self._released = self._released, None
        if released is not None:
            released()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
