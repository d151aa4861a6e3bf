"""A file is refused at load, by name, when anything in it contradicts the rest or would change the answers."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from models.model_files import (
    EOS,
    HEAD_DIM,
    TOKENS,
    GGUFModel,
    Raw,
    rows,
)

from headrace.errors import CannotStart, InvalidModel
from headrace_llm.engine import LLMEngine
from headrace_models.encodings import TensorType
from headrace_models.families import ARCHITECTURES
from headrace_models.gguf_vocabulary import PRE_TOKENIZERS
from headrace_models.model_file import ModelFile
from headrace_models.vocabulary import END_TEXTS

COUNT = len(TOKENS)


def loaded(path: Path, model: GGUFModel, *, max_model_len: int = 64, max_concurrent: int = 2) -> LLMEngine:
    """Write the file and load it, as the server does."""
    file = ModelFile.open(model.write(path / "model.gguf"))
    return LLMEngine.load_model(
        file, max_model_len=max_model_len, max_concurrent=max_concurrent, threads=1, progress=lambda *_: None
    )


def quantised(*names: str) -> dict[str, Any]:
    """Return a tensor of each encoding, by a name of its own."""
    sizes = gguf.GGML_QUANT_SIZES
    kinds = [gguf.GGMLQuantizationType[name] for name in names]
    return {f"blk.0.{kind.name}": Raw(np.zeros((4, sizes[kind][1]), dtype=np.uint8), kind) for kind in kinds}


async def test_file_when_it_is_whole_then_it_is_served(tmp_path: Path) -> None:
    engine = loaded(tmp_path, GGUFModel())
    assert (engine.vocabulary, engine.model_len) == (COUNT, 64)
    await engine.close()


IDS = ("bos", "eos", "eot", "eom", "padding", "unknown", "seperator", "cls", "mask", "fim_pre")


@pytest.mark.parametrize("key", IDS)
@pytest.mark.parametrize("value", [COUNT, 4294967295, -1, True, 1.0])
def test_special_id_when_of_no_token_then_the_file_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InvalidModel, match=rf"tokenizer\.ggml\.{key}_token_id = {value}, and {COUNT} tokens"):
        loaded(tmp_path, GGUFModel({f"tokenizer.ggml.{key}_token_id": value}))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        # the vocabulary against the tensors, and itself
        (GGUFModel({"tokenizer.ggml.tokens": [*TOKENS, "zz"], "tokenizer.ggml.token_type": None}), "262 tokens, and"),
        (
            GGUFModel({"llama.vocab_size": COUNT + 1}, {"token_embd.weight": rows(COUNT + 1)}),
            f"{COUNT} tokens, and {COUNT + 1} rows",
        ),
        (GGUFModel({"llama.vocab_size": COUNT + 1}), f"{COUNT} rows of embedding for llama.vocab_size = {COUNT + 1}"),
        (GGUFModel({}, {"output.weight": rows(COUNT - 1)}), r"tensor output\.weight is of shape"),
        (GGUFModel({"tokenizer.ggml.tokens": [*TOKENS[:-1], "!"]}), "the token '!' twice"),
        (GGUFModel({"tokenizer.ggml.token_type": [1] * (COUNT - 1)}), "token_type for each"),
        (GGUFModel({"tokenizer.ggml.token_type": [99] * COUNT}), "unknown type of token"),
        (GGUFModel({"tokenizer.ggml.merges": ["t nothing"]}), "broken vocabulary"),
        (GGUFModel({"tokenizer.ggml.merges": None}), r"no texts as tokenizer\.ggml\.merges"),
        (GGUFModel({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}), "add_bos_token wi"),
        # the header against the tensors, and itself
        (GGUFModel({"llama.block_count": 2}), r"tensor blk\.1\.attn_norm\.weight is missing"),
        (GGUFModel({"llama.embedding_length": 64, "llama.attention.key_length": 8}), "tensor token_embd.weight is of"),
        (GGUFModel({"llama.feed_forward_length": 32}), r"tensor blk\.0\.ffn_gate\.weight is of shape"),
        (GGUFModel({"llama.attention.head_count_kv": 1}), r"tensor blk\.0\.attn_k\.weight is of shape"),
        (GGUFModel({"llama.attention.head_count_kv": 3}), "4 heads for 3 key-value heads"),
        (GGUFModel({"llama.attention.head_count": 5}), "an embedding of 32 for 5 heads"),
        (GGUFModel({"llama.attention.key_length": 7}), "heads of 7"),
        (GGUFModel({"llama.attention.value_length": 16}), r"value_length = 16 for heads of 8"),
        (GGUFModel({"llama.rope.dimension_count": 4}), r"rope\.dimension_count = 4 for heads of 8"),
        (GGUFModel({"llama.block_count": 1.5}), r"1\.5 as llama\.block_count, which is no whole number"),
        (GGUFModel({"llama.block_count": [1, 2]}), r"\[1, 2\] as llama\.block_count"),
        (GGUFModel({"llama.block_count": True}), r"True as llama\.block_count"),
        (GGUFModel({"llama.context_length": 0}), r"0 as llama\.context_length"),
        (GGUFModel({"llama.context_length": None}), r"no llama\.context_length"),
        (GGUFModel({"llama.rope.freq_base": float("nan")}), r"nan as llama\.rope\.freq_base"),
        (GGUFModel({}, {"token_embd.weight": None}), "no token embedding"),
        (GGUFModel({}, {"blk.0.ffn_up.weight": None}), r"tensor blk\.0\.ffn_up\.weight is missing"),
        (GGUFModel({}, {"blk.0.attn_q.bias": rows(1)}), r"1 tensors .* blk\.0\.attn_q\.bias"),
    ],
)  # fmt: skip
def test_file_when_it_contradicts_itself_then_it_is_refused(tmp_path: Path, model: GGUFModel, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        loaded(tmp_path, model)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (GGUFModel({"llama.rope.scaling.type": "yarn"}), r"RoPE scaling .*llama\.rope\.scaling\.type = yarn"),
        (
            GGUFModel({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}),
            r"RoPE scaling .*llama\.rope\.scaling\.type = none",
        ),
        (
            GGUFModel({"llama.rope.scaling.factor": 4.0, "llama.attention.sliding_window": 16}),
            "RoPE scaling together with a sliding window",
        ),
        (GGUFModel({"llama.rope.scaling.attn_factor": 1.5}), r"RoPE scaling .*attn_factor"),
        (
            GGUFModel({}, {"rope_freqs.weight": rows(1)[0]}),
            r"rope_freqs\.weight of shape \(32,\) in F32 for heads of 8",
        ),
        (GGUFModel({}, {"rope_freqs.weight": np.zeros(4, dtype=np.float32)}), r"factors in rope_freqs\.weight that"),
        (GGUFModel({}, {"rope_factors_long.weight": rows(1)[0]}), r"RoPE scaling .*rope_factors_long\.weight"),
        (GGUFModel({"llama.expert_count": 8}), r"no llama\.expert_used_count"),
        (
            GGUFModel({"llama.attention.sliding_window": 4, "llama.attention.sliding_window_pattern": [True, False]}),
            r"no llama\.attention\.sliding_window_pattern for each of its 1 layers",
        ),
        (GGUFModel({"llama.attention.sliding_window": -4}), r"-4 as llama\.attention\.sliding_window"),
        (GGUFModel({"llama.logit_scale": 0.5}), r"llama\.logit_scale = 0\.5"),
        (GGUFModel({"llama.invented_tomorrow": 1}), r"llama\.invented_tomorrow = 1"),
        (GGUFModel({"tokenizer.ggml.pre": "default"}), "pre-tokenizer 'default'"),
        (GGUFModel({"tokenizer.ggml.model": "bert"}), "tokenizer 'bert'"),
        (GGUFModel({"tokenizer.ggml.model": "llama"}), r"no tokenizer\.ggml\.scores for each of its 261 tokens"),
        (GGUFModel({"general.type": "adapter"}), "of the type 'adapter'"),
        (GGUFModel({"split.count": 3}), "one of 3 parts"),
    ],
)
def test_file_when_an_entry_changes_answers_then_refused_by_name(tmp_path: Path, model: GGUFModel, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        loaded(tmp_path, model)


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.finetuned": False},
        {"llama.expert_count": 0, "llama.logit_scale": 1.0, "llama.attention.causal": True},
        {"llama.attention.key_length": HEAD_DIM, "llama.attention.value_length": HEAD_DIM},
        {"llama.vocab_size": None, "tokenizer.ggml.token_type": None, "tokenizer.ggml.pre": None},
        {"general.type": "model", "split.count": 1, "somebody.else": 7},
    ],
)
async def test_file_when_other_entries_change_nothing_then_served(tmp_path: Path, metadata: dict[str, Any]) -> None:
    await loaded(tmp_path, GGUFModel(metadata)).close()


def test_encoding_when_it_is_not_supported_then_it_is_named(tmp_path: Path) -> None:
    model = GGUFModel({}, quantised("IQ2_S", "IQ3_S", "TQ1_0"))
    with pytest.raises(InvalidModel, match=r"quantised as IQ3_S, IQ2_S, TQ1_0, .*Quantise the model to one of: F32"):
        loaded(tmp_path, model)


def test_encoding_when_not_supported_then_it_is_named(tmp_path: Path) -> None:
    others = [kind.name for kind in gguf.GGMLQuantizationType if kind.name not in TensorType.__members__]
    with pytest.raises(InvalidModel) as raised:
        loaded(tmp_path, GGUFModel({}, quantised(*others)))
    assert f"quantised as {', '.join(others)}, which" in str(raised.value)


def test_architecture_when_unknown_then_named_before_encoding(tmp_path: Path) -> None:
    model = GGUFModel({"general.architecture": "phi3"}, {**quantised("IQ3_S"), "token_embd.weight": None})
    with pytest.raises(InvalidModel, match=r"architecture 'phi3'\. This runtime serves: llama, qwen2,"):
        loaded(tmp_path, model)


def test_encoding_when_shapes_are_wrong_too_then_it_is_named(tmp_path: Path) -> None:
    model = GGUFModel({"llama.block_count": 9, "llama.attention.head_count": 5}, quantised("IQ3_S"))
    with pytest.raises(InvalidModel, match="quantised as IQ3_S"):
        loaded(tmp_path, model)


def test_cache_when_it_does_not_fit_then_size_and_fields_named(tmp_path: Path) -> None:
    concurrent = 1 << 40
    with pytest.raises(CannotStart) as raised:
        loaded(tmp_path, GGUFModel(), max_concurrent=concurrent)
    assert re.search(rf"the KV cache of \d+\.\d GiB, for {64 * concurrent} tokens", str(raised.value))
    assert "spec.runtime.llm.maxModelLen or maxConcurrentRequests" in str(raised.value)


def test_model_without_an_end_token_then_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        file = ModelFile.open(GGUFModel({"tokenizer.ggml.eos_token_id": None}).write(tmp_path / "base.gguf"))
    assert file.vocabulary.ends == frozenset()
    assert "base.gguf has no token that ends an answer" in caplog.text


@pytest.mark.parametrize("text", sorted(END_TEXTS))
def test_end_tokens_when_a_text_is_a_known_end_then_included(tmp_path: Path, text: str) -> None:
    tokens = [*TOKENS[:-1], text]
    types = [1] * COUNT  # as in files that forget to say that it is no text
    model = GGUFModel({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    vocabulary = ModelFile.open(model.write(tmp_path / "model.gguf")).vocabulary
    assert vocabulary.ends == {EOS, COUNT - 1}
    assert vocabulary.special[COUNT - 1] == text


def test_docs_then_they_list_what_is_served() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/llm-runtime.md").read_text()
    served = [*ARCHITECTURES, *PRE_TOKENIZERS, *(f"`{text}`" for text in END_TEXTS), *TensorType.__members__]
    assert [name for name in served if name not in page] == []
