"""The cache without memory: which expert is in which slot, and what is loaded when.

The live cache gives it a loader that moves bytes, the simulator one that does nothing, so both take the same
decisions and count the same hits. A hit is an expert that is needed in a layer of a step and is in a slot, or on its
way into one.

Exactness: the cache decides when an expert is in memory, never which one is computed with. The gate's choice stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headrace_moe.cache.policies import Policy


@dataclass(slots=True)
class CacheCounters:
    """Since the start. Experts are counted once per layer and step, however many tokens chose them."""

    hits: int = 0
    misses: int = 0
    prefetched: int = 0
    prefetch_useful: int = 0
    """Prefetched experts that were used before their eviction."""
    prefetch_wasted: int = 0
    """Prefetched experts that were evicted unused."""

    @property
    def hit_ratio(self) -> float:
        """Share of hits; 1 before the first use."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 1.0


Loader = Callable[[int, int, bool], None]
"""Loads the expert `key` into a slot; the third argument says whether it is needed now, else it may happen later."""


class CacheCore:
    """Slots and their experts.

    Args:
        slots: how many, at least 1.
        experts: per layer; the key of an expert is layer * experts + expert.
        link: most experts that are prefetched per layer of a step; 0: none.
    """

    def __init__(self, *, slots: int, experts: int, policy: Policy, load: Loader, link: int = 0) -> None:
        self.counters = CacheCounters()
        self.slots: dict[int, int] = {}
        """The slot of each resident expert, by key."""
        self._experts = experts
        self._policy = policy
        self._load = load
        self._link = link
        self._free = list(range(slots))[::-1]
        self._unused: set[int] = set()
        """Prefetched and not used yet."""
        self._doubted: set[int] = set()
        """Those of them whose layer came without need of them."""
        self._now = 0

    def provide(self, layer: int, experts: Sequence[int], predicted: Sequence[int] = ()) -> Iterator[list[int]]:
        """Yield the experts of a layer in groups that are resident until the next group is asked for.

        `experts`: those needed, without repetition. `predicted`: likely ones of the next layer with experts, likeliest
        first; they are prefetched after the last needed one is loaded, before the last group is yielded.
        """
        self._now += 1
        first = layer * self._experts
        waiting = {first + expert for expert in experts}
        self._correct(first, waiting)
        hits = sorted(waiting & self.slots.keys())
        misses = sorted(waiting - self.slots.keys())
        self._count(hits, misses)
        for key in waiting:
            self._policy.used(key, self._now)
        group = hits
        for key in misses:
            if not self._free and not self.slots.keys() - waiting:
                yield [each - first for each in group]  # no slot is left: compute with these, then reuse them
                waiting -= set(group)
                group = []
            self._place(key, self.slots.keys() - waiting, layer, needed=True)
            group.append(key)
        self._prefetch(predicted, layer + 1, waiting)
        if group:
            yield [each - first for each in group]

    def _correct(self, first: int, needed: set[int]) -> None:
        """Make experts that were prefetched for this layer and are not needed the first victims."""
        self._doubted |= {key for key in self._unused if first <= key < first + self._experts} - needed

    def _count(self, hits: Sequence[int], misses: Sequence[int]) -> None:
        self.counters.hits += len(hits)
        self.counters.misses += len(misses)
        useful = self._unused.intersection(hits)
        self.counters.prefetch_useful += len(useful)
        self._unused -= useful
        self._doubted -= useful

    def _prefetch(self, predicted: Sequence[int], layer: int, waiting: set[int]) -> None:
        first = layer * self._experts
        wanted = [first + expert for expert in predicted]
        missing = [key for key in wanted if key not in self.slots][: self._link]
        for key in missing:
            kept = waiting | set(wanted)
            candidates = self.slots.keys() - kept
            if not self._free and not candidates:
                break
            self._place(key, candidates, layer, needed=False)
            self._policy.prefetched(key, self._now)
            self._unused.add(key)
            self.counters.prefetched += 1

    def _place(self, key: int, candidates: set[int], layer: int, *, needed: bool) -> None:
        if not self._free:
            self._evict(self._policy.victim(candidates & self._doubted or candidates, layer))
        slot = self._free.pop()
        self.slots[key] = slot
        self._load(key, slot, needed)

    def _evict(self, key: int) -> None:
        self._free.append(self.slots.pop(key))
        if key in self._unused:
            self._unused.remove(key)
            self._doubted.discard(key)
            self.counters.prefetch_wasted += 1
