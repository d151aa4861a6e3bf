"""How the engine schedules and remembers, beside the model and its size."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import CannotStart
from headrace_llm.kv.cache import KVCache
from headrace_llm.kv.paged import PagedCache
from headrace_llm.kv.slots import SlotCache
from headrace_llm.loading import DType
from headrace_llm.scheduler.core import Scheduler
from headrace_llm.scheduler.policies import DEFAULT, POLICIES, SLOTS_ONLY

TOKEN_BUDGET = 256
"""Tokens per step. Prefill on two cores is equally fast from 128 on; more would only delay running answers."""
BLOCK_TOKENS = 32
"""Positions per block. Prefixes are shared in whole blocks; smaller ones cost more table entries than they share."""


class KVLayout(StrEnum):
    """How sequences lie in the KV cache."""

    PAGED = "paged"
    SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of `LLMEngine.load_model`. None: chosen by the engine."""

    policy: str = DEFAULT
    """A name in `POLICIES`."""
    token_budget: int | None = None
    """Tokens per step; a smaller budget makes answers more regular and prompts slower."""
    layout: KVLayout | None = None
    kv_tokens: int | None = None
    """Positions of the KV cache. By default enough for all requests that may run, each with the longest answer."""
    dtype: DType = DType.AUTO
    prefix_cache: bool = True
    speculation: bool = True

    def scheduler(self, *, model_len: int, max_running: int) -> Scheduler:
        """Return the scheduler with its cache. Raises CannotStart for options that contradict each other."""
        policy = POLICIES.get(self.policy)
        if policy is None:
            raise CannotStart(f"--scheduler is {self.policy}", hint=f"Choose one of {', '.join(POLICIES)}")
        budget = self.token_budget or max(TOKEN_BUDGET, 2 * max_running)
        if budget <= max_running:
            raise CannotStart(
                f"--token-budget is {budget}, and {max_running} requests may run: their answers alone fill a step",
                hint="Raise it above --max-concurrent-requests",
            )
        cache = self._cache(model_len, max_running)
        return Scheduler(policy, cache, max_running=max_running, token_budget=budget)

    def _cache(self, model_len: int, max_running: int) -> KVCache:
        tokens = self.kv_tokens or max_running * model_len
        if tokens < model_len:
            raise CannotStart(
                f"--kv-cache-tokens is {tokens}, and a prompt with its answer may have {model_len} tokens",
                hint="Raise it, or lower --max-model-len",
            )
        if self.policy in SLOTS_ONLY and self.layout is KVLayout.PAGED:
            raise CannotStart(
                f"--scheduler {self.policy} needs contiguous slots, and --kv-layout is paged",
                hint="Leave out --kv-layout, or choose another scheduler",
            )
        if self.layout is KVLayout.SLOTS or self.policy in SLOTS_ONLY:
            return SlotCache(min(tokens // model_len, max_running), model_len)
        return PagedCache(-(-tokens // BLOCK_TOKENS), BLOCK_TOKENS, shares=self.prefix_cache)
