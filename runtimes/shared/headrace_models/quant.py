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

_IQ4_VALUES = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), dtype=np.float32)
"""The values of the codes of IQ4_NL and IQ4_XS (`kvalues_iq4nl`)."""


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


def _q5_0(blocks: Bytes, out: Floats) -> None:
    _fives(blocks[:, 2:], out)
    out -= 16
    out *= _half(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    _fives(blocks[:, 4:], out)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def _iq4_nl(blocks: Bytes, out: Floats) -> None:
    codes = _split(blocks[:, 2:].reshape(-1, 1, 16), 4)
    np.multiply(_IQ4_VALUES[codes].reshape(-1, 32), _half(blocks, 0), out=out)


def _iq4_xs(blocks: Bytes, out: Floats) -> None:
    high = blocks[:, 2:4].copy().view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), axis=2).reshape(-1, 8)
    scales = _half(blocks, 0) * ((low | high << 4).astype(np.float32) - 32)
    codes = _split(blocks[:, 8:].reshape(-1, 8, 16), 4)
    np.multiply(_IQ4_VALUES[codes].reshape(-1, 8, 32), scales[..., None], out=out.reshape(-1, 8, 32))


def _q2_k(blocks: Bytes, out: Floats) -> None:
    scales = _half(blocks, 80) * (blocks[:, :16] & 15)
    minima = _half(blocks, 82) * (blocks[:, :16] >> 4)
    codes = _split(blocks[:, 16:80].reshape(-1, 2, 32), 2)
    _scaled(codes, scales, minima, out)


def _q3_k(blocks: Bytes, out: Floats) -> None:
    low = _split(blocks[:, 96:104].reshape(-1, 1, 8), 4).reshape(-1, 16)
    high = _split(blocks[:, 104:108].reshape(-1, 1, 4), 2).reshape(-1, 16)
    scales = _half(blocks, 108) * ((low | high << 4).astype(np.float32) - 32)
    codes = _split(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 256)
    high_bits = _split(blocks[:, :32].reshape(-1, 1, 32), 1).reshape(-1, 256)
    out[:] = codes | high_bits << 2
    out -= 4
    values = out.reshape(-1, 16, 16)
    values *= scales[..., None]


def _q4_k(blocks: Bytes, out: Floats) -> None:
    scales, minima = _k_scales(blocks)
    _scaled(_split(blocks[:, 16:].reshape(-1, 4, 32), 4), scales, minima, out)


def _q5_k(blocks: Bytes, out: Floats) -> None:
    scales, minima = _k_scales(blocks)
    low = _split(blocks[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    high = _split(blocks[:, 16:48].reshape(-1, 1, 32), 1).reshape(-1, 8, 32)
    _scaled(low | high << np.uint8(4), scales, minima, out)


def _q6_k(blocks: Bytes, out: Floats) -> None:
    low = _split(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 256)
    high = _split(blocks[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 256)
    out[:] = low | high << 4
    out -= 32
    values = out.reshape(-1, 16, 16)
    values *= (_half(blocks, 208) * blocks[:, 192:208].view(np.int8))[..., None]


_DECODERS: Mapping[TensorType, Callable[[Bytes, Floats], None]] = {
    TensorType.F32: _f32,
    TensorType.F16: _f16,
    TensorType.BF16: _bf16,
    TensorType.Q4_0: _q4_0,
    TensorType.Q4_1: _q4_1,
    TensorType.Q5_0: _q5_0,
    TensorType.Q5_1: _q5_1,
    TensorType.Q8_0: _q8_0,
    TensorType.Q2_K: _q2_k,
    TensorType.Q3_K: _q3_k,
    TensorType.Q4_K: _q4_k,
    TensorType.Q5_K: _q5_k,
    TensorType.Q6_K: _q6_k,
    TensorType.IQ4_NL: _iq4_nl,
    TensorType.IQ4_XS: _iq4_xs,
}


def _half(blocks: Bytes, at: int) -> Floats:
    """Return the float16 at byte `at` of each block: [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, out: Floats) -> None:
    """Write [blocks, 32] from [blocks, 16]: the low halves are the first 16 values, the high ones the others."""
    out[:, :16] = packed & 0x0F
    out[:, 16:] = packed >> 4


def _fives(packed: Bytes, out: Floats) -> None:
    """Write [blocks, 32] from [blocks, 4 + 16]: the fifth bits of all values, then the nibbles."""
    high = np.unpackbits(packed[:, :4], axis=1, bitorder="little") << 4
    out[:, :16] = packed[:, 4:] & 0x0F | high[:, :16]
    out[:, 16:] = packed[:, 4:] >> 4 | high[:, 16:]


def _split(packed: Bytes, bits: int) -> Bytes:
    """Return the values of `bits` bits: [blocks, groups, 8 / bits, n] from [blocks, groups, n], lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return packed[:, :, None, :] >> shifts & np.uint8((1 << bits) - 1)


def _scaled(codes: Bytes, scales: Floats, minima: Floats, out: Floats) -> None:
    """Write code * scale - minimum; scales and minima: [blocks, groups of consecutive values]."""
    values = out.reshape(*scales.shape, -1)
    values[:] = codes.reshape(values.shape)
    values *= scales[..., None]
    values -= minima[..., None]


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Return the scales and minima of Q4_K and Q5_K: [blocks, 8] each.

    Six bits each in bytes 4 to 16: the first four of both in the low bits of eight bytes; the low nibbles of the others
    in the last four bytes, and their upper two bits above the first ones.
    """
    first, second, nibbles = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate((first & 63, nibbles & 15 | first >> 2 & 48), axis=1)
    minima = np.concatenate((second & 63, nibbles >> 4 | second >> 2 & 48), axis=1)
    return _half(blocks, 0) * scales, _half(blocks, 2) * minima
