"""The agent by itself: start, memory, restart with objects, and what crashed clients leave behind."""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from headrace.store.client import Store
from headrace.store.keys import ObjectClass
from headrace_node.bpf.syscalls import BpfMap

from .churn import SESSIONS
from .processes import DEADLINE_SECONDS, Agent, Worker, start, status_bytes

STARTS = 10
LEASED = 100
OBJECT_BYTES = 100_000
WORKERS = 2
STEP = 1000
_PIDFD_GETFD = 438


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the agent holds."""

    bytes: int
    """Of objects and drafts, as it counts them."""
    descriptors: int
    map_entries: int
    """Of its eBPF maps, as the kernel lists them."""
    resident: int
    """Bytes."""


def starts(directory: Path, *options: str, exclusive: bool) -> tuple[list[float], int]:
    """Return the seconds of each start, and the resident bytes after the last."""
    agent = Agent(directory, *options, exclusive=exclusive)
    seconds = []
    resident = 0
    for _ in range(STARTS):
        seconds.append(agent.start())
        agent.await_quiet()
        resident = status_bytes(agent.pid, "VmRSS")
        agent.end()
    print(
        f"agent: start best {min(seconds):.3f} p50 {statistics.median(seconds):.3f} s, {resident / 1e6:.1f} MB resident"
    )
    return seconds, resident


def lost_at_restart(directory: Path) -> int:
    """Return how many of the leased objects a killed agent loses, or their leases, or their content."""
    with _keeper(directory), Agent(directory, "--keeper") as agent, Store(agent.socket()) as store:
        held = [store.put(ObjectClass.WEIGHTS, number.to_bytes(OBJECT_BYTES, "little")) for number in range(LEASED)]
        agent.end(signal.SIGKILL)
        began = time.perf_counter()
        agent.start()
        leases = {each.key: each.leases for each in store.objects()}
        print(f"agent: restart with {LEASED} leased objects, used again after {time.perf_counter() - began:.3f} s")
        kept = sum(
            leases.get(each.key) == 1 and store.get(each.key).memory == number.to_bytes(OBJECT_BYTES, "little")
            for number, each in enumerate(held)
        )
    return LEASED - kept


def churn(agent: Agent, cycles: int) -> Footprint:
    """Let clients crash; return what is left that was not there before."""
    path = agent.socket()
    with Store(path) as store:
        kept = store.put(ObjectClass.WEIGHTS, b"kept" * 1024)
        store.pin(kept.key)
        _crash(store, path, kept.key, STEP)  # fills caches
        before = _footprint(agent)
        began = time.perf_counter()
        _crash(store, path, kept.key, cycles)
        seconds = time.perf_counter() - began
        after = _footprint(agent)
    print(
        f"churn: {cycles:,} cycles in {cycles // SESSIONS:,} killed processes took {seconds:.0f} s;"
        f" before {before}, after {after}",
        flush=True,
    )
    return Footprint(
        after.bytes - before.bytes,
        after.descriptors - before.descriptors,
        after.map_entries - before.map_entries,
        after.resident - before.resident,
    )


def _crash(store: Store, path: Path, kept: str, cycles: int) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker.of("churn", path, kept, exclusive=False)) for _ in range(WORKERS)]
        each = STEP // WORKERS
        for first in range(0, cycles, STEP):
            for number, worker in enumerate(workers):
                worker.put(cycles=(first + number * each, first + (number + 1) * each))
            killed = [worker.answer() for worker in workers]
            assert killed == [each] * WORKERS, f"ended by a kill: {killed}"
            _empty(store, kept)


def _empty(store: Store, kept: str) -> None:
    for each in store.objects():
        if each.key != kept:
            store.delete(each.key)


def _footprint(agent: Agent) -> Footprint:
    """Wait until the agent has seen the end of every client, and look."""
    agent.await_quiet()
    used = sum(each.memory for each in agent.admin.tenants())
    agent.await_quiet()
    descriptors = list(Path(f"/proc/{agent.pid}/fd").iterdir())
    return Footprint(used, len(descriptors), sum(_entries(agent.pid)), status_bytes(agent.pid, "VmRSS"))


def _entries(pid: int) -> Iterator[int]:
    """Yield the number of entries of each eBPF map that a process has open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if descriptor.readlink() == Path("anon_inode:bpf-map"):
            yield sum(1 for _ in _BorrowedMap(pid, int(descriptor.name)).keys())  # noqa: SIM118 - not a dict


class _BorrowedMap(BpfMap):
    """A map of another process."""

    @override
    def __init__(self, pid: int, descriptor: int) -> None:
        info = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
            if ":" in line
        )
        self._key = ctypes.create_string_buffer(int(info["key_size"]))
        process = os.pidfd_open(pid)
        try:
            self.fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, descriptor, 0)
        finally:
            os.close(process)
        assert self.fd >= 0, os.strerror(ctypes.get_errno())

    def __del__(self) -> None:
        self.close()


@contextmanager
def _keeper(directory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "headrace_node.main", "keeper", "--socket-directory", directory]
    process = start(command, exclusive=False, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (directory / "keeper.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield
    finally:
        process.kill()
        process.wait()
