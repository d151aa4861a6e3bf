"""Sealing without blocking the agent.

The kernel looks at each page of a segment that it seals, and waits 150 ms while a transfer uses one, which a client can
cause. So each segment is sealed in a thread; one of a tenant at a time, so that other tenants do not wait for it.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict

from headrace_node.store import memory


class Sealing:
    """Seals segments."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By tenant."""

    async def seal(self, tenant: str, fd: int, *, buffer: bool) -> None:
        """See `memory.seal`. Raises OSError."""
        async with self._locks[tenant]:
            own = os.dup(fd)  # the thread cannot be cancelled, and the draft may be discarded
            sealing = asyncio.ensure_future(asyncio.to_thread(memory.seal, own, buffer=buffer))
            sealing.add_done_callback(lambda _: os.close(own))
            await asyncio.shield(sealing)
