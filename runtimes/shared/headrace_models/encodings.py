"""The encodings of tensors: their numbers in GGUF, and the size of their blocks (ggml's `ggml_type`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class TensorType(IntEnum):
    """The encodings that can be read."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30


@dataclass(frozen=True, slots=True)
class Encoding:
    """Bytes and values per block."""

    block_values: int
    block_bytes: int


ENCODINGS = {
    TensorType.F32: Encoding(1, 4),
    TensorType.F16: Encoding(1, 2),
    TensorType.BF16: Encoding(1, 2),
    TensorType.Q4_0: Encoding(32, 18),
    TensorType.Q4_1: Encoding(32, 20),
    TensorType.Q5_0: Encoding(32, 22),
    TensorType.Q5_1: Encoding(32, 24),
    TensorType.Q8_0: Encoding(32, 34),
    TensorType.IQ4_NL: Encoding(32, 18),
    TensorType.Q2_K: Encoding(256, 84),
    TensorType.Q3_K: Encoding(256, 110),
    TensorType.Q4_K: Encoding(256, 144),
    TensorType.Q5_K: Encoding(256, 176),
    TensorType.Q6_K: Encoding(256, 210),
    TensorType.IQ4_XS: Encoding(256, 136),
}

_NAMES = (
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S "
    "IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 "
    "IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4 Q1_0"
)
"""All encodings of ggml in the order of their numbers; models are known by these names."""


def encoding_name(number: int) -> str:
    """Return the name of an encoding, supported or not."""
    names = _NAMES.split()
    return names[number] if number < len(names) else f"number {number}"


def row_bytes(kind: TensorType, width: int) -> int:
    """Return the bytes of an encoded row of `width` values."""
    encoding = ENCODINGS[kind]
    return width // encoding.block_values * encoding.block_bytes
