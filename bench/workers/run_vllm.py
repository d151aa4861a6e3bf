"""vLLM on the CPU, bfloat16, compiled as by default: `run_vllm.py DIRECTORY THREADS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import vllm_name  # noqa: F401 - before vLLM
from worker import CONTEXT, prompt, serve


class VLLM:
    """vLLM's engine in this process, one step at a time."""

    def __init__(self, path: str, threads: int) -> None:
        os.environ.update(
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            OMP_NUM_THREADS=str(threads),
            HF_HUB_OFFLINE="1",
            VLLM_NO_USAGE_STATS="1",
        )
        from vllm import LLM, SamplingParams  # noqa: PLC0415 - reads the environment

        self._parameters = SamplingParams
        settings: dict[str, Any] = {"dtype": "bfloat16", "max_num_seqs": 16, "enable_prefix_caching": False}
        self._engine = LLM(path, max_model_len=2048, **settings).llm_engine
        self._salt = 0

    def decode(self, streams: int, steps: int, timed: Callable[[Callable[[], object]], float]) -> list[float]:
        for _ in range(streams):
            self._add(CONTEXT, steps + 2)
        while self._engine.has_unfinished_requests() and not self._all_decode(streams):
            pass
        seconds = [timed(self._engine.step) for _ in range(steps)]
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return seconds

    def prefill(self, tokens: int, timed: Callable[[Callable[[], object]], float]) -> float:
        self._add(tokens, 1)

        def whole() -> None:
            while self._engine.has_unfinished_requests():
                self._engine.step()

        return timed(whole)

    def _all_decode(self, streams: int) -> bool:
        """Compute a step; return whether each request has its first token."""
        return len(self._engine.step()) == streams

    def _add(self, tokens: int, length: int) -> None:
        self._salt += 1
        parameters = self._parameters(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False)
        self._engine.add_request(str(self._salt), {"prompt_token_ids": prompt(tokens, self._salt)}, parameters)


if __name__ == "__main__":
    serve(lambda: VLLM(sys.argv[1], int(sys.argv[2])))
