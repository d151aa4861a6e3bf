"""Limits of the machine that bound every engine, measured in the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MEBIBYTE = 1 << 20
READ_BYTES = 512 * MEBIBYTE
SIZE = 2048
REPEATS = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates of this machine with the threads of the run."""

    bytes_per_second: float
    """Reading memory that no cache holds."""
    float_operations: float
    """Per second, of a float32 product of matrices."""
    int8_operations: float


def measure(threads: int) -> Limits:
    """Measure the limits, the best of several repeats each."""
    torch.set_num_threads(threads)
    data = torch.ones(READ_BYTES // 4)
    floats = torch.rand(SIZE, SIZE)
    bytes_ = torch.ones(SIZE, SIZE, dtype=torch.int8)
    return Limits(
        READ_BYTES / _best(data.sum),
        2 * SIZE**3 / _best(lambda: floats @ floats),
        2 * SIZE**3 / _best(lambda: torch._int_mm(bytes_, bytes_)),  # noqa: SLF001 - the only int8 product in torch
    )


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
