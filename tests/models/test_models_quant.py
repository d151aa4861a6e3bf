"""Every encoding is decoded to the very values of the `gguf` library, from any bytes and from real encodings."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from headrace_models.encodings import ENCODINGS, TensorType, row_bytes
from headrace_models.quant import dequantise

WIDTH, ROWS = 512, 9
ENCODED = tuple(kind for kind in TensorType if kind is not TensorType.F32)
WRITTEN = tuple(TensorType[name] for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
"""Encodings that the library writes."""


def decoded(rows: NDArray[np.uint8], kind: TensorType) -> NDArray[np.float32]:
    out = np.empty((len(rows), WIDTH), dtype=np.float32)
    dequantise(rows, kind, out)
    return out


@pytest.mark.parametrize("kind", ENCODED)
def test_encoding_then_its_blocks_have_the_library_s_size(kind: TensorType) -> None:
    encoding = ENCODINGS[kind]
    assert (encoding.block_values, encoding.block_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    assert gguf.GGMLQuantizationType(kind).name == kind.name


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_when_decoded_then_the_library_s_values(kind: TensorType, seed: int) -> None:
    """Bit by bit, also for scales that are infinite or not a number."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (ROWS, row_bytes(kind, WIDTH)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        theirs = dequantize(rows, gguf.GGMLQuantizationType(kind)).astype(np.float32)
        ours = decoded(rows, kind)
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.isfinite(ours).any()


@pytest.mark.parametrize("kind", WRITTEN)
def test_weights_when_encoded_and_decoded_then_close(kind: TensorType) -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    rows = quantize(values, gguf.GGMLQuantizationType(kind)).view(np.uint8).reshape(ROWS, -1)
    ours = decoded(rows, kind)
    assert np.array_equal(ours, dequantize(rows, gguf.GGMLQuantizationType(kind)))
    assert np.abs(ours - values).max() < 0.5


def test_float32_when_decoded_then_the_same_bits() -> None:
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    assert np.array_equal(decoded(values.view(np.uint8), TensorType.F32), values)


def test_rows_when_they_lie_unaligned_then_the_same_values() -> None:
    """A file may align its tensors to one byte."""
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    shifted = np.frombuffer(b"x" + values.tobytes(), dtype=np.uint8, offset=1).reshape(ROWS, -1)
    assert np.array_equal(decoded(shifted, TensorType.F32), values)
