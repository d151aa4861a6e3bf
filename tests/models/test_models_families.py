"""Each family computes what transformers computes on the same random weights, whichever file they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.family_models import FAMILY_MODELS, WINDOW, written
from transformers import AutoModelForCausalLM, PreTrainedModel

from headrace_models.decoder import Batch, Segment
from headrace_models.model_file import ModelFile
from headrace_models.torch_decoder import TorchDecoder
from headrace_models.weights import ModelWeights

TOKENS = [(7 * i + 3) % 250 for i in range(40)]


def theirs(model: PreTrainedModel) -> torch.Tensor:
    """Return the logits of all tokens: [tokens, vocabulary]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([TOKENS])).logits[0]
    assert logits.std() > 0.1  # far above the tolerance
    return logits


def ours(weights: ModelWeights) -> torch.Tensor:
    """Return the logits of all tokens, computed in two chunks over scattered blocks."""
    decoder = TorchDecoder(weights, threads=1, progress=lambda _: None)
    decoder.allocate_cache(6, 8)
    blocks, cut = (4, 0, 3, 1, 5), 23
    first = decoder.step(Batch(TOKENS[:cut], [Segment(blocks, 0, cut)], range(cut)))
    rest = len(TOKENS) - cut
    second = decoder.step(Batch(TOKENS[cut:], [Segment(blocks, cut, rest)], range(rest)))
    return torch.cat((torch.from_numpy(first), torch.from_numpy(second)))


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_gguf_when_computed_then_the_logits_of_transformers(tmp_path: Path, name: str) -> None:
    family = FAMILY_MODELS[name]
    model = family.make()
    file = ModelFile.open(family.write_gguf(model, tmp_path / "model.gguf"))
    torch.testing.assert_close(ours(file.weights), theirs(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", ()),
        ("mistral-window", (WINDOW,) * 3),
        ("qwen2-window", (0, WINDOW, WINDOW)),
        ("gemma3", (WINDOW, 0, WINDOW)),
    ],
)
def test_windows_then_they_are_those_of_the_layers(tmp_path: Path, name: str, windows: tuple[int, ...]) -> None:
    family = FAMILY_MODELS[name]
    file = ModelFile.open(family.write_gguf(family.make(), tmp_path / "model.gguf"))
    assert file.config.windows == windows


@pytest.mark.parametrize("shard", ["1GB", "20KB"], ids=["one-file", "shards"])
@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_directory_when_computed_then_the_logits_of_transformers(tmp_path: Path, name: str, shard: str) -> None:
    model = FAMILY_MODELS[name].make()
    file = ModelFile.open(written(model, tmp_path, shard))
    assert (tmp_path / "model.safetensors").exists() == (shard == "1GB")
    torch.testing.assert_close(ours(file.weights), theirs(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_directory_when_half_precision_then_transformers_logits(tmp_path: Path, kind: torch.dtype) -> None:
    """Of the rounded weights, computed in float32."""
    model: Any = FAMILY_MODELS["gemma3"].make()
    directory = written(model.to(kind), tmp_path, "1GB")
    file = ModelFile.open(directory)
    assert {tensor.type.name for tensor in file.weights.tensors.values()} > {"F32"}  # norms are raised in float32
    rounded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.testing.assert_close(ours(file.weights), theirs(rounded), atol=1e-4, rtol=1e-4)


def test_directory_when_also_gguf_then_the_same_configuration(tmp_path: Path) -> None:
    """Up to rounding: Llama 3's factors are float32 in GGUF."""
    for name, family in FAMILY_MODELS.items():
        model = family.make()
        gguf = ModelFile.open(family.write_gguf(model, tmp_path / f"{name}.gguf")).config
        directory = ModelFile.open(written(model, tmp_path / name, "1GB")).config
        assert gguf.rope_factors == pytest.approx(directory.rope_factors)
        assert replace(gguf, rope_factors=(), norm_epsilon=0, attention_scale=0) == replace(
            directory, rope_factors=(), norm_epsilon=0, attention_scale=0
        )
        assert gguf.score_factor == pytest.approx(directory.score_factor)
