"""Small random models of every configuration and encoding, in memory: what the native decoder's tests compute with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

from headrace_models.config import Activation, DecoderConfig
from headrace_models.decoder import Batch, Decoder, Floats, Segment
from headrace_models.encodings import ENCODINGS, TensorType, row_bytes
from headrace_models.experts import ExpertsConfig, Scores
from headrace_models.weights import ModelWeights, RawTensor, tensor_shapes, unpaired_order

PLAIN = DecoderConfig(
    family="llama",
    layers=2,
    width=256,
    heads=8,
    kv_heads=2,
    head_dim=32,
    ffn_width=512,
    vocabulary=90,
    context=256,
    norm_epsilon=1e-5,
    rope_theta=10000.0,
)
EXPERTS = ExpertsConfig(count=10, used=3, width=96)
CONFIGS: dict[str, DecoderConfig] = {
    "plain": PLAIN,
    "untied": replace(PLAIN, tied=False),
    "bias": replace(PLAIN, qkv_bias=True),
    "qk-norm": replace(PLAIN, qk_norm=True, head_dim=48),
    "factors": replace(PLAIN, rope_factors=tuple(1.0 + i / 8 for i in range(16))),
    "one-head": replace(PLAIN, kv_heads=8),
    "small-heads": replace(PLAIN, width=40, head_dim=8, ffn_width=56, heads=12, kv_heads=3),
    "long-heads": replace(PLAIN, head_dim=80, heads=4),
    "gemma": replace(
        PLAIN,
        qk_norm=True,
        post_norms=True,
        activation=Activation.GELU_TANH,
        embedding_scale=16.0,
        attention_scale=0.3,
        windows=(7, 0),
        window_rope_theta=500.0,
        rope_scale=0.125,
    ),
    "experts": replace(PLAIN, layers=3, experts=EXPERTS),
    "shared-experts": replace(
        PLAIN,
        layers=3,
        qk_norm=True,
        experts=replace(
            EXPERTS,
            shared_width=192,
            shared_gate=True,
            scores=Scores.SIGMOID,
            score_bias=True,
            normalised=True,
            scale=1.5,
            first_layer=1,
        ),
    ),
    "wide-qk-norm": replace(PLAIN, qk_norm=True, wide_qk_norm=True, experts=replace(EXPERTS, width=48)),
}
WRITTEN = tuple(TensorType[name] for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
"""Encodings that the `gguf` library writes."""


def model_weights(config: DecoderConfig, kind: TensorType = TensorType.F32, *, paired: bool = False) -> ModelWeights:
    """Return random weights; matrices of this encoding. `paired`: queries and keys lie as in llama's GGUFs."""
    random = np.random.default_rng(3)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        order = None
        if paired and ".attn_q." in name:
            order = unpaired_order(config.heads, shape[0])
        if len(shape) == 1:
            values = random.standard_normal(shape, dtype=np.float32) * 0.3 + ("norm" in name)
            tensors[name] = RawTensor(
                name, shape, TensorType.F32, memoryview(values.astype(np.float32).tobytes()), order
            )
        else:
            tensors[name] = RawTensor(name, shape, kind, memoryview(encoded(random, shape, kind).tobytes()), order)
    return ModelWeights.checked(Path("random"), config, tensors)


def encoded(random: np.random.Generator, shape: tuple[int, ...], kind: TensorType) -> NDArray[np.uint8]:
    """Return random weights of about 1 / sqrt(width): [rows, bytes per row]."""
    size = shape[1] ** -0.5
    values = random.standard_normal(shape, dtype=np.float32) * np.float32(size)
    if kind is TensorType.F32:
        return values.view(np.uint8)
    if kind in WRITTEN:
        return quantize(values, gguf.GGMLQuantizationType(kind)).view(np.uint8).reshape(shape[0], -1)
    # The library only reads these: random codes, with scales that give values of the same size.
    rows = random.integers(0, 256, (shape[0], row_bytes(kind, shape[1])), dtype=np.uint8)
    blocks = rows.reshape(-1, ENCODINGS[kind].block_bytes)
    for at, scale in _SCALES[kind].items():
        halves = (size * scale * random.uniform(0.5, 1.5, (len(blocks), 1))).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return rows


_SCALES: dict[TensorType, dict[int, float]] = {
    TensorType.Q2_K: {80: 0.1, 82: 0.1},
    TensorType.Q3_K: {108: 0.02},
    TensorType.Q4_K: {0: 0.005, 2: 0.03},
    TensorType.Q5_K: {0: 0.0025, 2: 0.03},
    TensorType.Q6_K: {208: 0.0005},
    TensorType.IQ4_NL: {0: 0.015},
    TensorType.IQ4_XS: {0: 0.001},
}
"""Where the float16 scales of a block lie, and their size for values of about 1."""


def token_ids(config: DecoderConfig, count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, config.vocabulary, count)]


def scattered(tokens: int, block_tokens: int, *, first: int = 0) -> list[int]:
    """Return a block table whose blocks are out of order."""
    return [first + block for block in range(-(-tokens // block_tokens))][::-1]


def logits_of(decoder: Decoder, tokens: Sequence[int], cuts: Sequence[int] = (), block_tokens: int = 16) -> Floats:
    """Return the logits of all tokens, computed in pieces that end at `cuts`: [tokens, vocabulary]."""
    decoder.allocate_cache(-(-len(tokens) // block_tokens), block_tokens)
    blocks = scattered(len(tokens), block_tokens)
    ends = [*cuts, len(tokens)]
    rows: list[Any] = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        batch = Batch(tokens[start:end], [Segment(blocks, start, end - start)], range(end - start))
        rows.append(decoder.step(batch).copy())
    return np.concatenate(rows)
