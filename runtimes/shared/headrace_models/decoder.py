"""The interface between an engine and a decoder: batches of tokens over a paged cache of keys and values.

A decoder is a model's weights and the memory of its KV cache. It computes and decides nothing: the engine schedules
which tokens are computed when, and which blocks a sequence has. Implementations: `native_decoder` (our kernels, without
torch) and `torch_decoder` (the reference, and the fallback where the kernels cannot be built).

The cache is an array of equal blocks. A sequence has a block table: its block `i` holds the keys and values of the
positions from `i * block_tokens` on. Contiguous slots are the same with one block per sequence, as long as the model
length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_models.adapters import Adapter
from headrace_models.config import DecoderConfig

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in a batch: positions `start` to `start + count`."""

    blocks: Sequence[int]
    """The sequence's block table, at least up to the last of these positions."""
    start: int
    count: int
    adapter: int = 0
    """Index of its LoRA adapter; 0: none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes."""

    tokens: Sequence[int]
    """Token ids of all segments, one after another."""
    segments: Sequence[Segment]
    outputs: Sequence[int]
    """Indexes into `tokens` of the rows that `step` returns logits of."""


@dataclass(frozen=True, slots=True)
class KVSpan:
    """The cached keys and values of some blocks, as bytes: what swapping and migration move."""

    block_tokens: int
    blocks: tuple[bytes, ...]


class Decoder(Protocol):
    """A model ready to compute. Not thread-safe: one thread calls it."""

    config: DecoderConfig
    weight_bytes: int
    """Memory of the weights as held."""
    kv_bytes_per_token: int
    kernels: str
    """What computes: the instruction set of the native kernels (avx512, avx2, portable), or torch."""

    def allocate_cache(self, blocks: int, block_tokens: int) -> None:
        """Allocate the KV cache. Memory is used when a block is first written. Raises CannotStart if it cannot fit."""

    def step(self, batch: Batch) -> Floats:
        """Compute a batch, write its keys and values to the cache, and return logits: [len(outputs), vocabulary].

        A query attends to all positions of its sequence up to its own (within the layer's window). The result is valid
        until the next call.
        """

    def embed(self, batch: Batch) -> Floats:
        """Compute a batch like `step`, and return the normed last hidden states of all its tokens: [tokens, width]."""

    def set_adapter(self, index: int, adapter: Adapter | None) -> None:
        """Set what `Segment.adapter` = `index` (from 1) means; None frees it. Between two steps only."""

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (source, destination) within the cache, in this order."""

    def export_blocks(self, blocks: Sequence[int]) -> KVSpan:
        """Return the content of blocks."""

    def import_blocks(self, span: KVSpan, blocks: Sequence[int]) -> None:
        """Write the content of exported blocks to these. Raises ValueError if the layouts differ."""

    def counters(self) -> Mapping[str, int]:
        """Return counters of its own since the start, by the names of their metrics."""

    def close(self) -> None:
        """Free the memory and stop the threads."""
