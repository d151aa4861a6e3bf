"""Small GGUF files of the Llama family, whole or with a fault, written by the `gguf` library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, FFN_WIDTH = 1, 32, 4, 2, 8, 64
CONTEXT = 128
_PRINTED = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
"""Bytes that byte-level BPE spells as themselves; the others are spelled as characters from 256 on."""
BYTES = [chr(b) for b in _PRINTED] + [chr(256 + i) for i in range(256 - len(_PRINTED))]
SPECIAL = ["<s>", "</s>", "<|x_end|>", "<|y_end|>"]
"""No text of these is known as an end: only an id in the file makes one of them an end."""
TOKENS = [*BYTES, "th", *SPECIAL]
BOS, EOS, X_END, Y_END = range(len(TOKENS) - len(SPECIAL), len(TOKENS))
NORMAL, CONTROL = 1, 3

METADATA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": CONTEXT,
    "llama.embedding_length": WIDTH,
    "llama.block_count": LAYERS,
    "llama.feed_forward_length": FFN_WIDTH,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "llama.rope.dimension_count": HEAD_DIM,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [NORMAL] * (len(TOKENS) - len(SPECIAL)) + [CONTROL] * len(SPECIAL),
    "tokenizer.ggml.merges": ["t h"],
    "tokenizer.ggml.bos_token_id": BOS,
    "tokenizer.ggml.eos_token_id": EOS,
    "tokenizer.chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
}


@dataclass(frozen=True)
class Raw:
    """A tensor as bytes, of an encoding that the library does not write."""

    data: np.ndarray[Any, Any]
    kind: gguf.GGMLQuantizationType


@dataclass
class GGUFModel:
    """A file's content. `None` in `metadata` and `tensors` leaves an entry out."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        metadata = {key: value for key, value in {**METADATA, **self.metadata}.items() if value is not None}
        writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
        for key, value in metadata.items():
            writer.add_key_value(key, value, _type_of(value))
        for name, tensor in {**_tensors(), **self.tensors}.items():
            if isinstance(tensor, Raw):
                writer.add_tensor(name, tensor.data, raw_dtype=tensor.kind)
            elif tensor is not None:
                writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def answering(token: int) -> dict[str, Any]:
    """Return the tensors of a model whose greedy answer is this token again and again."""
    head = np.zeros((len(TOKENS), WIDTH), dtype=np.float32)
    head[token] = 1.0
    silent = {name: np.zeros_like(tensor) for name, tensor in _tensors().items() if name.startswith("blk.")}
    return {**silent, "token_embd.weight": np.ones((len(TOKENS), WIDTH), dtype=np.float32), "output.weight": head}


def rows(count: int) -> np.ndarray[Any, Any]:
    """Return an embedding of that many tokens."""
    return np.random.default_rng(0).standard_normal((count, WIDTH), dtype=np.float32)


def _type_of(value: Any) -> gguf.GGUFValueType:
    unsigned = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return gguf.GGUFValueType.UINT32 if unsigned else gguf.GGUFValueType.get_type(value)


def _tensors() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (WIDTH,),
            f"blk.{layer}.attn_q.weight": (HEADS * HEAD_DIM, WIDTH),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * HEAD_DIM, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, HEADS * HEAD_DIM),
            f"blk.{layer}.ffn_norm.weight": (WIDTH,),
            f"blk.{layer}.ffn_gate.weight": (FFN_WIDTH, WIDTH),
            f"blk.{layer}.ffn_up.weight": (FFN_WIDTH, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, FFN_WIDTH),
        }
    return {
        name: np.ones(shape, dtype=np.float32) if len(shape) == 1 else random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
