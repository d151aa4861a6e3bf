"""Block encodings of ggml, to float32. Exact: the same products and sums, in float32, as ggml's own.

Values are written where they shall lie, a cacheful at a time: memory that is touched for the first time, or comes back
from afar, costs more than the arithmetic.
"""

from __future__ import annotations

from typing import assert_never

import torch

from headrace_models.gguf import ENCODINGS, GGUFFile, TensorInfo, TensorType

_PASS_VALUES = 1 << 18
"""Values decoded at a time, 1 MB: more would not fit the cache between two passes, less would cost calls."""
_LOW_NIBBLES = 0x0F0F0F0F


def rows_of(file: GGUFFile, tensor: TensorInfo) -> torch.Tensor:
    """Return the encoded rows, without a copy: [rows, bytes per row], uint8."""
    width = tensor.shape[-1] if tensor.shape else 1
    encoding = ENCODINGS[tensor.type]
    raw = torch.frombuffer(file.data(tensor), dtype=torch.uint8)
    return raw.view(-1, width // encoding.block_values * encoding.block_bytes)


def dequantise(rows: torch.Tensor, kind: TensorType, out: torch.Tensor) -> None:
    """Decode rows into `out`. rows: [rows, bytes per row], uint8; out: [rows, width], float32, contiguous."""
    step = max(1, _PASS_VALUES // out.shape[1])
    for first in range(0, len(out), step):
        _decode(rows[first : first + step].contiguous(), kind, out[first : first + step])


def _decode(rows: torch.Tensor, kind: TensorType, out: torch.Tensor) -> None:
    encoding = ENCODINGS[kind]
    blocks, values = rows.view(-1, encoding.block_bytes), out.view(-1, encoding.block_values)
    match kind:
        case TensorType.F32:
            values.copy_(_aligned(blocks).view(torch.float32))
        case TensorType.F16:
            values.copy_(_aligned(blocks).view(torch.float16))
        case TensorType.BF16:
            values.copy_(_aligned(blocks).view(torch.bfloat16))
        case TensorType.Q8_0:
            values.copy_(blocks[:, 2:].view(torch.int8)).mul_(_half(blocks, 0))
        case TensorType.Q4_0:
            values.copy_(_nibbles(blocks[:, 2:])).sub_(8.0).mul_(_half(blocks, 0))
        case TensorType.Q4_1:
            values.copy_(_nibbles(blocks[:, 4:])).mul_(_half(blocks, 0)).add_(_half(blocks, 2))
        case _:
            assert_never(kind)


def _aligned(raw: torch.Tensor) -> torch.Tensor:
    """Return the bytes at an aligned address: a file may align its tensors to one byte."""
    return raw if raw.data_ptr() % 4 == 0 else raw.clone()


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """Return the float16 at byte `at` of each block: [blocks, 1], float32."""
    return blocks[:, at : at + 2].clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return [blocks, 32] from [blocks, 16], uint8: the low halves are the first 16 values, the high ones the others.

    Four bytes at a time: the arithmetic shift drags the sign along, and the mask drops it.
    """
    words = packed.clone(memory_format=torch.contiguous_format).view(torch.int32)
    return torch.stack((words & _LOW_NIBBLES, (words >> 4) & _LOW_NIBBLES), dim=1).view(torch.uint8).flatten(1)
