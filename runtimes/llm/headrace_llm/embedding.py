"""Embeddings: a request for the pooled hidden states of a prompt instead of an answer.

It is scheduled like any other: its chunks share the budget of tokens and the KV cache with running answers, and it can
be preempted and cancelled. The rows of a step that are embedded are a forward pass of their own.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.errors import HeadraceError
from headrace_llm.request import Update
from headrace_llm.sequence import Sequence
from headrace_models.config import Pooling
from headrace_models.decoder import Floats


@dataclass(slots=True, eq=False)
class EmbeddingRequest:
    """A prompt to be embedded. Used by the engine's thread, except `outbox`, which the loop reads."""

    sequence: Sequence
    pooling: Pooling
    outbox: asyncio.Queue[Update | HeadraceError] = field(default_factory=asyncio.Queue)
    """Receives one update, after the last chunk."""
    cancelled: bool = False
    _sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Of the hidden states that are pooled: [width]"""

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.sequence.tokens)

    def drafts(self, limit: int, answers: int) -> list[int]:
        """Return no drafts: nothing comes after the prompt."""
        del limit, answers
        return []

    def pool(self, hidden: Floats, start: int) -> None:
        """Add a chunk. hidden: [tokens, width], of the positions from `start` on; after a preemption, from 0 again."""
        match self.pooling:
            case Pooling.MEAN:
                self._sum = hidden.sum(axis=0, dtype=np.float64) + (self._sum if start else 0)
            case Pooling.LAST:
                self._sum = hidden[-1].astype(np.float64)

    def vector(self) -> array[float]:
        """Return the embedding: [width], of length 1. The mean needs no division before that."""
        normalised = self._sum / max(float(np.linalg.norm(self._sum)), 1e-12)
        return array("f", normalised.astype(np.float32).tobytes())
