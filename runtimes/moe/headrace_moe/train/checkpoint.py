"""Checkpoints: a directory that transformers reads (the averaged weights), and beside it the state of the training.

safetensors and JSON only. A checkpoint replaces the one before in one rename, so that there is a whole one at any time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from headrace_moe.train.errors import InvalidRecipe
from headrace_moe.train.model import Model
from headrace_moe.train.recipe import Recipe, Shape
from headrace_moe.train.tokens import END

MODEL = "model"
_STATE, REPORT = "training.safetensors", "report.json"
CONTEXT = 2048
"""What the exported model is said to be trained for, at least: rotary positions go further than a training sequence."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What continues a training: `steps` done, and tensors by name: weights, averages and moments."""

    steps: int
    tensors: Mapping[str, torch.Tensor]


def save_checkpoint(
    directory: Path,
    model: Model,
    average: Mapping[str, torch.Tensor],
    state: TrainingState,
    report: Mapping[str, Any],
    tokenizer: Tokenizer,
) -> None:
    """Write a checkpoint into `directory`, in the place of the one before."""
    scratch, old = directory.with_name(f".{directory.name}.new"), directory.with_name(f".{directory.name}.old")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / MODEL).mkdir(parents=True)
    save_model(scratch / MODEL, model, average, tokenizer)
    save_file(dict(state.tensors), scratch / _STATE, {"steps": str(state.steps)})
    (scratch / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    scratch.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_state(directory: Path, recipe: Recipe) -> TrainingState:
    """Return the state of the training of a checkpoint. Raises InvalidRecipe if it is of another recipe."""
    report = json.loads((directory / REPORT).read_text())
    if Recipe.model_validate(report["recipe"]) != recipe:
        raise InvalidRecipe(
            f"{directory} has the checkpoint of another recipe, {report['recipe']['name']}",
            hint="Name another --directory",
        )
    return TrainingState(int(report["steps"]), load_file(directory / _STATE))


def save_model(directory: Path, model: Model, weights: Mapping[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    """Write a model that transformers reads."""
    tensors = model.export_tensors({name: tensor.detach().float().cpu() for name, tensor in weights.items()})
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(hf_settings(model.shape), indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": CONTEXT}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def hf_settings(shape: Shape) -> dict[str, Any]:
    """Return config.json of a shape."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.expert_width,
        "moe_intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.experts_used,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
