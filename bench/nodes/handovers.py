"""Hand-over of payloads by each transport: wall time, CPU time of all processes, peak memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Agent, Worker, cpu_seconds, status_bytes

MEGABYTE = 1_000_000
PAYLOAD, STORE, UNIX, TCP, UNARY, STREAM = "payload", "store", "unix", "tcp", "grpc-unary", "grpc-stream"
TRANSPORTS = (PAYLOAD, "payload-copy", STORE, "store-copy", UNIX, TCP, UNARY, STREAM)
REPEATS = {1: 20, 10: 10, 100: 5, 1000: 2}
"""Of each block, by megabytes."""
BLOCKS = 3
"""The transports alternate: a block of each, and again. A block has processes of its own, as peak memory is theirs."""


@dataclass(slots=True)
class Measured:
    """Hand-overs of one size by one transport; seconds and bytes of each."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of sender, receiver and agent."""
    agent_cpu: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    """Resident memory of both processes above that at their start; pages that both map count once."""

    def row(self, name: str, megabytes: int) -> str:
        """Return the figures as a line."""
        wall, cpu, agent = ([1000 * each for each in values] for values in (self.wall, self.cpu, self.agent_cpu))
        return (
            f"hand-over {megabytes} MB {name}: wall best {min(wall):.2f} p50 {statistics.median(wall):.2f} ms,"
            f" CPU best {min(cpu):.2f} p50 {statistics.median(cpu):.2f} ms"
            f" (agent p50 {statistics.median(agent):.2f}), peak {max(self.peak) / MEGABYTE:.0f} MB"
        )


def measure(agent: Agent, directory: Path, megabytes: int, *, exclusive: bool) -> dict[str, Measured]:
    """Measure all transports, alternated."""
    results = {name: Measured() for name in TRANSPORTS}
    for block in range(BLOCKS):
        for name in TRANSPORTS:
            path = directory / f"{megabytes}-{block}-{name}.sock"
            _block(agent, path, name, megabytes, results[name], exclusive=exclusive)
    for name, measured in results.items():
        print(measured.row(name, megabytes), flush=True)
    return results


def _block(agent: Agent, path: Path, name: str, megabytes: int, measured: Measured, *, exclusive: bool) -> None:
    size = megabytes * MEGABYTE
    with _pair(agent, path, name, exclusive=exclusive) as (sender, receiver):
        pids = (sender.process.pid, receiver.process.pid)
        before = sum(status_bytes(pid, "VmHWM") for pid in pids)
        for number in range(REPEATS[megabytes] + 1):
            agent.await_quiet()
            cpu, agent_cpu = sum(map(cpu_seconds, pids)), cpu_seconds(agent.pid)
            taken = sender.ask(size=size, number=number + 1)
            agent.await_quiet()
            agent_cpu = cpu_seconds(agent.pid) - agent_cpu
            if number:  # the first one warms up
                measured.wall.append(taken["wall"])
                measured.cpu.append(sum(map(cpu_seconds, pids)) - cpu + agent_cpu - taken["excluded_cpu"])
                measured.agent_cpu.append(agent_cpu)
        peak = sum(status_bytes(pid, "VmHWM") for pid in pids) - before
        measured.peak.append(peak - (size if name.startswith((PAYLOAD, STORE)) else 0))


@contextmanager
def _pair(agent: Agent, path: Path, name: str, *, exclusive: bool) -> Iterator[tuple[Worker, Worker]]:
    """Start sender and receiver, connected."""
    with ExitStack() as stack:

        def start(*arguments: object) -> Worker:
            return stack.enter_context(Worker.of("handover", *arguments, exclusive=exclusive))

        if name.startswith((PAYLOAD, STORE)):
            sender = start("send", name, agent.socket())
            receiver = start("receive", name, agent.socket(), sender.answer())
        else:
            receiver = start("receive", name, path)
            sender = start("send", name, receiver.answer() or path)
        assert sender.answer() == "ready"
        yield sender, receiver
