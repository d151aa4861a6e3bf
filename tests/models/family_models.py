"""Small random models of each family: transformers' own, and GGUF files of them as llama.cpp's converter has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from models.model_files import BOS, METADATA, TOKENS
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    Dots1Config,
    Dots1ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

WINDOW = 5
_SHAPE: Mapping[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class FamilyModel:
    """A variant of a family. `header`: what its GGUF says beside the sizes."""

    architecture: str
    kind: Callable[[Any], Any]
    config: Callable[..., PretrainedConfig]
    settings: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> PreTrainedModel:
        """Return the model with random weights, norms and biases included."""
        torch.manual_seed(7)
        model: PreTrainedModel = self.kind(self.config(**{**_SHAPE, **self.settings}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("norm.weight", "bias")):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                if name.endswith("gate.weight"):  # of a router, which starts at zero
                    parameter.normal_()
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.normal_(std=0.3)
        return model

    def write_gguf(self, model: PreTrainedModel, path: Path) -> Path:
        """Write the model as llama.cpp's converter does."""
        writer, config = gguf.GGUFWriter(path, self.architecture), model.config
        for key, value in METADATA.items():
            if key.startswith("tokenizer."):
                unsigned = isinstance(value, int) and value >= 0
                kind = gguf.GGUFValueType.UINT32 if unsigned else gguf.GGUFValueType.get_type(value)
                writer.add_key_value(key, value, kind)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        for key, value in self.header.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            kind = gguf.GGUFValueType.UINT32 if whole else gguf.GGUFValueType.get_type(value)
            writer.add_key_value(f"{self.architecture}.{key}", value, kind)
        for name, values in self._tensors(model).items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _tensors(self, model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
        config, architecture = model.config, gguf.MODEL_ARCH[self.architecture.upper()]
        names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
        tensors = {}
        for name, tensor in _merged(model).items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            values = tensor.float().numpy()
            if self.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                values = _paired(values, config.num_attention_heads if "q_" in name else config.num_key_value_heads)
            if self.architecture == "gemma3" and name.endswith("norm.weight"):
                values = values + 1
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")  # noqa: PLW2901 - as the converter does
            if name.endswith("shared_expert_gate.weight"):
                values = values[0]
            tensors[names.get_name(name, try_suffixes=(".weight", ".bias")) or name] = values
        if config.rope_parameters.get("rope_type") == "llama3":
            tensors["rope_freqs.weight"] = _llama3_factors(config)
        return tensors


def _merged(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors by the names that the converter maps: gate and up of the experts are two tensors."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            stem = name.removesuffix("gate_up_proj")
            found |= {f"{stem}gate_proj.weight": gate, f"{stem}up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            found[f"{name}.weight"] = tensor
        else:
            found[name] = tensor
    return found


def written(model: PreTrainedModel, directory: Path, shard: str = "1GB") -> Path:
    """Write the model and a byte-level tokenizer as transformers does, in files of at most `shard`."""
    model.save_pretrained(directory, max_shard_size=shard)
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(TOKENS)}, merges=[("t", "h")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.add_special_tokens(TOKENS[BOS:])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    fast: Any = PreTrainedTokenizerFast  # its constructor has no types
    fast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template="{{ messages[0].content }}!"
    ).save_pretrained(directory)
    return directory


def _paired(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _llama3_factors(config: PretrainedConfig) -> np.ndarray[Any, Any]:
    rope = config.rope_parameters
    low, high, trained = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for pair in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (pair / config.head_dim)
        if wavelength < trained / high:
            factors.append(1.0)
        elif wavelength > trained / low:
            factors.append(rope["factor"])
        else:
            smooth = (trained / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


FAMILY_MODELS: Mapping[str, FamilyModel] = {
    "llama": FamilyModel("llama", LlamaForCausalLM, LlamaConfig),
    "llama-tied": FamilyModel("llama", LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
    "llama3": FamilyModel("llama", LlamaForCausalLM, LlamaConfig, {"rope_parameters": _LLAMA3}),
    "llama-linear": FamilyModel(
        "llama",
        LlamaForCausalLM,
        LlamaConfig,
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "mistral": FamilyModel("llama", MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "mistral-window": FamilyModel(
        "llama",
        MistralForCausalLM,
        MistralConfig,
        {"sliding_window": WINDOW},
        {"attention.sliding_window": WINDOW},
    ),
    "qwen2": FamilyModel("qwen2", Qwen2ForCausalLM, Qwen2Config, {}, {"rope.freq_base": 10000.0}),
    "qwen2-window": FamilyModel(
        "qwen2",
        Qwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        {"attention.sliding_window": WINDOW, "attention.sliding_window_pattern": [False, True, True]},
    ),
    "qwen3": FamilyModel(
        "qwen3",
        Qwen3ForCausalLM,
        Qwen3Config,
        {"head_dim": 16, "tie_word_embeddings": True},
        {"attention.key_length": 16, "attention.value_length": 16},
    ),
    "gemma3": FamilyModel(
        "gemma3",
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
        {
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": 2,
            "rope.freq_base": 1_000_000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "mixtral": FamilyModel(
        "llama",
        MixtralForCausalLM,
        MixtralConfig,
        {"num_local_experts": 6, "num_experts_per_tok": 3},
        {"expert_count": 6, "expert_used_count": 3, "rope.freq_base": 1_000_000.0},
    ),
    "olmoe": FamilyModel(
        "olmoe",
        OlmoeForCausalLM,
        OlmoeConfig,
        {"num_experts": 6, "num_experts_per_tok": 3},
        {"expert_count": 6, "expert_used_count": 3},
    ),
    "qwen2-moe": FamilyModel(
        "qwen2moe",
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig,
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 56,
        },
        {
            "expert_count": 6,
            "expert_used_count": 3,
            "expert_feed_forward_length": 40,
            "expert_shared_feed_forward_length": 56,
        },
    ),
    "qwen3-moe": FamilyModel(
        "qwen3moe",
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
        {
            "attention.key_length": 16,
            "attention.value_length": 16,
            "expert_count": 6,
            "expert_used_count": 3,
            "expert_feed_forward_length": 40,
        },
    ),
    "dots1": FamilyModel(
        "dots1",
        Dots1ForCausalLM,
        Dots1Config,
        {
            "head_dim": 16,
            "n_routed_experts": 6,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "sliding_window": None,
        },
        {
            "attention.key_length": 16,
            "attention.value_length": 16,
            "expert_count": 6,
            "expert_used_count": 3,
            "expert_shared_count": 2,
            "expert_feed_forward_length": 40,
            "leading_dense_block_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.5,
            "expert_gating_func": 2,
        },
    ),
}
