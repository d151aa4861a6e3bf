"""The weights of a directory that transformers wrote: model.safetensors, or several files with an index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.encodings import TensorType
from headrace_models.families import ARCHITECTURES
from headrace_models.json_file import read_object
from headrace_models.quant import dequantise
from headrace_models.safetensors import StoredTensor, read_safetensors
from headrace_models.weights import FFN_PARTS, ModelWeights, RawTensor, expert_name

MAX_INDEX_BYTES = 64 << 20
MAX_FILES = 1000
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_NAMES: Mapping[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    **{
        f"mlp.{shared}.{part}_proj": f"ffn_{part}_shexp"
        for shared in ("shared_expert", "shared_experts")
        for part in FFN_PARTS
    },
}
_EXPERT = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_EXPERT_PARTS = {"w1": "gate", "w3": "up", "w2": "down", **{f"{part}_proj": part for part in FFN_PARTS}}
_POST_NORM_NAMES: Mapping[str, str] = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Names in families with further norms, where `post_attention_layernorm` means another one."""
_SCORE_BIAS = ".mlp.gate.e_score_correction_bias"
_ROTATION = ".rotary_emb.inv_freq"
"""Frequencies that old versions of transformers stored; they follow from config.json."""


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Return the tensors of all files by transformers' names. Raises InvalidModel."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(directory / "model.safetensors")
    places = read_object(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file) for file in places.values()
    ):
        raise InvalidModel(
            f"{index.name} has no weight_map from tensors to safetensors files beside it", hint="Fetch the model again"
        )
    files = sorted(set(places.values()))
    if len(files) > MAX_FILES:
        raise InvalidModel(f"{index.name} names {len(files)} files", hint=f"A model has at most {MAX_FILES}")
    found = {file: read_safetensors(directory / file) for file in files}
    missing = [f"{name} ({file})" for name, file in places.items() if name not in found[file]]
    if missing:
        raise InvalidModel(f"{index.name} names tensors that are missing: {', '.join(missing[:3])}")
    return {name: found[file][name] for name, file in places.items()}


def hf_weights(directory: Path, config: DecoderConfig, stored: Mapping[str, StoredTensor]) -> ModelWeights:
    """Return the weights. Raises InvalidModel if the tensors are not those of the configuration."""
    offset = ARCHITECTURES[config.family].norm_offset
    tensors = {}
    for original, tensor in stored.items():
        name = gguf_name(original, config)
        if original.endswith(_ROTATION) or (name == "output.weight" and config.tied):
            continue
        # Qwen2-MoE's gate of the shared expert is a matrix of one row.
        shape = tensor.shape[1:] if name.endswith("ffn_gate_inp_shexp.weight") else tensor.shape
        raw = RawTensor(name, shape, tensor.type, tensor.data)
        tensors[name] = _raised(raw, offset) if offset and name.endswith("norm.weight") else raw
    return ModelWeights.checked(directory, config, tensors)


def gguf_name(name: str, config: DecoderConfig) -> str:
    """Return the name in GGUF of a tensor of transformers; an unknown one stays, and is refused by it."""
    if (expert := _EXPERT.fullmatch(name)) and expert[3] in _EXPERT_PARTS:
        return expert_name(int(expert[1]), _EXPERT_PARTS[expert[3]], int(expert[2]))
    if name.endswith(_SCORE_BIAS):
        return f"blk.{name.split('.')[2]}.exp_probs_b.bias"
    found = _LAYER.fullmatch(name)
    if not found:
        return _NAMES.get(name, name)
    layer, part, kind = found.groups()
    known = {**_LAYER_NAMES, **_POST_NORM_NAMES} if config.post_norms else _LAYER_NAMES
    return f"blk.{layer}.{known[part]}.{kind}" if part in known else name


def _raised(tensor: RawTensor, offset: float) -> RawTensor:
    """Return a norm's weight with `offset` added, in float32."""
    values = np.empty((1, tensor.shape[-1]), dtype=np.float32)
    dequantise(tensor.rows().reshape(1, -1), tensor.type, values)
    values += offset
    return RawTensor(tensor.name, tensor.shape, TensorType.F32, values.reshape(-1).view(np.uint8).data)
