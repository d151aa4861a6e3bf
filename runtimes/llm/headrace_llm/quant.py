"""Block encodings of ggml, to float32. Exact: the same products and sums, in float32, as ggml's own."""

from __future__ import annotations

from typing import assert_never

import torch

from headrace_llm.gguf import ENCODINGS, GGUFFile, TensorInfo, TensorType


def dequantised(file: GGUFFile, tensor: TensorInfo) -> torch.Tensor:
    """Return the tensor: float32, of `tensor.shape`."""
    raw = torch.frombuffer(bytearray(file.data(tensor)), dtype=torch.uint8)
    match tensor.type:
        case TensorType.F32:
            values = raw.view(torch.float32)
        case TensorType.F16:
            values = raw.view(torch.float16).float()
        case TensorType.BF16:
            values = raw.view(torch.bfloat16).float()
        case TensorType.Q8_0:
            values = _q8_0(_blocks(raw, tensor.type))
        case TensorType.Q4_0:
            values = _q4_0(_blocks(raw, tensor.type))
        case TensorType.Q4_1:
            values = _q4_1(_blocks(raw, tensor.type))
        case _:
            assert_never(tensor.type)
    return values.reshape(tensor.shape)


def _blocks(raw: torch.Tensor, kind: TensorType) -> torch.Tensor:
    """Return [blocks, bytes per block], uint8."""
    return raw.view(-1, ENCODINGS[kind].block_bytes)


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """Return the float16 that stands at byte `at` of each block: [blocks, 1], float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return [blocks, 32] from [blocks, 16]: the low halves are the first 16 values, the high ones the others."""
    return torch.cat((packed & 0x0F, packed >> 4), dim=1).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """Return x = d * q: float16 d, 32 int8 q."""
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    """Return x = d * (q - 8): float16 d, 32 nibbles q."""
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8.0)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    """Return x = d * q + m: float16 d and m, 32 nibbles q."""
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)
