"""Objects as memory, numpy arrays and torch tensors, without copies."""

from __future__ import annotations

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from headrace.store.errors import InvalidObject
from headrace.store.keys import ObjectClass

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch


class Lease:
    """Referenced by all that uses an object; when the last of it is gone, the key is put into `ended`."""

    __slots__ = ("_ended", "_key")

    def __init__(self, key: str, ended: deque[str]) -> None:
        self._key, self._ended = key, ended

    def __del__(self) -> None:
        """Only append: the garbage collector may run this inside any lock."""
        self._ended.append(self._key)


class LeasedMapping(mmap.mmap):
    """A mapping that keeps the lease: every view of it keeps the mapping."""

    lease: Lease


_NO_RESERVE = 0x4000
"""MAP_NORESERVE: pages of the mapping are copied only if a process writes into a tensor, which is not expected."""


class Object:
    """An immutable object, mapped into this process.

    The lease lasts until this object and all its views are closed or garbage-collected; views stay valid after `close`.
    The mapping is private (copy on write), because a torch tensor cannot be read-only: what a process writes into a
    tensor is seen by this process alone.
    """

    def __init__(
        self, key: str, object_class: ObjectClass, size: int, mapping: LeasedMapping, closed: Callable[[], None]
    ) -> None:
        self.key = key
        self.object_class = object_class
        self.size = size
        """Bytes."""
        self._mapping: LeasedMapping | None = mapping
        self._closed = closed

    @classmethod
    def mapped(
        cls, key: str, object_class: ObjectClass, size: int, fd: int, lease: Lease, closed: Callable[[], None]
    ) -> Self:
        """Map the descriptor of an object, and close it; `closed` is called by `close`. Raises OSError."""
        try:
            mapping = LeasedMapping(fd, size, mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        mapping.lease = lease
        return cls(key, object_class, size, mapping, closed)

    @property
    def memory(self) -> memoryview:
        """The bytes, read-only."""
        return memoryview(self._open()).toreadonly()

    def numpy(self, dtype: npt.DTypeLike, shape: Sequence[int], offset: int = 0) -> npt.NDArray[Any]:
        """Return the bytes from `offset` as a read-only array. Raises InvalidObject if the object is shorter."""
        import numpy as np  # noqa: PLC0415 - processes without arrays do not load it

        kind = np.dtype(dtype)
        self._check(offset, kind.itemsize, shape)
        return np.ndarray(tuple(shape), kind, self.memory, offset)

    def torch(self, dtype: torch.dtype, shape: Sequence[int], offset: int = 0) -> torch.Tensor:
        """Return the bytes from `offset` as a tensor on the CPU. Raises InvalidObject if the object is shorter."""
        import torch  # noqa: PLC0415 - as above

        self._check(offset, dtype.itemsize, shape)
        count = math.prod(shape)
        if not count:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(self._open(), dtype=dtype, count=count, offset=offset).view(tuple(shape))

    def close(self) -> None:
        """Give up this reference to the mapping: it is unmapped when no view needs it."""
        self._mapping = None
        self._closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @override
    def __repr__(self) -> str:
        return f"Object({self.key}, {self.object_class}, {self.size:,} bytes)"

    def _open(self) -> LeasedMapping:
        if self._mapping is None:
            raise InvalidObject(f"the object {self.key} is closed", hint="Get it again")
        return self._mapping

    def _check(self, offset: int, item_bytes: int, shape: Sequence[int]) -> None:
        end = offset + item_bytes * math.prod(shape)
        if offset < 0 or min(shape, default=0) < 0 or end > self.size:
            raise InvalidObject(
                f"shape: {tuple(shape)} from byte {offset} ends at byte {end:,} of an object of {self.size:,}"
            )


class SharedBuffer(Object):
    """An object whose creator, this process, goes on writing it; others map it with `Store.get` and only read.

    The kernel refuses every other way to write (F_SEAL_FUTURE_WRITE). What readers see changes while it is written, so
    tell them when it is complete, and write again only when they have finished: `headrace.payloads` does.
    """

    @property
    @override
    def memory(self) -> memoryview:
        """The bytes, writable."""
        return memoryview(self._open())
