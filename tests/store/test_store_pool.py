"""Segments that are ready before they are needed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store.store_world import MEGABYTE, PAGE, ROOMY, StoreThread, descriptors

from headrace.store.keys import ObjectClass
from headrace_node.store import memory
from headrace_node.store import pool as pool_module
from headrace_node.store.memory import PageKind, Populated, is_held, new_segment, offered_pages, opened
from headrace_node.store.pool import SegmentPool, size_class

BLOCK = 64 * PAGE
"""Larger than what is made at once, without the pool."""


@given(st.integers(1, 1 << 50))
def test_size_class_when_computed_then_a_quarter_larger_at_most(size: int) -> None:
    assert size <= size_class(size) <= size + max(1, size // 4)
    assert size_class(size_class(size)) == size_class(size)


async def test_segment_when_taken_then_next_is_ready_and_zero() -> None:
    pool, before = SegmentPool(PageKind(), 64 * MEGABYTE), descriptors()
    taken = await pool.take(5 * BLOCK)
    assert pool.bytes == 0
    await pool.refill(5 * BLOCK, 64 * MEGABYTE)
    assert pool.bytes == 5 * BLOCK
    os.pwrite(taken, b"x" * BLOCK, 0)
    again = await pool.take(5 * BLOCK)
    assert pool.bytes == 0
    assert os.pread(again, 6 * BLOCK, 0) == bytes(5 * BLOCK)
    assert os.fstat(again).st_blocks * 512 == 5 * BLOCK  # resident
    os.close(taken)
    os.close(again)
    assert descriptors() == before


async def test_pool_when_full_then_least_requested_class_goes() -> None:
    pool = SegmentPool(PageKind(), 10 * BLOCK)
    for pages in (4, 5, 3):
        await pool.refill(pages * BLOCK, 64 * MEGABYTE)
    assert pool.bytes == 8 * BLOCK
    await pool.refill(20 * BLOCK, 64 * MEGABYTE)
    assert pool.bytes == 8 * BLOCK
    pool.close()
    assert pool.bytes == 0


async def test_refill_when_cancelled_then_no_segment_leaks() -> None:
    pool, before = SegmentPool(PageKind(), 64 * MEGABYTE), descriptors()
    refilling = asyncio.ensure_future(pool.refill(64 * MEGABYTE, 64 * MEGABYTE))
    await asyncio.sleep(0)
    refilling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await refilling
    await asyncio.get_running_loop().shutdown_default_executor()
    await asyncio.sleep(0)
    assert (pool.bytes, descriptors()) == (0, before)


def test_pool_when_objects_need_its_memory_then_gives_it_up(tmp_path: Path) -> None:
    limits = replace(ROOMY, total_bytes=16 * BLOCK, tenant_bytes=16 * BLOCK, pool_bytes=8 * BLOCK)
    with StoreThread(tmp_path, limits) as world, world.open() as store:
        held = [store.put(ObjectClass.KV, bytes(4 * BLOCK)) for _ in range(4)]
        world.run(world.refilled())
        assert world.do(lambda: world.store.accounts.total_bytes) == 16 * BLOCK
        assert world.do(lambda: world.store.pool.bytes) == 0
        assert len(held) == 4


async def test_segments_when_many_are_wanted_then_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no spare segment of a size is made twice, or beyond the limit."""
    running, most, gate = 0, 0, threading.Event()

    def populate(size: int, pages: PageKind, populated: Populated) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(10)
        running -= 1
        return new_segment(size, pages, populated)

    monkeypatch.setattr(pool_module, "new_segment", populate)
    pool = SegmentPool(PageKind(), 5 * BLOCK)
    tasks = [asyncio.ensure_future(pool.take(BLOCK)) for _ in range(6)]
    refills = [asyncio.ensure_future(pool.refill(size * BLOCK, MEGABYTE)) for size in (2, 2, 3, 2, 1)]
    while most < 2:
        await asyncio.sleep(0)
    assert pool.bytes == 5 * BLOCK
    gate.set()
    for fd in await asyncio.gather(*tasks):
        os.close(fd)
    await asyncio.gather(*refills)
    assert (most, pool.bytes) == (2, 5 * BLOCK)
    pool.close()
    assert pool.bytes == 0


@pytest.mark.parametrize("pages", [PageKind(), PageKind(advise=True)])
@pytest.mark.parametrize("size", [MEGABYTE, 5 * MEGABYTE])
def test_segment_when_made_then_resident_and_alone(pages: PageKind, size: int) -> None:
    populated = Populated()
    fd = new_segment(size, pages, populated)
    assert os.fstat(fd).st_blocks * 512 == size == populated.huge + populated.small
    assert os.pread(fd, size + 1, 0) == bytes(size)
    reading = opened(fd, os.O_RDONLY)
    os.close(fd)
    assert not is_held(reading)
    os.close(reading)


def test_segment_when_kernel_can_collapse_then_pages_are_huge() -> None:
    """Also where `shmem_enabled` is `never`: the kernel maps an extent of 2 MiB by one entry."""
    populated = Populated()
    fd = new_segment(5 * MEGABYTE, PageKind(), populated)
    if not populated.huge:
        pytest.skip("this kernel collapses no shared memory")
    assert (populated.huge, populated.small) == (4 * MEGABYTE, MEGABYTE)
    with memory._mapped_aligned(fd, 4 * MEGABYTE) as address:
        ctypes.string_at(address, 4 * MEGABYTE)
        maps = Path("/proc/self/smaps").read_text()
    os.close(fd)
    assert re.search(rf"^{address:x}-.*?ShmemPmdMapped: +4096 kB", maps, re.DOTALL | re.MULTILINE)


def test_segment_when_collapsing_fails_then_small_and_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """An advice that the kernel does not know, as MADV_COLLAPSE before Linux 6.1."""
    monkeypatch.setattr(memory, "_COLLAPSE", 99)
    populated = Populated()
    fd = new_segment(5 * MEGABYTE, PageKind(), populated)
    assert (populated.huge, populated.small) == (0, 5 * MEGABYTE)
    assert os.fstat(fd).st_blocks * 512 == 5 * MEGABYTE
    assert os.pread(fd, 5 * MEGABYTE, 0) == bytes(5 * MEGABYTE)
    os.close(fd)


@pytest.mark.parametrize(("reserved", "used"), [("0", False), ("512", True)])
def test_pages_when_reserved_and_none_free_then_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserved: str, *, used: bool
) -> None:
    """A restarted agent finds all of them in the objects that its keeper holds."""
    for name, number in (("nr_hugepages", reserved), ("free_hugepages", "0")):
        (tmp_path / name).write_text(f"{number}\n")
    monkeypatch.setattr(memory, "_HUGETLB_PAGES", tmp_path / "nr_hugepages")
    assert offered_pages(hugetlb=True).hugetlb is used


def test_pages_when_none_reserved_then_ordinary_ones() -> None:
    assert offered_pages(hugetlb=False).hugetlb is False
