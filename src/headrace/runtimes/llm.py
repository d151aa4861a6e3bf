"""headrace's engine for text models (`runtimes/llm`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from headrace import environment
from headrace.api.vocabulary import CONTRACT_CAPABILITIES
from headrace.metrics import runtime as metrics
from headrace.routes.operations import TEXT
from headrace.runtimes.profile import Launch, Options, PlatformImage, Port, RuntimeProfile

PORT = 8000
POLICIES = {
    "Sarathi": "sarathi",
    "SplitFuse": "splitfuse",
    "PrefillFirst": "prefill-first",
    "Static": "static",
    "Flover": "flover",
}
"""Scheduling policies: the value of `scheduler.policy`, and that of `headrace-llm --scheduler`."""


def _arguments(launch: Launch) -> Sequence[str]:
    assert launch.model_path is not None  # source_required
    return (
        *("serve", launch.model_path),
        *("--served-model-name", launch.public_name),
        *("--host", f"$({environment.POD_IP})"),
        *("--port", str(PORT)),
        *("--max-model-len", str(launch.options["max_model_len"])),
        *("--max-concurrent-requests", str(launch.options["max_concurrent_requests"])),
        *_optional(launch.options),
        *(part for each in launch.adapters for part in ("--adapter", f"{each.name}={each.path}")),
    )


def _optional(options: Options) -> Iterator[str]:
    """Yield the arguments of what is set: models without these settings keep their revision."""
    scheduler, cache = options.get("scheduler") or {}, options.get("kv_cache") or {}
    if scheduler:
        yield from ("--scheduler", POLICIES[scheduler["policy"]])
    if scheduler.get("token_budget") is not None:
        yield from ("--token-budget", str(scheduler["token_budget"]))
    if cache.get("layout") is not None:
        yield from ("--kv-layout", cache["layout"].lower())
    if cache.get("tokens") is not None:
        yield from ("--kv-cache-tokens", str(cache["tokens"]))


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
    operations=TEXT,
    capabilities=CONTRACT_CAPABILITIES,
    metrics=(
        metrics.REQUESTS_RUNNING,
        metrics.REQUESTS_WAITING,
        metrics.KV_CACHE_USAGE,
        metrics.PROMPT_TOKENS,
        metrics.GENERATION_TOKENS,
        metrics.PREFIX_CACHE_QUERIES,
        metrics.PREFIX_CACHE_HITS,
        metrics.PREEMPTIONS,
        metrics.DRAFT_TOKENS,
        metrics.ACCEPTED_TOKENS,
        metrics.REQUEST_SUCCESS,
        metrics.TIME_TO_FIRST_TOKEN,
        metrics.INTER_TOKEN_LATENCY,
        metrics.REQUEST_LATENCY,
        metrics.REQUEST_DECODE_TIME,
        metrics.REQUEST_PROMPT_TOKENS,
        metrics.REQUEST_GENERATION_TOKENS,
        metrics.STATE,
        metrics.READY_SECONDS,
        metrics.STEP_SECONDS,
        metrics.TOKENS_PER_SECOND,
        metrics.STEPS,
        metrics.STEP_TOKENS,
        metrics.ADAPTER_TOKENS,
        metrics.CANCELLED,
        metrics.LLM_UNCOMPUTED_TOKENS,
        metrics.LLM_KERNELS,
    ),
)
