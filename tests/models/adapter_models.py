"""Random adapters of small models, the models that have them merged, and the files that they come in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from headrace_models.adapters import ADAPTED, Adapter, LowRank
from headrace_models.config import DecoderConfig
from headrace_models.decoder import Floats
from headrace_models.encodings import TensorType
from headrace_models.quant import dequantise
from headrace_models.weights import ModelWeights, RawTensor, tensor_shapes


def random_adapter(
    config: DecoderConfig, *, rank: int = 4, seed: int = 0, names: Sequence[str] = ADAPTED, size: float = 1.0
) -> Adapter:
    """Return an adapter whose additions are as large as the weights, times `size`."""
    random = np.random.default_rng(seed)
    matrices = {}
    for name, shape in tensor_shapes(config).items():
        part = name.removeprefix("blk.").removesuffix(".weight").partition(".")[2]
        if len(shape) > 1 and part in names:  # not experts, whose names have a further part
            rows, cols = shape
            a = random.standard_normal((rank, cols), dtype=np.float32) * np.float32(cols**-0.5)
            b = random.standard_normal((rows, rank), dtype=np.float32) * np.float32(size * rank**-0.5)
            matrices[name] = LowRank(a, b)
    return Adapter(matrices)


def merged(weights: ModelWeights, *adapters: Adapter) -> ModelWeights:
    """Return the weights with the sum of the adapters' B A added, in float32."""
    tensors = dict(weights.tensors)
    for name in {name for adapter in adapters for name in adapter.matrices}:
        tensor = weights.tensors[name]
        values = np.empty(tensor.shape, dtype=np.float32)
        dequantise(tensor.rows(), tensor.type, values)
        for adapter in adapters:
            if name in adapter.matrices:
                values += adapter.matrices[name].b @ adapter.matrices[name].a
        tensors[name] = RawTensor(name, tensor.shape, TensorType.F32, memoryview(values.tobytes()))
    return ModelWeights.checked(weights.path, weights.config, tensors)


def write_peft(directory: Path, tensors: dict[str, Floats], **settings: Any) -> Path:
    """Write PEFT's directory. Tensor names without what precedes the model's own."""
    directory.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": each for name, each in tensors.items()}
    save_file(named, directory / "adapter_model.safetensors")
    return directory


def write_gguf_adapter(path: Path, tensors: dict[str, Floats], **metadata: str) -> Path:
    """Write llama.cpp's file."""
    writer = gguf.GGUFWriter(path, metadata.get("architecture", "llama"))
    writer.add_type(metadata.get("type", gguf.GGUFType.ADAPTER))
    writer.add_string("adapter.type", metadata.get("adapter_type", "lora"))
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
