"""Loading of weights into torch: tensors are decoded once, in parallel, directly into the model's memory.

All weights lie in one piece of memory, and matrices that are multiplied with the same input are one. Huge pages do not
pay: measured, they load in 0.5 to 0.9 s instead of 0.3, since the kernel must find them, and a step is no faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from headrace.errors import CannotStart
from headrace_models.quant import dequantise
from headrace_models.weights import ModelWeights, RawTensor

ALIGNMENT = 64
"""Alignment of each weight: a cache line, and the widest vector register."""
_BYTES = 4


@dataclass(frozen=True, slots=True)
class _Task:
    tensor: RawTensor
    out: torch.Tensor


class WeightLoader:
    """Collects the weights (`add`), then loads all of them (`load`)."""

    def __init__(self, weights: ModelWeights) -> None:
        self._tensors = weights.tensors
        self._memory = _memory(sum(_room(math.prod(tensor.shape)) for tensor in self._tensors.values()))
        self._used = 0
        self._tasks: list[_Task] = []

    @property
    def memory_bytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._memory.numel() * _BYTES

    def add(self, *names: str) -> torch.Tensor:
        """Return the weight made of these tensors, one below the other, still empty: [rows, width] or [width], float32.

        Parts of matrices are rows; parts of vectors follow one another.
        """
        parts = [self._tensors[name] for name in names]
        sizes = [math.prod(part.shape) for part in parts]
        weight = self._memory[self._used : self._used + sum(sizes)]
        self._used += _room(weight.numel())
        for part, out in zip(parts, torch.split(weight, sizes), strict=True):
            self._tasks.append(_Task(part, out))
        return weight.view(-1, parts[0].shape[-1]) if len(parts[0].shape) > 1 else weight

    def load(self, threads: int, progress: Callable[[int], None]) -> None:
        """Decode all weights, and report the progress in percent."""
        total, done = sum(task.out.numel() for task in self._tasks), 0
        # One thread a tensor: threads that share each small operation wait for each other. Measured on two cores, the
        # engine's whole load against sharing: 0.33 s and 0.41 s; with one core kept busy by others, 0.45 s and 0.96 s.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            largest_first = sorted(self._tasks, key=lambda task: -task.out.numel())
            sizes = {pool.submit(_decode, task): task.out.numel() for task in largest_first}
            told = 0
            for future in as_completed(sizes):
                future.result()
                done += sizes[future]
                if done * 100 // total > told:
                    told = done * 100 // total
                    progress(told)


def _decode(task: _Task) -> None:
    rows = task.tensor.rows()
    dequantise(rows, task.tensor.type, task.out.view(len(rows), -1).numpy())


def _memory(values: int) -> torch.Tensor:
    """Return memory for the weights: [values], float32. Raises CannotStart if there is not enough."""
    try:
        return torch.empty(values)
    except RuntimeError as error:  # torch has no class of its own for it
        raise CannotStart(
            f"the weights of {values * _BYTES / 2**30:.1f} GiB, in float32, do not fit into memory",
            hint="Give the replica more memory, or serve a smaller model",
        ) from error


def _room(values: int) -> int:
    """Return the number of values that a weight occupies, so that the next one is aligned."""
    return -(-values * _BYTES // ALIGNMENT) * ALIGNMENT // _BYTES
