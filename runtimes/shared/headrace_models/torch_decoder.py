"""The decoder in torch, float32: the reference of every other one, and the fallback without native kernels.

A flat batch of tokens of many sequences, chunks and decodes. Keys and values lie in blocks: [layers, blocks, kv heads,
block tokens, head]. Each segment gathers its blocks, which is simple and slow; the native decoder reads them in place.

Exactness: float32 throughout, the operations of the reference implementation; greedy tokens equal those of transformers
on the same weights (tested).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn import functional

from headrace_models.adapters import ADAPTED, Adapter
from headrace_models.config import DecoderConfig
from headrace_models.decoder import Batch, Floats, KVSpan, Segment
from headrace_models.kv_memory import cannot_fit, check_cache_fits, untouched
from headrace_models.torch_experts import ExpertsLayer, FeedForward, activated
from headrace_models.torch_weights import WeightLoader
from headrace_models.weights import ModelWeights


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: torch.Tensor
    """[(heads + 2 * kv_heads) * head_dim, width]"""
    qkv_bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    """[head_dim], like `key_norm`"""
    key_norm: torch.Tensor | None
    output: torch.Tensor
    """[width, heads * head_dim]"""
    post_attention_norm: torch.Tensor | None
    ffn_norm: torch.Tensor
    ffn: FeedForward | ExpertsLayer
    post_ffn_norm: torch.Tensor | None
    window: int
    """Positions that a query attends to; 0: all."""


class TorchDecoder:
    """The weights and the cache; implements `headrace_models.decoder.Decoder`."""

    kernels = "torch"

    def __init__(self, weights: ModelWeights, *, threads: int, progress: Callable[[int], None]) -> None:
        self.config = config = weights.config
        self._threads = threads
        loader = WeightLoader(weights)
        self._embedding = loader.add("token_embd.weight")
        self._layers = [_layer(loader, config, index) for index in range(config.layers)]
        self._norm = loader.add("output_norm.weight")
        self._head = self._embedding if config.tied else loader.add("output.weight")
        self._rope = _rope(config.head_dim, config.rope_theta, config.rope_scale, config.rope_factors)
        self._window_rope = _rope(config.head_dim, config.window_rope_theta or config.rope_theta)
        loader.load(threads, progress)
        self.weight_bytes = loader.memory_bytes
        self.kv_bytes_per_token = 2 * config.layers * config.kv_heads * config.head_dim * torch.float32.itemsize
        self._keys = self._values = torch.empty(0)
        self._block_tokens = 0
        self._adapters: dict[int, list[_LayerAdapter]] = {}

    def allocate_cache(self, blocks: int, block_tokens: int) -> None:
        """Allocate the KV cache. Raises CannotStart if it cannot fit."""
        self._keys, self._values = _kv_cache(self.config, blocks, block_tokens, self.weight_bytes)
        self._block_tokens = block_tokens

    def step(self, batch: Batch) -> Floats:
        """Compute a batch and return logits: [len(outputs), vocabulary]."""
        hidden = self._compute(batch)
        with torch.inference_mode():
            rows = self._normed(hidden[list(batch.outputs)], self._norm)
            return functional.linear(rows, self._head).numpy()

    def embed(self, batch: Batch) -> Floats:
        """Compute a batch and return the normed last hidden states of all its tokens: [tokens, width]."""
        hidden = self._compute(batch)
        with torch.inference_mode():
            return self._normed(hidden, self._norm).numpy()

    def set_adapter(self, index: int, adapter: Adapter | None) -> None:
        """Set what `Segment.adapter` = `index` (from 1) means; None frees it. Between two steps only."""
        self._adapters.pop(index, None)
        if adapter is not None:
            self._adapters[index] = [_layer_adapter(adapter, layer) for layer in range(self.config.layers)]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) within the cache, in this order."""
        for source, destination in pairs:
            self._keys[:, destination] = self._keys[:, source]
            self._values[:, destination] = self._values[:, source]

    def export_blocks(self, blocks: Sequence[int]) -> KVSpan:
        """Return the content of blocks."""
        content = (torch.stack((self._keys[:, block], self._values[:, block])) for block in blocks)
        return KVSpan(self._block_tokens, tuple(each.numpy().tobytes() for each in content))

    def import_blocks(self, span: KVSpan, blocks: Sequence[int]) -> None:
        """Write the content of exported blocks to these. Raises ValueError if the layouts differ."""
        shape = (2, *self._keys[:, 0].shape)
        size = math.prod(shape) * torch.float32.itemsize
        if span.block_tokens != self._block_tokens or any(len(content) != size for content in span.blocks):
            raise ValueError("the blocks are of another model or layout")
        for block, content in zip(blocks, span.blocks, strict=True):
            both = torch.frombuffer(bytearray(content), dtype=torch.float32).view(shape)
            self._keys[:, block], self._values[:, block] = both[0], both[1]

    def counters(self) -> Mapping[str, int]:
        """Return no counters."""
        return {}

    def close(self) -> None:
        """Free the cache."""
        self._keys = self._values = torch.empty(0)

    @torch.inference_mode()
    def _compute(self, batch: Batch) -> torch.Tensor:
        """Return the last hidden states: [tokens, width]."""
        torch.set_num_threads(self._threads)  # a setting of the calling thread
        positions = torch.cat([torch.arange(s.start, s.start + s.count) for s in batch.segments])
        offsets = positions % self._block_tokens
        tables = [torch.tensor(segment.blocks) for segment in batch.segments]
        blocks = torch.cat(
            [
                table[torch.arange(s.start, s.start + s.count) // self._block_tokens]
                for table, s in zip(tables, batch.segments, strict=True)
            ]
        )
        rope, window_rope = _rotation(positions, self._rope), _rotation(positions, self._window_rope)
        hidden = functional.embedding(torch.tensor(list(batch.tokens)), self._embedding) * self.config.embedding_scale
        for index, layer in enumerate(self._layers):
            normed = self._normed(hidden, layer.attention_norm)
            adapted = self._adapted(index, batch.segments)
            queries, keys, values = self._project(normed, layer, window_rope if layer.window else rope, adapted)
            self._keys[index, blocks, :, offsets] = keys
            self._values[index, blocks, :, offsets] = values
            attended = self._attend(index, queries, batch.segments, tables)
            added = functional.linear(attended, layer.output)
            adapted.add("attn_output", attended, added)
            hidden = hidden + self._normed(added, layer.post_attention_norm)
            normed = self._normed(hidden, layer.ffn_norm)
            added = layer.ffn(normed) if isinstance(layer.ffn, ExpertsLayer) else _dense(layer.ffn, normed, adapted)
            hidden = hidden + self._normed(added, layer.post_ffn_norm)
        return hidden

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states normed over the last dimension; without a weight, as they are."""
        if weight is None:
            return hidden
        return functional.rms_norm(hidden, weight.shape, weight, self.config.norm_epsilon)

    def _project(
        self, normed: torch.Tensor, layer: _Layer, rope: _Rotation, adapted: _Adapted
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries [tokens, heads, head], keys and values [tokens, kv heads, head]; rotated, except values."""
        config = self.config
        qkv = functional.linear(normed, layer.qkv, layer.qkv_bias)
        sizes = [config.heads * config.head_dim, *[config.kv_heads * config.head_dim] * 2]
        for name, part in zip(("attn_q", "attn_k", "attn_v"), torch.split(qkv, sizes, dim=1), strict=True):
            adapted.add(name, normed, part)
        if config.wide_qk_norm:
            for part, norm in zip(torch.split(qkv, sizes, dim=1), (layer.query_norm, layer.key_norm), strict=False):
                part.copy_(self._normed(part, norm))
        heads = qkv.view(qkv.shape[0], config.heads + 2 * config.kv_heads, config.head_dim)
        queries, keys, values = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], dim=1)
        if not config.wide_qk_norm:
            queries, keys = self._normed(queries, layer.query_norm), self._normed(keys, layer.key_norm)
        return rope.rotated(queries), rope.rotated(keys), values

    def _adapted(self, layer: int, segments: Sequence[Segment]) -> _Adapted:
        """Return the adapters of a batch's rows. Raises ValueError for one that is not set."""
        ends = list(accumulate(segment.count for segment in segments))
        missing = {segment.adapter for segment in segments} - {0, *self._adapters}
        if missing:
            raise ValueError(f"adapter {min(missing)} is not loaded")
        return _Adapted(
            [
                (slice(end - segment.count, end), self._adapters[segment.adapter][layer])
                for end, segment in zip(ends, segments, strict=True)
                if segment.adapter
            ]
        )

    def _attend(
        self, layer: int, queries: torch.Tensor, segments: Sequence[Segment], tables: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return [tokens, heads * head]. queries: [tokens, heads, head]."""
        result = torch.empty_like(queries)
        row = 0
        for segment, table in zip(segments, tables, strict=True):
            rows, context = slice(row, row + segment.count), segment.start + segment.count
            keys, values = (
                self._cached(self._keys, layer, table, context),
                self._cached(self._values, layer, table, context),
            )
            before = torch.arange(segment.start, context).unsqueeze(1) - torch.arange(context)
            window = self.config.window(layer) or context
            attended = functional.scaled_dot_product_attention(
                queries[rows].transpose(0, 1).unsqueeze(0),
                keys,
                values,
                attn_mask=(before >= 0) & (before < window),
                scale=self.config.score_factor,
                enable_gqa=True,
            )
            result[rows] = attended.squeeze(0).transpose(0, 1)
            row += segment.count
        return result.flatten(1)

    def _cached(self, cache: torch.Tensor, layer: int, table: torch.Tensor, context: int) -> torch.Tensor:
        """Return a sequence's keys or values: [1, kv heads, context, head]."""
        used = table[: -(-context // self._block_tokens)]
        gathered = cache[layer, used].transpose(0, 1).flatten(1, 2)
        return gathered[:, :context].unsqueeze(0)


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Cosines and sines of the positions of a batch: [tokens, 1, head_dim] each."""

    cos: torch.Tensor
    sin: torch.Tensor

    def rotated(self, heads: torch.Tensor) -> torch.Tensor:
        """Return queries or keys rotated by their position. heads: [tokens, heads, head_dim]."""
        half = heads.shape[-1] // 2
        turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
        return heads * self.cos + turned * self.sin


_LayerAdapter = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""A [rank, columns] and B [rows, rank], by the matrix in a layer."""


@dataclass(frozen=True, slots=True)
class _Adapted:
    """The rows of a batch that have an adapter, in one layer."""

    rows: Sequence[tuple[slice, _LayerAdapter]]

    def add(self, name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add B (A x) to the outputs of a matrix, in place. inputs: [tokens, columns]; outputs: [tokens, rows]."""
        for rows, adapter in self.rows:
            if name in adapter:
                a, b = adapter[name]
                outputs[rows] += functional.linear(functional.linear(inputs[rows], a), b)


def _dense(ffn: FeedForward, normed: torch.Tensor, adapted: _Adapted) -> torch.Tensor:
    """Return a dense block's result with the adapters of its rows: [tokens, width]."""
    gate, up = functional.linear(normed, ffn.gate_up).chunk(2, dim=-1)
    adapted.add("ffn_gate", normed, gate)
    adapted.add("ffn_up", normed, up)
    gated = activated(gate, ffn.activation) * up
    added = functional.linear(gated, ffn.down)
    adapted.add("ffn_down", gated, added)
    return added


def _layer_adapter(adapter: Adapter, layer: int) -> _LayerAdapter:
    pairs = {name: adapter.matrices.get(f"blk.{layer}.{name}.weight") for name in ADAPTED}
    return {name: (torch.from_numpy(pair.a), torch.from_numpy(pair.b)) for name, pair in pairs.items() if pair}


def _layer(loader: WeightLoader, config: DecoderConfig, index: int) -> _Layer:
    def add(*names: str) -> torch.Tensor:
        return loader.add(*(f"blk.{index}.{name}" for name in names))

    experts = config.layer_experts(index)
    return _Layer(
        attention_norm=add("attn_norm.weight"),
        qkv=add("attn_q.weight", "attn_k.weight", "attn_v.weight"),
        qkv_bias=add("attn_q.bias", "attn_k.bias", "attn_v.bias") if config.qkv_bias else None,
        query_norm=add("attn_q_norm.weight") if config.qk_norm else None,
        key_norm=add("attn_k_norm.weight") if config.qk_norm else None,
        output=add("attn_output.weight"),
        post_attention_norm=add("post_attention_norm.weight") if config.post_norms else None,
        ffn_norm=add("ffn_norm.weight"),
        ffn=FeedForward.of(loader, index, "", config.activation)
        if experts is None
        else ExpertsLayer.of(loader, index, config, experts),
        post_ffn_norm=add("post_ffw_norm.weight") if config.post_norms else None,
        window=config.window(index),
    )


def _rope(head_dim: int, theta: float, scale: float = 1.0, factors: Sequence[float] = ()) -> torch.Tensor:
    """Return the angle per position of each pair: [head_dim / 2], float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents) * scale
    return frequencies / torch.tensor(factors) if factors else frequencies


def _rotation(positions: torch.Tensor, frequencies: torch.Tensor) -> _Rotation:
    """Return the rotation of positions. frequencies: [head_dim / 2]."""
    angles = torch.outer(positions.float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(1)
    return _Rotation(angles.cos(), angles.sin())


def _kv_cache(
    config: DecoderConfig, blocks: int, block_tokens: int, weight_bytes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values: [layers, blocks, kv heads, block_tokens, head_dim], float32. Raises CannotStart."""
    shape = (config.layers, blocks, config.kv_heads, block_tokens, config.head_dim)
    half = math.prod(shape) * torch.float32.itemsize
    check_cache_fits(2 * half, blocks * block_tokens, weight_bytes)
    try:
        keys, values = (torch.frombuffer(untouched(half), dtype=torch.float32).view(shape) for _ in range(2))
    except (OSError, OverflowError) as error:
        raise cannot_fit(2 * half, blocks * block_tokens) from error
    return keys, values
