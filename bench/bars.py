"""Output of the benches: measurements, and each bar as one machine-readable line."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bar:
    """A measured value and its goal: met when the value is at most (or at least) the goal."""

    name: str
    value: float
    goal: float
    unit: str
    at_least: bool = False

    def print(self) -> None:
        """Print the machine-readable line."""
        met = self.value >= self.goal if self.at_least else self.value <= self.goal
        comparison, verdict = ">=" if self.at_least else "<=", "ok" if met else "short"
        print(f"bar {self.name} {self.value:.3g}{self.unit} {comparison}{self.goal:g}{self.unit} {verdict}", flush=True)


def environment() -> None:
    """Print the environment of the measurement."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    print(f"environment: {model}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"load before: {os.getloadavg()[0]:.2f}")


def bar(name: str, value: float, goal: float, unit: str, *, at_least: bool = False) -> None:
    """Print a bar."""
    Bar(name, value, goal, unit, at_least).print()


def spread(name: str, values: list[float], unit: str) -> None:
    """Print the distribution of a measurement."""
    ordered = sorted(values)
    low, middle, high = ordered[0], statistics.median(ordered), percentile(ordered, 95)
    print(f"{name}: n={len(ordered)} min={low:.3g}{unit} p50={middle:.3g}{unit} p95={high:.3g}{unit}", flush=True)


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]
