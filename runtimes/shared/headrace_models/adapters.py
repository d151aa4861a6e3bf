"""LoRA adapters: low-rank additions to the matrices of a model's layers (Hu et al., "LoRA", 2021).

An adapted matrix computes W x + scale * B (A x). Two forms are read: the directory that PEFT writes
(adapter_config.json and adapter_model.safetensors), and llama.cpp's GGUF file of the type adapter. Each tensor is
checked against the model, so that an adapter of another one is refused by the tensor that does not fit; variants that
compute something else (DoRA, biases, replaced modules) are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.families import ARCHITECTURES
from headrace_models.gguf import GGUFFile
from headrace_models.hf_weights import gguf_name
from headrace_models.json_file import read_object
from headrace_models.quant import Floats, dequantise
from headrace_models.safetensors import read_safetensors
from headrace_models.weights import RawTensor, tensor_shapes, unpaired_order

ADAPTED = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""The matrices of a layer that adapters change."""
MAX_RANK = 512
MAX_CONFIG_BYTES = 1 << 20
MAX_SCALE = 1e4
"""Limit of |alpha|: far above any adapter; detects a corrupt file."""

_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_GGUF_NAME = re.compile(r"(.+\.weight)\.lora_([ab])")
_LAYER_WEIGHT = re.compile(rf"blk\.\d+\.({'|'.join(ADAPTED)})\.weight")
_MODULE = re.compile(r"[\w.]+")
_CHANGING = (
    *("alora_invocation_tokens", "arrow_config", "fan_in_fan_out", "layer_replication", "lora_bias", "modules_to_save"),
    *("target_parameters", "trainable_token_indices", "use_dora", "use_qalora"),
)
"""Settings of PEFT that change what is computed, unless they are off (null, false or empty)."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """The addition to one matrix: B (A x)."""

    a: Floats
    """[rank, columns of the matrix]"""
    b: Floats
    """[rows of the matrix, rank], multiplied by the scale"""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that fits the model. Made by `read_adapter`."""

    matrices: Mapping[str, LowRank]
    """By the name of the weight (`blk.0.attn_q.weight`)."""

    @property
    def nbytes(self) -> int:
        """Memory of the matrices."""
        return sum(each.a.nbytes + each.b.nbytes for each in self.matrices.values())


@dataclass(frozen=True, slots=True)
class _Part:
    """A stored tensor: A or B of a weight. `original`: its name in the file."""

    weight: str
    side: str
    original: str
    tensor: RawTensor
    alpha: float
    """0: the scale is 1."""
    root: bool = False
    """Whether the scale is alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""


def read_adapter(path: Path, config: DecoderConfig) -> Adapter:
    """Read PEFT's directory or a GGUF file. Raises InvalidModel, naming the tensor or the setting that does not fit."""
    parts = list(_peft_parts(path, config) if path.is_dir() else _gguf_parts(path, config))
    shapes = {name: shape for name, shape in tensor_shapes(config).items() if _LAYER_WEIGHT.fullmatch(name)}
    found: dict[str, dict[str, _Part]] = {}
    for part in parts:
        if part.weight not in shapes:
            raise InvalidModel(
                f"{path.name} has {part.original}, which is no LoRA matrix of the model's {config.layers} layers",
                hint="Choose an adapter of this model; those of embeddings, norms and the head are not supported",
            )
        found.setdefault(part.weight, {})[part.side] = part
    if not found:
        raise InvalidModel(f"{path.name} has no LoRA tensors", hint="Choose the adapter's own file or directory")
    return Adapter({name: _low_rank(path, shapes[name], sides) for name, sides in found.items()})


def _low_rank(path: Path, shape: tuple[int, ...], sides: Mapping[str, _Part]) -> LowRank:
    rows, cols = shape
    if len(sides) == 1:
        (only,) = sides.values()
        raise InvalidModel(f"{path.name} has {only.original} without its counterpart", hint="Fetch the adapter again")
    a, b = sides["a"], sides["b"]
    rank = a.tensor.shape[0] if a.tensor.shape else 1
    for part, needed in ((a, (rank, cols)), (b, (rows, rank))):
        if part.tensor.shape != needed:
            raise InvalidModel(
                f"{path.name} is of another model: {part.original} is of shape {part.tensor.shape}, "
                f"and this model needs {needed}",
                hint="Choose an adapter that was trained on this model",
            )
    if rank > MAX_RANK:
        raise InvalidModel(f"{path.name}: {a.original} has rank {rank}", hint=f"At most {MAX_RANK} is supported")
    scale = a.alpha / (math.sqrt(rank) if a.root else rank) if a.alpha else 1.0
    return LowRank(_values(a.tensor), _values(b.tensor) * np.float32(scale))


def _values(tensor: RawTensor) -> Floats:
    values = np.empty(tensor.shape, dtype=np.float32)
    dequantise(tensor.rows(), tensor.type, values)
    return values


def _peft_parts(directory: Path, config: DecoderConfig) -> Iterable[_Part]:
    settings = read_object(directory / "adapter_config.json", MAX_CONFIG_BYTES)
    if settings.get("peft_type") != "LORA":
        raise _setting("peft_type", settings.get("peft_type"), "Only LORA is supported")
    changing = [name for name in _CHANGING if settings.get(name)]
    changing += [name for name in ("bias",) if settings.get(name, "none") != "none"]
    if changing:
        raise _setting(changing[0], settings[changing[0]], "It changes what is computed; train without it")
    alphas = settings.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(_MODULE.fullmatch(name) for name in alphas):
        raise _setting("alpha_pattern", alphas, "Only names of modules are supported, no expressions")
    for original, tensor in read_safetensors(directory / "adapter_model.safetensors").items():
        matched = _PEFT_NAME.fullmatch(original)
        module, side = matched.groups() if matched else (original, "A")
        key = next((name for name in alphas if f".{module}".endswith(f".{name}")), "")
        alpha = _alpha("alpha_pattern" if key else "lora_alpha", alphas[key] if key else settings.get("lora_alpha"))
        weight = gguf_name(f"{module}.weight", config)
        raw = RawTensor(weight, tensor.shape, tensor.type, tensor.data)
        yield _Part(weight, side.lower(), original, raw, alpha, root=bool(settings.get("use_rslora")))


def _gguf_parts(path: Path, config: DecoderConfig) -> Iterable[_Part]:
    file = GGUFFile(path)
    for key, needed in (("general.type", "adapter"), ("adapter.type", "lora")):
        if file.metadata.get(key) != needed:
            raise _setting(key, file.metadata.get(key), f"A LoRA adapter has {needed}")
    architecture = file.metadata.get("general.architecture")
    family = ARCHITECTURES.get(str(architecture))
    if family is None or family.name != config.family:
        raise _setting("general.architecture", architecture, f"The model is of {config.family}: choose its adapter")
    alpha = _alpha("adapter.lora.alpha", file.metadata.get("adapter.lora.alpha"))
    for original, tensor in file.tensors.items():
        matched = _GGUF_NAME.fullmatch(original)
        weight, side = matched.groups() if matched else ("", "a")
        order = None
        if family.paired_rows and side == "b" and weight.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.heads if "attn_q" in weight else config.kv_heads
            rows = heads * config.head_dim
            order = unpaired_order(heads, rows) if tensor.shape[0] == rows else None  # else refused by its shape
        yield _Part(
            weight, side, original, RawTensor(weight, tensor.shape, tensor.type, file.data(tensor), order), alpha
        )


def _alpha(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_SCALE:
        raise _setting(name, value, f"A number up to {MAX_SCALE:.0f} is needed")
    return float(value)


def _setting(name: str, value: Any, hint: str) -> InvalidModel:
    return InvalidModel(f"the adapter has {name} = {str(value)[:80]}", hint=hint)
