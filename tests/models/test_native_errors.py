"""Damaged weights and impossible batches are refused by name; nothing of them reaches the kernels."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models.native_models import PLAIN, model_weights

from headrace_models.config import DecoderConfig
from headrace_models.decoder import Batch, Segment
from headrace_models.encodings import TensorType
from headrace_models.native.build import NoNativeLibrary, build
from headrace_models.native.packing import InvalidPackedWeights, Packing, WeightType, pack
from headrace_models.native_decoder import NativeDecoder

ENTRY, ENTRY_BYTES = 64, 32


def packed(kind: TensorType = TensorType.Q4_1) -> bytearray:
    return bytearray(pack(model_weights(PLAIN, kind), threads=1))


def opened(content: bytes | bytearray, config: DecoderConfig = PLAIN) -> NativeDecoder:
    memory = np.empty(len(content) + 64, dtype=np.uint8)
    first = -memory.ctypes.data % 64
    view = memory[first : first + len(content)]
    view[:] = np.frombuffer(content, dtype=np.uint8)
    return NativeDecoder(view.data, config, threads=1, half_cache=True)


def with_entry(at: int, layout: str, value: int) -> bytearray:
    """Return packed weights with a wrong value in the entry of the second tensor."""
    content = packed()
    struct.pack_into(layout, content, ENTRY + ENTRY_BYTES + at, value)
    return content


def test_packed_weights_when_whole_then_they_open() -> None:
    assert opened(packed()).weight_bytes == len(packed())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"HR", "less than a header"),
        (b"X" * 100, "do not begin with HRWEIGHT"),
        (packed()[:8] + b"\x09" + packed()[9:], "version is 9"),
        (packed()[:-64], "they were cut"),
        (packed()[:64], "they were cut"),
        (with_entry(0, "<I", 77), "tensor 1 is of the unknown kind 77"),
        (with_entry(0, "<I", 0), "tensor 1 is not a vector|tensor 1 does not lie within"),
        (with_entry(8, "<I", 3), r"tensor 1 is of shape \[1, 3\]"),
        (with_entry(16, "<Q", 2**63), "tensor 1 does not lie within"),
        (with_entry(16, "<Q", 65), "tensor 1 does not lie within"),
        (with_entry(24, "<Q", 1), "tensor 1 does not lie within"),
    ],
)
def test_packed_weights_when_damaged_then_refused_by_name(content: bytes, said: str) -> None:
    with pytest.raises(InvalidPackedWeights, match=said):
        opened(content)


def test_packed_weights_when_of_another_model_then_refused() -> None:
    with pytest.raises(InvalidPackedWeights, match="another configuration"):
        opened(packed(), replace(PLAIN, rope_theta=5000.0))


def test_memory_when_too_small_then_nothing_is_packed() -> None:
    packing = Packing.of(model_weights(PLAIN), WeightType.STORED)
    with pytest.raises(ValueError, match=f"need {packing.nbytes} bytes"):
        packing.fill(memoryview(bytearray(packing.nbytes - 1)), 1)


BLOCKS, BLOCK_TOKENS = 4, 8


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (Batch([], [], []), "the batch is empty"),
        (Batch([90], [Segment([0], 0, 1)], [0]), "token id 90 is not of a vocabulary of 90"),
        (Batch([-1], [Segment([0], 0, 1)], [0]), "token id -1"),
        (Batch([1], [Segment([BLOCKS], 0, 1)], [0]), "block 4 is not of a cache of 4 blocks"),
        (Batch([1], [Segment([-1], 0, 1)], [0]), "block -1"),
        (Batch([1], [Segment([0], 8, 1)], [0]), "ends at position 9, and its 1 blocks at 8"),
        (Batch([1], [Segment([0], -1, 1)], [0]), "a segment of 1 tokens from -1"),
        (Batch([1], [Segment([0], 0, 0)], [0]), "a segment of 0 tokens"),
        (Batch([1, 2], [Segment([0], 0, 1)], [0]), "segments of 1 tokens for 2"),
        (Batch([1], [Segment([0], 0, 1)], [1]), "output 1 is not of a batch of 1 tokens"),
        (Batch([1], [Segment([0], 0, 1, adapter=1)], [0]), "adapter 1 is not loaded"),
    ],
)
def test_batch_when_impossible_then_refused_and_the_next_runs(batch: Batch, said: str) -> None:
    decoder = opened(packed())
    decoder.allocate_cache(BLOCKS, BLOCK_TOKENS)
    with pytest.raises(ValueError, match=said):
        decoder.step(batch)
    assert np.isfinite(decoder.step(Batch([1], [Segment([3], 0, 1)], [0]))).all()


def test_step_when_no_cache_is_allocated_then_refused() -> None:
    with pytest.raises(ValueError, match="no cache is allocated"):
        opened(packed()).step(Batch([1], [Segment([0], 0, 1)], [0]))


def test_compiler_when_it_fails_then_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho no such target >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(NoNativeLibrary, match="do not compile: no such target"):
        build(tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_compiler_when_missing_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoNativeLibrary, match="no C\\+\\+ compiler"):
        build(tmp_path)
