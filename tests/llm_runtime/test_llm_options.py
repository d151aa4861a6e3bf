"""Options of the engine: what a resource and a command line say reaches it, and contradictions are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from headrace.errors import CannotStart
from headrace.kinds.modeldeployment.spec import LLMPolicy, Runtime
from headrace.runtimes import llm
from headrace.runtimes.profile import Launch
from headrace_llm.kv.slots import SlotCache
from headrace_llm.main import _parser
from headrace_llm.options import EngineOptions, KVLayout
from headrace_llm.scheduler.policies import DEFAULT, POLICIES


def arguments(settings: Mapping[str, object]) -> list[str]:
    runtime = Runtime.model_validate({"type": "LLM", "llm": settings})
    return list(llm.LLM.arguments(Launch("m", "/model.gguf", runtime.options)))


def test_policies_when_compared_then_the_same_everywhere() -> None:
    assert list(llm.POLICIES.values()) == list(POLICIES)
    assert list(get_args(LLMPolicy)) == list(llm.POLICIES)
    assert _parser().parse_args(["serve", "x"]).scheduler == DEFAULT
    for policy in POLICIES:
        assert _parser().parse_args(["serve", "x", "--scheduler", policy]).scheduler == policy


def test_settings_when_set_then_the_command_line_has_them() -> None:
    settings = {
        "scheduler": {"policy": "SplitFuse", "tokenBudget": 128},
        "kvCache": {"layout": "Slots", "tokens": 4096},
    }
    options = _parser().parse_args(arguments(settings))
    assert (options.scheduler, options.token_budget) == ("splitfuse", 128)
    assert (options.kv_layout, options.kv_cache_tokens) == ("slots", 4096)


def test_settings_when_absent_then_no_argument_is_added() -> None:
    """Else every model would get another revision at an upgrade."""
    assert arguments({})[-2:] == ["--max-concurrent-requests", "16"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (EngineOptions(policy="fastest"), "--scheduler is fastest"),
        (EngineOptions(token_budget=8), "--token-budget is 8"),
        (EngineOptions(kv_tokens=100), "--kv-cache-tokens is 100"),
        (EngineOptions(policy="flover", layout=KVLayout.PAGED), "--kv-layout is paged"),
    ],
)
def test_options_when_they_contradict_then_refused(options: EngineOptions, named: str) -> None:
    with pytest.raises(CannotStart, match=named):
        options.scheduler(model_len=128, max_running=8)


def test_slots_when_memory_is_limited_then_fewer() -> None:
    cache = EngineOptions(policy="flover", kv_tokens=300).scheduler(model_len=128, max_running=8).cache
    assert isinstance(cache, SlotCache)
    assert (cache.blocks, cache.block_tokens) == (2, 128)
