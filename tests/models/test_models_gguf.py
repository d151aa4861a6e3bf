"""The GGUF reader agrees with the `gguf` library, and a broken file is an InvalidModel and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.errors import InvalidModel
from headrace_models.gguf import GGUFFile, TensorInfo
from headrace_models.gguf_config import gguf_config
from headrace_models.quant import dequantise
from headrace_models.weights import RawTensor

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


def written(path: Path) -> Path:
    """Write a small file with a tensor of each encoding."""
    values = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bé", "🙂"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_uint32("another", 1)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        data = values if name == "F32" else quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dequantised(file: GGUFFile, tensor: TensorInfo) -> NDArray[np.float32]:
    """Return the tensor's values, of its shape."""
    rows = RawTensor(tensor.name, tensor.shape, tensor.type, file.data(tensor)).rows()
    values = np.empty((len(rows), tensor.shape[-1]), dtype=np.float32)
    dequantise(rows, tensor.type, values)
    return values.reshape(tensor.shape)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.mark.parametrize("name", TYPES)
def test_tensor_when_read_then_it_is_what_the_library_reads(small: Path, name: str) -> None:
    ours = GGUFFile(small)
    theirs = next(tensor for tensor in gguf.GGUFReader(str(small)).tensors if tensor.name == name)
    expected = dequantize(theirs.data, theirs.tensor_type).reshape(8, 64).astype(np.float32)
    assert np.array_equal(dequantised(ours, ours.tensors[name]), expected)


def test_metadata_when_read_then_text_and_numbers_are_there(small: Path) -> None:
    metadata = GGUFFile(small).metadata
    assert metadata["tokenizer.ggml.tokens"] == ["a", "bé", "🙂"]
    assert metadata["numbers"] == [1, 2, 3]
    assert metadata["llama.context_length"] == 128


def test_real_model_when_read_then_every_tensor_is_the_library_s(smollm2_path: Path) -> None:
    ours = GGUFFile(smollm2_path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(str(smollm2_path)).tensors}
    assert ours.tensors.keys() == theirs.keys()
    for name in ("blk.0.attn_q.weight", "blk.29.ffn_down.weight", "output_norm.weight"):
        expected = dequantize(theirs[name].data, theirs[name].tensor_type)
        assert np.array_equal(dequantised(ours, ours.tensors[name]), expected.reshape(ours.tensors[name].shape))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_file_when_bytes_are_broken_then_read_or_invalid(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    """No broken file does anything else than raise InvalidModel."""
    raw = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(raw[:cut])
    try:
        file = GGUFFile(broken)
        for tensor in file.tensors.values():
            assert dequantised(file, tensor).shape == tensor.shape
        gguf_config(file)
    except InvalidModel:
        return


def test_real_model_when_cut_then_the_error_says_so(tmp_path: Path, smollm2_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with smollm2_path.open("rb") as file:
        cut.write_bytes(file.read(5_000_000))
    with pytest.raises(InvalidModel, match=r"it was cut\. Fetch the model again"):
        _ = GGUFFile(cut).tensors


def test_file_when_not_gguf_then_the_error_names_the_source(tmp_path: Path) -> None:
    page = tmp_path / "page.gguf"
    page.write_text("<!DOCTYPE html>")
    with pytest.raises(InvalidModel, match=r"begin with GGUF\. A GGUF file is needed: check the path, or"):
        GGUFFile(page)


def head(kind: int) -> bytes:
    """Return how the file describes its tensor BF16."""
    return b"BF16" + struct.pack("<I2QI", 2, 64, 8, kind)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"GGUF\x03", b"GGUF\x09", r"version 9 is not supported\. Convert the model to version 2 or 3"),
        (head(30), head(99), r"quantised as number 99, .*\(tensor BF16\)\. Quantise the model to one of: F32, F16, "),
        (head(30), head(21), r"quantised as IQ3_S, "),
    ],
)
def test_file_when_not_readable_then_a_hint_to_convert(
    small: Path, tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(small.read_bytes().replace(old, new, 1))
    with pytest.raises(InvalidModel, match=said):
        _ = GGUFFile(other).tensors


@pytest.mark.parametrize(("entry", "other"), [(b"numbers", b"another"), (b"BF16", b"Q8_0")])
def test_file_when_a_name_stands_in_it_twice_then_it_is_invalid(
    small: Path, tmp_path: Path, entry: bytes, other: bytes
) -> None:
    twice = tmp_path / "twice.gguf"
    twice.write_bytes(small.read_bytes().replace(other, entry, 1))
    with pytest.raises(InvalidModel, match=f"{entry.decode()} twice"):
        GGUFFile(twice)
