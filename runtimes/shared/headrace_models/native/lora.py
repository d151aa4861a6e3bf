"""LoRA adapters in the layout of the native kernels: `LoraArgs` of abi.h."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from headrace_models.adapters import ADAPTED, Adapter
from headrace_models.native.library import NativeLora, native
from headrace_models.quant import Floats

_F32 = 0
"""The kind of packed.h, and the type of ggml."""


class PackedAdapter:
    """The arguments, and the memory that they point to."""

    def __init__(self, adapter: Adapter, layers: int) -> None:
        self._memory: list[NDArray[np.uint8]] = []
        names = [f"blk.{layer}.{name}.weight" for layer in range(layers) for name in ADAPTED]  # the order of lora.h
        self.arguments: ctypes.Array[NativeLora] = (NativeLora * len(names))()
        for argument, name in zip(self.arguments, names, strict=True):
            pair = adapter.matrices.get(name)
            if pair is not None:
                argument.a, argument.b, argument.rank = self._packed(pair.a), self._packed(pair.b), len(pair.a)

    def _packed(self, matrix: Floats) -> int:
        """Return the address of a copy in tiles."""
        values, (rows, cols) = np.ascontiguousarray(matrix), matrix.shape
        tiles = np.empty(native().headrace_tensor_bytes(_F32, rows, cols), dtype=np.uint8)
        failed = native().headrace_pack(_F32, values.ctypes.data, rows, cols, None, _F32, tiles.ctypes.data)
        assert not failed, "float32 is packed as float32"
        self._memory.append(tiles)
        return tiles.ctypes.data
