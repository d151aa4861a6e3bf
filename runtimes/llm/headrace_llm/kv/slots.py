"""The contiguous layout: each sequence has one slot, a block as long as the model allows.

No block table is followed in attention, and an admitted sequence never lacks memory; in return memory is reserved for
the longest answer, and nothing is shared. The slots in use are kept in a window [low, high) without holes if the
scheduler asks for it (Flover, HiPC'23, section "buffer reordering").
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_llm.kv.cache import CacheCounters
from headrace_llm.sequence import Sequence


class Move(NamedTuple):
    """A block to be copied."""

    source: int
    destination: int


@dataclass(slots=True)
class SlotCache:
    """Implements `KVCache` with one block per sequence."""

    blocks: int
    block_tokens: int
    counters: CacheCounters = field(default_factory=CacheCounters)
    owners: dict[int, Sequence] = field(default_factory=dict)
    """By slot."""

    @property
    def used_blocks(self) -> int:
        """Slots with an owner."""
        return len(self.owners)

    @property
    def window(self) -> range:
        """The slots from the first to the last one in use."""
        return range(min(self.owners), max(self.owners) + 1) if self.owners else range(0)

    def admit(self, sequence: Sequence) -> bool:
        """Assign a slot: a hole of the window, else the one after it, else the one before it."""
        if len(self.owners) == self.blocks or len(sequence.tokens) > self.block_tokens:
            return False
        window = self.window
        holes = (slot for slot in window if slot not in self.owners)
        slot = next(holes, window.stop if window.stop < self.blocks else window.start - 1)
        self.owners[slot] = sequence
        sequence.blocks = [slot]
        return True

    def extend(self, _: Sequence, length: int) -> bool:
        """Return whether the slot is long enough."""
        return length <= self.block_tokens

    def skip(self, _: Sequence) -> int:
        """Return 0: nothing is shared."""
        return 0

    def computed(self, sequence: Sequence, length: int) -> None:
        """Note the computed tokens."""
        sequence.computed = length

    def release(self, sequence: Sequence) -> None:
        """Take back the slot."""
        del self.owners[sequence.blocks[0]]
        sequence.blocks = []
        sequence.computed = 0

    def close_holes(self) -> list[Move]:
        """Assign other slots so that the window has no holes; return the blocks to be copied for it."""
        moves = window_moves(self.owners.keys(), self.blocks)
        for move in moves:
            owner = self.owners.pop(move.source)
            owner.blocks = [move.destination]
            self.owners[move.destination] = owner
        return moves

    def check(self, sequences: list[Sequence]) -> None:
        """Raise AssertionError unless each slot in use has its owner's table."""
        tables = [block for sequence in sequences for block in sequence.blocks]
        assert sorted(tables) == sorted(self.owners), "slots and block tables differ"
        assert all(self.owners[sequence.blocks[0]] is sequence for sequence in sequences if sequence.blocks)


def window_moves(live: AbstractSet[int], total: int) -> list[Move]:
    """Return the fewest moves after which the live slots of `total` are adjacent.

    Of all windows as long as there are live slots, the one with the most of them inside needs the fewest moves: one for
    each slot outside, into a hole.
    """
    count = len(live)
    starts = range(total - count + 1)
    start = max(starts, key=lambda first: sum(slot in live for slot in range(first, first + count)))
    window = range(start, start + count)
    outside = sorted(slot for slot in live if slot not in window)
    holes = [slot for slot in window if slot not in live]
    return [Move(*pair) for pair in zip(outside, holes, strict=True)]
