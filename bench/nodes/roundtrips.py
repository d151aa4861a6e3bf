"""Round trips of a 64-byte descriptor, alternated, with both processes on one core and on two."""

from __future__ import annotations

import os
import statistics
import urllib.request

from headrace.metrics.node import BUS_KERNEL_FRAMES

from .processes import Agent, Worker

REPEATS = 60
TRIPS = 250


def measure(agent: Agent, metrics_port: int, *, exclusive: bool) -> dict[str, float]:
    """Print every path's figures; return the best microseconds of each with both processes on one core."""
    cores = sorted(os.sched_getaffinity(0))
    one = _measure(agent, metrics_port, (cores[-1], cores[-1]), exclusive=exclusive)
    if len(cores) > 1:
        _measure(agent, metrics_port, (cores[-1], cores[-2]), exclusive=exclusive)
    return one


def _measure(agent: Agent, metrics_port: int, cores: tuple[int, int], *, exclusive: bool) -> dict[str, float]:
    with Worker.of("roundtrip", agent.socket(), *cores, exclusive=exclusive) as worker:
        paths = worker.answer()
        seconds: dict[str, list[float]] = {path: [] for path in paths}
        for repeat in range(REPEATS + 1):
            for path in paths:
                taken = worker.ask(path=path, trips=TRIPS)
                seconds[path] += [taken] if repeat else []
        redirected = _redirected(metrics_port)
    assert redirected >= 4 * REPEATS * TRIPS, f"the kernel redirected only {redirected} frames"
    where = "one core" if cores[0] == cores[1] else "two cores"
    for path, values in seconds.items():
        best, middle = 1e6 * min(values), 1e6 * statistics.median(values)
        print(f"round trip, {where}, {path}: best {best:.2f} p50 {middle:.2f} us", flush=True)
    return {path: 1e6 * min(values) for path, values in seconds.items()}


def _redirected(metrics_port: int) -> float:
    """Return the frames of present endpoints that the kernel has redirected, as the agent's metrics count them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(BUS_KERNEL_FRAMES) and 'outcome="redirected"' in line
    )
