"""The interface between the scheduler and a layout of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headrace_llm.sequence import Sequence


@dataclass(slots=True)
class CacheCounters:
    """Totals since the start."""

    prefix_queries: int = 0
    """Tokens of admitted sequences that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Tokens that were taken from it instead of being computed."""


class KVCache(Protocol):
    """Assigns blocks of the decoder's cache to sequences."""

    counters: CacheCounters
    blocks: int
    """Blocks of the decoder's cache."""
    block_tokens: int

    @property
    def used_blocks(self) -> int:
        """Blocks that sequences have; a free block with a cached prefix is not used."""

    def admit(self, sequence: Sequence) -> bool:
        """Assign blocks for all tokens of a sequence that has none, cached ones first. False: they do not fit now."""

    def extend(self, sequence: Sequence, /, length: int) -> bool:
        """Make the block table cover `length` positions. False: it does not fit now, and nothing has changed."""

    def skip(self, sequence: Sequence, /) -> int:
        """Take the next tokens from blocks that were cached since its admission; return how many."""

    def computed(self, sequence: Sequence, length: int) -> None:
        """Note that the first `length` tokens are computed; their full blocks can be shared from now on."""

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence; what they cache stays until they are reused."""

    def check(self, sequences: list[Sequence]) -> None:
        """Raise AssertionError unless exactly these sequences' tables account for all blocks in use. For tests."""
