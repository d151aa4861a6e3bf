"""llama.cpp through the low-level interface of llama-cpp-python: `run_llama_cpp.py FILE THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import llama_cpp as lib
import numpy as np
from worker import CONTEXT, prompt, serve

STREAMS = 16
CELLS = 8192


class LlamaCpp:
    """A context with a unified KV cache for up to 16 sequences."""

    def __init__(self, path: str, threads: int) -> None:
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        assert self._model
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = CELLS, 2048, 512, STREAMS
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = True
        self._context = lib.llama_init_from_model(self._model, settings)
        assert self._context
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(2048, 0, 1)
        self._salt = 0

    def decode(self, streams: int, steps: int, timed: Callable[[Callable[[], object]], float]) -> list[float]:
        lib.llama_memory_clear(self._memory, True)
        rows = []
        for stream in range(streams):
            self._compute([(token, at, stream, at == CONTEXT - 1) for at, token in enumerate(self._prompt(CONTEXT))])
            rows.append(self._best(CONTEXT - 1))
        seconds = []
        for step in range(steps):
            work = [(token, CONTEXT + step, stream, True) for stream, token in enumerate(rows)]

            def one(work: list[tuple[int, int, int, bool]] = work) -> None:
                self._compute(work)
                rows[:] = [self._best(index) for index in range(streams)]

            seconds.append(timed(one))
        return seconds

    def prefill(self, tokens: int, timed: Callable[[Callable[[], object]], float]) -> float:
        lib.llama_memory_clear(self._memory, True)
        work = [(token, at, 0, at == tokens - 1) for at, token in enumerate(self._prompt(tokens))]

        def whole() -> None:
            self._compute(work)
            self._best(tokens - 1)

        return timed(whole)

    def _prompt(self, tokens: int) -> list[int]:
        self._salt += 1
        return prompt(tokens, self._salt)

    def _compute(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Compute rows of (token, position, sequence, whether its logits are needed)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        assert lib.llama_decode(self._context, batch) == 0

    def _best(self, row: int) -> int:
        logits = lib.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())


if __name__ == "__main__":
    serve(lambda: LlamaCpp(sys.argv[1], int(sys.argv[2])))
