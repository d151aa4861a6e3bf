"""transformers in bfloat16, as `generate` runs it: `run_transformers.py DIRECTORY THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from worker import CONTEXT, prompt, serve


class Transformers:
    """The model's forward pass with its cache, greedy."""

    def __init__(self, path: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        self._salt = 0

    @torch.inference_mode()
    def decode(self, streams: int, steps: int, timed: Callable[[Callable[[], object]], float]) -> list[float]:
        cache = DynamicCache(config=self._model.config)
        rows = torch.tensor([self._prompt(CONTEXT) for _ in range(streams)])
        last = [self._step(rows, cache)]

        def one() -> None:
            last[0] = self._step(last[0], cache)

        return [timed(one) for _ in range(steps)]

    @torch.inference_mode()
    def prefill(self, tokens: int, timed: Callable[[Callable[[], object]], float]) -> float:
        rows = torch.tensor([self._prompt(tokens)])
        return timed(lambda: self._step(rows, DynamicCache(config=self._model.config)))

    def _step(self, rows: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        out = self._model(input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1)
        best: torch.Tensor = out.logits[:, -1].argmax(-1, keepdim=True)
        return best

    def _prompt(self, tokens: int) -> list[int]:
        self._salt += 1
        return prompt(tokens, self._salt)


if __name__ == "__main__":
    serve(lambda: Transformers(sys.argv[1], int(sys.argv[2])))
