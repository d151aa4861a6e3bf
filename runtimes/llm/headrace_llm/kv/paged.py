"""The paged layout: sequences have tables of small blocks and share those of equal prefixes.

A sequence gets the blocks of all its tokens when it is admitted, so a prompt in computation never lacks memory; only an
answer that grows asks for more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace_llm.kv.blocks import BlockPool
from headrace_llm.kv.cache import CacheCounters
from headrace_llm.kv.prefix import PrefixCache
from headrace_llm.sequence import Sequence


@dataclass(slots=True)
class PagedCache:
    """Implements `KVCache` with a block pool and, if `shares`, a prefix cache."""

    blocks: int
    block_tokens: int
    shares: bool = True
    counters: CacheCounters = field(default_factory=CacheCounters)
    prefix: PrefixCache = field(init=False)
    pool: BlockPool = field(init=False)

    def __post_init__(self) -> None:
        self.prefix = PrefixCache(self.block_tokens)
        self.pool = BlockPool(self.blocks, self.prefix.forget)

    @property
    def used_blocks(self) -> int:
        """Blocks with references."""
        return self.pool.total - self.pool.free

    def admit(self, sequence: Sequence) -> bool:
        """Share the cached blocks of the sequence's prefix, and take free ones for the rest."""
        cached = self._cached(sequence)
        unused = sum(self.pool.references[block] == 0 for block in cached)
        missing = self._count(len(sequence.tokens)) - len(cached)
        if self.pool.free - unused < missing:
            return False
        for block in cached:
            self.pool.share(block)
        sequence.blocks = cached + [self.pool.take() for _ in range(missing)]
        sequence.computed = len(cached) * self.block_tokens
        if self.shares and not sequence.reports_prompt:
            self.counters.prefix_queries += len(sequence.tokens)
            self.counters.prefix_hits += sequence.computed
        return True

    def extend(self, sequence: Sequence, length: int) -> bool:
        """Take free blocks up to `length` positions."""
        missing = self._count(length) - len(sequence.blocks)
        if missing > self.pool.free:
            return False
        sequence.blocks += [self.pool.take() for _ in range(missing)]
        return True

    def skip(self, sequence: Sequence) -> int:
        """Replace blocks that are still to be computed by equal ones that another sequence has computed meanwhile."""
        if sequence.computed % self.block_tokens:
            return 0
        first = sequence.computed // self.block_tokens
        cached = self._cached(sequence, first)
        for index, block in enumerate(cached, first):
            self.pool.share(block)
            self.pool.release(sequence.blocks[index], has_content=False)
            sequence.blocks[index] = block
        tokens = len(cached) * self.block_tokens
        sequence.computed += tokens
        self.counters.prefix_hits += tokens
        return tokens

    def computed(self, sequence: Sequence, length: int) -> None:
        """Cache the blocks that have become full."""
        if self.shares:
            for index in range(sequence.computed // self.block_tokens, length // self.block_tokens):
                self.prefix.add(sequence, index)
        sequence.computed = length

    def release(self, sequence: Sequence) -> None:
        """Release the blocks, the last one first: a prefix is of use without its continuation, not the reverse."""
        for block in reversed(sequence.blocks):
            self.pool.release(block, has_content=block in self.prefix)
        sequence.blocks = []
        sequence.computed = 0

    def check(self, sequences: list[Sequence]) -> None:
        """Raise AssertionError unless references, tables and computed tokens agree."""
        self.pool.check()
        tables = Counter(block for sequence in sequences for block in sequence.blocks)
        assert tables == self.pool.references, "references and block tables differ"
        for sequence in sequences:
            assert len(set(sequence.blocks)) == len(sequence.blocks), "a sequence has a block twice"
            assert self._count(sequence.computed) <= len(sequence.blocks), "computed tokens without a block"

    def _cached(self, sequence: Sequence, first: int = 0) -> list[int]:
        """Return the cached blocks from index `first` on. The last token is computed always: its logits are needed."""
        blocks: list[int] = []
        if self.shares and not sequence.reports_prompt:
            for index in range(first, (len(sequence.tokens) - 1) // self.block_tokens):
                block = self.prefix.find(sequence, index)
                if block is None:
                    break
                blocks.append(block)
        return blocks

    def _count(self, length: int) -> int:
        return -(-length // self.block_tokens)
