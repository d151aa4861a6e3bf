"""The LLM server: the engine behind OpenAI's endpoints, in the serving shell."""

from __future__ import annotations

from collections.abc import Callable

from headrace.serving.engine import Progress, TextEngine
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.text import text_handlers
from headrace_llm.loading import DType, ModelLoading
from headrace_llm.settings import LLMSettings


def serve(settings: LLMSettings, loading: ModelLoading, host: str, port: int, on_ready: Callable[[], None]) -> int:
    """Serve the model that is loading until a signal; return the exit code."""

    def load(progress: Progress) -> TextEngine:
        loading.report_to(progress)
        try:
            return assemble()
        finally:
            loading.join()

    def assemble() -> TextEngine:
        file = loading.file()
        # The engine's libraries take time: the server listens before.
        from headrace_llm.engine import LLMEngine  # noqa: PLC0415
        from headrace_llm.options import EngineOptions, KVLayout  # noqa: PLC0415

        return LLMEngine.assemble(
            file,
            loading.decoder,
            max_model_len=settings.max_model_len,
            max_concurrent=settings.max_concurrent_requests,
            options=EngineOptions(
                policy=settings.scheduler,
                token_budget=settings.token_budget,
                layout=KVLayout(settings.kv_layout) if settings.kv_layout else None,
                kv_tokens=settings.kv_cache_tokens,
                dtype=DType(settings.dtype),
                prefix_cache=settings.prefix_cache,
                speculation=settings.speculation,
            ),
            adapters=settings.adapters,
        )

    runtime: Runtime[TextEngine] = Runtime(
        model=settings.model,
        load=load,
        handlers=lambda replica, metrics: text_handlers(replica, settings.model, metrics),
        on_ready=on_ready,
        kept_weights=lambda: loading.decoder().kept_weights,
        loads_early=True,
    )
    return run(runtime, host, port)
