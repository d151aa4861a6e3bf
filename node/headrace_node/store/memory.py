"""Segments of shared memory (memfds), and what the kernel guarantees about them.

A segment is written by one client and then sealed: the kernel refuses `F_SEAL_WRITE` while a writable mapping exists
(EBUSY) and every write and writable mapping afterwards. A sealed segment is never reused, so no content of one tenant
reaches another, and its pages are freed when the last descriptor and mapping are gone.

Whether another process still has a segment open or mapped is known to the kernel alone: a client may keep a mapping
after it has released its lease. `is_held` uses file leases (fcntl F_SETLEASE): a write lease is granted only if the
file has no other open file description, and mappings and descriptors in flight count as such. The agent therefore
never shares an open file description with a client; it opens the segment again for each.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import CannotStart

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HUGE = 2 * 1024 * 1024
_HUGETLB_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_SHMEM_HUGE = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, Linux 5.14; not yet in Python's mmap."""
_STEP = 32 * 1024 * 1024
"""Bytes that one call populates or hashes: Python's `madvise` holds the interpreter's lock."""
_ZEROS = bytes(1024 * 1024)


@dataclass(frozen=True, slots=True)
class PageKind:
    """The pages of new segments.

    `hugetlb` takes pages that the node reserved (`vm.nr_hugepages`), `advise` asks for transparent huge pages.
    """

    hugetlb: bool = False
    advise: bool = False

    @property
    def bytes(self) -> int:
        """What the size of a segment is a multiple of."""
        return _HUGE if self.hugetlb else mmap.PAGESIZE


def offered_pages(*, hugetlb: bool) -> PageKind:
    """Return the best pages that the node offers; reserved ones only if `hugetlb`, and only if it has any.

    That none is free does not matter: a restarted agent finds them in the objects that the keeper holds.
    """
    if hugetlb and _HUGETLB_PAGES.exists() and int(_HUGETLB_PAGES.read_text()) > 0:
        return PageKind(hugetlb=True)
    advise = _SHMEM_HUGE.exists() and "[advise]" in _SHMEM_HUGE.read_text()
    return PageKind(advise=advise)


def new_segment(size: int, pages: PageKind) -> int:
    """Return a memfd of `size` zero bytes (a multiple of `pages.bytes`), all resident and charged to this process.

    It cannot grow. Raises OSError (ENOSPC, ENOMEM) if the memory is missing.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | (os.MFD_HUGETLB if pages.hugetlb else 0)
    fd = os.memfd_create("headrace", flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        if pages.hugetlb:
            os.posix_fallocate(fd, 0, size)
        elif pages.advise:
            _populate_huge(fd, size)
        else:
            _write_zeros(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _populate_huge(fd: int, size: int) -> None:
    with mmap.mmap(fd, size) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, _STEP):
            memory.madvise(_POPULATE_WRITE, start, min(_STEP, size - start))


def _write_zeros(fd: int, size: int) -> None:
    """Populate small pages. `posix_fallocate` would leave zeroing them to the first access, which for 100 MB takes the
    client 38 ms instead of 5; and unlike populating a mapping, a write does not hold the interpreter's lock.
    """
    written = 0
    while written < size:
        written += os.pwrite(fd, memoryview(_ZEROS)[: size - written], written)


def opened(fd: int, flags: int) -> int:
    """Return a new open file description of a segment: os.O_RDONLY or os.O_RDWR. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def seal(fd: int) -> None:
    """Make a segment immutable. Raises OSError: EBUSY while it is mapped writable."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)


def is_sealed(fd: int) -> bool:
    """Whether a segment is immutable."""
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS


def is_held(fd: int) -> bool:
    """Whether another open file description or mapping of this segment exists; `fd` must be open for reading only."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def digest(fd: int, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes, in hexadecimal. Reads, does not map. Raises OSError."""
    sha, buffer = hashlib.sha256(), bytearray(min(size, _STEP))
    for start in range(0, size, _STEP):
        part = memoryview(buffer)[: min(_STEP, size - start)]
        sha.update(part[: os.preadv(fd, [part], start)])
    return sha.hexdigest()


def check_kernel() -> None:
    """Check that this kernel reports holders of segments. Raises CannotStart."""
    fd = new_segment(mmap.PAGESIZE, PageKind())
    try:
        seal(fd)
        ours, theirs = opened(fd, os.O_RDONLY), opened(fd, os.O_RDONLY)
        mapping = mmap.mmap(theirs, 0, prot=mmap.PROT_READ)
        os.close(theirs)
        held = is_held(ours)
        mapping.close()
        correct = held and not is_held(ours)
        os.close(ours)
    except OSError as error:
        raise _unsuitable(str(error)) from error
    finally:
        os.close(fd)
    if not correct:
        raise _unsuitable("file leases do not show who has a memfd open")


def descriptor_limit() -> int:
    """Raise the limit of open descriptors to what the system allows, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _unsuitable(cause: str) -> CannotStart:
    return CannotStart(
        f"the object store does not work with this kernel: {cause}", hint="Use Linux 5.14 or newer, without a sandbox"
    )
