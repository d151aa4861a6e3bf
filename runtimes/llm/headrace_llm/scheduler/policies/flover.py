"""Temporal fusion over contiguous slots (Flover, HiPC'23, sections 3 and 4); needs the layout of slots.

The decodes of all live requests are fused, each at its own position; they lie in a window of slots without holes, for
which a request that ends in the middle is replaced by one from the edge. New prompts are preprocessed beside the fused
loop: one at a time, with what the budget leaves.
"""

from __future__ import annotations

from headrace_llm.kv.slots import SlotCache
from headrace_llm.scheduler.core import Step


def plan(step: Step) -> None:
    """Close the holes of the window, then add decodes and a chunk of one prompt."""
    cache = step.scheduler.cache
    assert isinstance(cache, SlotCache), "the policy is refused for other layouts (EngineOptions)"
    step.moves += cache.close_holes()
    step.decode()
    prompt = next(iter(step.prefilling), None) or step.admit()
    if prompt is not None:
        step.compute(prompt, max(step.left, 1))
