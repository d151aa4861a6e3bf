"""headrace's engine for text models (`runtimes/llm`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace import environment
from headrace.api.vocabulary import CONTRACT_CAPABILITIES
from headrace.metrics import runtime as metrics
from headrace.routes.operations import CHAT, COMPLETIONS
from headrace.runtimes.profile import Launch, Options, PlatformImage, Port, RuntimeProfile

PORT = 8000


def _arguments(launch: Launch) -> Sequence[str]:
    assert launch.model_path is not None  # source_required
    return (
        *("serve", launch.model_path),
        *("--served-model-name", launch.public_name),
        *("--host", f"$({environment.POD_IP})"),
        *("--port", str(PORT)),
        *("--max-model-len", str(launch.options["max_model_len"])),
        *("--max-concurrent-requests", str(launch.options["max_concurrent_requests"])),
    )


def _configure(profile: RuntimeProfile, options: Options) -> RuntimeProfile:
    return replace(profile, capacity=options["max_concurrent_requests"])


LLM = RuntimeProfile(
    type="LLM",
    description="headrace's engine for text models",
    options="llm",
    configure=_configure,
    image=PlatformImage("runtime", "headrace-runtime-llm", gpu_key="runtimeCuda"),
    command=("headrace-llm",),
    standby=True,
    arguments=_arguments,
    ports=(Port("http", PORT),),
    operations=(CHAT, COMPLETIONS),
    capabilities=CONTRACT_CAPABILITIES,
    metrics=(
        metrics.REQUESTS_RUNNING,
        metrics.REQUESTS_WAITING,
        metrics.KV_CACHE_USAGE,
        metrics.PROMPT_TOKENS,
        metrics.GENERATION_TOKENS,
        metrics.REQUEST_SUCCESS,
        metrics.TIME_TO_FIRST_TOKEN,
        metrics.REQUEST_LATENCY,
        metrics.STATE,
        metrics.READY_SECONDS,
        metrics.STEP_SECONDS,
        metrics.TOKENS_PER_SECOND,
        metrics.STEPS,
        metrics.STEP_TOKENS,
        metrics.CANCELLED,
        metrics.LLM_UNCOMPUTED_TOKENS,
    ),
)
