"""Which expert is evicted when another one needs its slot.

An expert has a key, layer * experts + expert. A policy receives each use and each prefetch, and chooses among
candidates, which are not needed now. Sources: LRU per layer is mixtral-offloading's; LFRU is that of vLLM's proposal, a
count over the time since the last use; MIN is Belady's (1966), which knows the future, so only the simulator has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from typing_extensions import override


class Policy(Protocol):
    """Chooses victims. Not thread-safe: the cache calls it from one thread."""

    def used(self, key: int, now: int) -> None:
        """Note that an expert is computed with. `now`: the number of this layer of this step, rising."""

    def prefetched(self, key: int, now: int) -> None:
        """Note that an expert is loaded because it may be used."""

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return one of the candidates (at least one) to make room for an expert of a layer."""


class LRU:
    """Evicts the expert whose last use is longest ago."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def used(self, key: int, now: int) -> None:
        """Note a use."""
        self._last[key] = now

    def prefetched(self, key: int, now: int) -> None:
        """Count as a use."""
        self._last[key] = now

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return the candidate with the oldest use."""
        del layer
        return min(candidates, key=lambda key: (self._last.get(key, -1), key))


class LayerLRU(LRU):
    """LRU within the layer with the most experts above its share, so that layers do not displace one another.

    Global LRU evicts what the next step needs first, because a step visits the layers in a cycle.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()
        self._experts = experts

    @override
    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return the candidate of the same layer with the oldest use; if it has none, of the fullest one."""
        counts: dict[int, int] = {}
        for key in candidates:
            counts[key // self._experts] = counts.get(key // self._experts, 0) + 1
        most = max(counts.values())
        chosen = layer if counts.get(layer, 0) >= most else next(each for each in counts if counts[each] == most)
        return super().victim([key for key in candidates if key // self._experts == chosen], layer)


class LFU:
    """Evicts the expert with the fewest uses, which count half after `half_life` layers."""

    def __init__(self, half_life: int) -> None:
        self._factor: float = 0.5 ** (1 / half_life)
        self._counts: dict[int, tuple[float, int]] = {}
        self._now = 0

    def used(self, key: int, now: int) -> None:
        """Count a use."""
        self._now = now
        self._counts[key] = (self._count(key) + 1.0, now)

    def prefetched(self, key: int, now: int) -> None:
        """Count nothing."""
        del key
        self._now = now

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return the candidate with the smallest count."""
        del layer
        return min(candidates, key=lambda key: (self._count(key), key))

    def _count(self, key: int) -> float:
        count, at = self._counts.get(key, (0.0, 0))
        return float(count * self._factor ** (self._now - at))


class LFRU:
    """Evicts the expert with the fewest uses over the time since the last one."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._now = 0

    def used(self, key: int, now: int) -> None:
        """Count a use."""
        self._now = now
        self._counts[key] = self._counts.get(key, 0) + 1
        self._last[key] = now

    def prefetched(self, key: int, now: int) -> None:
        """Count as the last use, so that it stays until its layer."""
        self._now = self._last[key] = now

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return the candidate with the smallest quotient."""
        del layer

        def worth(key: int) -> float:
            return self._counts.get(key, 0) / (self._now - self._last.get(key, -1) + 1)

        return min(candidates, key=lambda key: (worth(key), key))


class Static:
    """Keeps a fixed set of experts, and evicts the others by LRU."""

    def __init__(self, kept: Collection[int]) -> None:
        self._kept = frozenset(kept)
        self._rest = LRU()

    def used(self, key: int, now: int) -> None:
        """Note a use."""
        self._rest.used(key, now)

    def prefetched(self, key: int, now: int) -> None:
        """Note it."""
        self._rest.prefetched(key, now)

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return a candidate that is not kept, if there is one."""
        return self._rest.victim([key for key in candidates if key not in self._kept] or candidates, layer)


class Belady:
    """Evicts the expert whose next use is farthest away.

    Args:
        future: the keys of each layer of each step, in order.
    """

    def __init__(self, future: Sequence[Collection[int]]) -> None:
        self._uses: dict[int, list[int]] = {}
        for now in range(len(future) - 1, -1, -1):
            for key in future[now]:
                self._uses.setdefault(key, []).append(now)
        self._now = 0

    def used(self, key: int, now: int) -> None:
        """Advance to `now`."""
        self._now = now
        uses = self._uses.get(key, [])
        while uses and uses[-1] <= now:
            uses.pop()

    def prefetched(self, key: int, now: int) -> None:
        """Advance to `now`."""
        del key
        self._now = now

    def victim(self, candidates: Collection[int], layer: int) -> int:
        """Return the candidate that is not used for the longest time."""
        del layer

        def next_use(key: int) -> float:
            uses = self._uses.get(key)
            return uses[-1] if uses else float("inf")

        return max(candidates, key=lambda key: (next_use(key), key))


HALF_LIFE_STEPS = 64
"""Of `lfu`: long enough for counts, short enough to follow a change of the subject."""
POLICIES: Mapping[str, Callable[[int, int], Policy]] = {
    "lru": lambda _layers, _experts: LRU(),
    "lru-layer": lambda _layers, experts: LayerLRU(experts),
    "lfu": lambda layers, _experts: LFU(HALF_LIFE_STEPS * layers),
    "lfru": lambda _layers, _experts: LFRU(),
}
"""Policies of the live cache, made from the number of layers with experts and of experts."""
