"""Segments that are populated before they are needed.

The first write of a fresh segment costs a page fault and the zeroing of a page each 4 KiB; 100 MB take 66 to 78 ms, a
populated segment 5 ms. Segments are therefore populated by the agent, which also charges their memory to the agent's
cgroup instead of the writer's. After a segment is taken, another of its size class is made in the background.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict

from headrace_node.store.memory import PageKind, Populated, new_segment

_POPULATING = 2
"""Segments that are populated at the same time; each takes a core. Others wait in the order of their requests."""
_INLINE_BYTES = 128 * 1024
"""Segments up to this size are made at once, in 30 us; a thread and a spare segment would take longer."""
_STEPS = 4
"""Size classes for each power of two; a segment is cut to the size of its object when it is taken."""


def size_class(size: int) -> int:
    """Return the size of the pooled segments that fit `size` bytes: at most a quarter larger."""
    step = max(1, 1 << max(0, size.bit_length() - 1)) // _STEPS or 1
    return -(-size // step) * step


class SegmentPool:
    """Ready segments, at most `limit` bytes of them."""

    def __init__(self, pages: PageKind, limit: int) -> None:
        self.pages = pages
        self.bytes = 0
        self.populated = Populated()
        self._limit = limit
        self._populating = asyncio.Semaphore(_POPULATING)
        self._refilling: set[int] = set()
        """Sizes of segments that are being made ready."""
        self._ready: OrderedDict[int, list[int]] = OrderedDict()
        """Descriptors by size; the size that was requested last is the last."""

    def rounded(self, size: int) -> int:
        """Return the memory that an object of `size` bytes takes."""
        return -(-size // self.pages.bytes) * self.pages.bytes

    async def take(self, size: int) -> int:
        """Return a segment of `size` bytes (rounded), which belongs to the caller. Raises OSError."""
        ready = self._ready.get(self.rounded(size_class(size)))
        if not ready:
            return await self._make(size)
        fd = ready.pop()
        self.bytes -= self.rounded(size_class(size))
        os.ftruncate(fd, size)
        return fd

    async def refill(self, size: int, spare: int) -> None:
        """Make one segment of the size class of `size` ready, within the limit and `spare` bytes of the store."""
        rounded = self.rounded(size_class(size))
        if (
            size <= _INLINE_BYTES
            or rounded > min(self._limit, spare)
            or self._ready.get(rounded)
            or rounded in self._refilling
        ):
            return
        self.shrink(self.bytes + rounded - self._limit)
        if self.bytes + rounded > self._limit:  # others are being made
            return
        self.bytes += rounded
        self._refilling.add(rounded)
        try:
            fd = await self._make(rounded)
        except OSError:  # no memory: the next object reports it
            self.bytes -= rounded
            return
        except asyncio.CancelledError:
            self.bytes -= rounded
            raise
        finally:
            self._refilling.discard(rounded)
        self._ready.setdefault(rounded, []).append(fd)
        self._ready.move_to_end(rounded)

    async def _make(self, size: int) -> int:
        if size <= _INLINE_BYTES:
            return new_segment(size, self.pages, self.populated)
        await self._populating.acquire()
        making = asyncio.ensure_future(asyncio.to_thread(new_segment, size, self.pages, self.populated))
        making.add_done_callback(lambda _: self._populating.release())  # also if its waiter was cancelled
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_close_result)
            raise

    def shrink(self, excess: int) -> None:
        """Close ready segments until `excess` bytes are free, or none is left."""
        while excess > 0 and self._ready:
            size, fds = next(iter(self._ready.items()))
            if fds:
                os.close(fds.pop())
                self.bytes -= size
                excess -= size
            if not fds:
                del self._ready[size]

    def close(self) -> None:
        """Close all ready segments."""
        self.shrink(self.bytes)


def _close_result(made: asyncio.Future[int]) -> None:
    if not made.cancelled() and made.exception() is None:
        os.close(made.result())
