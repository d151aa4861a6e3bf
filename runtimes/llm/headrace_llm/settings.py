"""The settings of the LLM server. Without the server's imports, because the model loads during them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LLMSettings:
    """The model and its limits."""

    path: Path
    model: str
    """The name in requests."""
    max_model_len: int
    max_concurrent_requests: int
    threads: int | None
    """None: one per usable core."""
    scheduler: str
    token_budget: int | None
    """None: chosen by the engine, like the next two."""
    kv_layout: str | None
    kv_cache_tokens: int | None
    dtype: str
    prefix_cache: bool
    speculation: bool
    adapters: Mapping[str, Path]
    """LoRA adapters to load at the start, by the name in requests."""

    @property
    def computing_threads(self) -> int:
        """Return how many threads compute."""
        return self.threads or len(os.sched_getaffinity(0))
