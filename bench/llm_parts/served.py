"""Served over HTTP: 8 users, 128 tokens in and 64 out, beside vLLM's and llama.cpp's servers, alternated in one run.

llama-cpp-python's server computes one request at a time: its users wait for each other.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from bars import Bar
from llm_parts.load import Outcome, run_guidellm
from llm_parts.servers import headrace_server, llama_cpp_server, vllm_server
from llm_parts.setting import Setting

USERS = 8
REQUESTS = 32
FEW_REQUESTS = 8
"""Of the first run, which warms up."""


def measure(setting: Setting) -> list[Bar]:
    """Return the bars of throughput and of the first token."""
    with ExitStack() as stack:
        servers = [headrace_server(setting.file), llama_cpp_server(setting), vllm_server(setting)]
        outcomes: dict[str, list[Outcome]] = {each.name: [] for each in servers}
        for each in servers:
            stack.enter_context(each).pause()
        for repeat in range(setting.repeats + 1):
            for each in servers:
                each.resume()
                count = REQUESTS if repeat else FEW_REQUESTS
                outcome = run_guidellm(setting, each.url, users=USERS, requests=count, seed=repeat)
                each.pause()
                if outcome.failed:
                    raise RuntimeError(f"{outcome.failed} requests to {each.name} failed")
                outcomes[each.name] += [outcome] if repeat else []
    rates, firsts = {}, {}
    for name, measured in outcomes.items():
        rates[name] = statistics.median(each.tokens_per_second for each in measured)
        firsts[name] = statistics.median(each.first_token_milliseconds for each in measured)
        best = max(each.tokens_per_second for each in measured)
        print(
            f"served {name}: {rates[name]:.0f} tok/s (best {best:.0f}), first token {firsts[name]:.0f} ms,"
            f" {measured[-1].answer_tokens:.0f} tokens per answer",
            flush=True,
        )
    ours, *peers = rates
    bars = []
    for peer in peers:
        label = peer.lower().replace(".", "-")
        bars += [
            Bar(f"served-tokens-over-{label}", rates[ours] / rates[peer], 1.5, "x", at_least=True),
            Bar(f"served-first-token-of-{label}", firsts[ours] / firsts[peer], 0.5, "x"),
        ]
    return bars
