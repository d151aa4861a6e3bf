"""Adapters of the real model, in the form that PEFT writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_adapter(directory: Path, seed: int, *, width: int = 576, layers: int = 30) -> Path:
    """Write an adapter for SmolLM2-135M that changes its answers."""
    directory.mkdir()
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for module, rows in (("self_attn.q_proj", 576), ("self_attn.v_proj", 192), ("mlp.up_proj", 1536)):
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.standard_normal((8, width), dtype=np.float32) * np.float32(0.02)
            tensors[f"{name}.lora_B.weight"] = random.standard_normal((rows, 8), dtype=np.float32) * np.float32(0.3)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16}))
    return directory
