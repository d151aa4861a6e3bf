"""Adapters of PEFT and of llama.cpp are read as they compute; others are refused by the tensor or the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from models.adapter_models import write_gguf_adapter, write_peft
from models.family_models import FAMILY_MODELS, written

from headrace.errors import InvalidModel
from headrace_models.adapters import MAX_RANK, read_adapter
from headrace_models.config import DecoderConfig
from headrace_models.decoder import Batch, Floats, Segment
from headrace_models.model_file import ModelFile
from headrace_models.torch_decoder import TorchDecoder

TOKENS = [5, 1, 17, 3, 40, 8, 2, 21, 9, 14]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"target_modules": ALL},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
}


def adapted(model: Any, **settings: Any) -> Any:
    """Return PEFT's model with random adapter weights."""
    changed = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **settings))
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    return changed.eval()


def logits(file: ModelFile, adapter: Path) -> Floats:
    decoder = TorchDecoder(file.weights, threads=1, progress=lambda _: None)
    decoder.allocate_cache(1, 64)
    decoder.set_adapter(1, read_adapter(adapter, file.config))
    return decoder.step(Batch(TOKENS, [Segment([0], 0, len(TOKENS), 1)], range(len(TOKENS))))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_directory_of_peft_when_read_then_computes_as_peft(tmp_path: Path, family: str, variant: str) -> None:
    model = FAMILY_MODELS[family].make()
    file = ModelFile.open(written(model, tmp_path / "base"))
    theirs = adapted(model, **VARIANTS[variant])
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.inference_mode():
        expected = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits(file, tmp_path / "adapter"), expected, atol=1e-4, rtol=1e-4)


def test_gguf_adapter_when_read_then_that_of_the_directory(tmp_path: Path) -> None:
    """llama.cpp's converter reorders the rows of B of queries and keys as it does those of the weights."""
    file = ModelFile.open(written(FAMILY_MODELS["llama"].make(), tmp_path / "base"))
    heads, kv_heads, width = file.config.heads, file.config.kv_heads, file.config.width
    random = np.random.default_rng(0)
    directory, stored = {}, {}
    for theirs, ours, count in (("q_proj", "attn_q", heads), ("k_proj", "attn_k", kv_heads), ("v_proj", "attn_v", 0)):
        rows = (count or kv_heads) * file.config.head_dim
        a = random.standard_normal((4, width), dtype=np.float32)
        b = random.standard_normal((rows, 4), dtype=np.float32) * np.float32(0.1)
        directory[f"model.layers.1.self_attn.{theirs}.lora_A.weight"] = a
        directory[f"model.layers.1.self_attn.{theirs}.lora_B.weight"] = b
        paired = b.reshape(count, 2, rows // count // 2, 4).swapaxes(1, 2).reshape(b.shape) if count else b
        stored[f"blk.1.{ours}.weight.lora_a"] = a
        stored[f"blk.1.{ours}.weight.lora_b"] = np.ascontiguousarray(paired)
    found = logits(file, write_gguf_adapter(tmp_path / "adapter.gguf", stored))
    np.testing.assert_array_equal(found, logits(file, write_peft(tmp_path / "adapter", directory)))


QUERY = "model.layers.0.self_attn.q_proj"


def pair(config: DecoderConfig, rank: int = 4, cols: int = 0, name: str = QUERY) -> dict[str, Floats]:
    rows = config.heads * config.head_dim
    a, b = (rank, cols or config.width), (rows, rank)
    return {f"{name}.lora_A.weight": np.ones(a, np.float32), f"{name}.lora_B.weight": np.ones(b, np.float32)}


Tensors = Callable[[DecoderConfig], dict[str, Floats]]
REFUSED: dict[str, tuple[Tensors, dict[str, Any], str]] = {
    "of another width": (lambda c: pair(c, cols=64), {}, "of another model: .*layers.0.self_attn.q_proj.lora_A"),
    "of more layers": (lambda c: pair(c, name="model.layers.9.self_attn.q_proj"), {}, "layers.9.self_attn.q_proj"),
    "of a norm": (lambda c: pair(c, name="model.layers.0.input_layernorm"), {}, "input_layernorm.lora_A"),
    "of the head": (lambda c: pair(c, name="lm_head"), {}, "lm_head.lora_A"),
    "without B": (lambda c: dict(list(pair(c).items())[:1]), {}, "without its counterpart"),
    "of two ranks": (
        lambda c: {**pair(c), f"{QUERY}.lora_B.weight": np.ones((c.heads * c.head_dim, 3), np.float32)},
        {},
        "lora_B.weight is of shape",
    ),
    "too large": (lambda c: pair(c, rank=MAX_RANK + 1), {}, f"has rank {MAX_RANK + 1}"),
    "empty": (lambda _: {}, {}, "has no LoRA tensors"),
    "DoRA": (pair, {"use_dora": True}, "use_dora = True"),
    "with magnitudes": (
        lambda c: {**pair(c), f"{QUERY}.lora_magnitude_vector": np.ones(4, np.float32)},
        {},
        "lora_magnitude_vector",
    ),
    "with biases": (pair, {"bias": "all"}, "bias = all"),
    "with modules": (pair, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "no LoRA": (pair, {"peft_type": "IA3"}, "peft_type = IA3"),
    "without alpha": (pair, {"lora_alpha": None}, "lora_alpha = None"),
    "absurd alpha": (pair, {"lora_alpha": 1e30}, "lora_alpha = 1e"),
    "with an expression": (pair, {"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DecoderConfig:
    return ModelFile.open(written(FAMILY_MODELS["llama"].make(), tmp_path_factory.mktemp("base"))).config


@pytest.mark.parametrize("case", REFUSED)
def test_adapter_when_it_does_not_fit_then_refused_by_name(tmp_path: Path, config: DecoderConfig, case: str) -> None:
    tensors, settings, said = REFUSED[case]
    with pytest.raises(InvalidModel, match=said):
        read_adapter(write_peft(tmp_path / "adapter", tensors(config), **settings), config)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"architecture": "qwen2"}, "general.architecture = qwen2"),
        ({"type": "model"}, "general.type = model"),
        ({"adapter_type": "other"}, "adapter.type = other"),
    ],
)
def test_gguf_when_it_is_no_adapter_of_it_then_refused(
    tmp_path: Path, config: DecoderConfig, metadata: dict[str, str], said: str
) -> None:
    tensors = {"blk.0.attn_q.weight.lora_a": np.ones((4, 48), np.float32)}
    with pytest.raises(InvalidModel, match=said):
        read_adapter(write_gguf_adapter(tmp_path / "a.gguf", tensors, **metadata), config)
