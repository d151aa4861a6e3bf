"""Export of a trained model to one GGUF file, which headrace, llama.cpp and transformers run (`qwen3moe`).

Matrices are Q8_0; norms and the routers, whose rounding would choose other experts, are float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.numpy import load_file

from headrace_moe.train.checkpoint import MODEL, REPORT
from headrace_moe.train.tokens import END

_KIND = gguf.GGMLQuantizationType.Q8_0
_CONTROL, _NORMAL = 3, 1
"""Types of tokens in GGUF."""


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Write the model of a checkpoint; its report becomes the description in the header."""
    directory = checkpoint / MODEL
    settings = json.loads((directory / "config.json").read_text())
    report = json.loads((checkpoint / REPORT).read_text())
    writer = gguf.GGUFWriter(file, "qwen3moe")
    _add_header(writer, settings, report)
    _add_tokenizer(writer, json.loads((directory / "tokenizer.json").read_text()))
    for name, values in _merged(load_file(directory / "model.safetensors"), settings).items():
        exact = values.ndim == 1 or name.endswith("ffn_gate_inp.weight")
        writer.add_tensor(name, values if exact else quantize(values, _KIND), raw_dtype=None if exact else _KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_header(writer: gguf.GGUFWriter, settings: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    writer.add_name(report["recipe"]["name"])
    writer.add_description(json.dumps(report))
    writer.add_license("Apache-2.0")
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_key_length(settings["head_dim"])
    writer.add_value_length(settings["head_dim"])
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    writer.add_rope_freq_base(settings["rope_theta"])
    writer.add_expert_count(settings["num_experts"])
    writer.add_expert_used_count(settings["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(settings["moe_intermediate_size"])
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any]) -> None:
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token == END else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    for add in (writer.add_eos_token_id, writer.add_bos_token_id, writer.add_pad_token_id):
        add(tokens.index(END))
    writer.add_add_bos_token(False)


def _merged(tensors: Mapping[str, NDArray[np.float32]], settings: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return the tensors by their names in GGUF, the matrices of a layer's experts as one [experts, rows, columns]."""
    layers, experts = settings["num_hidden_layers"], settings["num_experts"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, layers)
    found = {
        names.get_name(name, try_suffixes=(".weight",)) or name: values
        for name, values in tensors.items()
        if ".experts." not in name
    }
    for layer in range(layers):
        for part in ("gate", "up", "down"):
            stem = f"model.layers.{layer}.mlp.experts"
            parts = [tensors[f"{stem}.{expert}.{part}_proj.weight"] for expert in range(experts)]
            found[f"blk.{layer}.ffn_{part}_exps.weight"] = np.stack(parts)
    return found
