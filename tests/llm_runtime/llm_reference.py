"""The reference: transformers' Llama on weights that the `gguf` library read, so that nothing of ours is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

PROMPTS = (
    *(
        f"What is the capital of {country}?"
        for country in ("France", "Japan", "Brazil", "Kenya", "Norway", "India", "Peru", "Egypt", "Canada", "Vietnam")
    ),
    *(
        f"Write a short story about {subject}."
        for subject in ("a cat", "the sea", "a lost key", "two brothers", "winter", "a robot", "bread", "a mountain")
    ),
    *(
        f"Explain {subject} to a child."
        for subject in ("gravity", "why the sky is blue", "money", "how plants grow", "electricity", "the moon")
    ),
    *(f"What is {a} plus {b}?" for a, b in ((2, 3), (17, 25), (100, 1), (999, 1), (31337, 42))),
    *(
        f"Translate into {language}: good morning"
        for language in ("French", "German", "Spanish", "Italian", "日本語", "Русский")
    ),
    "def fibonacci(n):\n    ",
    "SELECT name FROM users WHERE",
    '{"name": "headrace", "version": ',
    "for (int i = 0; i < 10; i++) {",
    "<html><body>",
    "Once upon a time",
    "The quick brown fox",
    "a",
    " ",
    "\n\n\n",
    "Ünïcödé: äöü ß € — “quotes” … 🙂🚀",
    "1234567890 3.14159 2.71828 42",
    "To be, or not to be, that is the question: " * 8,
    "List the planets of the solar system:\n1. Mercury\n2.",
    "HTTP/1.1 200 OK\r\nContent-Type:",
    "Q: Who wrote Faust?\nA:",
    "import numpy as np\n\nx = np.",
    "Dear Sir or Madam,\n\nI am writing to",
)


def reference_model(path: Path) -> Any:
    """Return transformers' model, float32, on the weights of the file."""
    reader = gguf.GGUFReader(str(path))
    weights = {
        tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type)).reshape(
            [int(size) for size in tensor.shape][::-1]
        )
        for tensor in reader.tensors
    }

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    settings: dict[str, Any] = {
        "vocab_size": weights["token_embd.weight"].shape[0],
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": field("rope.freq_base")},
        "max_position_embeddings": field("context_length"),
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
    }
    config = LlamaConfig(**settings)
    model: Any = LlamaForCausalLM(config)
    model.to(torch.float32).eval()
    state = {
        "model.embed_tokens.weight": weights["token_embd.weight"],
        "model.norm.weight": weights["output_norm.weight"],
    }
    names = {
        "attn_norm": "input_layernorm",
        "attn_k": "self_attn.k_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q": "self_attn.q_proj",
        "attn_v": "self_attn.v_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = weights[f"blk.{layer}.{ours}.weight"]
            if ours in ("attn_q", "attn_k"):
                count = heads if ours == "attn_q" else kv_heads
                rows, width = weight.shape
                weight = weight.reshape(count, rows // count // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
            state[f"model.layers.{layer}.{theirs}.weight"] = weight
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing in ([], ["lm_head.weight"])
    model.tie_weights()
    return model
