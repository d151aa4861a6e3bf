"""Segments that the agent has closed, until the kernel frees their memory.

A client may keep a segment by a mapping or a descriptor, also by one that was opened with O_PATH, which file leases
(`memory.is_held`) do not show. So memory counts against its tenant until the kernel reports the end of the segment:
a memfd has no name, so inotify(7) yields IN_DELETE_SELF when its last holder is gone, and at once if the agent was the
last one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Iterator

from headrace.errors import CannotStart
from headrace_node.store.keeping import Record

log = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_DELETE_SELF = 0x400
_EVENT = struct.Struct("=iIII")
"""struct inotify_event; those of a file have no name."""
_READ_BYTES = 256 * _EVENT.size


class ClosedSegments:
    """Closed segments whose memory still exists, by their watch. Raises CannotStart without an inotify instance."""

    def __init__(self) -> None:
        self._inotify: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise CannotStart(
                f"the object store cannot watch its memory: {os.strerror(ctypes.get_errno())}",
                hint="Raise fs.inotify.max_user_instances of the node",
            )
        self._records: dict[int, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        """Yield what was closed and is not known to be freed."""
        return iter(self._records.values())

    def add(self, fd: int, record: Record) -> None:
        """Close the agent's descriptor of a segment."""
        watch = _LIBC.inotify_add_watch(self._inotify, b"/proc/self/fd/%d" % fd, _IN_DELETE_SELF)
        if watch < 0:
            log.warning("memory of %s is no longer counted: %s", record.tenant, os.strerror(ctypes.get_errno()))
        else:
            self._records[watch] = record
        os.close(fd)

    def freed(self) -> Iterator[Record]:
        """Yield, once, what has been freed."""
        while True:
            try:
                events = os.read(self._inotify, _READ_BYTES)
            except BlockingIOError:
                return
            for watch, mask, _, _ in _EVENT.iter_unpack(events):
                if mask & _IN_DELETE_SELF:
                    yield self._records.pop(watch)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._inotify)
