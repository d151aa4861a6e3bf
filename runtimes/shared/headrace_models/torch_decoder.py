"""The decoder in torch, float32: the reference of every other one, and the fallback without native kernels.

A flat batch of tokens of many sequences, chunks and decodes. Keys and values lie in blocks: [layers, blocks, kv heads,
block tokens, head]. Each segment gathers its blocks, which is simple and slow; the native decoder reads them in place.

Exactness: float32 throughout, the operations of the reference implementation; greedy tokens equal those of transformers
on the same weights (tested).
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from headrace.errors import CannotStart
from headrace_models.config import DecoderConfig
from headrace_models.decoder import Batch, Floats, KVSpan, Segment
from headrace_models.gguf import GGUFFile
from headrace_models.memory import read_memory
from headrace_models.weights import Part, WeightLoader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: torch.Tensor
    """[(heads + 2 * kv_heads) * head_dim, width]"""
    output: torch.Tensor
    """[width, heads * head_dim]"""
    ffn_norm: torch.Tensor
    gate_up: torch.Tensor
    """[2 * ffn_width, width]"""
    down: torch.Tensor
    """[width, ffn_width]"""


class TorchDecoder:
    """The weights and the cache; implements `headrace_models.decoder.Decoder`."""

    def __init__(self, file: GGUFFile, config: DecoderConfig, *, threads: int, progress: Callable[[int], None]) -> None:
        self.config = config
        self._threads = threads
        loader = WeightLoader(file)
        vocabulary = (config.vocabulary, config.width)
        self._embedding = loader.add(Part("token_embd.weight", vocabulary))
        self._layers = [_layer(loader, config, index) for index in range(config.layers)]
        self._norm = loader.add(Part("output_norm.weight", (config.width,)))
        self._head = self._embedding if config.tied else loader.add(Part("output.weight", vocabulary))
        self._cos, self._sin = _rope_tables(config, config.context)
        loader.load(threads, progress)
        self.weight_bytes = loader.memory_bytes
        self.kv_bytes_per_token = 2 * config.layers * config.kv_heads * config.head_dim * torch.float32.itemsize
        self._keys = self._values = torch.empty(0)
        self._block_tokens = 0

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
        cos, sin = self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)
        hidden = functional.embedding(torch.tensor(list(batch.tokens)), self._embedding)
        for index, layer in enumerate(self._layers):
            normed = self._normed(hidden, layer.attention_norm)
            queries, keys, values = self._project(functional.linear(normed, layer.qkv), cos, sin)
            self._keys[index, blocks, :, offsets] = keys
            self._values[index, blocks, :, offsets] = values
            attended = self._attend(index, queries, batch.segments, tables)
            hidden = hidden + functional.linear(attended, layer.output)
            gate, up = functional.linear(self._normed(hidden, layer.ffn_norm), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down)
        return hidden

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, (self.config.width,), weight, self.config.norm_epsilon)

    def _project(
        self, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries [tokens, heads, head], keys and values [tokens, kv heads, head]; rotated, except values."""
        config = self.config
        heads = qkv.view(qkv.shape[0], config.heads + 2 * config.kv_heads, config.head_dim)
        rotated = heads[:, : config.heads + config.kv_heads]
        half = config.head_dim // 2
        turned = torch.cat((-rotated[..., half:], rotated[..., :half]), dim=-1)
        rotated = rotated * cos + turned * sin
        values = heads[:, config.heads + config.kv_heads :]
        return rotated[:, : config.heads], rotated[:, config.heads :], values

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
            causal = torch.arange(context) <= torch.arange(segment.start, context).unsqueeze(1)
            attended = functional.scaled_dot_product_attention(
                queries[rows].transpose(0, 1).unsqueeze(0), keys, values, attn_mask=causal, enable_gqa=True
            )
            result[rows] = attended.squeeze(0).transpose(0, 1)
            row += segment.count
        return result.flatten(1)

    def _cached(self, cache: torch.Tensor, layer: int, table: torch.Tensor, context: int) -> torch.Tensor:
        """Return a sequence's keys or values: [1, kv heads, context, head]."""
        used = table[: -(-context // self._block_tokens)]
        gathered = cache[layer, used].transpose(0, 1).flatten(1, 2)
        return gathered[:, :context].unsqueeze(0)


def _layer(loader: WeightLoader, config: DecoderConfig, index: int) -> _Layer:
    prefix = f"blk.{index}"
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    ffn = (config.ffn_width, config.width)
    return _Layer(
        attention_norm=loader.add(Part(f"{prefix}.attn_norm.weight", (config.width,))),
        qkv=loader.add(
            Part(f"{prefix}.attn_q.weight", (queries, config.width), paired_heads=config.heads),
            Part(f"{prefix}.attn_k.weight", (keys, config.width), paired_heads=config.kv_heads),
            Part(f"{prefix}.attn_v.weight", (keys, config.width)),
        ),
        output=loader.add(Part(f"{prefix}.attn_output.weight", (config.width, queries))),
        ffn_norm=loader.add(Part(f"{prefix}.ffn_norm.weight", (config.width,))),
        gate_up=loader.add(Part(f"{prefix}.ffn_gate.weight", ffn), Part(f"{prefix}.ffn_up.weight", ffn)),
        down=loader.add(Part(f"{prefix}.ffn_down.weight", (config.width, config.ffn_width))),
    )


def _rope_tables(config: DecoderConfig, model_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines: [model_len, head_dim], float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    angles = torch.outer(torch.arange(model_len).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _kv_cache(
    config: DecoderConfig, blocks: int, block_tokens: int, weights_bytes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values: [layers, blocks, kv heads, block_tokens, head_dim], float32. Raises CannotStart."""
    shape = (config.layers, blocks, config.kv_heads, block_tokens, config.head_dim)
    size = 2 * math.prod(shape) * torch.float32.itemsize
    cache = f"the KV cache of {size / 2**30:.1f} GiB, for {blocks * block_tokens} tokens,"
    remedy = (
        "Lower spec.runtime.llm.maxModelLen or maxConcurrentRequests"
        " (headrace-llm: --max-model-len, --max-concurrent-requests)"
    )
    memory, needed = read_memory(), weights_bytes + size
    # Weights that do not fit by themselves are not an error of the cache: Kubernetes reports OOMKilled then.
    if memory.total is not None and weights_bytes <= memory.total < needed:
        raise CannotStart(f"{cache} does not fit into memory", hint=remedy)
    if memory.available is not None and needed > memory.available:
        log.warning(
            "%s and the weights need %.1f GiB when all of it is used, and %.1f GiB are available now. %s",
            cache.removesuffix(","),
            needed / 2**30,
            memory.available / 2**30,
            remedy,
        )
    try:
        return _untouched(shape), _untouched(shape)
    except (OSError, OverflowError) as error:
        raise CannotStart(f"{cache} does not fit into memory", hint=remedy) from error


def _untouched(shape: tuple[int, ...]) -> torch.Tensor:
    """Return zeros, float32, in pages that are allocated when first written: unused slots cost no memory.

    Small pages, against numpy's and some kernels' habit: with huge ones a first short prompt would clear 240 MB of a
    cache of which it uses two.
    """
    area = mmap.mmap(-1, math.prod(shape) * torch.float32.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        area.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(area, dtype=torch.float32).view(shape)
