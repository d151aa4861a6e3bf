"""headrace's engine for mixtures of experts (`runtimes/moe`): the LLM engine, whose experts may be in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.metrics import runtime as metrics
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import Launch, PlatformImage

CACHE_POLICIES = {
    "LayerLRU": "lru-layer",
    "LRU": "lru",
    "LFU": "lfu",
    "LFRU": "lfru",
}
"""Policies of the expert cache: the value of `expertCache.policy`, and that of `headrace-moe --expert-policy`."""


def _arguments(launch: Launch) -> Sequence[str]:
    cache = launch.options.get("expert_cache")
    if cache is None:
        return LLM.arguments(launch)
    return (
        *LLM.arguments(launch),
        *("--expert-cache-percent", str(cache["percent"])),
        *("--expert-policy", CACHE_POLICIES[cache["policy"]]),
        *("--expert-prefetch", str(cache["prefetch"])),
    )


MOE = replace(
    LLM,
    type="MoE",
    description="headrace's engine for mixtures of experts",
    options="moe",
    image=PlatformImage("runtimeMoe", "headrace-runtime-moe"),
    command=("headrace-moe",),
    standby=False,
    arguments=_arguments,
    metrics=(
        *LLM.metrics,
        metrics.MOE_CACHE_HITS,
        metrics.MOE_CACHE_MISSES,
        metrics.MOE_CACHE_LOADED_BYTES,
        metrics.MOE_PREFETCH_USEFUL_BYTES,
        metrics.MOE_PREFETCH_WASTED_BYTES,
    ),
)
