"""The LLM server: the engine behind OpenAI's endpoints, in the serving shell."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.agent.errors import AgentError
from headrace.environment import AGENT_SOCKET
from headrace.serving.engine import Progress, TextEngine
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.text import text_handlers
from headrace.store.client import Store

log = logging.getLogger(__name__)


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


def serve(settings: LLMSettings, host: str, port: int, on_ready: Callable[[], None]) -> int:
    """Serve until a signal; return the exit code."""

    def load(progress: Progress) -> TextEngine:
        from headrace_models.model_file import ModelFile  # noqa: PLC0415 - needs no torch: a broken file is reported early

        progress("reading-model", None)
        file = ModelFile.open(settings.path)
        # The engine's libraries take time: the server listens before.
        from headrace_llm.engine import LLMEngine  # noqa: PLC0415
        from headrace_llm.loading import DType  # noqa: PLC0415
        from headrace_llm.options import EngineOptions, KVLayout  # noqa: PLC0415

        return LLMEngine.load_model(
            file,
            max_model_len=settings.max_model_len,
            max_concurrent=settings.max_concurrent_requests,
            threads=settings.threads,
            progress=progress,
            options=EngineOptions(
                policy=settings.scheduler,
                token_budget=settings.token_budget,
                layout=KVLayout(settings.kv_layout) if settings.kv_layout else None,
                kv_tokens=settings.kv_cache_tokens,
                dtype=DType(settings.dtype),
                prefix_cache=settings.prefix_cache,
                speculation=settings.speculation,
            ),
            store=_store(),
        )

    runtime: Runtime[TextEngine] = Runtime(
        model=settings.model,
        load=load,
        handlers=lambda replica, metrics: text_handlers(replica, settings.model, metrics),
        on_ready=on_ready,
    )
    return run(runtime, host, port)


def _store() -> Store | None:
    """Return the object store of this node; None if the pod has no volume of the node agent, or no agent runs."""
    path = os.environ.get(AGENT_SOCKET)
    if not path:
        return None
    try:
        return Store(Path(path))
    except AgentError as error:
        log.warning("the weights are loaded for this process alone: %s", error)
        return None
