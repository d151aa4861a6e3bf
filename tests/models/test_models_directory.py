"""A directory with safetensors is refused, by name, when a file is broken or contradicts another."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models.family_models import FAMILY_MODELS, written
from models.model_files import BOS, EOS, TOKENS
from transformers import AutoTokenizer

from headrace.errors import InvalidModel
from headrace.serving.engine import Chat, ChatMessage
from headrace_llm.engine import LLMEngine
from headrace_models.model_file import ModelFile
from headrace_models.safetensors import read_safetensors
from headrace_models.tokenizer import ModelTokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(FAMILY_MODELS["llama"].make(), tmp_path_factory.mktemp("directory"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def edited(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def test_directory_then_its_tokens_are_transformers(whole: Path) -> None:
    file = ModelFile.open(whole)
    ours, theirs = ModelTokenizer(file), AutoTokenizer.from_pretrained(whole)
    text = "that thing</s> é 🙂"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == "that thing é 🙂"
    assert (file.vocabulary.prefix, set(file.vocabulary.ends), ours.vocabulary) == ((BOS,), {EOS}, len(TOKENS))
    assert (
        ours.encode_chat(Chat((ChatMessage("user", "thy"),))) == theirs("thy!", add_special_tokens=False)["input_ids"]
    )


def test_directory_when_generation_config_names_ends_then_ends(copy: Path) -> None:
    edited(copy / "generation_config.json", eos_token_id=[EOS, 7])
    file = ModelFile.open(copy)
    assert file.vocabulary.ends == {EOS, 7}
    assert ModelTokenizer(file).decode([8, 7]) == TOKENS[8]


def test_directory_when_rows_have_no_token_then_they_are_special(copy: Path) -> None:
    found = json.loads((copy / "tokenizer.json").read_text())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["id"] != len(TOKENS) - 1]
    del found["model"]["vocab"][TOKENS[-1]]
    (copy / "tokenizer.json").write_text(json.dumps(found))
    file = ModelFile.open(copy)
    assert file.vocabulary.special[len(TOKENS) - 1] == f"[PAD{len(TOKENS) - 1}]"
    assert ModelTokenizer(file).decode([8, len(TOKENS) - 1]) == TOKENS[8]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "phi3"}, "config.json is of the model_type 'phi3'. This runtime serves: llama, mistral, mix"),
        ({"attention_bias": True}, "config.json uses attention_bias = True, which is not supported"),
        ({"quantization_config": {"bits": 4}}, r"config.json uses quantization_config = {'bits': 4}"),
        ({"invented_tomorrow": 1}, "config.json uses invented_tomorrow = 1"),
        ({"hidden_act": "relu"}, "config.json uses hidden_act = relu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling, uses rope_type = yarn"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_scaling, has no factor"),
        ({"rope_parameters": [1]}, "as rope_scaling"),
        ({"num_hidden_layers": 0}, "config.json has 0 as num_hidden_layers"),
        ({"num_hidden_layers": 1e18}, "as num_hidden_layers"),
        ({"num_hidden_layers": 4}, r"tensor blk\.3\.attn_norm\.weight is missing"),
        ({"num_hidden_layers": 2}, r"9 tensors that this runtime does not compute with: blk\.2"),
        ({"intermediate_size": 81}, r"tensor blk\.0\.ffn_gate\.weight is of shape \(80, 48\), and .* needs \(81, 48\)"),
        ({"num_key_value_heads": 4}, "6 heads of 8 for 4 key-value heads"),
        ({"layer_types": ["other"] * 3, "sliding_window": 4}, "no layer_types of full_attention or sliding_attention"),
        ({"vocab_size": 10}, "and the model has 10 rows of embedding"),
        ({"eos_token_id": 10_000}, "eos_token_id = 10000, and the model has 261 rows"),
        ({"tie_word_embeddings": False, "rms_norm_eps": None}, "config.json has no rms_norm_eps"),
    ],
)  # fmt: skip
def test_config_when_it_cannot_be_served_then_named(copy: Path, values: dict[str, Any], said: str) -> None:
    edited(copy / "config.json", **values)
    with pytest.raises(InvalidModel, match=said):
        ModelFile.open(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "cannot|no JSON"),
        (b"[1, 2]", "no JSON object|it has no header"),
        (b"\xff" * 9, ""),
    ],
)
def test_file_when_missing_or_no_json_then_named(copy: Path, name: str, content: bytes | None, said: str) -> None:
    (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
    with pytest.raises(InvalidModel, match=said) as raised:
        ModelFile.open(copy)
    assert name in str(raised.value)


def test_json_when_deep_or_twice_then_invalid(copy: Path) -> None:
    for content, said in (("[" * 100_000, "recursion"), ('{"a": 1, "a": 2}', "a key twice")):
        (copy / "config.json").write_text(content)
        with pytest.raises(InvalidModel, match=said):
            ModelFile.open(copy)


def safetensors(path: Path, header: Any, data: bytes = b"\0" * 64) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin: Any, end: Any, shape: Any = (4, 2), kind: Any = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 32), "b": entry(16, 48)}, "the tensors a and b overlap"),
        ({"a": entry(0, 32), "b": entry(0, 32)}, "overlap"),
        ({"a": entry(40, 72)}, "tensor a lies at 40 to 72 of 64 bytes: the file was cut"),
        ({"a": entry(-8, 24)}, "tensor a lies at -8"),
        ({"a": entry(32, 0)}, "tensor a lies at 32 to 0"),
        ({"a": entry(0, 31)}, r"tensor a of shape \[4, 2\] in F32 has 31 bytes instead of 32"),
        ({"a": entry(0, 32, [1 << 62, 4])}, "has 32 bytes instead of"),
        ({"a": entry(0, 32, [0, 4])}, "the entry of tensor a is broken"),
        ({"a": entry(0, 32, [True, 8])}, "the entry of tensor a is broken"),
        ({"a": entry("0", 32)}, "the entry of tensor a is broken"),
        ({"a": entry(0, 32, [2, 1, 2, 1, 2])}, "tensor a has 5 dimensions"),
        (
            {"a": entry(0, 32, kind="F8_E4M3")},
            "tensor a in F8_E4M3, which is not supported. Convert the model to one of",
        ),
        ({"a": 7}, "the entry of tensor a is broken: 7"),
        (b"[1]", "is no JSON object"),
        (b'{"a": {}, "a": {}}', "a key twice"),
    ],
)
def test_safetensors_when_broken_then_the_tensor_is_named(tmp_path: Path, header: Any, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        read_safetensors(safetensors(tmp_path / "model.safetensors", header))


def test_safetensors_when_the_header_is_too_long_then_invalid(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(InvalidModel, match=f"claims a header of {1 << 60} bytes"):
        read_safetensors(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_safetensors_when_bytes_are_broken_then_read_or_invalid(tmp_path: Path, data: st.DataObject) -> None:
    """No broken file does anything else than raise InvalidModel."""
    path = safetensors(
        tmp_path / "m.safetensors", {"__metadata__": {"format": "pt"}, "a": entry(0, 32), "b": entry(32, 64)}
    )
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])
    try:
        for tensor in read_safetensors(path).values():
            assert np.frombuffer(tensor.data, dtype=np.uint8).size > 0
    except InvalidModel:
        return


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a": "../elsewhere.safetensors"}, "no weight_map"),
        ({"a": "/etc/passwd"}, "no weight_map"),
        ({"a": 1}, "no weight_map"),
        ([], "no weight_map"),
        ({"a": "missing.safetensors"}, "missing.safetensors: No such file"),
        ({"a": "model.safetensors"}, r"names tensors that are missing: a \(model.safetensors\)"),
        ({f"t{i}": f"{i}.safetensors" for i in range(1001)}, "names 1001 files"),
    ],
)
def test_index_when_broken_then_invalid(copy: Path, places: Any, said: str) -> None:
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InvalidModel, match=said):
        ModelFile.open(copy)


async def test_directory_when_whole_then_the_engine_serves_it(whole: Path) -> None:
    engine = LLMEngine.load_model(
        ModelFile.open(whole), max_model_len=64, max_concurrent=2, threads=1, progress=lambda *_: None
    )
    assert (engine.vocabulary, engine.model_len) == (len(TOKENS), 64)
    await engine.close()
