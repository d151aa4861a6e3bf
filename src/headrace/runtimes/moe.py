"""headrace's engine for mixtures of experts (`runtimes/moe`): the LLM engine, whose experts may be in a cache."""

from __future__ import annotations

from dataclasses import replace

from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import PlatformImage

MOE = replace(
    LLM,
    type="MoE",
    description="headrace's engine for mixtures of experts",
    options="moe",
    image=PlatformImage("runtimeMoe", "headrace-runtime-moe"),
    command=("headrace-moe",),
    standby=False,
)
