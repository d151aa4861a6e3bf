"""Block encodings of ggml, to float32. Exact: the same products and sums, in float32, as ggml's own.

Values are written where they shall lie, a cacheful at a time: memory that is touched for the first time, or comes back
from afar, costs more than the arithmetic. Layouts: `ggml-common.h` and `ggml-quants.c` of ggml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from headrace_models.encodings import ENCODINGS, TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_PASS_VALUES = 1 << 18
"""Values decoded at a time, 1 MB: more would not fit the cache between two passes, less would cost calls."""


def dequantise(rows: Bytes, kind: TensorType, out: Floats) -> None:
    """Decode rows into `out`. rows: [rows, bytes per row]; out: [rows, width], contiguous."""
    encoding, decode = ENCODINGS[kind], _DECODERS[kind]
    step = max(1, _PASS_VALUES // out.shape[1])
    for first in range(0, len(out), step):
        blocks = rows[first : first + step].reshape(-1, encoding.block_bytes)
        decode(blocks, out[first : first + step].reshape(-1, encoding.block_values))


def _f32(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f4")


def _f16(blocks: Bytes, out: Floats) -> None:
    out[:] = blocks.view("<f2")


def _bf16(blocks: Bytes, out: Floats) -> None:
    np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _half(blocks, 0), out=out)


def _q4_0(blocks: Bytes, out: Floats) -> None:
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _half(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    _nibbles(blocks[:, 4:], out)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


_DECODERS: Mapping[TensorType, Callable[[Bytes, Floats], None]] = {
    TensorType.F32: _f32,
    TensorType.F16: _f16,
    TensorType.BF16: _bf16,
    TensorType.Q8_0: _q8_0,
    TensorType.Q4_0: _q4_0,
    TensorType.Q4_1: _q4_1,
}


def _half(blocks: Bytes, at: int) -> Floats:
    """Return the float16 at byte `at` of each block: [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, out: Floats) -> None:
    """Write [blocks, 32] from [blocks, 16]: the low halves are the first 16 values, the high ones the others."""
    out[:, :16] = packed & 0x0F
    out[:, 16:] = packed >> 4
