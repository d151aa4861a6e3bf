"""Which tokens are computed in the next step: running decodes first, then prompts in chunks, within a token budget.

There are no separate phases for prefill and decode: each sequence has a `length` and `computed` tokens, and a step
spends its budget on the difference. Decodes (one token each) always fit, so a long prompt delays a running answer by at
most one step (Sarathi-Serve, OSDI'24, section 4). First come, first served. Pure: no torch, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Sequence:
    """One request's tokens as the scheduler sees them."""

    length: int
    """Tokens of prompt and answer so far."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `start + count` of a sequence; `samples` if a new token is sampled after the last of them."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the sequence's end."""
        return self.start + self.count == self.sequence.length


@dataclass(slots=True)
class Scheduler:
    """Admits sequences into slots and plans steps. Invariant: a slot belongs to at most one running sequence."""

    slots: int
    token_budget: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._free = list(range(self.slots))[::-1]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is finished or cancelled; its slot is free for the next step."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._free.append(sequence.slot)
        self._free.sort(reverse=True)  # the lowest slot is used first, so that the slots in use are adjacent
        sequence.slot = None

    def plan(self) -> list[Chunk]:
        """Return the next step's chunks, and count their tokens as computed."""
        while self.waiting and self._free:
            sequence = self.waiting.popleft()
            sequence.slot = self._free.pop()
            self.running.append(sequence)
        left = max(self.token_budget, len(self.running))
        chunks = []
        for sequence in sorted(self.running, key=lambda s: s.length - s.computed > 1):  # stable: decodes first
            count = min(sequence.length - sequence.computed, left)
            if count > 0:
                chunks.append(Chunk(sequence, sequence.computed, count))
                sequence.computed += count
                left -= count
        return chunks
