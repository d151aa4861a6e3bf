"""Names of a runtime's metrics: vLLM's names where the meaning is the same, so that its dashboards and tools work.

All have the label `model_name`. prometheus_client appends `_total` to counters.
"""

from __future__ import annotations

MODEL_LABEL = "model_name"

REQUESTS_RUNNING = "vllm:num_requests_running"
"""Gauge: requests in the engine's batch."""
REQUESTS_WAITING = "vllm:num_requests_waiting"
"""Gauge: requests queued inside the engine."""
KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
"""Gauge: share of the KV cache in use, 0 to 1 (the name is vLLM's)."""
PROMPT_TOKENS = "vllm:prompt_tokens"
"""Counter: tokens of processed prompts."""
GENERATION_TOKENS = "vllm:generation_tokens"
"""Counter: generated tokens."""
REQUEST_SUCCESS = "vllm:request_success"
"""Counter by `finished_reason`: requests that completed."""
TIME_TO_FIRST_TOKEN = "vllm:time_to_first_token_seconds"  # noqa: S105 - a token of text
"""Histogram: from the request's arrival at the runtime to its first token."""
REQUEST_LATENCY = "vllm:e2e_request_latency_seconds"
"""Histogram: from the request's arrival at the runtime to the end of its response."""

STATE = "headrace_runtime_state"
"""Gauge, 1 for the present `state` (Loading, Ready, Draining), 0 for the others."""
READY_SECONDS = "headrace_runtime_ready_seconds"
"""Gauge: from the server's start (it listens) to Ready; absent until then."""
STEP_SECONDS = "headrace_runtime_step_seconds"
"""Gauge: smoothed time of one step of the engine."""
TOKENS_PER_SECOND = "headrace_runtime_tokens_per_second"
"""Gauge: smoothed rate of generated tokens."""
STEPS = "headrace_runtime_steps"
"""Counter: steps of the engine."""
STEP_TOKENS = "headrace_runtime_step_tokens"
"""Counter: tokens computed in these steps, of prompts and output. Divided by the steps: the mean batch size."""
CANCELLED = "headrace_runtime_requests_cancelled"
"""Counter: requests that were cancelled because the client disconnected or the grace period ended."""

LLM_UNCOMPUTED_TOKENS = "headrace_llm_uncomputed_tokens"
"""Gauge of the LLM engine: tokens of admitted requests that are not computed yet."""
LLM_KERNELS = "headrace_llm_kernels"
"""Gauge of the LLM engine, 1: `kernels` computes the model (avx512, avx2, portable: our native library; torch)."""
