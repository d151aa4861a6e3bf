"""Requests to an engine, greedy unless a test says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from headrace.serving.engine import Delta, GenerationRequest, Sampling, StopConditions
from headrace_llm.engine import LLMEngine

GREEDY = Sampling(temperature=0)


def generate(
    engine: LLMEngine, prompt: list[int], stop: StopConditions, sampling: Sampling = GREEDY
) -> AsyncGenerator[Delta, None]:
    return engine.generate(GenerationRequest(tuple(prompt), sampling, stop))
