"""Segments of shared memory (memfds), and what the kernel guarantees about them.

A segment is written by one client and then sealed: the kernel refuses `F_SEAL_WRITE` while a writable mapping exists
(EBUSY) and every write and writable mapping afterwards. A buffer gets `F_SEAL_FUTURE_WRITE` instead: its creator keeps
the mapping through which it writes, and the kernel refuses all other ways to write, also to the creator. A segment is
never reused for another object, so no content of one tenant reaches another, and its pages are freed when the last
descriptor and mapping are gone.

Whether another process still has a segment open or mapped is known to the kernel alone: a client may keep a mapping
after it has released its lease. `is_held` uses file leases (fcntl F_SETLEASE): a write lease is granted only if the
file has no other open file description, and mappings and descriptors in flight count as such. The agent therefore
never shares an open file description with a client; it opens the segment again for each.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import mmap
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import CannotStart

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_FUTURE_WRITE = 0x10
"""F_SEAL_FUTURE_WRITE, Linux 5.1; not in Python's fcntl."""
_HUGE = 2 * 1024 * 1024
_HUGETLB_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_SHMEM_HUGE = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, Linux 5.14; not yet in Python's mmap."""
_STEP = 32 * 1024 * 1024
"""Bytes that one call populates or hashes: Python's `madvise` holds the interpreter's lock."""
_ZEROS = bytes(1024 * 1024)
_COLLAPSE = 25
"""MADV_COLLAPSE, Linux 6.1."""
_MAP_NORESERVE, _MAP_FIXED = 0x4000, 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True, slots=True)
class PageKind:
    """The pages of new segments.

    `hugetlb` takes pages that the node reserved (`vm.nr_hugepages`), `advise` asks for transparent huge pages at each
    fault, which the node must allow; without both, small pages are collapsed into huge ones.
    """

    hugetlb: bool = False
    advise: bool = False

    @property
    def bytes(self) -> int:
        """What the size of a segment is a multiple of."""
        return _HUGE if self.hugetlb else mmap.PAGESIZE


@dataclass(slots=True)
class Populated:
    """Bytes of new segments, by their pages."""

    huge: int = 0
    """Those that were collapsed, or that the node reserved."""
    small: int = 0
    """Also those that the kernel may have made huge because the node allows it (`advise`)."""


def offered_pages(*, hugetlb: bool) -> PageKind:
    """Return the best pages that the node offers; reserved ones only if `hugetlb`, and only if it has any.

    That none is free does not matter: a restarted agent finds them in the objects that the keeper holds.
    """
    if hugetlb and _HUGETLB_PAGES.exists() and int(_HUGETLB_PAGES.read_text()) > 0:
        return PageKind(hugetlb=True)
    advise = _SHMEM_HUGE.exists() and "[advise]" in _SHMEM_HUGE.read_text()
    return PageKind(advise=advise)


def new_segment(size: int, pages: PageKind, populated: Populated) -> int:
    """Return a memfd of `size` zero bytes (a multiple of `pages.bytes`), all resident and charged to this process.

    It cannot grow. Counts its bytes in `populated`. Raises OSError (ENOSPC, ENOMEM) if the memory is missing.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | (os.MFD_HUGETLB if pages.hugetlb else 0)
    fd = os.memfd_create("headrace", flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        huge = 0
        if pages.hugetlb:
            os.posix_fallocate(fd, 0, size)
            huge = size
        elif pages.advise:
            _populate_huge(fd, size)
        else:
            huge = _populate_collapsed(fd, size)
            _write_zeros(fd, huge, size)
    except OSError:
        os.close(fd)
        raise
    populated.huge += huge
    populated.small += size - huge
    return fd


def _populate_huge(fd: int, size: int) -> None:
    with mmap.mmap(fd, size) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, _STEP):
            memory.madvise(_POPULATE_WRITE, start, min(_STEP, size - start))


def _populate_collapsed(fd: int, size: int) -> int:
    """Populate with transparent huge pages from the start on, whatever `shmem_enabled` is; return where it stopped.

    MADV_COLLAPSE (Linux 6.1) makes one page of an extent that has at least one small page, and zeroes the rest: for
    100 MB 12 ms of CPU time instead of 36, and 0.4 ms instead of 5 to free them. It fails with an older kernel, with
    `shmem_enabled` at `deny`, and where memory is too fragmented; then the rest gets small pages.
    """
    whole = size - size % _HUGE
    if not whole:
        return 0
    with _mapped_aligned(fd, whole) as address:
        for start in range(0, whole, _STEP):
            end = min(start + _STEP, whole)
            for extent in range(start, end, _HUGE):
                os.pwrite(fd, b"\0", extent)
            if _LIBC.madvise(address + start, end - start, _COLLAPSE):
                return start
    return whole


@contextlib.contextmanager
def _mapped_aligned(fd: int, size: int) -> Iterator[int]:
    """Map a segment at an address that huge pages need, and yield it. Raises OSError."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    reserved = _LIBC.mmap(None, size + _HUGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
    try:
        address = -(-reserved // _HUGE) * _HUGE
        if _LIBC.mmap(address, size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) != address:
            raise OSError(ctypes.get_errno(), "cannot map a segment")
        yield address
    finally:
        _LIBC.munmap(reserved, size + _HUGE)


def _write_zeros(fd: int, written: int, size: int) -> None:
    """Populate small pages. `posix_fallocate` would leave zeroing them to the first access, which for 100 MB takes the
    client 38 ms instead of 5; and unlike populating a mapping, a write does not hold the interpreter's lock.
    """
    while written < size:
        written += os.pwrite(fd, memoryview(_ZEROS)[: size - written], written)


def opened(fd: int, flags: int) -> int:
    """Return a new open file description of a segment: os.O_RDONLY or os.O_RDWR. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def seal(fd: int, *, buffer: bool = False) -> None:
    """Make a segment immutable, or a `buffer`: then only present mappings can write.

    Raises OSError: EBUSY while it is mapped writable and not to be a buffer.
    """
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _seals(buffer=buffer))


def is_sealed(fd: int, *, buffer: bool = False) -> bool:
    """Whether a segment has the seals of an immutable one, or of a `buffer`."""
    seals = _seals(buffer=buffer)
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals == seals


def _seals(*, buffer: bool) -> int:
    return _SIZE_SEALS | (_FUTURE_WRITE if buffer else fcntl.F_SEAL_WRITE)


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
    fd = new_segment(mmap.PAGESIZE, PageKind(), Populated())
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
