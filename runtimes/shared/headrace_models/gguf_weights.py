"""The weights of a GGUF file."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from headrace_models.config import DecoderConfig
from headrace_models.families import ARCHITECTURES
from headrace_models.gguf import GGUFFile, TensorInfo
from headrace_models.gguf_config import ROPE_FACTORS
from headrace_models.weights import ModelWeights, RawTensor, expert_name, unpaired_order

_QUERIES = re.compile(r"blk\.\d+\.attn_q\.(?:weight|bias)")
_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight")
_KEYS = re.compile(r"blk\.\d+\.attn_k\.(?:weight|bias)")


def gguf_weights(file: GGUFFile, config: DecoderConfig) -> ModelWeights:
    """Return the weights of a file. Raises InvalidModel if its tensors are not those of the configuration."""
    paired = ARCHITECTURES[config.family].paired_rows
    orders = {heads: unpaired_order(heads, heads * config.head_dim) for heads in {config.heads, config.kv_heads}}

    def order(name: str) -> NDArray[np.int32] | None:
        if paired and _QUERIES.fullmatch(name):
            return orders[config.heads]
        return orders[config.kv_heads] if paired and _KEYS.fullmatch(name) else None

    tensors: dict[str, RawTensor] = {}
    for name, tensor in file.tensors.items():
        if found := _EXPERTS.fullmatch(name):
            tensors |= _expert_tensors(int(found[1]), found[2], tensor, file.data(tensor))
        elif name != ROPE_FACTORS:
            tensors[name] = RawTensor(name, tensor.shape, tensor.type, file.data(tensor), order(name))
    return ModelWeights.checked(file.path, config, tensors)


def _expert_tensors(layer: int, part: str, tensor: TensorInfo, data: memoryview) -> dict[str, RawTensor]:
    """Return the matrices of the experts of a tensor [experts, rows, columns], as views."""
    count, *shape = tensor.shape
    size = len(data) // count
    return {
        (name := expert_name(layer, part, expert)): RawTensor(
            name, tuple(shape), tensor.type, data[expert * size : (expert + 1) * size]
        )
        for expert in range(count)
    }
