"""Replay of a trace through the cache without memory: the hit ratio that a live cache would have had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from headrace_moe.cache.core import CacheCore, CacheCounters
from headrace_moe.cache.live import unique
from headrace_moe.cache.policies import POLICIES, Belady, LayerLRU, Policy, Static
from headrace_moe.cache.trace import Trace

OFFLINE = ("static", "belady")
"""Policies that need a trace: the most used experts of it, and its future."""
LOOK_AHEAD = "look-ahead"
"""LRU per layer, and prefetch by the next layer's gate."""
NAMES = ("static", *POLICIES, LOOK_AHEAD, "belady")


def simulate(trace: Trace, *, slots: int, policy: str, link: int = 1) -> CacheCounters:
    """Return what a cache of `slots` experts would have counted. `link`: experts prefetched per layer (look-ahead)."""
    core = CacheCore(
        slots=slots,
        experts=trace.header.experts,
        policy=make_policy(trace, slots, policy),
        load=lambda *_: None,
        link=link if policy == LOOK_AHEAD else 0,
    )
    for record in trace:
        for _ in core.provide(record.layer, unique(record.experts), record.predicted):
            pass
    return core.counters


def make_policy(trace: Trace, slots: int, name: str) -> Policy:
    """Return a policy by its name; of those in `OFFLINE`, for this trace."""
    if name == LOOK_AHEAD:
        return LayerLRU(trace.header.experts)
    if name not in OFFLINE:
        return POLICIES[name](trace.header.layers, trace.header.experts)
    uses = keys(trace)
    if name == "belady":
        # The cache counts layers from 1.
        return Belady([(), *uses])
    counts = Counter(key for each in uses for key in each)
    return Static([key for key, _ in counts.most_common(max(slots - trace.header.used, 0))])


def keys(trace: Trace) -> Sequence[Collection[int]]:
    """Return the keys of the experts of each record."""
    return [[each.layer * trace.header.experts + e for e in unique(each.experts)] for each in trace]
