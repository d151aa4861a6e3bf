"""From which size on a body is cheaper in shared memory (`headrace.payloads`) than in HTTP, between two processes."""

from __future__ import annotations

import statistics

from .processes import Agent, Worker, cpu_seconds

KIBIBYTE = 1024
SIZES = (4, 16, 64, 256, 1024, 4096, 16384)
"""KiB."""
BLOCKS = 5
BLOCK_BYTES = 64 << 20
"""What a block transfers, at most `REPEATS` times."""
REPEATS = 20
WAYS = ("http", "shared")


def measure(agent: Agent, *, exclusive: bool) -> dict[int, dict[str, tuple[float, float]]]:
    """Print and return the best wall and the CPU milliseconds of all processes, by KiB and way."""
    results: dict[int, dict[str, tuple[float, float]]] = {}
    with (
        Worker.of("payload", "serve", agent.socket(), exclusive=exclusive) as runtime,
        Worker.of("payload", "send", agent.socket(), *runtime.answer(), exclusive=exclusive) as gateway,
    ):
        assert gateway.answer() == "ready"
        pids = (runtime.process.pid, gateway.process.pid, agent.pid)
        for size in SIZES:
            wall: dict[str, list[float]] = {way: [] for way in WAYS}
            cpu: dict[str, list[float]] = {way: [] for way in WAYS}
            repeats = max(2, min(REPEATS, BLOCK_BYTES // (size * KIBIBYTE)))
            for block in range(BLOCKS + 1):
                for way in WAYS:
                    agent.await_quiet()
                    before = sum(map(cpu_seconds, pids))
                    taken = gateway.ask(size=size * KIBIBYTE, repeats=repeats, by=way)
                    agent.await_quiet()
                    if block:  # the first one warms up
                        wall[way] += taken
                        cpu[way].append((sum(map(cpu_seconds, pids)) - before) / repeats)
            results[size] = {way: (1000 * min(wall[way]), 1000 * statistics.median(cpu[way])) for way in WAYS}
            for way in WAYS:
                best, middle = 1000 * min(wall[way]), 1000 * statistics.median(wall[way])
                used = results[size][way][1]
                print(f"body {size} KiB {way}: best {best:.3f} p50 {middle:.3f} ms, CPU {used:.3f} ms", flush=True)
    return results


def pays_from(results: dict[int, dict[str, tuple[float, float]]]) -> int:
    """Return the size in KiB from which on shared memory takes less time, wall and CPU; infinite if there is none."""
    found = 1 << 62
    for size in sorted(results, reverse=True):
        ways = results[size]
        if any(shared > http for shared, http in zip(ways["shared"], ways["http"], strict=True)):
            break
        found = size
    return found
