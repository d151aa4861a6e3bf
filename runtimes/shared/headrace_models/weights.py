"""Loading of weights: a file's tensors are decoded once, in parallel, directly into the model's memory.

All weights lie in one piece of memory, and matrices that are multiplied with the same input are one. Huge pages do not
pay: measured, they load in 0.5 to 0.9 s instead of 0.3, since the kernel must find them, and a step is no faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from headrace.errors import CannotStart, InvalidModel
from headrace_models.gguf import GGUFFile, TensorInfo
from headrace_models.quant import dequantise, rows_of

ALIGNMENT = 64
"""Alignment of each weight: a cache line, and the widest vector register."""
_BYTES = 4


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the file, as rows of a weight. `paired_heads`: of queries and keys, whose rows lie in pairs."""

    name: str
    shape: tuple[int, ...]
    paired_heads: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    tensor: TensorInfo
    paired_heads: int
    out: torch.Tensor


class WeightLoader:
    """Collects the weights (`add`), then loads all of them (`load`)."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._memory = _memory(sum(_room(math.prod(tensor.shape)) for tensor in file.tensors.values()))
        self._used = 0
        self._tasks: list[_Task] = []

    @property
    def memory_bytes(self) -> int:
        """Memory of the weights, bytes."""
        return self._memory.numel() * _BYTES

    def add(self, *parts: Part) -> torch.Tensor:
        """Return the weight made of these parts, one below the other, still empty: [rows, width] or [width], float32.

        Raises InvalidModel when the file has no such tensors.
        """
        tensors = [self._tensor(part) for part in parts]
        width = parts[0].shape[-1]
        rows = [math.prod(part.shape) // width for part in parts]
        weight = self._memory[self._used : self._used + sum(rows) * width].view(-1, width)
        self._used += _room(weight.numel())
        for part, tensor, out in zip(parts, tensors, torch.split(weight, rows), strict=True):
            self._tasks.append(_Task(tensor, part.paired_heads, out))
        return weight if len(parts[0].shape) > 1 else weight.flatten()

    def load(self, threads: int, progress: Callable[[int], None]) -> None:
        """Decode all weights, and report the progress in percent.

        Raises InvalidModel if the file has tensors that the model does not use: without its biases, for example, a
        model would produce wrong output.
        """
        unknown = self._file.tensors.keys() - {task.tensor.name for task in self._tasks}
        if unknown:
            names = ", ".join(sorted(unknown)[:3])
            raise InvalidModel(
                f"{self._file.path.name} has {len(unknown)} tensors that this runtime does not compute with: {names}",
                hint="It is of a variant of the architecture that is not served yet",
            )
        total, done = sum(task.out.numel() for task in self._tasks), 0
        # One thread a tensor: threads that share each small operation wait for each other. Measured on two cores, the
        # engine's whole load against sharing: 0.33 s and 0.41 s; with one core kept busy by others, 0.45 s and 0.96 s.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            largest_first = sorted(self._tasks, key=lambda task: -task.out.numel())
            sizes = {pool.submit(self._decode, task): task.out.numel() for task in largest_first}
            told = 0
            for future in as_completed(sizes):
                future.result()
                done += sizes[future]
                if done * 100 // total > told:
                    told = done * 100 // total
                    progress(told)

    def _decode(self, task: _Task) -> None:
        rows = rows_of(self._file, task.tensor)
        if task.paired_heads:
            rows = unpaired(rows, task.paired_heads)
        dequantise(rows, task.tensor.type, task.out)

    def _tensor(self, part: Part) -> TensorInfo:
        tensor = self._file.tensors.get(part.name)
        if tensor is None or tensor.shape != part.shape:
            found = "missing" if tensor is None else f"of shape {tensor.shape}"
            raise InvalidModel(
                f"{self._file.path.name}: tensor {part.name} is {found}, and its header needs {part.shape}",
                hint="Convert the model again",
            )
        return tensor


def unpaired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo the row order in which llama GGUFs keep queries and keys (pairs interleaved), for rotation by halves.

    rows: [heads * head, bytes per row].
    """
    count, width = rows.shape
    return rows.view(heads, count // heads // 2, 2, width).transpose(1, 2).reshape(count, width)


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
